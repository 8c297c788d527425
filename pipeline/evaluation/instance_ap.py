"""Average precision of instances as ScanNet's ``evaluate_semantic_instance.py`` computes it: AP, AP50 and AP25.

The script's rules, some of which other benchmarks do not share:

* nine overlaps 0.50, 0.55 .. 0.90 make AP (0.95 is not among them); a prediction matches when its IoU is *above* one.
* Predictions of fewer than 100 points are dropped, true instances of fewer are no targets.
* True instances take their predictions greedily: instance by instance in ascending number, predictions in the order
  in which they are given (not by confidence). A further match of a true instance is a false positive with the lower
  of the two confidences, and may still be taken by another true instance.
* A prediction without a match is no false positive where more of it than the overlap lies on ignored points or on
  true instances that are too small.
* The precision-recall curve has one point per distinct confidence and no monotone envelope; each precision counts
  half the recalls between its two neighbors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.scan import IGNORE

if TYPE_CHECKING:
    from ssl3d.models.prediction import Instances

PROTOCOL = "scannet-instance"
OVERLAPS = tuple(float(overlap) for overlap in np.arange(0.5, 0.95, 0.05))
"""As the script makes them: 0.6000000000000001 is one of the nine."""
MIN_POINTS = 100
SCANNET_CLASSES = tuple(range(2, 20))
"""The 18 of ScanNet's 20 classes that have instances: without wall (0) and floor (1)."""
_ABOVE = 1 << 32
"""Instance numbers are below."""


@dataclass(frozen=True, slots=True)
class InstanceScores:
    """Average precisions as fractions 0..1, per class in the order of ``classes``; NaN for a class without a target.

    Attributes:
        classes: their ids.
        ap: the mean over ``OVERLAPS``.
        ap50, ap25: at an overlap of 0.50 and 0.25.
        targets: how many true instances count.
    """

    classes: tuple[int, ...]
    ap: tuple[float, ...]
    ap50: tuple[float, ...]
    ap25: tuple[float, ...]
    targets: tuple[int, ...]

    @property
    def mean_ap(self) -> float:
        """Mean over the classes that have a target; NaN when none has. So are the next two."""
        return _mean(self.ap)

    @property
    def mean_ap50(self) -> float:
        return _mean(self.ap50)

    @property
    def mean_ap25(self) -> float:
        return _mean(self.ap25)


@dataclass(frozen=True, slots=True)
class _Overlaps:
    """One class of one scan: g true instances and p predictions, and the pairs of them that have points in common.

    Attributes:
        true_size: (g,) points of the true instances, in ascending order of their numbers.
        size, confidence, ignored: (p,) points, confidence, and points without an instance of an evaluated class.
        true, predicted, common: (pairs,) rows of the two, ordered by ``true``, then ``predicted``; points in common.
    """

    true_size: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    ignored: npt.NDArray[np.int64]
    true: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    common: npt.NDArray[np.int64]


