"""The color camera beside the laser: its calibration in KITTI's form, and pictures of the scene."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from ssl3d.data.synthetic.materials import (
    ASPHALT,
    BRICK,
    CAR_PAINT,
    GLASS,
    GRASS,
    GRAVEL,
    LEAF,
    MARKING,
    PAVING,
    ROOF,
)
from ssl3d.data.synthetic.raycast import MISS, Scene, Touch, cast, stuff_at
from ssl3d.data.synthetic.rng import Word, cos_sin, mix, unit, value_noise

FULL_WIDTH, FULL_HEIGHT = 1241, 376
_FOCAL, _CENTER_U, _CENTER_V = 719.4, 608.2, 180.6


class Calibration(NamedTuple):
    """``projections`` (4, 3, 4): P0..P3 of the rectified cameras; ``tr`` (4, 4): laser to camera 0; size in pixels."""

    projections: npt.NDArray[np.float64]
    tr: npt.NDArray[np.float64]
    width: int
    height: int


def matmul(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The matrix product with a fixed order of summation (BLAS has its own on every machine)."""
    out = np.zeros((a.shape[0], b.shape[1]))
    for k in range(a.shape[1]):
        out = out + a[:, k : k + 1] * b[k : k + 1, :]
    return out


def rigid_inverse(t: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    out = np.eye(4)
    out[:3, :3] = t[:3, :3].T
    out[:3, 3:] = -matmul(t[:3, :3].T, t[:3, 3:])
    return out


def make_calibration(scale: float) -> Calibration:
    """The calibration of images of ``scale`` times the full size (1241 x 376)."""
    width, height = max(8, round(FULL_WIDTH * scale)), max(8, round(FULL_HEIGHT * scale))
    ru, rv = width / FULL_WIDTH, height / FULL_HEIGHT
    projections = np.zeros((4, 3, 4))
    for k, offset in enumerate(
        ((0.0, 0.0, 0.0), (-0.537, 0.0, 0.0), (0.0612, -0.0004, 0.0031), (-0.4702, 0.0021, 0.0042))
    ):
        matrix = np.array([[_FOCAL * ru, 0.0, _CENTER_U * ru], [0.0, _FOCAL * rv, _CENTER_V * rv], [0.0, 0.0, 1.0]])
        projections[k, :, :3] = matrix
        projections[k, :, 3:] = matmul(matrix, np.array(offset).reshape(3, 1))
    axes = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
    for axis, angle in ((0, 0.0068), (1, -0.0011), (2, 0.0056)):
        c, s = cos_sin(angle)
        turn = np.eye(3)
        i, j = [k for k in range(3) if k != axis]
        turn[i, i], turn[j, j], turn[i, j], turn[j, i] = c, c, -s, s
        axes = matmul(turn, axes)
    tr = np.eye(4)
    tr[:3, :3] = axes
    tr[:3, 3] = (-0.0108, -0.0613, -0.2846)
    return Calibration(projections, tr, width, height)


@njit
def _texture(material: Word, x: float, y: float, z: float, nz: float, t: float) -> float:
    """Brightness of the material at a place, around 1. Fine grain fades out with distance (it would alias)."""
    key = mix(np.uint64(991), np.uint64(material))
    u, v = (x, y) if abs(nz) > 0.7 else (x + y, z)
    fine = 1.0 / (1.0 + 0.01 * t * t)
    if material in (ASPHALT, MARKING):
        return 1.0 + 0.07 * value_noise(key, 0.35 * u, 0.35 * v) + 0.14 * fine * value_noise(key, 14.0 * u, 14.0 * v)
    if material == PAVING:
        gap = (u * 2.0 - math.floor(u * 2.0) < 0.05) or (v * 2.0 - math.floor(v * 2.0) < 0.05)
        tone = 1.0 + 0.10 * value_noise(key, 0.7 * u, 0.7 * v) + 0.08 * fine * value_noise(key, 9.0 * u, 9.0 * v)
        return tone * (1.0 - 0.22 * fine) if gap else tone
    if material in (GRASS, GRAVEL):
        return 1.0 + 0.18 * value_noise(key, 0.4 * u, 0.4 * v) + 0.45 * fine * value_noise(key, 11.0 * u, 5.0 * v)
    if material == LEAF:
        return 1.0 + 0.35 * value_noise(key, 3.1 * (x + z), 3.1 * (y - z))
    if material == BRICK:
        row = math.floor(v * 10.0)
        gap = v * 10.0 - row < 0.14 or (u * 4.0 + 0.5 * (row % 2)) - math.floor(u * 4.0 + 0.5 * (row % 2)) < 0.07
        return 1.0 + 0.10 * value_noise(key, u, v) + (0.25 * fine if gap else 0.0)
    if material == ROOF:
        return 1.0 + 0.12 * value_noise(key, 0.8 * u, 3.0 * v)
    return 1.0 + 0.06 * value_noise(key, 0.8 * u, 0.8 * v)


@njit
def _sky(d: tuple, key: Word) -> tuple[float, float, float]:
    up = max(d[2], 0.0)
    f = up / (up + 0.25)
    cloud = value_noise(key, 3.0 * d[0] / (up + 0.15), 3.0 * d[1] / (up + 0.15))
    cloud += 0.5 * value_noise(key, 7.0 * d[0] / (up + 0.15), 7.0 * d[1] / (up + 0.15))
    white = min(max(0.55 * cloud + 0.15, 0.0), 1.0) * min(1.0, 6.0 * up)
    red, green, blue = 0.86 - 0.42 * f, 0.89 - 0.26 * f, 0.94 - 0.06 * f
    return red + (0.95 - red) * white, green + (0.95 - green) * white, blue + (0.96 - blue) * white


@njit
def _color(scene: Scene, o: tuple, d: tuple, sun: tuple, key: Word) -> tuple[float, float, float]:
    touch = cast(scene, o, d, 0.3, 250.0)
    if touch.solid == MISS:
        return _sky(d, key)
    return shade(scene, touch, o, d, sun, key)


@njit
def shade(scene: Scene, touch: Touch, o: tuple, d: tuple, sun: tuple, key: Word) -> tuple[float, float, float]:
    """(red, green, blue), 0 and about 1, of what the ray ``o + t d`` touches, seen from ``o``."""
    t = touch.t
    x, y, z = o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]
    what = stuff_at(scene, touch, x, y, z)
    lit = touch.nx * sun[0] + touch.ny * sun[1] + touch.nz * sun[2]
    if lit > 0.0:
        start = (x + 0.03 * touch.nx, y + 0.03 * touch.ny, z + 0.03 * touch.nz)
        if cast(scene, start, sun, 0.02, 40.0).solid != MISS:
            lit = 0.0
    light = 0.50 + 0.10 * touch.nz + 0.62 * max(lit, 0.0)
    if what.material == LEAF:
        light = 0.50 + 0.15 * touch.nz + 0.40 * max(lit, 0.0)
    tone = light * _texture(what.material, x, y, z, touch.nz, t)
    red, green, blue = what.red * tone, what.green * tone, what.blue * tone
    if what.material in (GLASS, CAR_PAINT):
        along = touch.nx * d[0] + touch.ny * d[1] + touch.nz * d[2]
        mirror = (d[0] - 2 * along * touch.nx, d[1] - 2 * along * touch.ny, d[2] - 2 * along * touch.nz)
        sr, sg, sb = _sky(mirror, key)
        share = 0.30 if what.material == GLASS else 0.16
        share = share * (0.4 + 0.6 * (1.0 + along)) if mirror[2] > 0.0 else 0.03
        red, green, blue = red + share * sr, green + share * sg, blue + share * sb
    haze = t * t / (t * t + 260.0 * 260.0)
    return red + (0.84 - red) * haze, green + (0.87 - green) * haze, blue + (0.91 - blue) * haze


