"""What the boundary network learns from, and which visible labels are kept out to measure it on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ssl3d.data.geometry.boundary import boundary_points
from ssl3d.data.scan import IGNORE, View
from ssl3d.models.boundary.method import TARGET
from ssl3d.pipeline.training.extras import ViewSource

_ROLES = 0x626F756E
"""Keeps this draw apart from the others of the same seed."""


@dataclass(frozen=True)
class Roles:
    """What the labelled scans are for.

    Attributes:
        training, held: indices of scans.
        part: of a single scan, this share of its points is held out instead.
    """

    training: tuple[int, ...]
    held: tuple[int, ...]
    part: float = 0.0


def choose_roles(labelled: Sequence[int], share: float, seed: int) -> Roles:
    """Keeps ``floor(share x n)`` of n labelled scans out of training, at least one, drawn by ``seed``; of a single scan
    a part. ``share`` 0: nothing is held out."""
    labelled = sorted(labelled)
    if share == 0:
        return Roles(tuple(labelled), ())
    if len(labelled) == 1:
        return Roles(tuple(labelled), (), share)
    count = max(1, int(share * len(labelled)))
    order = np.random.default_rng([seed, _ROLES]).permutation(len(labelled))
    held = {labelled[i] for i in order[:count]}
    return Roles(tuple(i for i in labelled if i not in held), tuple(sorted(held)))


def held_part(points: npt.NDArray[np.float32], label: npt.NDArray[np.uint8], share: float) -> npt.NDArray[np.bool_]:
    """(n,) bool: of the points with a visible label, the last ``share`` along their longer horizontal side."""
    held = np.zeros(len(points), np.bool_)
    rows = np.flatnonzero((label != IGNORE) & np.isfinite(points).all(axis=1))
    if share and len(rows):
        axis = int(np.argmax(np.ptp(points[rows, :2], axis=0)))
        order = np.argsort(points[rows, axis], kind="stable")
        held[rows[order[len(rows) - int(share * len(rows)) :]]] = True
    return held


@dataclass(frozen=True)
class BoundarySource:
    """Scans of ``source`` with the boundaries of their visible labels; the labels of the held-out part are hidden.

    Boundaries are found here, on whole scans, so that neither thinning nor augmentation moves them.
    """

    source: ViewSource
    radius: float
    part: float = 0.0

    def view(self, index: int) -> View:
        view = self.source.view(index)
        if self.part:
            view.label = np.where(held_part(view.points, view.label, self.part), np.uint8(IGNORE), view.label)
        view.extras[TARGET] = boundary_points(view.points, view.label, self.radius)
        return view
