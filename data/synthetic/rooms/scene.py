"""Casting rays into a room, and the color of what they meet.

There is one compiled caster, for many rays at a time: everything else is arithmetic on arrays, elementwise, so that it
gives the same bits on every machine. The grid is that of the streets with its unit changed.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from ssl3d.data.synthetic.primitives import PrimitiveArrays
from ssl3d.data.synthetic.raycast import MISS, _fill_grid, _interval, _meet
from ssl3d.data.synthetic.rng import Word, gauss, mix, unit
from ssl3d.data.synthetic.rooms.room import Room
from ssl3d.data.synthetic.rooms.surfaces import tints

Floats = npt.NDArray[np.float64]

CELL = 0.5
_PER_UNIT = 2.0 / CELL  # the cells of _fill_grid are 2 of whatever bounds are given in
_MARGIN = 1.0  # of the grid around the room, meters
_SOURCES = ("../rng.py", "../intersect.py", "../raycast.py", "scene.py", "surfaces.py")


class RoomScene(NamedTuple):
    """``start``, ``items``: a grid over the floor, see ``raycast.Grid``; ``stamp``: see ``kernels.stamp``."""

    solids: PrimitiveArrays
    start: npt.NDArray[np.int64]
    items: npt.NDArray[np.int32]
    stamp: npt.NDArray[np.void]


class Touched(NamedTuple):
    """``t`` (n,) meters along the ray (its end where nothing was met); ``solid`` (n,) int32 primitive or MISS;
    ``normal`` (n, 3)."""

    t: Floats
    solid: npt.NDArray[np.int32]
    normal: Floats


@lru_cache(maxsize=1)
def stamp() -> npt.NDArray[np.void]:
    """(0,) record array; the name of its field is a digest of the sources that the kernels here are made of."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((Path(__file__).parent / name).read_bytes())
    return np.zeros(0, np.dtype([(f"rooms_{digest.hexdigest()[:16]}", np.uint8)]))


def make_scene(room: Room) -> RoomScene:
    solids = room.primitives.arrays()
    rows, columns = (math.ceil((side + 2.0 * _MARGIN) / CELL) for side in (room.depth, room.width))
    origin = np.array([-_MARGIN, -_MARGIN]) * _PER_UNIT
    start, items = _fill_grid(solids.bounds * _PER_UNIT, origin, rows, columns)
    return RoomScene(solids, start, items, stamp())


@njit(cache=True)
def _trace(
    scene: RoomScene,
    origins: np.ndarray,
    directions: np.ndarray,
    reach: np.ndarray,
    solid: np.ndarray,
    normal: np.ndarray,
) -> None:
    """Shortens ``reach`` to where each ray meets something first."""
    solids = scene.solids
    rows, columns = scene.start.shape[0], scene.start.shape[1]
    for m in range(len(directions)):
        o = (origins[m, 0], origins[m, 1], origins[m, 2])
        d = (directions[m, 0], directions[m, 1], directions[m, 2])
        best = reach[m]
        ux, uy = (o[0] + _MARGIN) / CELL, (o[1] + _MARGIN) / CELL
        j, i = math.floor(ux), math.floor(uy)
        kx, ky = (1 if d[0] > 0 else -1), (1 if d[1] > 0 else -1)
        step_x = CELL / abs(d[0]) if d[0] != 0.0 else math.inf
        step_y = CELL / abs(d[1]) if d[1] != 0.0 else math.inf
        next_x = ((j + 1 - ux) if kx > 0 else (ux - j)) * step_x if d[0] != 0.0 else math.inf
        next_y = ((i + 1 - uy) if ky > 0 else (uy - i)) * step_y if d[1] != 0.0 else math.inf
        t0 = 0.0
        while t0 < best and 0 <= i < rows and 0 <= j < columns:
            t1 = min(next_x, next_y)
            for at in range(scene.start[i, j, 0], scene.start[i, j, 1]):
                k = scene.items[at]
                enter, leave = _interval(solids.bounds[k], o, d)
                if enter > leave or enter >= best or leave < 0.0:
                    continue
                hit, hx, hy, hz, _ = _meet(solids, k, o, d, 1e-4, t0, t1)
                if hit < best:
                    best, solid[m] = hit, k
                    normal[m, 0], normal[m, 1], normal[m, 2] = hx, hy, hz
            t0 = t1
            if next_x <= next_y:
                j, next_x = j + kx, next_x + step_x
            else:
                i, next_y = i + ky, next_y + step_y
        reach[m] = best