@njit(cache=True)
def _render(
    scene: Scene,
    position: np.ndarray,
    axes: np.ndarray,
    lens: np.ndarray,
    sun: tuple,
    key: Word,
    samples: int,
    out: np.ndarray,
) -> None:
    o = (position[0], position[1], position[2])
    for v in range(out.shape[0]):
        for u in range(out.shape[1]):
            red, green, blue = 0.0, 0.0, 0.0
            for k in range(samples):
                h = mix(mix(key, np.uint64(v * 65536 + u)), np.uint64(k))
                du = unit(h) if samples > 1 else 0.5
                dv = unit(mix(h, np.uint64(1))) if samples > 1 else 0.5
                a, b = (u + du - lens[2]) / lens[0], (v + dv - lens[3]) / lens[1]
                n = math.sqrt(a * a + b * b + 1.0)
                d = (
                    (axes[0, 0] * a + axes[0, 1] * b + axes[0, 2]) / n,
                    (axes[1, 0] * a + axes[1, 1] * b + axes[1, 2]) / n,
                    (axes[2, 0] * a + axes[2, 1] * b + axes[2, 2]) / n,
                )
                cr, cg, cb = _color(scene, o, d, sun, key)
                red, green, blue = red + cr, green + cg, blue + cb
            out[v, u, 0] = np.uint8(min(max(red / samples, 0.0), 1.0) * 255.0 + 0.5)
            out[v, u, 1] = np.uint8(min(max(green / samples, 0.0), 1.0) * 255.0 + 0.5)
            out[v, u, 2] = np.uint8(min(max(blue / samples, 0.0), 1.0) * 255.0 + 0.5)


