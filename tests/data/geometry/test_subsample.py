"""Grid subsampling: an obvious reference, both ways back, and scans that are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from ssl3d.data.geometry.subsample import grid_subsample

Array = npt.NDArray[Any]


def by_hand(points: Array, size: float) -> dict[tuple[int, ...], list[int]]:
    """Cell (z, y, x) -> rows."""
    corner = np.floor(points.astype(np.float64).min(axis=0) / size) * size
    cells: dict[tuple[int, ...], list[int]] = {}
    for row, point in enumerate(points.astype(np.float64)):
        index = np.floor((point - corner) / size).astype(int)
        cells.setdefault(tuple(index[::-1].tolist()), []).append(row)
    return dict(sorted(cells.items()))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 300), size=st.sampled_from([0.04, 0.5, 2.0]))
def test_equal_to_the_obvious(seed: int, count: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(scale=1.5, size=(count, 3)).astype(np.float32)
    found = grid_subsample(points, size)
    cells = by_hand(points, size)
    assert len(found.points) == len(cells)
    for number, rows in enumerate(cells.values()):
        assert np.flatnonzero(found.cell == number).tolist() == rows
        mean = points[rows].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(found.points[number], mean, rtol=1e-6, atol=1e-7)
        assert found.row[number] in rows
    distance = cKDTree(found.points).query(points)[0]
    own = np.linalg.norm(points.astype(np.float64) - found.points[found.nearest], axis=1)
    np.testing.assert_allclose(own, distance, atol=1e-5)


def test_subsampling_again_keeps_the_number() -> None:
    points = np.random.default_rng(3).uniform(0, 4, (20_000, 3)).astype(np.float32)
    points[0] = 0  # the corner stays
    once = grid_subsample(points, 0.25).points
    low = np.floor(once.min(axis=0) / 0.25)
    assert (low == 0).all() and len(grid_subsample(once, 0.25).points) == len(once)


def test_means_of_what_was_measured() -> None:
    points = np.float32([[0, 0, 0], [0.1, 0, 0], [5, 0, 0], [np.nan, 0, 0]])
    found = grid_subsample(points, 1.0)
    assert found.cell.tolist() == [0, 0, 1, -1] and found.nearest.tolist() == [0, 0, 1, -1]
    assert found.row.tolist() == [0, 2]
    color = np.array([[0, 10, 255], [1, 13, 255], [7, 7, 7], [90, 90, 90]], np.uint8)
    mean = found.mean(color)
    assert mean.dtype == np.uint8 and mean.tolist() == [[1, 12, 255], [7, 7, 7]]
    assert found.mean(np.float32([0.5, 1.0, 2.0, np.nan])).tolist() == [0.75, 2.0]


def test_scans_that_are_none() -> None:
    for points in (np.zeros((0, 3), np.float32), np.full((3, 3), np.nan, np.float32)):
        found = grid_subsample(points, 0.1)
        assert found.points.shape == (0, 3) and found.cell.tolist() == [-1] * len(points)
        assert found.mean(np.ones((len(points), 3), np.float32)).shape == (0, 3)
    same = grid_subsample(np.full((50, 3), 2.5, np.float32), 0.1)
    assert same.points.tolist() == [[2.5, 2.5, 2.5]] and set(same.nearest.tolist()) == {0} and same.row.tolist() == [0]


@pytest.mark.parametrize("size", [0.0, -0.1, np.nan])
def test_an_impossible_grid(size: float) -> None:
    with pytest.raises(ValueError, match="grid"):
        grid_subsample(np.zeros((3, 3), np.float32), size)
