"""Thresholds by class and annulus: the worked number, and exact order statistics against sorting."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl3d.data.scan import IGNORE
from ssl3d.models.class_range import ClassRangeCounts, annulus, doubts


def counted(confidences: list[float], share: float) -> tuple[ClassRangeCounts, npt.NDArray[np.float16]]:
    """All of class 0 in annulus 0."""
    doubt = doubts(np.array([[p, 1 - p] for p in confidences], np.float32))
    counts = ClassRangeCounts(1, 1)
    zeros = np.zeros(len(doubt), np.uint8)
    counts.add(zeros, zeros, doubt)
    return counts, doubt


def test_the_worked_number() -> None:
    counts, doubt = counted([0.5, 0.6, 0.7, 0.8, 0.9, 0.95], 0.5)
    limit = counts.limits(0.5)
    assert 1 - limit[0, 0] == pytest.approx(0.7, abs=1e-3)
    assert (doubt < limit[0, 0]).tolist() == [False, False, False, True, True, True]


def test_none_all_and_ties() -> None:
    for confidences, share, expected in [
        ([0.9], 0.5, 0),  # round(0.5) = 0
        ([0.9, 0.8, 0.7], 0.5, 2),
        ([0.9, 0.8, 0.7, 0.6, 0.55], 0.5, 2),  # round(2.5) = 2
        ([0.9, 0.8], 1.0, 2),
        ([0.9, 0.9, 0.9, 0.6], 0.5, 0),  # strictly greater than the third
        ([], 1.0, 0),
    ]:
        counts, doubt = counted(confidences, share) if confidences else (ClassRangeCounts(1, 1), np.zeros(0))
        assert int((doubt < counts.limits(share)[0, 0]).sum()) == expected, (confidences, share)


def test_confidences_near_one_are_told_apart() -> None:
    """float16 itself would round all of these to 1."""
    counts, doubt = counted([0.99999, 0.99998, 0.9999, 0.9998], 0.5)
    assert (doubt < counts.limits(0.5)[0, 0]).tolist() == [True, True, False, False]
    assert len({float(np.float16(p)) for p in (0.99999, 0.99998, 0.9999, 0.9998)}) == 1


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1.0), st.integers(1, 5))
def test_streamed_counts_equal_sorting(seed: int, share: float, scans: int) -> None:
    rng = np.random.default_rng(seed)
    classes, annuli = 3, 4
    counts = ClassRangeCounts(classes, annuli)
    parts: list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.float16]]] = []
    for _ in range(scans):
        n = int(rng.integers(0, 60))
        label = rng.choice([0, 1, 2, IGNORE], n).astype(np.uint8)
        ring = rng.integers(0, annuli, n).astype(np.uint8)
        doubt = (rng.choice([1.0, 1e-5], n) * rng.integers(0, 9, n) / 8).astype(np.float16)  # with ties
        parts.append((label, ring, doubt))
        counts.add(label, ring, doubt)
    label, ring, doubt = (np.concatenate(column) for column in zip(*parts, strict=True))
    limits = counts.limits(share)
    for c in range(classes):
        for a in range(annuli):
            mine = sorted(float(d) for d in doubt[(label == c) & (ring == a)])
            wanted = round(len(mine) * share)
            expected = mine[:0] if not mine else mine if wanted >= len(mine) else [d for d in mine if d < mine[wanted]]
            assert [d for d in mine if d < limits[c, a]] == expected


def test_annuli_are_rings_around_the_sensor_and_the_last_is_open() -> None:
    points = np.array([[0, 0, 99], [3, 4, 0], [4.99, 0, 0], [0, -49.9, 1], [50, 0, 0], [300, 0, 0]], np.float32)
    assert annulus(points, 10).tolist() == [0, 1, 0, 9, 9, 9]
    assert annulus(points, 1).tolist() == [0] * 6
    assert annulus(np.full((1, 3), np.nan, np.float32), 10).tolist() == [9]
