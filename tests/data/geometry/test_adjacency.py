"""Adjacent regions: the worked example, and the definition on random points."""

from __future__ import annotations

import numpy as np
import pytest

from ssl3d.data.geometry.adjacency import adjacent_regions
from ssl3d.data.geometry.neighbors import nearest_neighbors


@pytest.mark.parametrize(
    ("reach", "pairs"), [(0.05, [[0, 1], [1, 2]]), (np.inf, [[0, 1], [0, 2], [1, 2], [1, 3], [2, 3]])]
)
def test_the_worked_example(reach: float, pairs: list[list[int]]) -> None:  # ws3d.md, section 12, test 4
    points = np.zeros((7, 3), np.float32)
    points[:, 0] = (0, 0.02, 0.04, 0.06, 0.08, 0.5, 0.52)
    regions = np.array([0, 0, 1, 1, 2, 3, 3], np.int32)
    found = adjacent_regions(points, regions, nearest_neighbors(points, 4), reach)
    assert found.dtype == np.int32 and found.tolist() == pairs


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 1, (150, 3)).astype(np.float32)
    regions = rng.integers(-1, 20, 150).astype(np.int32)
    reach = rng.uniform(0.1, 0.4, 150)
    neighbors = nearest_neighbors(points, 8)
    wanted = set()
    for p in range(150):
        for q in neighbors[p]:
            a, b = int(regions[p]), int(regions[q])
            if min(a, b) >= 0 and a != b and np.linalg.norm(points[p].astype(float) - points[q]) < reach[p]:
                wanted.add((min(a, b), max(a, b)))
    assert [tuple(pair) for pair in adjacent_regions(points, regions, neighbors, reach).tolist()] == sorted(wanted)


def test_no_pairs() -> None:
    points = np.zeros((3, 3), np.float32)
    neighbors = nearest_neighbors(points, 3)
    for regions in ([0, 0, 0], [-1, -1, -1], [-1, 0, -1]):
        assert adjacent_regions(points, np.array(regions, np.int32), neighbors, 1.0).shape == (0, 2)
    empty = np.zeros((0, 3), np.float32)
    assert adjacent_regions(empty, np.zeros(0, np.int32), nearest_neighbors(empty, 3), 1.0).shape == (0, 2)
