"""What a method counts while it trains, on its device: read and cleared by the trainer at each line of the log."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssl3d.data.scan import IGNORE


class LiveConfusion:
    """Counts of (target, prediction) on *visible* training labels since the last read, kept on the device."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._counts: Tensor | None = None

    @torch.no_grad()
    def add(self, logits: Tensor, target: Tensor) -> None:
        """``logits`` (M, C), ``target`` (M,) int64 with IGNORE."""
        valid = target != IGNORE
        cell = target[valid] * self.num_classes + logits[valid].argmax(1)
        counts = torch.bincount(cell, minlength=self.num_classes**2)
        self._counts = counts if self._counts is None else self._counts + counts

    def take(self) -> npt.NDArray[np.int64]:
        """(C, C) int64, rows = target; then starts again from zero."""
        c = self.num_classes
        out = np.zeros((c, c), np.int64) if self._counts is None else self._counts.reshape(c, c).cpu().numpy()
        self._counts = None
        return out


class PseudoLabels:
    """How many unlabelled elements a method could learn from, how many it used, and as which class.

    Every method that learns from its own predictions calls ``add``; the trainer logs the share that is used and the
    shares of the classes beside those of the visible labels, and warns when hardly any, or hardly more than one class,
    is used.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._counts: Tensor | None = None

    @torch.no_grad()
    def add(self, label: Tensor, used: Tensor | None = None) -> None:
        """Args:
        label: (M,) integer pseudo label of each unlabelled element; IGNORE where none is given.
        used: (M,) bool, which of them take part in a loss; None: those that are not IGNORE.
        """
        used = label != IGNORE if used is None else used & (label != IGNORE)
        counts = torch.bincount(label[used].long(), minlength=self.num_classes)
        counts = torch.cat([counts, counts.new_tensor([len(label)])])
        self._counts = counts if self._counts is None else self._counts + counts

    def take(self) -> npt.NDArray[np.int64]:
        """(C + 1,) int64: used elements of each class, and all unlabelled elements; then starts again from zero."""
        out = np.zeros(self.num_classes + 1, np.int64) if self._counts is None else self._counts.cpu().numpy()
        self._counts = None
        return out


__all__ = ["LiveConfusion", "PseudoLabels"]
