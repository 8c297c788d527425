from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ssl3d.data.geometry.boundary import ROUNDING, boundary_points, interface_labels, pair_labels


def line(n: int = 10, spacing: float = 0.01) -> np.ndarray:
    points = np.zeros((n, 3), np.float32)
    points[:, 0] = np.arange(n) * spacing
    return points


def near(points: np.ndarray, others: np.ndarray, radius: float) -> np.ndarray:
    """(n, m): which of the others each point is near, by all distances."""
    apart = points.astype(np.float64)[:, None] - others.astype(np.float64)
    return (apart**2).sum(2) <= (radius * (1 + ROUNDING)) ** 2


def by_distances(points: np.ndarray, label: np.ndarray, radius: float) -> np.ndarray:
    known = np.flatnonzero((label != 255) & np.isfinite(points).all(1))
    out = np.full(len(points), 255, np.uint8)
    at, classes = points[known], label[known]
    out[known] = (near(at, at, radius) & (classes[:, None] != classes)).any(1)
    return out


@pytest.mark.parametrize(("radius", "expected"), [(0.02, [3, 4, 5, 6]), (0.04, range(1, 9))])
def test_worked_numbers(radius: float, expected: list[int]) -> None:
    label = np.repeat(np.uint8([0, 1]), 5)
    assert np.flatnonzero(boundary_points(line(), label, radius) == 1).tolist() == list(expected)


def test_an_ignored_point_is_neither_center_nor_witness() -> None:
    label = np.repeat(np.uint8([0, 1]), 5)
    label[5] = 255
    found = boundary_points(line(), label, 0.02)
    assert found.tolist() == [0, 0, 0, 0, 1, 255, 1, 0, 0, 0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.04, 0.2, 1.5]), st.integers(1, 4), st.booleans())
def test_equal_to_all_distances(seed: int, radius: float, classes: int, grid: bool) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(-3, 3, (rng.integers(1, 400), 3)).astype(np.float32)
    if grid:  # duplicates, and neighbors at just the radius
        points = (np.round(points / radius) * radius).astype(np.float32)
    label = rng.integers(0, classes, len(points)).astype(np.uint8)
    label[rng.random(len(points)) < 0.2] = 255
    points[rng.random(len(points)) < 0.02] = np.nan
    found = boundary_points(points, label, radius)
    np.testing.assert_array_equal(found, by_distances(points, label, radius))
    np.testing.assert_array_equal(found, boundary_points(points, label, radius, threads=3))


def test_a_scan_with_ground_and_walls() -> None:
    rng = np.random.default_rng(0)
    points = np.c_[rng.uniform(-20, 20, (2400, 2)), np.zeros(2400)].astype(np.float32)
    points[1200:, 2], points[1200:, 0] = rng.uniform(0, 3, 1200), np.round(points[1200:, 0] / 8) * 8
    label = np.repeat(np.uint8([3, 7]), 1200)
    found = boundary_points(points, label, 0.5)
    np.testing.assert_array_equal(found, by_distances(points, label, 0.5))
    assert 20 < (found == 1).sum() < 1200


def test_without_points_labels_or_a_second_class() -> None:
    assert boundary_points(np.zeros((0, 3), np.float32), np.zeros(0, np.uint8), 0.1).shape == (0,)
    assert boundary_points(line(), np.full(10, 255, np.uint8), 0.1).tolist() == [255] * 10
    assert boundary_points(line(), np.zeros(10, np.uint8), 0.1).tolist() == [0] * 10
    assert boundary_points(np.full((3, 3), np.inf, np.float32), np.zeros(3, np.uint8), 0.1).tolist() == [255] * 3
    same = np.zeros((4, 3), np.float32)
    assert boundary_points(same, np.uint8([0, 0, 1, 255]), 0.1).tolist() == [1, 1, 1, 255]


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan")])
def test_a_radius_that_is_none(radius: float) -> None:
    with pytest.raises(ValueError, match="radius"):
        boundary_points(line(), np.zeros(10, np.uint8), radius)
    with pytest.raises(ValueError, match="labels for 10 points"):
        boundary_points(line(), np.zeros(9, np.uint8), 0.1)


# ---------------------------------------------------------------- pairs of regions


def test_worked_pairs() -> None:
    region = np.int32([0, 1, 1, 2, 3, -1])
    boundary = np.array([True, True, False, False, True, True])
    pairs = np.int32([[0, 1], [1, 2], [2, 3], [0, 3]])
    assert pair_labels(boundary, region, pairs).tolist() == [1, 0, 0, 1]
    assert pair_labels(boundary, region, pairs, min_points=2).tolist() == [0, 0, 0, 0]


def test_no_pair_and_no_boundary() -> None:
    region, pairs = np.int32([0, 0, 1]), np.zeros((0, 2), np.int32)
    none = np.zeros(3, bool)
    assert pair_labels(none, region, pairs).shape == (0,)
    assert interface_labels(line(3), none, region, pairs, 0.1).shape == (0,)
    pair = np.int32([[0, 1]])
    assert (
        pair_labels(none, region, pair).tolist() == [0] == interface_labels(line(3), none, region, pair, 0.1).tolist()
    )
    empty = np.zeros(0, np.int32)
    assert interface_labels(line(0), np.zeros(0, bool), empty, pair, 0.1).tolist() == [0]


def test_only_boundary_points_at_the_interface_count() -> None:
    region = np.repeat(np.int32([0, 1]), 5)
    pair = np.int32([[0, 1]])
    far = np.zeros(10, bool)
    far[[0, 9]] = True  # both regions hold one, away from each other
    assert pair_labels(far, region, pair).tolist() == [1]
    assert interface_labels(line(), far, region, pair, 0.03).tolist() == [0]
    near = np.zeros(10, bool)
    near[[4, 6]] = True
    assert interface_labels(line(), near, region, pair, 0.03).tolist() == [1]
    assert interface_labels(line(), near, region, pair, 0.03, min_points=2).tolist() == [0]


def interface_by_distances(
    points: np.ndarray, boundary: np.ndarray, region: np.ndarray, pairs: np.ndarray, radius: float, least: int
) -> list[int]:
    def touching(one: int, other: int) -> int:
        return int(near(points[boundary & (region == one)], points[region == other], radius).any(1).sum())

    return [int(min(touching(i, j), touching(j, i)) >= least) for i, j in pairs]


@settings(max_examples=40, deadline=None)
@given(arrays(np.int32, 120, elements=st.integers(-1, 6)), st.integers(0, 1000), st.integers(1, 3))
def test_interfaces_equal_to_all_distances(region: np.ndarray, seed: int, least: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 2, (120, 3))
    boundary = rng.random(120) < 0.3
    pairs = np.int32([(i, j) for i in range(8) for j in range(i + 1, 8)])
    found = interface_labels(points, boundary, region, pairs, 0.35, least)
    assert found.tolist() == interface_by_distances(points, boundary, region, pairs, 0.35, least)
    shuffled = rng.permutation(len(pairs))
    assert interface_labels(points, boundary, region, pairs[shuffled], 0.35, least).tolist() == found[shuffled].tolist()
