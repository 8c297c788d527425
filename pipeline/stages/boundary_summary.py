"""What a product of ``boundary`` holds, in numbers; from its journal alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ssl3d.pipeline.product import Product

HELD, TRAINED = "held out", "trained on"
BINS = 40
"""Of the probabilities 0 to 1, whose edges are the thresholds that are tried."""


@dataclass(slots=True)
class Counts:
    """Boundary points of the prediction against those of visible labels, over the points where these are known."""

    hit: int = 0
    false: int = 0
    missed: int = 0
    neither: int = 0
    scans: int = 0

    def add(self, counts: Sequence[int]) -> None:
        hit, false, missed, neither = counts
        self.hit, self.false = self.hit + hit, self.false + false
        self.missed, self.neither, self.scans = self.missed + missed, self.neither + neither, self.scans + 1

    @property
    def points(self) -> int:
        return self.hit + self.false + self.missed + self.neither

    @property
    def share(self) -> float | None:
        """Boundary points of the labels, of all points (0..1)."""
        return _ratio(self.hit + self.missed, self.points)

    @property
    def precision(self) -> float | None:
        return _ratio(self.hit, self.hit + self.false)

    @property
    def recall(self) -> float | None:
        return _ratio(self.hit, self.hit + self.missed)

    @property
    def f1(self) -> float | None:
        return _ratio(2 * self.hit, 2 * self.hit + self.false + self.missed)

    def to_json(self) -> dict[str, Any]:
        shares = {"share": self.share, "precision": self.precision, "recall": self.recall, "f1": self.f1}
        return {**asdict(self), **shares}


@dataclass(slots=True)
class Curve:
    """Points with visible labels by probability.

    Attributes:
        real, other: (BINS,) boundary points of the labels, and others.
    """

    real: list[int] = field(default_factory=lambda: [0] * BINS)
    other: list[int] = field(default_factory=lambda: [0] * BINS)

    def add(self, real: Sequence[int], other: Sequence[int]) -> None:
        self.real = [a + b for a, b in zip(self.real, real, strict=True)]
        self.other = [a + b for a, b in zip(self.other, other, strict=True)]

    @property
    def best(self) -> tuple[float, float]:
        """The threshold with the best F1, and that F1 (0..1); (0.5, 0) without a boundary point."""
        best, total = (0.5, 0.0), sum(self.real)
        for first in range(1, BINS):
            hit, false = sum(self.real[first:]), sum(self.other[first:])
            if hit and (f1 := 2 * hit / (hit + false + total)) > best[1]:
                best = first / BINS, f1
        return best


@dataclass(slots=True)
class SubsetTotals:
    """Sums over the scans of a subset.

    Attributes:
        boundary: points that are predicted to be boundary points.
        pairs, across: pairs of adjacent regions, and those labelled 1.
        unseen: scans of which the network sees no point.
    """

    scans: int = 0
    points: int = 0
    boundary: int = 0
    pairs: int = 0
    across: int = 0
    unseen: int = 0


@dataclass(frozen=True, slots=True)
class BoundarySummary:
    """Attributes:
    subsets: ``train``, ``val``, ``test``.
    quality: ``HELD`` and ``TRAINED``, those of which there are any scans.
    """

    subsets: Mapping[str, SubsetTotals]
    quality: Mapping[str, Counts]
    curve: Curve

    def to_json(self) -> dict[str, Any]:
        return {
            "best_threshold": dict(zip(("threshold", "f1"), self.curve.best, strict=True)),
            "subsets": {name: asdict(totals) for name, totals in self.subsets.items()},
            "quality": {name: counts.to_json() for name, counts in self.quality.items()},
        }


def summarize_boundary(product: Product, subsets: Mapping[str, str]) -> BoundarySummary:
    """``subsets``: unit -> subset."""
    totals: dict[str, SubsetTotals] = {}
    quality, curve = {HELD: Counts(), TRAINED: Counts()}, Curve()
    for unit, entry in sorted(product.done.items()):
        here = totals.setdefault(subsets[unit], SubsetTotals())
        here.unseen += entry.info["unseen"]
        for scan in entry.info["scans"]:
            here.scans += 1
            for name in ("points", "boundary", "pairs", "across"):
                setattr(here, name, getattr(here, name) + scan[name])
            for name, counts in quality.items():
                if name in scan:
                    counts.add(scan[name])
            if "curve" in scan:
                curve.add(*scan["curve"])
    return BoundarySummary(totals, {name: counts for name, counts in quality.items() if counts.scans}, curve)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
