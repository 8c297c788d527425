"""The scanner and the camera look at the same scene with the calibration that is written."""

from __future__ import annotations

import numpy as np
from pykdtree.kdtree import KDTree

from ssl3d.data.synthetic.camera import make_calibration, matmul, render, rigid_inverse
from ssl3d.data.synthetic.frames import lidar_poses, world_of
from ssl3d.data.synthetic.ground import Ground
from ssl3d.data.synthetic.materials import PLASTER, Paint
from ssl3d.data.synthetic.primitives import Primitives
from ssl3d.data.synthetic.raycast import make_scene
from ssl3d.data.synthetic.sensor import LABEL_RANGE, make_beams, scan

RED = Paint(PLASTER, 0.6, (1.0, 0.0, 0.0))


def sensor_pose() -> np.ndarray:
    pose = np.eye(4)
    pose[2, 3] = 1.73
    return pose


def test_points_of_a_red_box_fall_on_red_pixels(flat_ground: Ground) -> None:
    solids = Primitives()
    solids.box((14.0, 2.0, 1.0), (1.0, 1.5, 1.0), (0.8, 0.6), RED, (50, 0))
    solids.box((25.0, -5.0, 1.5), (0.5, 2.0, 1.5), (1.0, 0.0), RED, (50, 0))
    scene = make_scene(solids.arrays(), flat_ground)
    pose, calibration = sensor_pose(), make_calibration(0.5)
    points, labels = scan(scene, pose, make_beams(64), 2048, key=4)
    picture = render(scene, pose, calibration, (0.0, 0.0, 1.0), key=5)
    ahead = points[(labels == 50) & (points[:, 0] > 2.0)].astype(np.float64)
    assert len(ahead) > 500
    homogeneous = np.concatenate([ahead[:, :3], np.ones((len(ahead), 1))], axis=1)
    u, v, w = (homogeneous @ (calibration.projections[2] @ calibration.tr).T).T
    column, row = np.floor(u / w).astype(int), np.floor(v / w).astype(int)
    seen = (column >= 0) & (row >= 0) & (column < calibration.width) & (row < calibration.height)
    pixels = picture[row[seen], column[seen]].astype(int)
    red = (pixels[:, 0] > 90) & (pixels[:, 1] < 0.75 * pixels[:, 0])
    assert seen.mean() > 0.95
    assert red.mean() > 0.97  # a few lie within the range noise of an edge
    all_red = (picture[..., 0] > 90) & (picture[..., 1] < 0.75 * picture[..., 0])
    assert all_red.mean() < 0.10  # so that hitting red is no accident


def test_a_scan_of_the_plane_and_a_wall_has_the_right_distances(flat_ground: Ground) -> None:
    solids = Primitives()
    solids.box((10.5, 0.0, 2.0), (0.5, 30.0, 2.0), (1.0, 0.0), RED, (50, 7))
    points, labels = scan(make_scene(solids.arrays(), flat_ground), sensor_pose(), make_beams(64), 512, key=1)
    wall = points[labels & 0xFFFF == 50]
    assert abs(np.median(wall[:, 0]) - 10.0) < 0.02
    assert 0.005 < np.std(wall[np.abs(wall[:, 1]) < 3.0, 0]) < 0.05
    assert np.all(labels[labels & 0xFFFF == 50] >> 16 == 7)
    road = points[np.isin(labels, (40, 60))]
    assert len(road) > 5000
    assert np.abs(road[:, 2] + 1.73).max() < 0.08
    assert np.linalg.norm(road[:, :3], axis=1).max() <= LABEL_RANGE + 1e-3


def test_static_points_of_two_frames_coincide_in_the_world() -> None:
    world, poses = world_of("tiny", 0, "00"), lidar_poses("tiny", 0, "00")
    clouds = []
    for k, time in ((0, 0.0), (1, 0.8)):
        points, labels = scan(world.scene(time), poses[k], make_beams(64), 1024, key=k)
        solid = points[np.isin(labels & 0xFFFF, (50, 51, 44, 48))][:, :3].astype(np.float64)
        near = solid[np.linalg.norm(solid, axis=1) < 20.0]
        clouds.append(near @ poses[k, :3, :3].T + poses[k, :3, 3])
    distance, _ = KDTree(clouds[0]).query(clouds[1], k=1)
    assert np.median(distance) < 0.12
    assert np.linalg.norm(poses[1, :3, 3] - poses[0, :3, 3]) > 4.0


def test_calibration_is_a_rotation_and_swaps_the_axes() -> None:
    calibration = make_calibration(1.0)
    assert (calibration.width, calibration.height) == (1241, 376)
    rotation = calibration.tr[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(rotation @ [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], atol=0.02)
    np.testing.assert_allclose(matmul(calibration.tr, rigid_inverse(calibration.tr)), np.eye(4), atol=1e-12)
    baseline = (calibration.projections[2][0, 3] - calibration.projections[3][0, 3]) / calibration.projections[2][0, 0]
    assert 0.5 < baseline < 0.56
