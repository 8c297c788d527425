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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.scan import IGNORE

if TYPE_CHECKING:
    from ssl3d.models.prediction import Instances

PROTOCOL = "scannet-instance"
LEGEND = (
    "the arithmetic of ScanNet's evaluate_semantic_instance.py; AP = mean over overlaps 0.50, 0.55 .. 0.90; a class "
    "without a true instance of at least 100 points is left out of the mean (-)"
)
"""What people are told about the numbers."""
OVERLAPS = tuple(float(overlap) for overlap in np.arange(0.5, 0.95, 0.05))
"""As the script makes them: 0.6000000000000001 is one of the nine."""
MIN_POINTS = 100
SCANNET_CLASSES = tuple(range(2, 20))
"""The 18 of ScanNet's 20 classes that have instances: without wall (0) and floor (1)."""
INSTANCE_CLASSES: Mapping[str, tuple[int, ...]] = {"scannet": SCANNET_CLASSES}
"""Of the datasets that do not score the instances of all their classes."""
_ABOVE = 1 << 32
"""Instance numbers are below."""


def instance_classes(dataset: str, num_classes: int) -> tuple[int, ...]:
    """The classes of a dataset (name of its specification) whose instances are scored: ScanNet's 18, else all."""
    return INSTANCE_CLASSES.get(dataset, tuple(range(num_classes)))


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

    def to_json(self) -> dict[str, Any]:
        """NaN becomes None, which JSON has."""
        averages = {name: [None if np.isnan(v) else v for v in getattr(self, name)] for name in ("ap", "ap50", "ap25")}
        return {"classes": list(self.classes), **averages, "targets": list(self.targets)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> InstanceScores:
        """The inverse of ``to_json``. Raises ``ValueError``, ``KeyError`` or ``TypeError`` for anything else."""
        averages = {
            name: tuple(float("nan") if v is None else float(v) for v in value[name]) for name in ("ap", "ap50", "ap25")
        }
        found = cls(tuple(value["classes"]), **averages, targets=tuple(value["targets"]))
        if {len(getattr(found, item.name)) for item in fields(found)} != {len(found.classes)}:
            raise ValueError("scores of instances do not fit their classes")
        return found

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


@dataclass(slots=True)
class _Meeting:
    """Collects the ``_Overlaps`` of one class of one scan; ``targets``: (g,) numbers of its true instances."""

    targets: npt.NDArray[np.int64]
    size: list[int] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    ignored: list[int] = field(default_factory=list)
    common: list[npt.NDArray[np.int64]] = field(default_factory=list)

    def add(self, confidence: float, met: npt.NDArray[np.int64]) -> None:
        """A prediction; ``met``: the true instance (of any class, -1 for none) of each of its points."""
        inside = met[met >= 0]
        length = int(self.targets[-1]) + 1 if len(self.targets) else 0
        self.size.append(len(met))
        self.confidence.append(confidence)
        self.ignored.append(len(met) - len(inside))
        self.common.append(np.bincount(inside, minlength=length)[self.targets])

    def overlaps(self, true_size: npt.NDArray[np.int64]) -> _Overlaps:
        """``true_size``: of all true instances of the scan."""
        common = np.stack(self.common, axis=1) if self.common else np.zeros((len(self.targets), 0), np.int64)
        true, predicted = np.nonzero(common)  # row by row: in order of ``true``, then ``predicted``
        return _Overlaps(
            true_size=true_size[self.targets],
            size=np.array(self.size, np.int64),
            confidence=np.array(self.confidence, np.float64),
            ignored=np.array(self.ignored, np.int64),
            true=true,
            predicted=predicted,
            common=common[true, predicted],
        )


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
            label, instance: see ``add_masks``.

        Raises:
            ValueError: another shape or dtype, numbers out of range, or a point that the scan does not have.
        """
        _check_truth(label, instance)
        predicted.check_points(len(label))
        order = np.argsort(predicted.instance, kind="stable")
        cuts = np.searchsorted(predicted.instance[order], np.arange(1, len(predicted)))
        rows = np.split(predicted.point[order], cuts) if len(predicted) else []
        masks = zip(predicted.label.tolist(), predicted.score.astype(np.float64).tolist(), rows, strict=True)
        self.add_masks(masks, label, instance)

    def add_masks(
        self,
        masks: Iterable[tuple[int, float, npt.NDArray[np.int64]]],
        label: npt.NDArray[np.uint8],
        instance: npt.NDArray[Any],
    ) -> None:
        """Takes one scan in whose predictions come one after the other: one of them is in memory at a time.

        Args:
            masks: of each prediction its class, its confidence, and the different rows of ``label`` that it has.
            label: (n,) uint8 true classes, or IGNORE.
            instance: (n,) integers from 0 below 2^32. A true instance is a class and a number; 0 is a point that
                belongs to none (in the official files: a *group*, an id below 1000), which is ignored.

        Raises:
            ValueError: another shape or dtype of ``label`` and ``instance``, numbers out of range.
        """
        _check_truth(label, instance)
        valid = np.isin(label, self.classes) & (instance > 0)
        keys, which, true_size = np.unique(
            label[valid].astype(np.int64) * _ABOVE + instance[valid].astype(np.int64),
            return_inverse=True,
            return_counts=True,
        )
        true_of = np.full(len(label), -1, np.int64)
        true_of[valid] = which.ravel()
        found = {c: _Meeting(np.flatnonzero(keys // _ABOVE == c)) for c in self.classes}
        for c, confidence, rows in masks:
            if c in found and len(rows) >= self.min_points:
                found[c].add(confidence, true_of[rows])
        for c, meeting in found.items():
            if len(meeting.targets) or meeting.size:
                self._scans[c].append(meeting.overlaps(true_size))

    def merge(self, other: InstanceAP) -> InstanceAP:
        """Adds the scans of ``other`` to this one and returns this one."""
        if (other.classes, other.min_points) != (self.classes, self.min_points):
            raise ValueError("cannot merge instances of other classes, or with another least size")
        for c in self.classes:
            self._scans[c] += other._scans[c]
        return self

    def to_json(self) -> dict[str, Any]:
        scans = [[_listed(scan) for scan in self._scans[c]] for c in self.classes]
        return {"classes": list(self.classes), "min_points": self.min_points, "scans": scans}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> InstanceAP:
        """The inverse of ``to_json``. Raises ``ValueError``, ``KeyError`` or ``TypeError`` for anything else."""
        found = cls(value["classes"], min_points=value["min_points"])
        for c, scans in zip(found.classes, value["scans"], strict=True):
            found._scans[c] = [_overlaps_of(scan) for scan in scans]
        return found

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


def _check_truth(label: npt.NDArray[np.uint8], instance: npt.NDArray[Any]) -> None:
    if label.shape != instance.shape or label.ndim != 1 or label.dtype != np.uint8:
        raise ValueError(f"labels {label.shape} {label.dtype} and instances {instance.shape} are not (n,) each")
    integers = instance.dtype.kind in "iu"
    if not integers or (len(instance) and not 0 <= int(instance.min()) <= int(instance.max()) < _ABOVE):
        raise ValueError("instance numbers must be integers from 0 below 2^32")


def _listed(scan: _Overlaps) -> dict[str, list[Any]]:
    return {item.name: getattr(scan, item.name).tolist() for item in fields(scan)}


def _overlaps_of(value: dict[str, Any]) -> _Overlaps:
    kinds: dict[str, Any] = {
        item.name: np.float64 if item.name == "confidence" else np.int64 for item in fields(_Overlaps)
    }
    found = _Overlaps(**{name: np.array(value[name], kind) for name, kind in kinds.items()})
    true, predicted = len(found.true_size), len(found.size)
    lengths = {len(found.confidence), len(found.ignored), predicted}, {len(found.predicted), len(found.common)}
    outside = len(found.true) and (found.true.max() >= true or found.predicted.max() >= predicted)
    if len(lengths[0]) > 1 or lengths[1] != {len(found.true)} or outside:
        raise ValueError("the overlaps of a scan do not fit together")
    return found


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
