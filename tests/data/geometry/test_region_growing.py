"""Region growing and merging against slow, literal implementations, and the worked example of ws3d.md."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ssl3d.data.geometry.neighbors import nearest_neighbors
from ssl3d.data.geometry.normals import Surface, surface
from ssl3d.data.geometry.region_growing import grow_regions, merge_small, relabel

Rows = npt.NDArray[np.int32]


def grown_slowly(
    points: npt.NDArray[np.float32],
    neighbors: Rows,
    shape: Surface,
    angle: float,
    flat: float,
    reach: float,
    extent: float,
) -> list[int]:
    region = [-1] * len(points)
    exact = points.astype(np.float64)
    count = 0
    for start in sorted(range(len(points)), key=lambda i: shape.curvature[i]):
        if region[start] >= 0 or neighbors[start, 0] < 0:
            continue
        region[start] = count
        queue = [start]
        while queue:
            q = queue.pop(0)
            for p in neighbors[q]:
                if p < 0 or region[p] >= 0:
                    continue
                near = ((exact[p] - exact[q]) ** 2).sum() <= np.float64(reach) ** 2
                inside = ((exact[p] - exact[start]) ** 2).sum() <= np.float64(extent) ** 2
                alike = abs(shape.normal[p] @ shape.normal[q]) >= np.cos(np.radians(angle))
                if near and inside and alike:
                    region[p] = count
                    if shape.curvature[p] <= flat:
                        queue.append(p)
        count += 1
    return region


def merged_slowly(regions: Rows, neighbors: Rows, smallest: int) -> list[int]:
    region = regions.copy()
    lonely: set[int] = set()
    while True:
        ids, sizes = np.unique(region[region >= 0], return_counts=True)
        small = [
            (size, i)
            for i, size in zip(ids.tolist(), sizes.tolist(), strict=True)
            if size < smallest and i not in lonely
        ]
        if not small:
            return relabel(region).tolist()
        _, chosen = min(small)
        shared: dict[int, int] = {}
        for p in range(len(region)):
            for q in neighbors[p]:
                if q < 0 or region[p] < 0 or region[q] < 0 or region[p] == region[q]:
                    continue
                if chosen in (region[p], region[q]):
                    other = int(region[q] if region[p] == chosen else region[p])
                    shared[other] = shared.get(other, 0) + 1
        if not shared:
            lonely.add(chosen)
            continue
        target = min(shared, key=lambda other: (-shared[other], other))
        region[region == chosen] = target


def scene(seed: int, count: int = 160) -> npt.NDArray[np.float32]:
    """A floor, a wall and dust, with equal points and points that are nowhere."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 1, (count, 3))
    points[: count // 3, 2] = rng.normal(0, 0.01, count // 3)
    points[count // 3 : 2 * count // 3, 0] = rng.normal(0, 0.01, count // 3)
    points[rng.integers(0, count, 5)] = points[0]
    points[rng.integers(0, count, 3)] = np.nan
    return points.astype(np.float32)


@pytest.mark.parametrize("seed", range(12))
def test_growing_equals_the_literal_rules(seed: int) -> None:
    points = scene(seed)
    neighbors = nearest_neighbors(points, 3 + seed % 7)
    shape = surface(points, neighbors)
    angle, reach, extent = (10.0, 20.0, 40.0)[seed % 3], (0.1, 0.3, 9.0)[seed % 3], (np.inf, 0.4)[seed % 2]
    found = grow_regions(points, neighbors, shape, angle_deg=angle, max_curvature=0.05, reach=reach, extent=extent)
    assert found.tolist() == grown_slowly(points, neighbors, shape, angle, 0.05, reach, extent)
    assert ((found >= 0) == np.isfinite(points).all(axis=1)).all() and found.max() > 2


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("smallest", [2, 5, 40, 1000])
def test_merging_equals_the_literal_rules(seed: int, smallest: int) -> None:
    rng = np.random.default_rng(seed)
    points = scene(seed, 120)
    if seed % 2:  # far apart: regions that have no neighbor
        points[60:] += 100
    neighbors = nearest_neighbors(points, 4)
    regions = relabel(np.where(neighbors[:, 0] >= 0, rng.integers(0, 40, len(points)), -1))
    if seed % 2:
        regions[60:][regions[60:] >= 0] += 40
        regions = relabel(regions)
    assert merge_small(regions, neighbors, smallest).tolist() == merged_slowly(regions, neighbors, smallest)


def test_a_floor_and_a_wall() -> None:  # ws3d.md, section 12, test 2
    steps = 0.05 * np.arange(21)
    floor = np.stack(np.meshgrid(steps, steps, [0.0], indexing="ij"), axis=-1).reshape(-1, 3)
    wall = np.stack(np.meshgrid([0.0], steps, steps[1:], indexing="ij"), axis=-1).reshape(-1, 3)
    points = np.concatenate([floor, wall]) + np.random.default_rng(0).normal(0, 1e-4, (861, 3))
    cloud = points.astype(np.float32)
    neighbors = nearest_neighbors(cloud, 16)
    shape = surface(cloud, neighbors)
    raw = grow_regions(cloud, neighbors, shape, angle_deg=15, max_curvature=0.05, reach=np.inf)
    found = merge_small(raw, neighbors, 10)
    assert raw.max() + 1 > 2 and found.max() + 1 == 2
    pure = max(np.bincount(found[:441]).max() + np.bincount(found[441:]).max(), 0) / len(points)
    assert pure > 0.97


def test_ties_of_merging_go_to_the_lower_id() -> None:
    # 0 0 | 1 | 2 2: point 2 has one link from and one to each side
    neighbors = np.array([[0, 1], [1, 2], [2, -1], [3, 2], [4, 3]], np.int32)
    assert merge_small(np.array([0, 0, 1, 2, 2], np.int32), neighbors, 2).tolist() == [0, 0, 0, 1, 1]
    assert merge_small(np.array([2, 2, 1, 0, 0], np.int32), neighbors, 2).tolist() == [1, 1, 0, 0, 0]


def test_one_limit_for_each_point() -> None:
    points = np.array([(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0)], np.float32)
    neighbors = nearest_neighbors(points, 4)
    shape = surface(points, neighbors)  # on a line: all alike

    def grow(**limits: object) -> list[int]:
        return grow_regions(points, neighbors, shape, angle_deg=1, max_curvature=1, **limits).tolist()  # type: ignore[arg-type]

    assert grow(reach=1.0) == [0, 0, 0, 0]
    assert grow(reach=np.array([1, 0.5, 1, 1])) == [0, 0, 1, 1]
    assert grow(reach=1.0, extent=np.array([1, 1, 0.5, 1])) == [0, 0, 1, 2]


def test_nothing_to_grow() -> None:
    points = np.zeros((0, 3), np.float32)
    neighbors = nearest_neighbors(points, 4)
    found = grow_regions(points, neighbors, surface(points, neighbors), angle_deg=1, max_curvature=1, reach=1.0)
    assert len(merge_small(found, neighbors, 5)) == 0
    nowhere = np.full(3, -1, np.int32)
    assert merge_small(nowhere, np.full((3, 2), -1, np.int32), 5).tolist() == [-1, -1, -1]
