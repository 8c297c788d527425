"""Exact neighbor counts: worked numbers, a k-d tree, and everything that is no ordinary scan."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from ssl3d.data.geometry.cells import MARGIN, Cells
from ssl3d.data.geometry.density import neighbor_counts
from ssl3d.data.geometry.threads import equal_shares

Points = npt.NDArray[np.float32]


def by_tree(points: Points, radius: float) -> list[int]:
    return cKDTree(points).query_ball_point(points, radius, return_length=True).tolist()


def test_five_points_on_a_line() -> None:
    points = np.zeros((5, 3), np.float32)
    points[:, 0] = 0.1 * np.arange(5)
    assert neighbor_counts(points, 0.15).tolist() == [2, 3, 3, 3, 2]


def test_a_distance_of_exactly_the_radius_counts() -> None:
    points = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, -2.0000002]], np.float32)
    assert neighbor_counts(points, 2.0).tolist() == [3, 2, 2, 1]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 400),
    radius=st.sampled_from([0.07, 0.5, 3.0, 40.0]),
    flat=st.booleans(),
    copies=st.booleans(),
    threads=st.sampled_from([1, 3]),
)
def test_equal_to_a_tree(seed: int, count: int, radius: float, flat: bool, copies: bool, threads: int) -> None:
    rng = np.random.default_rng(seed)
    points = (rng.normal(size=(count, 3)) * rng.choice([0.05, 1.0, 10.0], (count, 1))).astype(np.float32)
    if flat:
        points[:, 2] = 0
    if copies:
        points[count // 2 :] = points[rng.integers(0, max(1, count // 2), count - count // 2)]
    assert neighbor_counts(points, radius, threads).tolist() == by_tree(points, radius)


def test_a_grid_full_of_ties_far_from_the_origin() -> None:
    axis = np.arange(12, dtype=np.float32) * 0.25
    points = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3) + np.float32(4096)
    for radius in (0.25, 0.5, 0.75):  # every sum of squares is exact
        assert neighbor_counts(points, radius).tolist() == by_tree(points, radius)


def test_balls_of_tens_of_thousands_of_points() -> None:
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(40_000, 3)).astype(np.float32) * np.float32(0.05)
    points = np.concatenate([dense, np.float32([[50, 0, 0]])])
    counts = neighbor_counts(points, 1.0, threads=2)
    assert set(counts[:-1].tolist()) == {40_000} and counts[-1] == 1
    some = rng.choice(len(dense), 200)
    tree = cKDTree(points)
    expected = tree.query_ball_point(points[some], 0.1, return_length=True)
    assert neighbor_counts(points, 0.1)[some].tolist() == expected.tolist() and expected.max() > 10_000


def test_scans_that_are_none() -> None:
    assert neighbor_counts(np.zeros((0, 3), np.float32), 0.5).shape == (0,)
    assert neighbor_counts(np.zeros((1, 3), np.float32), 0.5).tolist() == [1]
    assert neighbor_counts(np.full((2, 3), np.nan, np.float32), 0.5).tolist() == [0, 0]
    points = np.float32([[0, 0, 0], [np.nan, 0, 0], [0.1, 0, 0], [0, np.inf, 0], [0, 0, 0]])
    assert neighbor_counts(points, 0.5).tolist() == [3, 0, 3, 0, 3]


def test_one_stray_point_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    points = rng.normal(size=(500, 3)).astype(np.float32)
    far = np.concatenate([points, np.float32([[1e7, -3e8, 2e5], [1e7 + 2, -3e8, 2e5]])])
    counts = neighbor_counts(far, 0.3)
    assert counts[:-2].tolist() == by_tree(points, 0.3) and counts[-2:].tolist() == [1, 1]


@pytest.mark.parametrize("radius", [0.0, -1.0, np.nan, np.inf])
def test_an_impossible_radius(radius: float) -> None:
    with pytest.raises(ValueError, match="radius"):
        neighbor_counts(np.zeros((3, 3), np.float32), radius)


def test_cells_hold_every_finite_point_once() -> None:
    rng = np.random.default_rng(2)
    points = rng.uniform(-5, 5, (300, 3)).astype(np.float32)
    points[7] = np.nan
    cells = Cells.of(points, 1.0)
    assert sorted(cells.rows.tolist()) == [row for row in range(300) if row != 7]
    assert (np.diff(cells.keys) > 0).all() and cells.start[0] == 0 and cells.start[-1] == 299
    low, high = cells.boxes()
    assert (low <= high).all() and (high - low <= 1.0).all() and MARGIN >= 2


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 9))
def test_shares_cover_everything_once(work: list[int], parts: int) -> None:
    shares = equal_shares(np.array(work, np.int64), parts)
    assert [row for begin, end in shares for row in range(begin, end)] == list(range(len(work)))
    assert len(shares) <= parts and all(begin < end for begin, end in shares)
