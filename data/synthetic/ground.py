"""The ground: streets with lots on both sides, what covers a place, and its height.

A street has a center line, a half width and, for every meter of its length and each side, a lot. A lot says what lies
beside the road there: parking bays, a grass strip, the sidewalk, a front and a back cover, a driveway, a bank.
The main street is ``y = f(x)`` given as a table; the others are straight.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from ssl3d.data.synthetic.materials import BED, LANE, ROAD, SOIL, TERRAIN
from ssl3d.data.synthetic.rng import cos_sin, mix, unit, value_noise

# columns of Ground.streets
CURVED, OX, OY, UX, UY, HALF, S_MIN, S_MAX, LINES, CROSSING = range(10)
# columns of Ground.lots
(
    BAY_WIDTH,
    BAY_COVER,
    STRIP,
    WALK,
    WALK_COVER,
    SETBACK,
    FRONT,
    BACK,
    DRIVE_LOW,
    DRIVE_HIGH,
    DRIVE_COVER,
    BANK_START,
    BANK_WIDTH,
    BANK_RISE,
    CURB,
    ROUGH,
) = range(16)
LOT_COLUMNS = 16


class Ground(NamedTuple):
    """Arrays the kernels read. Meters throughout; the first street is the main one."""

    seed: int
    origin: npt.NDArray[np.float64]  # (3,) x0, y0, cell of the height raster
    height: npt.NDArray[np.float32]  # (ny, nx)
    main: npt.NDArray[np.float64]  # (m, 3) y, cos, sin of the heading, one row per meter of x from x0 on
    streets: npt.NDArray[np.float64]  # (k, 10)
    lot_of: npt.NDArray[np.int32]  # (k, 2, meters) index into lots
    lots: npt.NDArray[np.float64]  # (l, 16)
    hills: npt.NDArray[np.float64]  # (w, 4) amplitude, kx, ky, phase
    stamp: npt.NDArray[np.void]  # see kernels.py


@njit(cache=True)
def main_at(ground: Ground, x: float) -> tuple[float, float, float]:
    """(y, cos, sin) of the main street's center line at x."""
    at = min(max(x - ground.origin[0], 0.0), ground.main.shape[0] - 1.001)
    k = int(at)
    f = at - k
    a, b = ground.main[k], ground.main[k + 1]
    c = a[1] + (b[1] - a[1]) * f
    s = a[2] + (b[2] - a[2]) * f
    n = math.sqrt(c * c + s * s)
    return a[0] + (b[0] - a[0]) * f, c / n, s / n


@njit
def station(ground: Ground, k: int, x: float, y: float) -> tuple[float, float]:
    """(s, d) of a point in street k: distance along it and to the left of its center line."""
    street = ground.streets[k]
    if street[CURVED] == 0.0:
        u, v = x - street[OX], y - street[OY]
        return u * street[UX] + v * street[UY], v * street[UX] - u * street[UY]
    s = x
    for _ in range(3):
        cy, c, sn = main_at(ground, s)
        s += ((x - s) * c + (y - cy) * sn) * c
    cy, c, sn = main_at(ground, s)
    return s, (y - cy) * c - (x - s) * sn


@njit
def nearest_street(ground: Ground, x: float, y: float) -> tuple[int, float, float, float, float]:
    """(street, s, d, e, e2): the street whose edge is nearest, the distance beyond it, and that of the next one."""
    best, best_s, best_d, best_e, next_e = 0, 0.0, 0.0, 1e9, 1e9
    for k in range(ground.streets.shape[0]):
        s, d = station(ground, k, x, y)
        street = ground.streets[k]
        if street[S_MIN] <= s <= street[S_MAX]:
            e = abs(d) - street[HALF]
            if e < best_e:
                best, best_s, best_d, best_e, next_e = k, s, d, e, best_e
            elif e < next_e:
                next_e = e
    if best_e > 1e8:
        best_s, best_d = station(ground, 0, x, y)
        best_e = abs(best_d) - ground.streets[0, HALF]
    return best, best_s, best_d, best_e, next_e


