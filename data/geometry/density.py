"""How many points lie within a radius of each point, exactly (DDSEmi, Eq. 9)."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from ssl3d.data.geometry.cells import STRIDE_Y, STRIDE_Z, Cells, lower_bound
from ssl3d.data.geometry.threads import equal_shares, in_threads

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]

_REACHES = ((2, 256.0), (4, np.inf))
"""Cells are 1 / reach of a radius wide, so neighbors are at most ``reach`` cells away. The first reach counts whose
cells hold at most so many points around a point: many points in a cell on the ball's surface are many tests."""
_BOX_PAYS = 12
"""From so many points on, a cell's box is tested before its points."""
_SHARES_PER_THREAD = 8


def neighbor_counts(points: npt.NDArray[np.floating[Any]], radius: float, threads: int = 1) -> I32:
    """Points within ``radius`` of each point, itself included.

    Cells whose points all lie inside the ball are counted without a look at their points, so a ball of tens of
    thousands of points costs little more than its surface. Memory is that of the points, whatever the counts are.

    Args:
        points: (n, 3) meters.
        radius: meters, above 0; a distance of exactly ``radius`` counts.
        threads: does not change the result.

    Returns:
        (n,) int32; 0 for points with NaN or infinity, which are nobody's neighbors.

    Raises:
        ValueError: the radius is not above 0, or far too small for the extent of the points.
    """
    if not (np.isfinite(radius) and radius > 0):
        raise ValueError(f"a radius of {radius} m")
    counts = np.zeros(len(points), np.int32)
    for reach, most in _REACHES:
        cells = Cells.of(points, radius / reach)
        sizes = np.diff(cells.start)
        if np.square(sizes, dtype=np.float64).sum() <= most * sizes.sum():
            break
    if not len(cells):
        return counts
    low, high = cells.boxes()
    shares = equal_shares(sizes * (sizes + 16), threads * _SHARES_PER_THREAD if threads > 1 else 1)
    found = np.empty(len(cells.rows), np.int32)

    def count(share: tuple[int, int]) -> None:
        _count(cells.xyz, cells.keys, cells.start, low, high, radius * radius, reach, share[0], share[1], found)

    in_threads(count, shares, threads)
    counts[cells.rows] = found
    return counts


@numba.njit(cache=True, nogil=True)
def _count(
    xyz: F64, keys: I64, start: I64, low: F64, high: F64, limit: float, reach: int, begin: int, end: int, found: I32
) -> None:
    """Counts of the sorted points of the cells ``begin`` to ``end``; ``limit``: the radius squared."""
    x, y, z = xyz[0], xyz[1], xyz[2]
    columns = (2 * reach + 1) ** 2
    at = np.empty(columns, np.int64)  # where each column of cells was left: keys rise, so a search begins there
    for column in range(columns):
        at[column] = lower_bound(keys, keys[begin] + _column_key(column, reach) - reach, 0)
    near = np.empty((2 * reach + 1) ** 3, np.int64)
    for cell in range(begin, end):
        whole, partial = np.int64(0), 0
        for column in range(columns):
            first = keys[cell] + _column_key(column, reach) - reach
            other = lower_bound(keys, first, at[column])
            at[column] = other
            while other < len(keys) and keys[other] <= first + 2 * reach:
                least, most = _box_distances(low, high, cell, other)
                if most <= limit:
                    whole += start[other + 1] - start[other]
                elif least <= limit:
                    near[partial] = other
                    partial += 1
                other += 1
        for point in range(start[cell], start[cell + 1]):
            total = whole
            px, py, pz = x[point], y[point], z[point]
            for k in range(partial):
                other = near[k]
                first, last = start[other], start[other + 1]
                if last - first >= _BOX_PAYS:
                    least, most = _distances(px, py, pz, low, high, other)
                    if most <= limit:
                        total += last - first
                        continue
                    if least > limit:
                        continue
                total += _inside(x, y, z, first, last, px, py, pz, limit)
            found[point] = total


@numba.njit(cache=True, nogil=True, inline="always")
def _column_key(column: int, reach: int) -> int:
    """What a neighboring column of cells along x adds to a key."""
    side = 2 * reach + 1
    return (column % side - reach) * STRIDE_Y + (column // side - reach) * STRIDE_Z


@numba.njit(cache=True, nogil=True)
def _inside(x: F64, y: F64, z: F64, first: int, last: int, px: float, py: float, pz: float, limit: float) -> int:
    inside = 0
    for other in range(first, last):
        dx, dy, dz = x[other] - px, y[other] - py, z[other] - pz
        inside += 1 if dx * dx + dy * dy + dz * dz <= limit else 0
    return inside


@numba.njit(cache=True, nogil=True, inline="always")
def _distances(px: float, py: float, pz: float, low: F64, high: F64, box: int) -> tuple[float, float]:
    """Least and largest squared distance to a box. The same operations, in the same order, as for a point in it: what
    rounding does to them does not change their order, so the box never disagrees with its points."""
    ax, bx = px - low[0, box], high[0, box] - px
    ay, by = py - low[1, box], high[1, box] - py
    az, bz = pz - low[2, box], high[2, box] - pz
    mx, my, mz = max(ax, bx), max(ay, by), max(az, bz)
    nx, ny, nz = max(-min(ax, bx), 0.0), max(-min(ay, by), 0.0), max(-min(az, bz), 0.0)
    return nx * nx + ny * ny + nz * nz, mx * mx + my * my + mz * mz


@numba.njit(cache=True, nogil=True, inline="always")
def _box_distances(low: F64, high: F64, one: int, two: int) -> tuple[float, float]:
    """Least and largest squared distance between the points of two boxes."""
    least, most = 0.0, 0.0
    for axis in range(3):
        a = high[axis, two] - low[axis, one]
        b = high[axis, one] - low[axis, two]
        far, gap = max(a, b), max(-min(a, b), 0.0)
        least += gap * gap
        most += far * far
    return least, most
