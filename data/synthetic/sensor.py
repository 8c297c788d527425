"""A spinning 64-beam laser scanner on the roof of a car, in the likeness of the Velodyne HDL-64E."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from ssl3d.data.synthetic.materials import CAR_PAINT, GLASS, GRASS, LASER, LEAF
from ssl3d.data.synthetic.raycast import MISS, Scene, Touch, cast, stuff_at
from ssl3d.data.synthetic.rng import Rng, Word, cos_sin, gauss, mix, unit

SENSOR_HEIGHT = 1.73
MAX_RANGE = 120.0
USUAL_RANGE = 80.0
LABEL_RANGE = 50.0
"""Farther points are unlabeled: as in every scan of SemanticKITTI."""


class Beams(NamedTuple):
    elevation: npt.NDArray[np.float64]  # (b,) radians, from top to bottom
    offset: npt.NDArray[np.float64]  # (b,) share of an azimuth step by which the ring is turned
    gain: npt.NDArray[np.float64]  # (b,) brightness of the ring
    lift: npt.NDArray[np.float64]  # (b,) meters above the origin at which the laser sits


def make_beams(count: int) -> Beams:
    """``count`` (64 or a divisor) beams: 32 about 1/3 degree apart from +2.5 down, 32 about 1/2 degree to -24.6."""
    rng = Rng(64, 83)
    degrees = [2.5 - k / 3.0 for k in range(32)] + [-8.4 - k * 0.5226 for k in range(32)]
    rows = []
    for k, e in enumerate(degrees):
        lift = 0.03 - 0.05 * (k % 32) / 31.0 + rng.uniform(-0.012, 0.012)
        rows.append((e + rng.uniform(-0.06, 0.06), rng.uniform(), rng.uniform(0.90, 1.10), lift))
    rows = rows[:: 64 // count]
    table = np.array(rows, np.float64)
    return Beams(table[:, 0] * (math.pi / 180.0), table[:, 1], table[:, 2], table[:, 3])


@njit
def own_car(cos_azimuth: float, elevation: float, h: Word) -> bool:
    """Whether a ray ends on the roof, hood or antennas of the sensor's own car."""
    limit = -0.50
    if cos_azimuth > 0.955:  # hood and roof edge, ahead
        limit = -0.43 + 0.075 * (cos_azimuth - 0.955) / 0.045
    elif cos_azimuth < -0.86:  # roof behind, with two posts
        limit = -0.405
        if -0.970 < cos_azimuth < -0.962:
            limit = -0.27
        elif -0.91 < cos_azimuth < -0.89:
            limit = -0.36
    return elevation < limit + 0.02 * unit(h)


class Echo(NamedTuple):
    """What comes back of a ray: ``distance`` in meters, 0 when nothing does; ``value``: brightness, about 0..1."""

    distance: float
    value: float
    label: np.int64
    instance: np.int64


@njit
def echo(scene: Scene, o: tuple, d: tuple, touch: Touch, gain: float, noise: float, h: Word) -> Echo:
    """The return of the ray ``o + t d`` from what it touches. ``noise``: of ranges, as a multiple of this sensor's."""
    t = touch.t
    what = stuff_at(scene, touch, o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2])
    laser = LASER[what.material]
    incidence = abs(touch.nx * d[0] + touch.ny * d[1] + touch.nz * d[2])
    h = mix(h, np.uint64(1))
    far = t / USUAL_RANGE
    grazing = (1.0 - incidence) * (1.0 - incidence)
    lost = laser[2] + laser[3] * grazing * grazing * min(1.0, 0.25 + t / 45.0)
    lost += far * far * (0.75 - 0.9 * what.reflectance)
    if what.material == CAR_PAINT and what.reflectance < 0.12:
        lost += 0.22
    label, instance = what.label, what.instance
    if unit(h) < lost or (t > USUAL_RANGE and unit(mix(h, np.uint64(9))) > 0.03):
        h = mix(h, np.uint64(2))
        if what.material != GLASS or unit(h) > 0.07:
            return Echo(0.0, 0.0, np.int64(0), np.int64(0))
        h = mix(h, np.uint64(3))  # through the pane into a room, or a mirror image
        label, instance = np.int64(1 if unit(h) < 0.15 else 0), np.int64(0)
        h = mix(h, np.uint64(4))
        t += 0.3 + 4.0 * unit(h)
    h = mix(h, np.uint64(5))
    spread = 0.014 + 0.0002 * t
    if what.material == GRASS:
        spread += 0.02
    elif what.material == LEAF:
        spread += 0.03
    r = max(0.5, t + noise * spread * gauss(h))
    h = mix(h, np.uint64(6))
    value = what.reflectance * ((1.0 - laser[0]) + laser[0] * incidence)
    value *= gain * (1.0 + laser[1] * gauss(h)) * (1.0 - 0.3 * min(1.0, far))
    if value < 0.035:
        value = 0.0
    return Echo(r, value, label, instance)


