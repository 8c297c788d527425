"""Points in images: the numbers of LASS3D's specification, and properties of the projection."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ssl3d.data.camera import (
    DepthImage,
    Projection,
    by_point,
    kept,
    measured,
    not_hidden,
    project,
    projection_matrix,
    resized,
)

TR = np.array([[0, -1, 0, 0], [0, 0, -1, -0.08], [1, 0, 0, -0.27], [0, 0, 0, 1]])
P2 = np.array([[700.0, 0, 600, 42], [0, 700, 180, 0], [0, 0, 1, 0]])
SIZE = (1241, 376)
EYE = np.eye(4)


def cloud(*rows: tuple[float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 3)


def pixels(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(n, 3) float64 u, v and depth, whether inside or not."""
    full = np.c_[points.astype(np.float64), np.ones(len(points))] @ matrix.T
    return np.c_[full[:, :2] / full[:, 2:], full[:, 2]]


def test_kitti_of_round_numbers() -> None:
    points = cloud((10.27, 2, -1.08), (20.27, -3, 0.92), (5.27, 6, 0), (-10, 0, 0))
    exact = pixels(points, projection_matrix(TR, P2))
    assert exact[:, 2] == pytest.approx([10, 20, 5, -10.27], abs=1e-5)
    assert exact[:, 0] == pytest.approx([464.2, 707.1, -231.6, 595.91], abs=0.01)
    assert exact[:, 1] == pytest.approx([250.0, 145.0, 168.8, 185.45], abs=0.01)
    seen = project(points, TR, P2, SIZE)
    assert seen.point.tolist() == [0, 1]  # the third is outside; the last lands inside, from behind
    assert seen.uv.tolist() == [[464, 250], [707, 145]]
    assert seen.depth == pytest.approx([10, 20])
    assert (seen.point.dtype, seen.uv.dtype, seen.depth.dtype) == (np.int32, np.uint16, np.float32)


def test_kitti_of_a_recording() -> None:
    p2 = np.array([[718.856, 0, 607.1928, 45.38225], [0, 718.856, 185.2157, -0.1130887], [0, 0, 1, 0.003779761]])
    tr = np.eye(4)
    tr[:3] = [
        [4.276802385584e-04, -9.999672484946e-01, -8.084491683471e-03, -1.198459927713e-02],
        [-7.210626507497e-03, 8.081198471645e-03, -9.999413164504e-01, -5.403984729748e-02],
        [9.999738645903e-01, 4.859485810390e-04, -7.206933692422e-03, -2.921968648686e-01],
    ]
    points = cloud((10, 0, -1.7), (20, 5, 0), (10, 0, 20))
    exact = pixels(points, projection_matrix(tr, p2))
    assert exact[:2, :2].ravel() == pytest.approx([612.0702, 301.4785, 426.9334, 179.4186], abs=2e-4)
    assert exact[0, 2] == pytest.approx(9.723573, abs=1e-5)
    assert exact[2, 1] == pytest.approx(-1327.0, abs=0.1)
    seen = project(points, tr, p2, SIZE)
    assert seen.point.tolist() == [0, 1] and seen.uv.tolist() == [[612, 301], [427, 179]]


def test_the_zbuffer_hides_what_is_behind() -> None:
    seen = Projection(np.arange(4, dtype=np.int32), np.full((4, 2), 9, np.uint16), np.float32([10, 10.4, 15, 10.5]))
    assert not_hidden(seen, SIZE).tolist() == [True, True, False, True]
    apart = replace(seen, uv=np.array([[11, 9], [8, 11], [12, 9], [12, 11]], np.uint16))
    assert not_hidden(apart, SIZE).tolist() == [True, True, False, True]


