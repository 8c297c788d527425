"""A bundle of rays cast into a scene: what other sensors than the one of ``sensor.py`` are made of."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from ssl3d.data.synthetic.camera import matmul, shade
from ssl3d.data.synthetic.raycast import MISS, Scene, cast
from ssl3d.data.synthetic.rng import Word, cos_sin, mix
from ssl3d.data.synthetic.sensor import MAX_RANGE, echo


class Returns(NamedTuple):
    """Of n rays: ``distance`` (n,) float64 meters, 0 where nothing came back; ``value`` (n,) float64 brightness, about
    0..1; ``label, instance`` (n,) uint16; ``rgb`` (n, 3) uint8, or (0, 3) where no color was asked for."""

    distance: npt.NDArray[np.float64]
    value: npt.NDArray[np.float64]
    label: npt.NDArray[np.uint16]
    instance: npt.NDArray[np.uint16]
    rgb: npt.NDArray[np.uint8]


@njit(cache=True)
def unit_vectors(elevation: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
    """(n, 3) float64 directions of (n,) angles in radians: azimuth from x towards y, elevation from there to z."""
    out = np.empty((elevation.shape[0], 3), np.float64)
    for k in range(elevation.shape[0]):
        ce, se = cos_sin(elevation[k])
        ca, sa = cos_sin(azimuth[k])
        out[k, 0], out[k, 1], out[k, 2] = ce * ca, ce * sa, se
    return out


@njit(cache=True)
def _shoot(
    scene: Scene,
    position: np.ndarray,
    directions: np.ndarray,
    numbers: np.ndarray,
    nearest: float,
    noise: float,
    sun: tuple,
    key: Word,
    out: Returns,
) -> None:
    o = (position[0], position[1], position[2])
    for k in range(directions.shape[0]):
        d = (directions[k, 0], directions[k, 1], directions[k, 2])
        touch = cast(scene, o, d, nearest, MAX_RANGE)
        if touch.solid == MISS:
            continue
        back = echo(scene, o, d, touch, 1.0, noise, mix(key, np.uint64(numbers[k])))
        out.distance[k], out.value[k] = back.distance, back.value
        out.label[k], out.instance[k] = np.uint16(back.label), np.uint16(back.instance)
        if out.rgb.shape[0] > 0 and back.distance > 0.0:
            red, green, blue = shade(scene, touch, o, d, sun, key)
            out.rgb[k, 0] = np.uint8(min(max(red, 0.0), 1.0) * 255.0 + 0.5)
            out.rgb[k, 1] = np.uint8(min(max(green, 0.0), 1.0) * 255.0 + 0.5)
            out.rgb[k, 2] = np.uint8(min(max(blue, 0.0), 1.0) * 255.0 + 0.5)


def shoot(
    scene: Scene,
    pose: npt.NDArray[np.float64],
    directions: npt.NDArray[np.float64],
    numbers: npt.NDArray[np.int64],
    key: int,
    *,
    nearest: float = 0.9,
    noise: float = 1.0,
    sun: tuple[float, float, float] | None = None,
) -> Returns:
    """Casts rays from one place.

    Args:
        pose: (4, 4) sensor to world; ``directions``: (n, 3) unit vectors in the sensor's frame.
        numbers: (n,) which rays of the sensor these are: what is random about a ray depends on its number and ``key``.
        nearest: meters below which nothing is seen. ``noise``: of ranges, as a multiple of ``sensor.py``'s.
        sun: unit vector towards the sun, world frame; with it the returns are colored.
    """
    n = len(directions)
    rgb = np.zeros((n if sun is not None else 0, 3), np.uint8)
    out = Returns(np.zeros(n), np.zeros(n), np.zeros(n, np.uint16), np.zeros(n, np.uint16), rgb)
    world = np.ascontiguousarray(matmul(directions, pose[:3, :3].T))
    position = np.ascontiguousarray(pose[:3, 3])
    _shoot(scene, position, world, numbers, nearest, noise, sun or (0.0, 0.0, 1.0), np.uint64(key), out)
    return out
