"""Counts of (prediction, truth) over original points, from which every protocol is computed afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.scan import IGNORE


class Confusion:
    """A (C + 1, C) int64 matrix ``counts[prediction, truth]``; row C counts points predicted as *ignored*.

    That is the orientation of the official SemanticKITTI evaluator. Points whose truth is IGNORE never enter a cell;
    ``ignored`` is their number, so that ``counts.sum() + ignored`` is the number of points seen.

    Args:
        num_classes: C, at most 255.
    """

    def __init__(self, num_classes: int) -> None:
        if not 0 < num_classes <= IGNORE:
            raise ValueError(f"num_classes must be 1..{IGNORE}, not {num_classes}")
        self.num_classes = num_classes
        self.counts: npt.NDArray[np.int64] = np.zeros((num_classes + 1, num_classes), np.int64)
        self.ignored = 0

    @property
    def points(self) -> int:
        """All points seen, those without a truth included."""
        return int(self.counts.sum()) + self.ignored

    def add(self, prediction: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8]) -> None:
        """Counts one scan.

        Args:
            prediction: (n,) uint8, 0..C-1, or IGNORE for "predicted as ignored".
            truth: (n,) uint8, 0..C-1 or IGNORE.

        Raises:
            ValueError: lengths differ, another dtype, or an id that is neither a class nor IGNORE.
        """
        if prediction.shape != truth.shape or prediction.ndim != 1:
            raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} are not two equal lists of points")
        if prediction.dtype != np.uint8 or truth.dtype != np.uint8:
            raise ValueError(f"labels must be uint8, not {prediction.dtype} and {truth.dtype}")
        c = self.num_classes
        # One bincount over all pairs of bytes: about as fast as over C x C cells, and it finds strange ids for free.
        pairs = np.bincount((prediction.astype(np.uint16) << 8) | truth, minlength=1 << 16).reshape(256, 256)
        known = pairs[:c, :c], pairs[IGNORE, :c], pairs[:c, IGNORE], pairs[IGNORE, IGNORE]
        if sum(int(part.sum()) for part in known) != len(truth):
            raise ValueError(f"labels must be 0..{c - 1} or {IGNORE}, found {_strange(prediction, truth, c)}")
        self.counts[:c] += known[0]
        self.counts[c] += known[1]
        self.ignored += int(known[2].sum() + known[3])

    def merge(self, other: Confusion) -> Confusion:
        """Adds the counts of ``other`` to this one and returns this one."""
        if other.num_classes != self.num_classes:
            raise ValueError(f"cannot merge confusions of {self.num_classes} and {other.num_classes} classes")
        self.counts += other.counts
        self.ignored += other.ignored
        return self

    def to_json(self) -> dict[str, Any]:
        return {"counts": self.counts.tolist(), "ignored": self.ignored}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Confusion:
        """The inverse of ``to_json``. Raises ``ValueError`` or ``KeyError`` when ``value`` is not such a matrix."""
        counts = np.asarray(value["counts"], np.int64)
        if counts.ndim != 2 or counts.shape[0] != counts.shape[1] + 1 or (counts < 0).any():
            raise ValueError(f"not a (C + 1, C) matrix of counts: shape {counts.shape}")
        confusion = cls(counts.shape[1])
        confusion.counts = counts
        confusion.ignored = int(value["ignored"])
        return confusion

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Confusion):
            return NotImplemented
        return bool(np.array_equal(self.counts, other.counts)) and self.ignored == other.ignored

    __hash__ = None  # type: ignore[assignment]  # mutable


def classes_of(raw: npt.NDArray[Any], valid: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Original ids -> classes, as official evaluators read label files: any id that is not valid becomes IGNORE.

    So an invalid truth is skipped, and an invalid prediction a miss of the true class and false for nobody.

    Args:
        raw: (n,) integers, whatever stands in the file (ScanNet's has 50 and 149).
        valid: the C original ids of the classes, in class order.
    """
    result = np.full(raw.shape, IGNORE, np.uint8)
    for c, raw_id in enumerate(valid):
        result[raw == raw_id] = c
    return result


def _strange(prediction: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], num_classes: int) -> list[int]:
    ids = np.union1d(prediction, truth)
    return [int(i) for i in ids if num_classes <= i != IGNORE]
