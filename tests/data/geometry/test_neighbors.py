"""k nearest neighbors: exact, and in a stated order whatever the points are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl3d.data.geometry.neighbors import build_tree, nearest_in, nearest_neighbors


def by_brute_force(points: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int32]:
    found = np.full((len(points), k), -1, np.int32)
    rows = np.flatnonzero(np.isfinite(points).all(axis=1))
    exact = points.astype(np.float64)
    for i in rows:
        square = ((exact[rows] - exact[i]) ** 2).sum(axis=1)
        square[rows == i] = -1.0
        nearest = rows[np.lexsort((rows, square))][:k]
        found[i, : len(nearest)] = nearest
    return found


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, 300),
    k=st.integers(1, 40),
    kind=st.sampled_from(["grid", "line", "cloud"]),
)
def test_equals_brute_force_also_among_ties(seed: int, count: int, k: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 3)).astype(np.float32)
    if kind == "grid":  # full of equal distances and equal points
        points = rng.integers(0, 4, (count, 3)).astype(np.float32)
    elif kind == "line":
        points[:, 1:] = 0
        points[:, 0] = rng.integers(0, 30, count)
    points[rng.random(count) < 0.05] = np.nan
    points[rng.random(count) < 0.02, 1] = np.inf
    found = nearest_neighbors(points, k)
    assert found.dtype == np.int32 and found.tolist() == by_brute_force(points, k).tolist()


def test_threads_change_nothing() -> None:
    points = np.random.default_rng(0).normal(size=(20_000, 3)).astype(np.float32)
    assert (nearest_neighbors(points, 9) == nearest_neighbors(points, 9, threads=3)).all()


def test_agrees_with_pykdtree_where_there_are_no_ties() -> None:
    from pykdtree.kdtree import KDTree

    points = np.random.default_rng(1).normal(size=(5_000, 3)).astype(np.float32)
    _, theirs = KDTree(points).query(points, k=16)
    assert (nearest_neighbors(points, 16) == theirs.astype(np.int64)).all()


def test_heaps_of_equal_points_are_no_trouble() -> None:
    found = nearest_neighbors(np.full((50_000, 3), 2.5, np.float32), 5)  # seconds when all were compared with all
    assert found[0].tolist() == [0, 1, 2, 3, 4] and found[40_000].tolist() == [40_000, 0, 1, 2, 3]


def test_too_few_points() -> None:
    assert nearest_neighbors(np.zeros((0, 3), np.float32), 4).shape == (0, 4)
    assert nearest_neighbors(np.zeros((1, 3), np.float32), 2).tolist() == [[0, -1]]
    with pytest.raises(ValueError, match="at least 1"):
        nearest_neighbors(np.zeros((1, 3), np.float32), 0)


@pytest.mark.parametrize("threads", [1, 3])
def test_nearest_to_any_places_equals_a_sort(threads: int) -> None:
    rng = np.random.default_rng(5)
    points = rng.integers(0, 6, (700, 3)).astype(np.float32)  # many equal distances
    points[3] = np.nan
    places = np.concatenate([rng.uniform(-2, 8, (60, 3)), points[:40], [[np.inf, 0, 0]]])
    rows, distance = nearest_in(build_tree(points), places, 9, threads=threads)
    for place, found, far in zip(places, rows, distance, strict=True):
        if not np.isfinite(place).all():
            assert set(found.tolist()) == {-1} and np.isinf(far).all()
            continue
        squares = ((points.astype(np.float64) - place) ** 2).sum(axis=1)
        squares[3] = np.inf
        best = np.lexsort((np.arange(len(points)), squares))[:9]
        assert found.tolist() == best.tolist()
        np.testing.assert_allclose(far, np.sqrt(squares[best]), rtol=1e-6)


def test_fewer_points_than_asked_for() -> None:
    rows, distance = nearest_in(build_tree(np.zeros((2, 3), np.float32)), np.ones((1, 3)), 4)
    assert rows.tolist() == [[0, 1, -1, -1]] and np.isinf(distance[0, 2:]).all()
    assert nearest_in(build_tree(np.zeros((0, 3), np.float32)), np.ones((1, 3)), 1)[0].tolist() == [[-1]]
    with pytest.raises(ValueError, match="k must"):
        nearest_in(build_tree(np.zeros((2, 3), np.float32)), np.ones((1, 3)), 0)