def test_depth_images_decide() -> None:
    lens = np.array([[500.0, 0, 20], [0, 500, 10], [0, 0, 1]])
    points = cloud((0, 0, 3), (0.01, 0, 3), (0, 0.01, 3.04), (0.02, 0, 3))
    seen = project(points, EYE, lens, (41, 21), min_depth=0.1)
    assert len(seen) == 4
    values = np.zeros((21, 41), np.uint16)
    values[10, 20], values[10, 22], values[12, 20], values[10, 23] = 2970, 2500, 3000, 3000
    assert measured(points, seen, DepthImage(values), EYE, lens).tolist() == [True, False, True, True]
    assert kept(seen, measured(points, seen, DepthImage(values), EYE, lens)).point.tolist() == [0, 2, 3]
    # half the size: pixel (20, 10) of the color image is (9.75.., 4.5..) of this
    small = DepthImage(np.full((10, 20), 3000, np.uint16))
    assert measured(points, seen, small, EYE, resized(lens, (41, 21), (20, 10))).all()
    assert not measured(points, seen, DepthImage(np.zeros((10, 20), np.uint16)), EYE, lens).any()
    elsewhere = measured(points, seen, DepthImage(np.full((5, 5), 3000, np.uint16)), EYE, lens)
    assert not elsewhere.any()  # the depth camera does not reach there


def test_depth_of_other_units() -> None:
    lens, points = np.array([[500.0, 0, 20], [0, 500, 10], [0, 0, 1]]), cloud((0, 0, 3))
    seen = project(points, EYE, lens, (41, 21), min_depth=0.1)
    image = DepthImage(np.full((21, 41), 12000, np.uint16), per_meter=4000.0)
    assert measured(points, seen, image, EYE, lens).all()


def test_edges_of_the_image() -> None:
    lens = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    inside, outside = [-0.5, 0.0, 0.49, 3.0, 3.49], [-0.51, 3.5, 1e9, -1e9]
    points = np.array([[2 * u, 0, 2] for u in inside + outside], np.float32)
    seen = project(points, EYE, lens, (4, 3))
    assert seen.point.tolist() == [0, 1, 2, 3, 4]
    assert seen.uv[:, 0].tolist() == [0, 0, 0, 3, 3]
    turned = points[:, [1, 0, 2]]
    assert project(turned, EYE, lens, (3, 4)).uv[:, 1].tolist() == [0, 0, 0, 3, 3]