@njit(cache=True)
def _scan(
    scene: Scene,
    position: np.ndarray,
    axes: np.ndarray,
    beams: Beams,
    steps: int,
    key: Word,
    points: np.ndarray,
    labels: np.ndarray,
) -> int:
    count = 0
    for b in range(beams.elevation.shape[0]):
        ce, se = cos_sin(beams.elevation[b])
        lift = beams.lift[b]
        o = (position[0] + lift * axes[0, 2], position[1] + lift * axes[1, 2], position[2] + lift * axes[2, 2])
        ragged = mix(key, np.uint64(7000000 + b))
        for j in range(steps):
            h = mix(key, np.uint64(b * 65536 + j))
            ca, sa = cos_sin((j + beams.offset[b] + 0.1 * (unit(h) - 0.5)) * (2.0 * math.pi / steps))
            if own_car(ca, beams.elevation[b] + 0.05 * unit(ragged) - 0.02, h):
                continue
            lx, ly, lz = ce * ca, ce * sa, se
            d = (
                axes[0, 0] * lx + axes[0, 1] * ly + axes[0, 2] * lz,
                axes[1, 0] * lx + axes[1, 1] * ly + axes[1, 2] * lz,
                axes[2, 0] * lx + axes[2, 1] * ly + axes[2, 2] * lz,
            )
            touch = cast(scene, o, d, 0.9, MAX_RANGE)
            if touch.solid == MISS:
                continue
            back = echo(scene, o, d, touch, beams.gain[b], 1.0, h)
            if back.distance == 0.0:
                continue
            r, value, label, instance = back.distance, back.value, back.label, back.instance
            if r > LABEL_RANGE:
                label, instance = np.int64(0), np.int64(0)
            # coordinates to the millimeter and remission to the hundredth, as in the recordings
            points[count, 0] = math.floor(r * lx * 1000.0 + 0.5) / 1000.0
            points[count, 1] = math.floor(r * ly * 1000.0 + 0.5) / 1000.0
            points[count, 2] = math.floor((r * lz + lift) * 1000.0 + 0.5) / 1000.0
            points[count, 3] = math.floor(min(max(value, 0.0), 0.99) * 100.0 + 0.5) / 100.0
            labels[count] = np.uint32(instance << 16 | label)
            count += 1
    return count


def scan(
    scene: Scene, pose: npt.NDArray[np.float64], beams: Beams, steps: int, key: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint32]]:
    """One turn of the sensor at ``pose`` (4, 4), ring after ring from the top, azimuth from straight ahead to the left.

    Returns:
        points (n, 4) float32: x, y, z in the sensor's frame, remission 0..1;
        labels (n,) uint32: instance << 16 | raw id.
    """
    size = len(beams.elevation) * steps
    points, labels = np.empty((size, 4), np.float32), np.empty(size, np.uint32)
    axes, position = np.ascontiguousarray(pose[:3, :3]), np.ascontiguousarray(pose[:3, 3])
    n = _scan(scene, position, axes, beams, steps, np.uint64(key), points, labels)
    return points[:n].copy(), labels[:n].copy()