@njit(cache=True)
def lot_at(ground: Ground, k: int, s: float, d: float) -> int:
    side = 0 if d > 0 else 1
    at = int(s - ground.streets[k, S_MIN])
    return ground.lot_of[k, side, min(max(at, 0), ground.lot_of.shape[2] - 1)]


@njit
def marking(ground: Ground, k: int, s: float, d: float, e: float) -> int:
    """ROAD or LANE inside a road."""
    lines = ground.streets[k, LINES]
    for other in range(ground.streets.shape[0]):  # nothing painted within a junction, but before it
        if other != k and (k == 0 or other == 0):
            street = ground.streets[other]
            if k == 0:
                gap = abs(s - street[OX]) - street[HALF]
                reach = ground.streets[other, CROSSING]
            else:
                gap = abs(s) - ground.streets[0, HALF]
                reach = ground.streets[k, CROSSING]
            if gap < 1.0:
                return ROAD
            if reach > 0.0 and gap < 4.5:
                return LANE if 1.5 < gap < 4.2 and d - math.floor(d) < 0.5 else ROAD
            if 4.9 < gap < 5.3 and reach > 0.0:
                return LANE
    if lines <= 0.0:
        return ROAD
    if abs(d) < 0.08 and s / 9.0 - math.floor(s / 9.0) < 0.45:
        return LANE
    if lines >= 2.0 and -0.34 < e < -0.20:
        return LANE
    if lines >= 3.0 and abs(abs(d) - 0.5 * ground.streets[k, HALF]) < 0.08 and s / 12.0 - math.floor(s / 12.0) < 0.4:
        return LANE
    return ROAD


@njit
def surface(ground: Ground, x: float, y: float) -> tuple[int, float, float]:
    """(cover code, height above the hills, roughness in meters) at a point."""
    k, s, d, e, next_e = nearest_street(ground, x, y)
    apart = min(1.0, 0.15 * (next_e - e))
    half = ground.streets[k, HALF]
    if e < 0.0:
        other_edge = -half
        for j in range(ground.streets.shape[0]):  # keep the crown continuous through junctions
            if j != k:
                sj, dj = station(ground, j, x, y)
                if ground.streets[j, S_MIN] <= sj <= ground.streets[j, S_MAX]:
                    other_edge = max(other_edge, -(abs(dj) - ground.streets[j, HALF]))
        crown = 0.02 * max(-e, other_edge, 0.0)
        return marking(ground, k, s, d, e), crown, 0.004
    lot = ground.lots[lot_at(ground, k, s, d)]
    drive = lot[DRIVE_LOW] < s < lot[DRIVE_HIGH]
    if e < lot[BAY_WIDTH]:
        return int(lot[BAY_COVER]), 0.0, 0.006
    e -= lot[BAY_WIDTH]
    curb = 0.03 if drive else lot[CURB]
    if e < lot[STRIP]:
        return (int(lot[DRIVE_COVER]) if drive else TERRAIN), curb + 0.02 * e, lot[ROUGH]
    if e < lot[STRIP] + lot[WALK]:
        return int(lot[WALK_COVER]), curb + 0.02 * e, 0.006
    e2 = e - lot[STRIP] - lot[WALK]
    rise = curb + 0.02 * (lot[STRIP] + lot[WALK])
    if lot[BANK_WIDTH] > 0.0:
        f = min(max((e2 - lot[BANK_START]) / lot[BANK_WIDTH], 0.0), 1.0)
        rise += apart * lot[BANK_RISE] * f * f * (3.0 - 2.0 * f)
    if drive:
        return int(lot[DRIVE_COVER]), rise, 0.01
    cover = int(lot[FRONT]) if e2 < lot[SETBACK] else int(lot[BACK])
    if cover == BED:
        return cover, rise + 0.1, 0.22
    return cover, rise, (lot[ROUGH] if cover in (TERRAIN, SOIL) else 0.01)


