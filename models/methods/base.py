"""The contract of a method: one file, one class. ``supervised.py`` is the smallest example.

The trainer does the same for every method, in this order:

1. in loader workers, for step s: ``Method.views`` builds named groups of views from raw scans, and the backbone's
   ``InputSpec`` turns each group into ``Inputs``. Both are pure functions of (run seed, s), which makes resume exact;
2. ``step(batch, progress)`` yields dictionaries of losses; each yield is one backward and one optimizer step;
3. ``after_step`` (EMA, banks) once per iteration.

A method never sees a file, and never a label that is not visible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.base import Inputs, Segmenter
from ssl3d.models.config import Params as AnyParams

Augment = Callable[[View, np.random.Generator], View]
MakeSegmenter = Callable[[], Segmenter]
Batch = dict[str, Inputs]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training is: ``step`` of ``steps`` in this phase (0-based), ``phase`` index, and over all phases."""

    step: int
    steps: int
    phase: int = 0
    total_step: int = 0
    total_steps: int = 0


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training with its own optimizer.

    Attributes:
        name: shown in logs.
        steps: iterations; 0 is allowed and skips the phase.
        trainable: modules whose parameters are optimized (None: all that require a gradient).
        eval_modules: modules held in eval mode (frozen batch norm).
        lr_scale: factor on the configured learning rate.
    """

    name: str
    steps: int
    trainable: Sequence[nn.Module] | None = None
    eval_modules: Sequence[nn.Module] = field(default=())
    lr_scale: float = 1.0


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

    def take(self) -> np.ndarray:
        """(C, C) int64, rows = target; then starts again from zero."""
        c = self.num_classes
        out = np.zeros((c, c), np.int64) if self._counts is None else self._counts.reshape(c, c).cpu().numpy()
        self._counts = None
        return out


class Method(nn.Module):
    """A way to learn from labelled and unlabelled scans.

    Class attributes: ``name`` as typed after ``ssl3d train``; ``Params``; ``uses_unlabelled``: whether batches carry
    unlabelled scans; ``needs``: names of the stages whose products it reads from ``View.extras``.
    """

    name: ClassVar[str]
    Params: ClassVar[type[AnyParams]]
    uses_unlabelled: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, params: AnyParams, make_segmenter: MakeSegmenter, num_classes: int) -> None:
        super().__init__()
        self.params = params
        self.num_classes = num_classes
        self.live = LiveConfusion(num_classes)

    @classmethod
    def views(
        cls,
        params: AnyParams,
        labelled: Sequence[View],
        unlabelled: Sequence[View],
        augment: Augment,
        rng: np.random.Generator,
    ) -> dict[str, list[View]]:
        """Groups of views of one step. The default: ``labelled`` and (if any) ``unlabelled``, each augmented once."""
        groups = {"labelled": [augment(view, rng) for view in labelled]}
        if unlabelled:
            groups["unlabelled"] = [augment(view, rng) for view in unlabelled]
        return groups

    def phases(self, steps: int) -> list[Phase]:
        """How the ``steps`` of a run are spent. The sum of their steps is at most ``steps`` (equal budgets)."""
        return [Phase("train", steps)]

    def step(self, batch: Batch, progress: Progress) -> Iterator[dict[str, Tensor]]:
        """Yields named losses; their sum is minimized. Each yield is one backward and one optimizer step."""
        raise NotImplementedError(f"{type(self).__name__} has to implement step()")

    def after_step(self, progress: Progress) -> None:
        """Called once per iteration, after the last optimizer step."""

    def predictor(self) -> Segmenter:
        """The network that is evaluated."""
        raise NotImplementedError(f"{type(self).__name__} has to implement predictor()")