def test_world_coordinates_in_the_millions() -> None:
    """Half a meter would be lost, and with it a hundred pixels, if the origin were added to the points."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-20, 20, (2000, 3)).astype(np.float32)
    origin = np.array([652_345.678, 6_862_123.456, 213.9])
    world = np.linalg.inv(TR)  # a camera beside the origin ...
    world[:3, 3] += origin  # ... in the world
    far = project(points, np.linalg.inv(world), P2[:, :3], SIZE, origin=origin)
    near = project(points, TR, P2[:, :3], SIZE)
    assert far.point.tolist() == near.point.tolist() and len(near) > 80
    assert (far.uv.astype(int) - near.uv).any(axis=1).mean() < 0.01  # 1e-9 m in float64: on the edge of two pixels
    assert far.depth == pytest.approx(near.depth, abs=1e-5)


def test_rows_and_cameras_that_are_no_numbers() -> None:
    points = cloud((10, 0, 0), (np.nan, 0, 0), (10, np.nan, 0), (np.inf, 0, 0), (10, 0, -np.inf), (12, 0, 0))
    assert project(points, TR, P2, SIZE).point.tolist() == [0, 5]
    lost = np.full((4, 4), -np.inf)
    assert len(project(points, lost, P2, SIZE)) == 0
    assert len(project(points, np.where(TR == 0, np.nan, TR), P2, SIZE)) == 0
    seen = project(points, TR, P2, SIZE)
    assert not measured(points, seen, DepthImage(np.ones((4, 4), np.uint16)), lost, P2[:, :3]).any()


def test_no_points_one_point_and_no_image() -> None:
    assert len(project(np.zeros((0, 3), np.float32), TR, P2, SIZE)) == 0
    assert project(cloud((10, 0, 0)), TR, P2, SIZE).point.tolist() == [0]
    assert len(not_hidden(project(cloud(), TR, P2, SIZE), SIZE)) == 0
    assert len(by_point(7, [])) == 0
    for size in ((0, 5), (5, -1), (70_000, 5)):
        with pytest.raises(ValueError, match="pixels"):
            project(cloud((10, 0, 0)), TR, P2, size)


def test_a_point_just_in_front_counts_only_beyond_the_least_depth() -> None:
    lens = np.array([[100.0, 0, 50], [0, 100, 50], [0, 0, 1]])
    points = cloud((0, 0, 0), (0, 0, 1e-30), (0, 0, 0.125), (0, 0, 0.13), (0, 0, 1.0), (0, 0, 1.01))
    assert project(points, EYE, lens, (100, 100), min_depth=0.125).point.tolist() == [3, 4, 5]
    assert project(points, EYE, lens, (100, 100)).point.tolist() == [5]
    assert project(points, EYE, lens, (100, 100), min_depth=0.0).point.tolist() == [1, 2, 3, 4, 5]


@given(
    arrays(np.float32, (30, 3), elements=st.floats(-50, 50, width=32)),
    st.integers(0, 2**32 - 1),
    st.sampled_from([(1, 1), (7, 3), (640, 480)]),
)
def test_as_numpy_computes_it(points: np.ndarray, seed: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    extrinsic = np.eye(4)
    extrinsic[:3, :3], extrinsic[:3, 3] = turn, rng.normal(size=3)
    lens = np.array([[rng.uniform(5, 500), 0, size[0] / 2], [0, rng.uniform(5, 500), size[1] / 2], [0, 0, 1]])
    seen = project(points, extrinsic, lens, size, min_depth=0.5)
    camera = points.astype(np.float64) @ turn.T + extrinsic[:3, 3]
    ahead = camera[:, 2] > 0.5
    with np.errstate(all="ignore"):
        u = np.floor(lens[0, 0] * camera[:, 0] / camera[:, 2] + lens[0, 2] + 0.5)
        v = np.floor(lens[1, 1] * camera[:, 1] / camera[:, 2] + lens[1, 2] + 0.5)
        inside = ahead & (u >= 0) & (u < size[0]) & (v >= 0) & (v < size[1])
    borderline = np.zeros(30, bool)  # where rounding of the last digit decides
    with np.errstate(all="ignore"):
        for value in (
            lens[0, 0] * camera[:, 0] / camera[:, 2] + lens[0, 2] + 0.5,
            lens[1, 1] * camera[:, 1] / camera[:, 2] + lens[1, 2] + 0.5,
        ):
            borderline |= np.abs(value - np.rint(value)) < 1e-6
        borderline |= np.abs(camera[:, 2] - 0.5) < 1e-6
    mine = np.zeros(30, bool)
    mine[seen.point] = True
    assert (mine == inside)[~borderline].all()
    sure = ~borderline[seen.point]
    assert (seen.uv[sure] == np.stack([u, v], 1)[seen.point[sure]]).all()
    assert seen.depth == pytest.approx(camera[seen.point, 2], rel=1e-5)


@given(st.integers(0, 40), st.lists(st.integers(0, 2**16), max_size=4))
def test_order_by_point_then_image(points: int, seeds: list[int]) -> None:
    images = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        rows = np.flatnonzero(rng.random(points) < 0.5).astype(np.int32)
        images.append(Projection(rows, np.zeros((len(rows), 2), np.uint16), np.zeros(len(rows), np.float32)))
    order = by_point(points, images)
    joined = np.concatenate([image.point for image in images]) if images else np.zeros(0, np.int32)
    number = np.repeat(np.arange(len(images)), [len(image) for image in images])
    assert order.tolist() == np.lexsort((number, joined)).tolist()


def test_images_of_another_size() -> None:
    lens = np.array([[577.87, 0, 319.5], [0, 577.87, 239.5], [0, 0, 1]])
    small = resized(lens, (640, 480), (320, 240))
    assert small[0, 0] == pytest.approx(288.935) and small[0, 2] == pytest.approx(159.5)
    assert small[1, 2] == pytest.approx(119.5)
    assert (resized(lens, (640, 480), (640, 480)) == lens).all()
