"""ST-RFD: fewer labelled frames where a recording repeats itself (LiM3D, CVPR 2023; a reconstruction)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    from ssl3d.pipeline.dataset import ScanRef

SUBSET = 100
"""Consecutive frames of a sequence that are drawn from alike."""
_STEEPEST = -1e6


def subsets_of(pool: Sequence[ScanRef], redundancy: Mapping[str, float]) -> list[tuple[list[str], float]]:
    """Runs of at most 100 consecutive scans of a sequence, and the mean redundancy of the pairs within each.

    Args:
        pool: in order of the dataset.
        redundancy: scan id -> similarity to the scan that was recorded before it.

    Returns:
        (scan ids, phi); a run of which no pair is known gets the mean of the others, or 0.
    """
    runs: list[list[ScanRef]] = []
    for _, group in groupby(pool, key=lambda scan: scan.group):
        scans = list(group)
        runs += [scans[begin : begin + SUBSET] for begin in range(0, len(scans), SUBSET)]
    known = []
    for run in runs:
        pairs = [b for a, b in pairwise(run) if b.index == a.index + 1]
        values = [redundancy[scan.scan_id] for scan in pairs if scan.scan_id in redundancy]
        known.append(math.fsum(values) / len(values) if values else None)
    there = [value for value in known if value is not None]
    usual = math.fsum(there) / len(there) if there else 0.0
    return [
        ([scan.scan_id for scan in run], usual if value is None else value)
        for run, value in zip(runs, known, strict=True)
    ]


def solve_beta(sizes: Sequence[int], phi: Sequence[float], share: float) -> float:
    """beta <= 0 with sum_k n_k exp(beta phi_k) = share sum_k n_k, by bisection.

    Subsets with phi = 0 keep all of their frames; where these alone are too many, beta is -1e6.
    """

    def kept(beta: float) -> float:
        return math.fsum(n * math.exp(beta * value) for n, value in zip(sizes, phi, strict=True)) / sum(sizes)

    if share >= 1:
        return 0.0
    low = -1.0
    while kept(low) > share:
        if low <= _STEEPEST:
            return _STEEPEST
        low *= 2
    high = 0.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if kept(middle) < share else (low, middle)
    return high


def choose_strfd(subsets: Sequence[tuple[Sequence[str], float]], ratio: str, seed: int) -> list[str]:
    """round(ratio x n) scans (half to even), at least 1: round(n_k exp(beta phi_k)) of each subset k, drawn uniformly;
    then scans are added or taken away at random until the number is met. Larger ratios do not contain smaller ones.

    Args:
        subsets: (scan ids, phi), from ``subsets_of``.
        ratio: exact decimal text (``parse_ratio``).
    """
    sizes, phi = [len(scans) for scans, _ in subsets], [value for _, value in subsets]
    wanted = max(1, round(Fraction(ratio) * sum(sizes)))
    beta = solve_beta(sizes, phi, float(Fraction(ratio)))
    drawn: list[str] = []
    for scans, value in subsets:
        drawn += _shuffled(scans, f"strfd {seed}")[: round(len(scans) * math.exp(beta * value))]
    chosen = set(drawn)
    others = [scan for scans, _ in subsets for scan in scans if scan not in chosen]
    ordered = _shuffled(drawn, f"strfd kept {seed}") + _shuffled(others, f"strfd added {seed}")
    return ordered[:wanted]


def _shuffled(scans: Sequence[str], salt: str) -> list[str]:
    """By a keyed hash, so that the order is the same on every machine."""
    return sorted(scans, key=lambda scan_id: (xxhash.xxh3_128_digest(f"{salt} {scan_id}".encode()), scan_id))


__all__ = ["SUBSET", "choose_strfd", "solve_beta", "subsets_of"]