def trace(scene: RoomScene, origins: Floats, directions: Floats, reach: float | Floats) -> Touched:
    """What rays meet first within ``reach`` meters. ``origins`` (n, 3) or (3,); ``directions`` (n, 3), of unit length.

    A ray that starts inside something does not see it.
    """
    n = len(directions)
    origins = np.ascontiguousarray(np.broadcast_to(origins, (n, 3)))
    t = np.array(np.broadcast_to(reach, n), np.float64)
    found = Touched(t, np.full(n, MISS, np.int32), np.zeros((n, 3)))
    _trace(scene, origins, np.ascontiguousarray(directions), found.t, found.solid, found.normal)
    return found


@njit(cache=True)
def _draws(stamp: np.ndarray, key: Word, out: np.ndarray, normal: bool) -> None:
    for m in range(out.shape[0]):
        h = mix(key, np.uint64(m))
        for k in range(out.shape[1]):
            h = mix(h, np.uint64(k))
            out[m, k] = gauss(h) if normal else unit(h)


def draws(key: int, shape: tuple[int, int], normal: bool = False) -> Floats:
    """Random numbers of a key: uniform in [0, 1), or ``normal``."""
    out = np.empty(shape)
    _draws(stamp(), np.uint64(key), out, normal)
    return out


def lengths(vectors: Floats) -> Floats:
    """(n,) of (n, 3), in a fixed order of summation."""
    x, y, z = vectors[:, 0], vectors[:, 1], vectors[:, 2]
    return np.sqrt(x * x + y * y + z * z)


def dots(a: Floats, b: Floats) -> Floats:
    """(n,) of (n, 3) and (n, 3), in a fixed order of summation."""
    return np.asarray(a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2])


def colors(
    scene: RoomScene, room: Room, solids: npt.NDArray[np.int32], points: Floats, normals: Floats, key: int
) -> Floats:
    """(n, 3) red, green, blue, 0 to about 1, of primitives at ``points``: their paint and texture in the light of the
    lamps and windows, with shadows. ``key``: decides which way is looked for what darkens a corner."""
    n = len(points)
    start = points + 0.03 * normals
    # ambient light comes from everywhere but near things: one short ray towards anywhere
    aim = draws(key, (n, 3)) - 0.5
    aim = normals + 0.9 * aim / (lengths(aim) + 1e-9)[:, None]
    aim /= (lengths(aim) + 1e-9)[:, None]
    light = np.array([0.34, 0.34, 0.35]) * (0.6 + 0.8 * trace(scene, start, aim, 0.5).t)[:, None]
    for lamp in room.lights:
        way = np.array(lamp[:3]) - start
        away = lengths(way) + 1e-9
        way /= away[:, None]
        cosine = dots(way, normals)
        if lamp.nx != 0.0 or lamp.ny != 0.0:  # a window shines into the room only
            cosine = cosine * np.maximum(0.0, -(way[:, 0] * lamp.nx + way[:, 1] * lamp.ny))
        power = cosine * 1.3 / (0.6 + 0.45 * away * away)
        lit = np.flatnonzero((power > 0.01) & (away > 0.05))
        clear = trace(scene, start[lit], way[lit], away[lit]).t > away[lit] - 0.12
        lit = lit[clear]
        light[lit] += power[lit, None] * np.array(lamp[3:6])
    return film(tinted(scene, solids, points, normals) * light)


def tinted(scene: RoomScene, solids: npt.NDArray[np.int32], points: Floats, normals: Floats) -> Floats:
    """(n, 3) paint and texture, unlit."""
    out = np.empty((len(points), 3))
    tints(scene.stamp, scene.solids.material[solids], solids, points, normals, out)
    return np.asarray(out * scene.solids.rgb[solids])


def film(light: Floats) -> Floats:
    """Bright light saturates softly, as in a camera: the square root stands for its gamma."""
    light = np.maximum(light, 0.0)
    return np.sqrt(light / (1.0 + 0.35 * light) * 0.92)


def as_bytes(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """0..1 as 0..255, rounded; beyond is cut off."""
    return (np.clip(values, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
