"""The car of the nuScenes layout: seven sensors, each with its place, direction and time."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ssl3d.data.synthetic.camera import matmul
from ssl3d.data.synthetic.materials import CAR_PAINT, METAL, Paint
from ssl3d.data.synthetic.primitives import Builder, Frame, PrimitiveArrays, Primitives
from ssl3d.data.synthetic.rng import Rng, cos_sin
from ssl3d.data.synthetic.sensor import SENSOR_HEIGHT
from ssl3d.data.synthetic.world import World

LIDAR = "LIDAR_TOP"
WIDTH, HEIGHT = 1600, 900
OWN_CAR = 300
"""Raw id of what belongs to the sensor's own car."""

Matrix = npt.NDArray[np.float64]
Quaternion = tuple[float, float, float, float]
Vector = tuple[float, float, float]

_DEGREE = math.pi / 180.0
_CAMERAS: dict[str, tuple[float, Vector, float, float, float, int]] = {
    # yaw in degrees, place, focal length, center; microseconds before the end of the lidar's turn, which passes
    # clockwise from the left: as in the recordings of n015
    "CAM_FRONT": (0.0, (1.70, 0.02, 1.51), 1266.4, 816.3, 491.5, -35191),
    "CAM_FRONT_RIGHT": (-56.4, (1.55, -0.49, 1.50), 1260.8, 808.0, 495.3, -27312),
    "CAM_BACK_RIGHT": (-110.8, (1.01, -0.48, 1.56), 1259.5, 807.3, 501.2, -19758),
    "CAM_BACK": (180.0, (0.03, 0.00, 1.58), 809.2, 829.2, 481.8, -10126),
    "CAM_BACK_LEFT": (108.6, (1.04, 0.48, 1.59), 1256.7, 792.1, 492.8, -228),
    "CAM_FRONT_LEFT": (55.2, (1.52, 0.49, 1.51), 1272.6, 826.6, 479.8, -43107),
}
CAMERAS = tuple(_CAMERAS)
CHANNELS = (LIDAR, *CAMERAS)


class Mount(NamedTuple):
    """A sensor in the car (x ahead, y left, z up from the ground). ``lens``: fx, fy, cx, cy; ``size``: of images;
    ``delay``: microseconds from the time of the sample."""

    rotation: Quaternion
    translation: Vector
    lens: tuple[float, float, float, float] | None
    size: tuple[int, int]
    delay: int


class Ego(NamedTuple):
    """Where the car is: ``place`` in the world; nuScenes knows its plane position alone."""

    rotation: Quaternion
    place: Vector


def make_rig(key: int, image_scale: float) -> dict[str, Mount]:
    """The sensors of one car; ``key`` decides by how little they are off."""
    rng = Rng(key, 88)
    axes = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # the lidar: x right, y ahead
    rig = {LIDAR: Mount(quaternion(matmul(axes, _slight(rng.child(1)))), (0.94, 0.0, 1.84), None, (0, 0), 0)}
    width, height = max(16, round(WIDTH * image_scale)), max(9, round(HEIGHT * image_scale))
    ru, rv = width / WIDTH, height / HEIGHT
    for k, (name, (yaw, place, focal, cx, cy, delay)) in enumerate(_CAMERAS.items()):
        c, s = cos_sin(yaw * _DEGREE)
        axes = np.array([[s, 0.0, c], [-c, 0.0, s], [0.0, -1.0, 0.0]])  # x right, y down, z ahead
        lens = (focal * ru, focal * rv, cx * ru, cy * rv)
        rotation = quaternion(matmul(axes, _slight(rng.child(2, k))))
        rig[name] = Mount(rotation, place, lens, (width, height), delay)
    return rig


def _slight(rng: Rng) -> Matrix:
    """A rotation by less than a degree about each axis."""
    out = np.eye(3)
    for axis in range(3):
        c, s = cos_sin(rng.uniform(-0.01, 0.01))
        turn = np.eye(3)
        i, j = [k for k in range(3) if k != axis]
        turn[i, i], turn[j, j], turn[i, j], turn[j, i] = c, c, -s, s
        out = matmul(out, turn)
    return out


def ego_at(world: World, time: float) -> Ego:
    """The car at a time in seconds, on the ground below the sensor of SemanticKITTI."""
    pose = world.pose(time)
    foot = pose[:3, 3] - SENSOR_HEIGHT * pose[:3, 2]
    return Ego(quaternion(pose[:3, :3]), (float(foot[0]), float(foot[1]), float(foot[2])))


def sensor_pose(ego: Ego, mount: Mount) -> Matrix:
    """(4, 4) sensor to world."""
    return matmul(rigid(ego.rotation, ego.place), rigid(mount.rotation, mount.translation))


def rigid(rotation: Quaternion, translation: Vector) -> Matrix:
    w, x, y, z = rotation
    out = np.eye(4)
    out[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    out[:3, 3] = translation
    return out


def quaternion(r: Matrix) -> Quaternion:
    """The unit quaternion w, x, y, z of a rotation (3, 3), w >= 0."""
    squares = (
        1.0 + r[0, 0] + r[1, 1] + r[2, 2],
        1.0 + r[0, 0] - r[1, 1] - r[2, 2],
        1.0 - r[0, 0] + r[1, 1] - r[2, 2],
        1.0 - r[0, 0] - r[1, 1] + r[2, 2],
    )
    k = int(np.argmax(squares))
    a, b, c = r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]
    d, e, f = r[1, 0] + r[0, 1], r[0, 2] + r[2, 0], r[2, 1] + r[1, 2]
    rows = ((squares[0], a, b, c), (a, squares[1], d, e), (b, d, squares[2], f), (c, e, f, squares[3]))
    values = [float(v) for v in rows[k]]
    n = math.sqrt(sum(v * v for v in values))
    sign = -1.0 if values[0] < 0.0 else 1.0
    w, x, y, z = (sign * v / n for v in values)
    return w, x, y, z


def own_car(ego: Ego) -> PrimitiveArrays:
    """Roof, rack and hood below the lidar, so high that with lost rays they make 28% of the points, as in reality."""
    r = rigid(ego.rotation, ego.place)[:3, :3]
    n = math.sqrt(float(r[0, 0] * r[0, 0] + r[1, 0] * r[1, 0]))
    frame = Frame(*ego.place, (float(r[0, 0]) / n, float(r[1, 0]) / n))
    primitives = Primitives()
    b = Builder(primitives, frame, OWN_CAR)
    paint, rack = Paint(CAR_PAINT, 0.4, (0.85, 0.85, 0.85)), Paint(METAL, 0.2, (0.2, 0.2, 0.2))
    b.profile([(-0.4, 0.6), (2.9, 0.6), (2.75, 0.92), (1.5, 1.47), (-0.4, 1.47)], 0.62, paint)
    b.box((0.9, 0.0, 1.5), (0.55, 0.5, 0.02), rack)
    return primitives.arrays()
