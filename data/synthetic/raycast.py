"""Casting rays into a scene: a uniform grid over the primitives, and the height field below them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from ssl3d.data.synthetic import intersect as ix
from ssl3d.data.synthetic.ground import Ground, ground_normal, march, surface
from ssl3d.data.synthetic.intersect import BOX, CYLINDER, ELLIPSOID, FACADE, HULL, LEAF_BALL, LEAF_BOX
from ssl3d.data.synthetic.materials import COVER_LABEL, COVER_MATERIAL, COVER_REFLECTANCE, COVER_RGB, GLASS
from ssl3d.data.synthetic.primitives import PrimitiveArrays
from ssl3d.data.synthetic.rng import mix, unit

MISS = -1
GROUND = -2
CELL = 2.0


class Grid(NamedTuple):
    origin: npt.NDArray[np.float64]  # (2,) lower corner; cells of CELL meters
    start: npt.NDArray[np.int64]  # (rows, columns, 2): first item, end
    items: npt.NDArray[np.int32]  # primitives, cell after cell
    ceiling: float  # nothing is higher


class Scene(NamedTuple):
    """What rays are cast into: the primitives of one frame, their grid, the ground."""

    solids: PrimitiveArrays
    grid: Grid
    ground: Ground


class Touch(NamedTuple):
    """What a ray meets first."""

    t: float
    solid: int  # primitive, GROUND or MISS
    nx: float
    ny: float
    nz: float
    face: int


class Stuff(NamedTuple):
    """What was met: class, instance, material, brightness for the laser and for the camera."""

    label: np.int64
    instance: np.int64
    material: np.int64
    reflectance: float
    red: float
    green: float
    blue: float


def make_scene(solids: PrimitiveArrays, ground: Ground) -> Scene:
    ny, nx = ground.height.shape
    columns = math.ceil(nx * ground.origin[2] / CELL)
    rows = math.ceil(ny * ground.origin[2] / CELL)
    start, items = _fill_grid(solids.bounds, ground.origin[:2], rows, columns)
    ceiling = float(solids.bounds[:, 5].max(initial=0.0)) + 1.0
    return Scene(solids, Grid(ground.origin[:2].copy(), start, items, ceiling), ground)


@njit(cache=True)
def _fill_grid(bounds: np.ndarray, origin: np.ndarray, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    n = bounds.shape[0]
    span = np.empty((n, 4), np.int64)
    counts = np.zeros((rows, columns), np.int64)
    for k in range(n):
        for a in range(2):
            limit = columns if a == 0 else rows
            span[k, a] = min(max(int((bounds[k, a] - origin[a]) / CELL), 0), limit - 1)
            span[k, 2 + a] = min(max(int((bounds[k, 3 + a] - origin[a]) / CELL), 0), limit - 1)
        for i in range(span[k, 1], span[k, 3] + 1):
            for j in range(span[k, 0], span[k, 2] + 1):
                counts[i, j] += 1
    start = np.zeros((rows, columns, 2), np.int64)
    total = 0
    for i in range(rows):
        for j in range(columns):
            start[i, j, 0] = total
            start[i, j, 1] = total
            total += counts[i, j]
    items = np.empty(total, np.int32)
    for k in range(n):
        for i in range(span[k, 1], span[k, 3] + 1):
            for j in range(span[k, 0], span[k, 2] + 1):
                items[start[i, j, 1]] = k
                start[i, j, 1] += 1
    return start, items


@njit
def _interval(b: np.ndarray, o: tuple, d: tuple) -> tuple[float, float]:
    low, high = -math.inf, math.inf
    for k in range(3):
        if d[k] == 0.0:
            if o[k] < b[k] or o[k] > b[3 + k]:
                return math.inf, -math.inf
        else:
            t0, t1 = (b[k] - o[k]) / d[k], (b[3 + k] - o[k]) / d[k]
            if t0 > t1:
                t0, t1 = t1, t0
            low, high = max(low, t0), min(high, t1)
    return low, high


@njit
def _meet(solids: PrimitiveArrays, k: int, o: tuple, d: tuple, t_min: float, t0: float, t1: float) -> ix.Hit:
    p = solids.params[k]
    kind = solids.kind[k]
    if kind == BOX:
        return ix.box(p, solids.pattern[k], o, d, t_min)
    if kind == CYLINDER:
        return ix.cylinder(p, solids.pattern[k], o, d, t_min)
    if kind == LEAF_BALL:
        return ix.leaves(p, o, d, max(t0, t_min), t1, False)
    if kind == LEAF_BOX:
        return ix.leaves(p, o, d, max(t0, t_min), t1, True)
    if kind == HULL:
        return ix.hull(p, solids.planes, o, d, t_min)
    if kind == ELLIPSOID:
        return ix.ellipsoid(p, o, d, t_min)
    return math.inf, 0.0, 0.0, 0.0, 0


@njit
def cast(scene: Scene, o: tuple, d: tuple, t_min: float, t_max: float) -> Touch:
    """The first thing that the ray ``o + t d`` (unit d) meets between t_min and t_max."""
    solids, grid = scene.solids, scene.grid
    best, which, nx, ny, nz, face = t_max, MISS, 0.0, 0.0, 0.0, 0
    t = march(scene.ground, o, d, t_max)
    if t < best:
        best, which = t, GROUND
    rows, columns = grid.start.shape[0], grid.start.shape[1]
    ux, uy = (o[0] - grid.origin[0]) / CELL, (o[1] - grid.origin[1]) / CELL
    j, i = math.floor(ux), math.floor(uy)
    kx, ky = (1 if d[0] > 0 else -1), (1 if d[1] > 0 else -1)
    step_x = CELL / abs(d[0]) if d[0] != 0.0 else math.inf
    step_y = CELL / abs(d[1]) if d[1] != 0.0 else math.inf
    next_x = ((j + 1 - ux) if kx > 0 else (ux - j)) * step_x if d[0] != 0.0 else math.inf
    next_y = ((i + 1 - uy) if ky > 0 else (uy - i)) * step_y if d[1] != 0.0 else math.inf
    t0 = 0.0
    while t0 < best and 0 <= i < rows and 0 <= j < columns:
        if d[2] > 0.0 and o[2] + t0 * d[2] > grid.ceiling:
            break
        t1 = min(next_x, next_y)
        for at in range(grid.start[i, j, 0], grid.start[i, j, 1]):
            k = grid.items[at]
            enter, leave = _interval(solids.bounds[k], o, d)
            if enter > leave or enter >= best or leave < t_min:
                continue
            hit, hx, hy, hz, hf = _meet(solids, k, o, d, t_min, t0, t1)
            if hit < best:
                best, which, nx, ny, nz, face = hit, k, hx, hy, hz, hf
        t0 = t1
        if next_x <= next_y:
            j, next_x = j + kx, next_x + step_x
        else:
            i, next_y = i + ky, next_y + step_y
    if which == GROUND:
        nx, ny, nz = ground_normal(scene.ground, o[0] + best * d[0], o[1] + best * d[1])
    return Touch(best, which, nx, ny, nz, face)


@njit
def window(p: np.ndarray, face: int, x: float, y: float, z: float) -> int:
    """On a facade box: 0 wall, 1 window pane, 2 frame or door. p[8:12]: period, storey, share of glass, seed."""
    if face == 2:
        return 0
    u0, v0 = x - p[0], y - p[1]
    if face == 0:
        u = p[6] * v0 - p[7] * u0 + p[4]
        width = 2.0 * p[4]
    else:
        u = p[6] * u0 + p[7] * v0 + p[3]
        width = 2.0 * p[3]
    columns = max(1.0, math.floor(width / p[8]))
    bay = u / width * columns
    v = (z - p[2] + p[5]) / p[9]
    a, b = math.floor(bay), math.floor(v)
    h = mix(mix(mix(np.uint64(p[11]), np.uint64(np.int64(a))), np.uint64(np.int64(b))), np.uint64(face))
    if unit(h) > 0.85:  # a blind bay
        return 0
    fu, fv = abs(bay - a - 0.5), v - b
    half = 0.5 * p[10]
    low, high = (0.30, 0.80)
    if b == 0.0:
        h = mix(h, np.uint64(3))
        if unit(h) < 0.25:
            low = 0.05
    if fu < half and low < fv < high:
        return 1 if fu < half - 0.03 and fv < high - 0.03 and fv > low + 0.03 and fu > 0.015 else 2
    return 0


@njit
def stuff_at(scene: Scene, touch: Touch, x: float, y: float, z: float) -> Stuff:
    """What the ray met at (x, y, z)."""
    if touch.solid == GROUND:
        c, _, _ = surface(scene.ground, x, y)
        rgb = COVER_RGB[c]
        label, material = np.int64(COVER_LABEL[c]), np.int64(COVER_MATERIAL[c])
        return Stuff(label, np.int64(0), material, COVER_REFLECTANCE[c], rgb[0], rgb[1], rgb[2])
    k = touch.solid
    s = scene.solids
    material, reflectance = np.int64(s.material[k]), s.reflectance[k]
    red, green, blue = s.rgb[k, 0], s.rgb[k, 1], s.rgb[k, 2]
    pane = 0
    if s.pattern[k] == FACADE:
        pane = window(s.params[k], touch.face, x, y, z)
    elif s.kind[k] == HULL and s.planes[touch.face, 4] == GLASS:
        pane = 1
    if pane == 1:
        material, reflectance, red, green, blue = np.int64(GLASS), 0.07, 0.13, 0.16, 0.19
    elif pane == 2:
        red, green, blue = 0.85, 0.84, 0.80
    return Stuff(np.int64(s.label[k]), np.int64(s.instance[k]), material, reflectance, red, green, blue)
