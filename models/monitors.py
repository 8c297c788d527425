"""What a method counts while it trains, on its device: read and cleared by the trainer at each line of the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


class Measures:
    """Named quantities of a method, for people who ask why it gains or not; no loss depends on them.

    Args:
        num_classes: C.
        of_classes: names of shares that are kept by class: of the elements of class c, how many ...?
        means: names of plain means.
    """

    def __init__(self, num_classes: int, of_classes: Sequence[str] = (), means: Sequence[str] = ()) -> None:
        self.num_classes, self.of_classes, self.means = num_classes, tuple(of_classes), tuple(means)
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add_classes(self, name: str, hit: Tensor, label: Tensor) -> None:
        """``hit`` (M,) bool: whether it is so of each element; ``label`` (M,) integer class; IGNORE is left out."""
        if name not in self.of_classes:
            raise ValueError(f"no share is called {name!r}")
        known = label != IGNORE
        label, hit = label[known].long(), hit[known]
        hits, counts = (torch.bincount(chosen, minlength=self.num_classes) for chosen in (label[hit], label))
        self._add(name, torch.stack([hits, counts]).double())

    @torch.no_grad()
    def add(self, name: str, values: Tensor) -> None:
        """``values``: any shape, float or bool; their mean is logged."""
        if name not in self.means:
            raise ValueError(f"no mean is called {name!r}")
        total = values.double().sum()
        self._add(name, torch.stack([total, total.new_tensor(float(values.numel()))])[:, None])

    def _add(self, name: str, sums: Tensor) -> None:
        self._sums[name] = self._sums[name] + sums if name in self._sums else sums

    def zeros(self) -> npt.NDArray[np.float64]:
        """(2, K) float64: what ``take`` returns when nothing was added."""
        return np.zeros((2, self.num_classes * len(self.of_classes) + len(self.means)))

    def take(self) -> npt.NDArray[np.float64]:
        """(2, K) float64: sums and counts, classes of each share first, then the means; then starts again from zero."""
        out, column = self.zeros(), 0
        for name in (*self.of_classes, *self.means):
            width = self.num_classes if name in self.of_classes else 1
            if name in self._sums:
                out[:, column : column + width] = self._sums[name].cpu().numpy()
            column += width
        self._sums = {}
        return out

    def describe(self, taken: npt.NDArray[np.float64]) -> dict[str, Any]:
        """JSON of what ``take`` returned (or sums of it): ``classes`` name -> C shares (None where a class has no
        element), ``means`` name -> value or None."""
        with np.errstate(divide="ignore", invalid="ignore"):
            values = [float(f"{v:.5g}") if n else None for v, n in zip(taken[0] / taken[1], taken[1], strict=True)]
        c, split = self.num_classes, self.num_classes * len(self.of_classes)
        return {
            "classes": {name: values[i * c : (i + 1) * c] for i, name in enumerate(self.of_classes)},
            "means": dict(zip(self.means, values[split:], strict=True)),
        }


__all__ = ["LiveConfusion", "Measures", "PseudoLabels"]