class InstanceAP:
    """Collects scan after scan what the scores need: overlaps, not points.

    Args:
        classes: ids of the classes that are evaluated; points of all others are ignored.
        min_points: smaller predictions are dropped, smaller true instances are no targets.
    """

    def __init__(self, classes: Sequence[int] = SCANNET_CLASSES, *, min_points: int = MIN_POINTS) -> None:
        if not classes or len(set(classes)) != len(classes) or not all(0 <= c < IGNORE for c in classes):
            raise ValueError(f"classes must be different ids 0..{IGNORE - 1}, not {list(classes)}")
        if min_points < 1:
            raise ValueError(f"min_points must be at least 1, not {min_points}")
        self.classes = tuple(classes)
        self.min_points = min_points
        self._scans: dict[int, list[_Overlaps]] = {c: [] for c in self.classes}

    def add(self, predicted: Instances, label: npt.NDArray[np.uint8], instance: npt.NDArray[Any]) -> None:
        """Takes one scan in.

        Args:
            predicted: its ``point`` are rows of ``label``. They may overlap; those of other classes are dropped.
            label: (n,) uint8 true classes, or IGNORE.
            instance: (n,) integers from 0 below 2^32. A true instance is a class and a number; 0 is a point that
                belongs to none (in the official files: a *group*, an id below 1000), which is ignored.

        Raises:
            ValueError: another shape or dtype, numbers out of range, or a point that the scan does not have.
        """
        if label.shape != instance.shape or label.ndim != 1 or label.dtype != np.uint8:
            raise ValueError(f"labels {label.shape} {label.dtype} and instances {instance.shape} are not (n,) each")
        integers = instance.dtype.kind in "iu"
        if not integers or (len(instance) and not 0 <= int(instance.min()) <= int(instance.max()) < _ABOVE):
            raise ValueError("instance numbers must be integers from 0 below 2^32")
        predicted.check_points(len(label))
        valid = np.isin(label, self.classes) & (instance > 0)
        keys, which, true_size = np.unique(
            label[valid].astype(np.int64) * _ABOVE + instance[valid].astype(np.int64),
            return_inverse=True,
            return_counts=True,
        )
        true_of = np.full(len(label), -1, np.int64)
        true_of[valid] = which.ravel()
        size = np.bincount(predicted.instance, minlength=len(predicted))
        ignored = np.bincount(predicted.instance[~valid[predicted.point]], minlength=len(predicted))
        pairs, common = self._pairs(predicted, true_of, keys // _ABOVE)
        large = size >= self.min_points
        for c in self.classes:
            true, kept = np.flatnonzero(keys // _ABOVE == c), np.flatnonzero(large & (predicted.label == c))
            here = np.isin(pairs[1], kept) & np.isin(pairs[0], true)
            found = _Overlaps(
                true_size=true_size[true],
                size=size[kept],
                confidence=predicted.score[kept].astype(np.float64),
                ignored=ignored[kept],
                true=np.searchsorted(true, pairs[0, here]),
                predicted=np.searchsorted(kept, pairs[1, here]),
                common=common[here],
            )
            if len(true) or len(kept):
                self._scans[c].append(found)

    @staticmethod
    def _pairs(
        predicted: Instances, true_of: npt.NDArray[np.int64], true_class: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """((2, pairs) true and predicted instances of one class that meet, in order; (pairs,) points in common)."""
        true = true_of[predicted.point]
        same = true >= 0
        same[same] = true_class[true[same]] == predicted.label[predicted.instance[same]]
        width = max(len(predicted), 1)
        met, common = np.unique(true[same] * width + predicted.instance[same], return_counts=True)
        return np.stack([met // width, met % width]), common

    def scores(self) -> InstanceScores:
        """The scores of all scans so far."""
        curves = [[self._at(c, overlap) for overlap in (*OVERLAPS, 0.25)] for c in self.classes]
        return InstanceScores(
            classes=self.classes,
            ap=tuple(float(np.mean(values[:-1])) for values in curves),
            ap50=tuple(values[0] for values in curves),
            ap25=tuple(values[-1] for values in curves),
            targets=tuple(self._targets(c) for c in self.classes),
        )

    def _targets(self, c: int) -> int:
        return sum(int((scan.true_size >= self.min_points).sum()) for scan in self._scans[c])

    def _at(self, c: int, overlap: float) -> float:
        """AP of one class at one overlap."""
        if not self._targets(c):
            return float("nan")
        if not any(len(scan.size) for scan in self._scans[c]):
            return 0.0
        true: list[float] = []
        false: list[float] = []
        for scan in self._scans[c]:
            _match(scan, overlap, self.min_points, true, false)
        return average_precision(true, false, missed=self._targets(c) - len(true))


def _match(scan: _Overlaps, overlap: float, min_points: int, true: list[float], false: list[float]) -> None:
    """Appends the confidences of the true and of the false positives of one class in one scan."""
    union = scan.true_size[scan.true] + scan.size[scan.predicted] - scan.common
    hit = scan.common / union > overlap
    target = scan.true_size >= min_points
    used: set[int] = set()
    best: dict[int, float] = {}
    chosen = hit & target[scan.true]
    for t, p in zip(scan.true[chosen].tolist(), scan.predicted[chosen].tolist(), strict=True):
        if p in used:
            continue
        confidence = float(scan.confidence[p])
        if t in best:
            false.append(min(best[t], confidence))
            best[t] = max(best[t], confidence)
        else:
            best[t] = confidence
            used.add(p)
    true += best.values()
    small = ~target[scan.true]
    excused = scan.ignored + np.bincount(scan.predicted[small], scan.common[small], minlength=len(scan.size))
    unmatched = np.ones(len(scan.size), np.bool_)
    unmatched[scan.predicted[hit]] = False  # one that meets a small true instance is as good as matched
    false += scan.confidence[unmatched & (excused / scan.size <= overlap)].tolist()


def average_precision(true: Sequence[float], false: Sequence[float], missed: int) -> float:
    """The area below the precision-recall curve.

    Where every prediction is excused the script fails with an empty list; here, as in its descendants, that is 0.

    Args:
        true, false: confidences of true and of false positives.
        missed: true instances that no prediction matches; at least one when ``true`` is empty.
    """
    cuts = np.unique([*true, *false])  # ascending
    tp, fp = (len(group) - np.searchsorted(np.sort(group), cuts, side="left") for group in (true, false))
    precision = np.append(tp / np.maximum(tp + fp, 1), 1.0)
    recall = np.append(tp / (len(true) + missed), 0.0)
    around = np.concatenate([recall[:1], recall, [0.0]])
    return float(precision @ ((around[:-2] - around[2:]) / 2))


def _mean(values: tuple[float, ...]) -> float:
    numbers = [value for value in values if not np.isnan(value)]
    return float(np.mean(numbers)) if numbers else float("nan")
