"""Pseudo labels that are balanced over classes and distances (ScribbleKITTI, Unal et al., CVPR 2022; LiM3D, CVPR 2023).

A network is surest of large classes and near points. So the surest share is taken of each class in each annulus around
the sensor by itself.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ssl3d.data.scan import IGNORE

ANNULUS_METERS = 5.0
_CODES = 0x3C00 + 1
"""Numbers of float16 in [0, 1]: in the order of their bits, 0 to 0x3C00."""


def annulus(points: npt.NDArray[np.float32], annuli: int, width: float = ANNULUS_METERS) -> npt.NDArray[np.uint8]:
    """(n,) uint8: the ring of ``width`` meters around the z axis that a point lies in; the last one has no outer end.

    Args:
        points: (n, 3) in the frame of the sensor. A point that is not finite lies in the last ring.
        annuli: A.
    """
    distance = np.hypot(points[:, 0], points[:, 1]) / np.float32(width)
    last = np.float32(annuli - 1)
    return np.where(distance < last, distance, last).astype(np.uint8)


def doubts(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """(n,) float16: 1 - confidence of (n, C) probabilities. Kept so, because above 0.9995 float16 knows only 1."""
    return np.clip(1 - scores.max(1), 0, 1).astype(np.float16)


class ClassRangeCounts:
    """How often each doubt occurs among the points of a class in an annulus: with so few different numbers, a histogram
    holds the exact order statistics of any number of scans.

    Attributes:
        counts: (C, A, 15361) int64, by class, annulus and doubt (the bits of its float16).
    """

    def __init__(self, num_classes: int, annuli: int) -> None:
        self.counts = np.zeros((num_classes, annuli, _CODES), np.int64)

    def add(self, label: npt.NDArray[np.uint8], ring: npt.NDArray[np.uint8], doubt: npt.NDArray[np.float16]) -> None:
        """Takes points in: (n,) predicted class (those with IGNORE do not count), annulus, and doubt in [0, 1]."""
        counted = label != IGNORE
        code = doubt[counted].view(np.uint16).astype(np.int64)
        cell = label[counted].astype(np.int64) * self.counts.shape[1] + ring[counted]
        where, often = np.unique(cell * _CODES + code, return_counts=True)
        self.counts.reshape(-1)[where] += often

    def limits(self, share: float) -> npt.NDArray[np.float32]:
        """(C, A) float32: a point becomes a pseudo label if its doubt is *smaller*.

        Of n points, l = round(n share) are wanted (half to even): the limit is the (l + 1)-th smallest doubt, that is
        the (l + 1)-th largest confidence. So of equal doubts at the limit none is taken. Infinite where all are wanted.
        """
        seen = self.counts.cumsum(2)
        total = seen[:, :, -1]
        wanted = np.rint(total * share).astype(np.int64)
        code = (seen <= wanted[:, :, None]).sum(2)  # the first with seen > wanted
        limit = np.minimum(code, _CODES - 1).astype(np.uint16).view(np.float16).astype(np.float32)
        return np.where(total == 0, np.float32(0), np.where(wanted >= total, np.float32(np.inf), limit))


__all__ = ["ANNULUS_METERS", "ClassRangeCounts", "annulus", "doubts"]
