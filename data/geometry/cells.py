"""Points sorted into cubic cells: what searches within a fixed radius are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_BITS = 20
_FIELD = 1 << (_BITS + 1)
"""A key is (z, y, x), x fastest. Each field has room for neighbors outside of the box of all points."""
MARGIN = 9
"""Cells of this many steps beyond the outermost ones have valid keys that no other cell has."""


@dataclass(frozen=True, slots=True)
class Cells:
    """The finite points of a scan, sorted by cell.

    Attributes:
        rows: (n,) int64, the original row of each sorted point; within a cell in any order.
        xyz: (3, n) float64, coordinates of the sorted points.
        keys: (c,) int64, sorted keys of the cells that hold points. Neighbors (dx, dy, dz), up to ``MARGIN`` steps
            away, differ by ``dx + dy * STRIDE_Y + dz * STRIDE_Z``.
        start: (c + 1,) int64, the first sorted point of each cell.
        size: side of a cell in meters.
    """

    rows: I64
    xyz: F64
    keys: I64
    start: I64
    size: float

    @classmethod
    def of(cls, points: npt.NDArray[np.floating[Any]], size: float, aligned: bool = False) -> Cells:
        """The cells of a grid that begins at the lowest coordinates.

        Args:
            points: (n, 3) in meters; rows with NaN or infinity are in no cell.
            size: side of a cell, meters.
            aligned: the grid begins at a multiple of ``size`` instead, at or below the lowest coordinates.
        """
        rows = np.flatnonzero(np.isfinite(points).all(axis=1))
        xyz = np.asarray(points[rows], np.float64)
        keys = np.zeros(len(rows), np.int64)
        for axis in (2, 1, 0):
            keys = keys * _FIELD + _cell_of(xyz[:, axis], size, aligned)
        order = np.argsort(keys)
        keys = keys[order]
        first = np.flatnonzero(np.diff(keys, prepend=keys[:1] - 1))
        start = np.append(first, len(keys)).astype(np.int64)
        return cls(rows[order], np.ascontiguousarray(xyz[order].T), keys[first], start, size)

    def __len__(self) -> int:
        return len(self.keys)

    def boxes(self) -> tuple[F64, F64]:
        """Lower and upper corners (3, c) of the points of each cell (not of the cell)."""
        if not len(self.keys):
            return np.zeros((3, 0)), np.zeros((3, 0))
        first = self.start[:-1]
        return np.minimum.reduceat(self.xyz, first, axis=1), np.maximum.reduceat(self.xyz, first, axis=1)


STRIDE_Y = _FIELD
STRIDE_Z = _FIELD * _FIELD


def _cell_of(values: F64, size: float, aligned: bool) -> I64:
    """(n,) cell indices along one axis from ``MARGIN`` on, of a width that keys can hold.

    Where a stray point would need more, the empty space between the points is shortened: never below ``2 * MARGIN``
    cells, so that cells that were no neighbors do not become neighbors.
    """
    if not len(values):
        return np.zeros(0, np.int64)
    low = values.min()
    if aligned:
        low = np.floor(low / size) * size
    if (values.max() - low) / size < (1 << _BITS) - 2 * MARGIN:
        return np.floor((values - low) / size).astype(np.int64) + MARGIN
    # a float has 53 bits: cells further out than 2^52 sizes hold one representable number each
    steps = np.floor((values - low) / size)
    there, inverse = np.unique(steps, return_inverse=True)
    gaps = np.minimum(np.diff(there, prepend=there[:1]), 2 * MARGIN).astype(np.int64)
    compact = np.cumsum(gaps)
    if compact[-1] >= (1 << _BITS) - 2 * MARGIN:
        raise ValueError(f"points spread over more than {1 << _BITS} cells of {size} m along an axis")
    return np.asarray(compact[inverse.reshape(-1)] + MARGIN, np.int64)


@numba.njit(cache=True, nogil=True)
def lower_bound(keys: I64, key: int, low: int) -> int:
    """First index from ``low`` on with ``keys[index] >= key``: steps that double, then halves (keys sorted)."""
    n = len(keys)
    step, high = 1, low
    while high < n and keys[high] < key:
        low = high + 1
        high = low + step
        step *= 2
    high = min(high, n)
    while low < high:
        middle = (low + high) // 2
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low
