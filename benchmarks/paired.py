"""Paired comparisons over few seeds: mean difference, its t-interval, and what may be said about its sign."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["gains", "loses", "undecided"]

_T_975 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip
"""Quantile 0.975 of Student's t for 1 .. 30 degrees of freedom."""


def t_975(degrees: int) -> float:
    """Quantile 0.975 of Student's t; above 30 degrees of freedom that of 30, which makes intervals a little wider."""
    if degrees < 1:
        raise ValueError(f"an interval needs at least one degree of freedom, not {degrees}")
    return _T_975[min(degrees, len(_T_975)) - 1]


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of paired differences.

    Attributes:
        values: one per pair, in the unit of what was compared.
        error: standard error of the mean, ``s / sqrt(n)`` with n - 1 in s; None for a single pair.
        low, high: 95% interval ``mean -+ t(0.975, n - 1) * error``; None for a single pair.
    """

    values: tuple[float, ...]
    mean: float
    error: float | None
    low: float | None
    high: float | None

    @property
    def verdict(self) -> Verdict:
        """``gains`` or ``loses`` only when the interval excludes zero."""
        if self.low is None or self.high is None:
            return "undecided"
        return "gains" if self.low > 0 else "loses" if self.high < 0 else "undecided"

    @property
    def beyond_two_errors(self) -> bool:
        """Whether the mean is more than two standard errors from zero: only then is an order demanded."""
        return self.error is not None and abs(self.mean) > 2 * self.error

    def text(self) -> str:
        """``+1.2 [-0.3, +2.7]``."""
        if self.low is None or self.high is None:
            return f"{self.mean:+.1f} [-]"
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """``ours - theirs``, pair by pair.

    Raises:
        ValueError: no pair, or of different number.
    """
    return difference([a - b for a, b in zip(ours, theirs, strict=True)])


def difference(values: Sequence[float]) -> Difference:
    """The mean of differences that are already taken. ``ValueError`` when there is none."""
    if not values:
        raise ValueError("no pair to compare")
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return Difference(tuple(values), mean, None, None, None)
    error = statistics.stdev(values) / math.sqrt(count)
    half = t_975(count - 1) * error
    return Difference(tuple(values), mean, error, mean - half, mean + half)


__all__ = ["Difference", "Verdict", "difference", "paired", "t_975"]