@njit
def hill(ground: Ground, x: float, y: float) -> float:
    z = 0.0
    for w in range(ground.hills.shape[0]):
        wave = ground.hills[w]
        z += wave[0] * cos_sin(wave[1] * x + wave[2] * y + wave[3])[1]
    return z


@njit(cache=True)
def fill_heights(ground: Ground) -> None:
    """Writes ``ground.height`` from the hills, the streets and the lots."""
    ny, nx = ground.height.shape
    cell = ground.origin[2]
    rough_key = mix(np.uint64(ground.seed), np.uint64(101))
    coarse = 16
    for i0 in range(0, ny, coarse):  # hills are smooth: exact every 16 cells, bilinear in between
        for j0 in range(0, nx, coarse):
            xa, ya = ground.origin[0] + j0 * cell, ground.origin[1] + i0 * cell
            xb, yb = xa + coarse * cell, ya + coarse * cell
            z00, z10 = hill(ground, xa, ya), hill(ground, xb, ya)
            z01, z11 = hill(ground, xa, yb), hill(ground, xb, yb)
            for i in range(i0, min(i0 + coarse, ny)):
                for j in range(j0, min(j0 + coarse, nx)):
                    fx, fy = (j - j0) / coarse, (i - i0) / coarse
                    z = (z00 + (z10 - z00) * fx) * (1.0 - fy) + (z01 + (z11 - z01) * fx) * fy
                    x, y = ground.origin[0] + j * cell, ground.origin[1] + i * cell
                    _, rise, rough = surface(ground, x, y)
                    if rough > 0.02:
                        rise += rough * value_noise(rough_key, x * 0.8, y * 0.8)
                        rise += 0.4 * rough * (2.0 * unit(mix(mix(rough_key, np.uint64(i)), np.uint64(j))) - 1.0)
                    ground.height[i, j] = z + rise


@njit(cache=True)
def height_at(ground: Ground, x: float, y: float) -> float:
    """Bilinear height of the raster; its border continues outside."""
    cell = ground.origin[2]
    ny, nx = ground.height.shape
    u = min(max((x - ground.origin[0]) / cell, 0.0), nx - 1.001)
    v = min(max((y - ground.origin[1]) / cell, 0.0), ny - 1.001)
    j, i = int(u), int(v)
    fx, fy = u - j, v - i
    h = ground.height
    low = np.float64(h[i, j]) * (1.0 - fx) + np.float64(h[i, j + 1]) * fx
    high = np.float64(h[i + 1, j]) * (1.0 - fx) + np.float64(h[i + 1, j + 1]) * fx
    return low * (1.0 - fy) + high * fy


@njit
def ground_normal(ground: Ground, x: float, y: float) -> tuple[float, float, float]:
    a = (height_at(ground, x + 0.15, y) - height_at(ground, x - 0.15, y)) / 0.3
    b = (height_at(ground, x, y + 0.15) - height_at(ground, x, y - 0.15)) / 0.3
    n = math.sqrt(1.0 + a * a + b * b)
    return -a / n, -b / n, 1.0 / n


@njit
def march(ground: Ground, o: tuple, d: tuple, t_max: float) -> float:
    """Distance at which a ray meets the ground, ``inf`` if not before ``t_max``."""
    flat = math.sqrt(d[0] * d[0] + d[1] * d[1])
    closing = max(-d[2], 0.0) + 0.3 * flat
    if closing <= 0.0:
        return math.inf
    before, t = 0.0, 0.0
    for _ in range(400):
        gap = o[2] + t * d[2] - height_at(ground, o[0] + t * d[0], o[1] + t * d[1])
        if gap <= 0.0:
            low, high = before, t
            for _ in range(18):
                middle = 0.5 * (low + high)
                if o[2] + middle * d[2] > height_at(ground, o[0] + middle * d[0], o[1] + middle * d[1]):
                    low = middle
                else:
                    high = middle
            return high
        if t >= t_max:
            return math.inf
        if d[2] > 0.3 and gap > 12.0:
            return math.inf
        before = t
        t = min(t + max(gap / closing, 0.04 + 0.002 * t), t_max)
    return math.inf
