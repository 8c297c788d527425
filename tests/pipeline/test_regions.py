"""Cutting one scan: what always holds, with every algorithm, on good and odd points."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ssl3d.pipeline.stages.oversegment_params import OversegmentParams
from ssl3d.pipeline.stages.regions import Mesh, Regions, cut

LIDAR: dict[str, Any] = {
    "voxel": None,
    "max_range": 50.0,
    "neighborhood": "sensor",
    "reach": 1.0,
    "angle": 10.0,
    "smallest": 5,
    "adjacency_reach": 0.5,
}
ROOM: dict[str, Any] = {"smallest": 5}
SETTINGS = {
    "room": ROOM,
    "room, graph": {**ROOM, "algorithm": "felzenszwalb"},
    "street": LIDAR,
    "street, graph": {**LIDAR, "algorithm": "felzenszwalb"},
}
Cloud = npt.NDArray[np.float32]


def corner(count: int = 3000, side: float = 1.0) -> tuple[Cloud, npt.NDArray[np.int32]]:
    """A floor and two walls that meet, with a little noise, and which of them each point is of."""
    rng = np.random.default_rng(0)
    points = rng.uniform(0, side, (count, 3))
    which = np.arange(count) % 3
    points[np.arange(count), which] = rng.normal(0, 1e-3, count)
    return points.astype(np.float32), which.astype(np.int32)


def check(points: Cloud, found: Regions) -> None:
    """Regions partition the points that have one; pairs are of regions that are there."""
    count = int(found.region.max(initial=-1)) + 1
    assert found.region.shape == (len(points),) and found.region.dtype == np.int32
    assert sorted(set(found.region[found.region >= 0].tolist())) == list(range(count))
    assert found.normal.shape == (len(points), 3) and found.normal.dtype == np.float16
    assert np.linalg.norm(found.normal.astype(np.float64), axis=1) == pytest.approx(1, abs=2e-3)
    assert found.curvature.dtype == np.float16 and (found.curvature >= 0).all() and (found.curvature <= 0.334).all()
    assert found.adjacent.shape[1:] == (2,) and found.adjacent.dtype == np.int32
    assert (found.adjacent[:, 0] < found.adjacent[:, 1]).all() and (found.adjacent < count).all()


@pytest.mark.parametrize("name", SETTINGS)
def test_three_planes_come_apart_and_touch(name: str) -> None:
    points, which = corner(9000)
    if name.startswith("street"):
        points = points * np.float32(6) + np.array([4, -3, -2], np.float32)
    found = cut(points, OversegmentParams(**{**SETTINGS[name], "extent": None}), threads=2)
    check(points, found)
    table = np.zeros((int(found.region.max()) + 1, 3), int)
    np.add.at(table, (found.region, which), 1)
    assert table.max(axis=1).sum() / len(points) > 0.9
    big = [int(table[:, side].argmax()) for side in range(3)]
    assert len(set(big)) == 3 and len(found.adjacent) > 0


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    "points",
    [
        np.zeros((0, 3)),
        np.full((4, 3), np.nan),
        np.array([(1.0, 2, 3)]),
        np.full((200, 3), 1.5),
        np.array([(1.0, 0, 0), (np.nan, 0, 0), (1, 0, np.inf), (1.02, 0, 0)]),
    ],
    ids=["empty", "NaN", "one point", "equal points", "some NaN"],
)
def test_odd_scans(name: str, points: npt.NDArray[np.float64]) -> None:
    cloud = points.astype(np.float32)
    found = cut(cloud, OversegmentParams(**SETTINGS[name]))
    check(cloud, found)
    finite = np.isfinite(cloud).all(axis=1)
    assert ((found.region >= 0) == finite).all() and len(set(found.region[finite].tolist())) <= 2
    assert (found.normal[~finite] == (0, 0, 1)).all() and not found.curvature[~finite].any()


def test_far_points_and_those_without_return_have_no_region() -> None:
    points = np.concatenate([corner(900)[0], [(0, 0, 0), (0, 49, 0), (0, 51, 0)]]).astype(np.float32)
    found = cut(points, OversegmentParams(**LIDAR))
    assert found.region[-3] == -1 and found.region[-2] >= 0 and found.region[-1] == -1
    metric = cut(points, OversegmentParams(**{**LIDAR, "neighborhood": "metric"}))
    assert metric.region[-3] >= 0  # a place like others


@pytest.mark.parametrize("name", SETTINGS)
def test_threads_and_the_other_points_of_a_voxel_change_nothing(name: str) -> None:
    points, _ = corner(9000)
    params = OversegmentParams(**SETTINGS[name])
    one, three = cut(points, params), cut(points, params, threads=3)
    for a, b in zip(one.arrays().values(), three.arrays().values(), strict=True):
        assert (a == b).all()
    assert (one.adjacent == three.adjacent).all()
    if params.voxel:
        twice = cut(np.concatenate([points, points]), params)
        assert (twice.region[: len(points)] == twice.region[len(points) :]).all()


def test_segments_that_came_with_the_scan() -> None:
    points, which = corner()
    given = which * 70 + 7
    given[5] = -1
    found = cut(points, OversegmentParams(algorithm="shipped"), segment=given)
    check(points, found)
    which[5] = -1
    assert found.region.tolist() == which.tolist() and found.adjacent.tolist() == [[0, 1], [0, 2], [1, 2]]
    with pytest.raises(ValueError, match="no segments"):
        cut(points, OversegmentParams(algorithm="shipped"))


def test_a_mesh_is_cut_along_its_edges() -> None:
    steps = np.arange(12) * 0.1
    x, y = np.meshgrid(steps, steps, indexing="ij")
    points = np.stack([x, y, np.maximum(0, x - 0.55)], axis=-1).reshape(-1, 3).astype(np.float32)  # a floor, a ramp
    rows = np.arange(144).reshape(12, 12)
    edges = np.concatenate(
        [np.stack([rows[:-1].ravel(), rows[1:].ravel()], 1), np.stack([rows[:, :-1].ravel(), rows[:, 1:].ravel()], 1)]
    ).astype(np.int32)
    ramp = x.reshape(-1) > 0.55
    normal = np.where(ramp[:, None], (-np.sqrt(0.5), 0, np.sqrt(0.5)), (0, 0, 1))
    points[140] = np.nan
    params = OversegmentParams(algorithm="felzenszwalb", voxel=0.3, adjacency_reach=0.2)
    found = cut(points, params, mesh=Mesh(edges, normal))
    check(points, found)
    ramp_id = np.where(ramp, 1, 0)
    ramp_id[140] = -1
    assert found.region.tolist() == ramp_id.tolist() and found.adjacent.tolist() == [[0, 1]]