def render(
    scene: Scene,
    pose: npt.NDArray[np.float64],
    calibration: Calibration,
    sun: tuple[float, float, float],
    key: int,
    samples: int = 1,
) -> npt.NDArray[np.uint8]:
    """The picture of camera 2, (height, width, 3) uint8 RGB, with the laser at ``pose`` (4, 4).

    Pixel (u, v) covers [u, u+1) x [v, v+1) of the projection P2 Tr. ``sun``: unit vector towards the sun, world frame.
    """
    camera, lens = camera_of(pose, calibration)
    return picture(scene, camera, lens, (calibration.width, calibration.height), sun, key, samples)


def camera_of(
    pose: npt.NDArray[np.float64], calibration: Calibration
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Camera 2 with the laser at ``pose``: (4, 4) camera to world, and (4,) fx, fy, cx, cy."""
    p2 = calibration.projections[2]
    lens = np.array([p2[0, 0], p2[1, 1], p2[0, 2], p2[1, 2]])
    shift = np.eye(4)  # camera 2 in camera 0: P2 = K [I | t] puts its center at -t
    shift[0, 3] = -(p2[0, 3] - p2[0, 2] * p2[2, 3]) / p2[0, 0]
    shift[1, 3] = -(p2[1, 3] - p2[1, 2] * p2[2, 3]) / p2[1, 1]
    shift[2, 3] = -p2[2, 3]
    return matmul(pose, matmul(rigid_inverse(calibration.tr), shift)), lens


def picture(
    scene: Scene,
    camera: npt.NDArray[np.float64],
    lens: npt.NDArray[np.float64],
    size: tuple[int, int],
    sun: tuple[float, float, float],
    key: int,
    samples: int = 1,
) -> npt.NDArray[np.uint8]:
    """What a pinhole sees, (height, width, 3) uint8 RGB.

    Args:
        camera: (4, 4) camera (x right, y down, z ahead) to world.
        lens: (4,) fx, fy, cx, cy in pixels; pixel (u, v) covers [u, u+1) x [v, v+1).
        size: width, height.
    """
    out = np.zeros((size[1], size[0], 3), np.uint8)
    axes, position = np.ascontiguousarray(camera[:3, :3]), np.ascontiguousarray(camera[:3, 3])
    _render(scene, position, axes, lens, sun, np.uint64(key), samples, out)
    return out
