"""Thinning a scan to one point a grid cell (RandLA-Net's data preparation), and the way back to the original points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from ssl3d.data.geometry.cells import Cells
from ssl3d.data.geometry.neighbors import Tree, build_tree, nearest_in

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Subsampled:
    """A thinned scan of m points, in order of their cells (z, then y, then x).

    Attributes:
        points: (m, 3) float32 meters, the mean of the points of each cell.
        cell: (n,) int32, which of them each original point belongs to; -1 where it has NaN or infinity.
        nearest: (n,) int32, which of them is nearest to each original point: predictions go back along it. -1 as above.
        row: (m,) int32, the original point nearest to the mean of its cell (the lowest on ties).
        tree: over ``points``.
    """

    points: npt.NDArray[np.float32]
    cell: I32
    nearest: I32
    row: I32
    tree: Tree

    def mean(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Means over cells of per-point ``values`` (n, ...), (m, ...) of the same type; whole numbers are rounded."""
        flat = values.reshape(len(values), int(np.prod(values.shape[1:])))
        sums, counts = np.zeros((len(self.points), flat.shape[1])), np.zeros(len(self.points), np.int64)
        _add(self.cell, flat.astype(np.float64), sums, counts)
        means = sums / np.maximum(counts, 1)[:, None]
        if values.dtype.kind in "iu":
            means = np.floor(means + 0.5)
        return means.reshape(len(self.points), *values.shape[1:]).astype(values.dtype)


def grid_subsample(points: npt.NDArray[np.floating[Any]], size: float, threads: int = 1) -> Subsampled:
    """One point a cell of a grid whose corner is ``floor(min / size) * size``.

    Args:
        points: (n, 3) meters.
        size: side of a cell in meters, above 0.
        threads: of the search for nearest points; the result is the same.

    Raises:
        ValueError: the size is not above 0, or far too small for the extent of the points.
    """
    means, cell = cell_means(points, size)
    row = np.full(len(means), -1, np.int32)
    _closest(cell, np.asarray(points, np.float64), means.astype(np.float64), row)
    tree = build_tree(means)
    nearest = nearest_in(tree, points, 1, threads=threads)[0][:, 0]
    return Subsampled(means, cell, nearest, row, tree)


def cell_means(points: npt.NDArray[np.floating[Any]], size: float) -> tuple[npt.NDArray[np.float32], I32]:
    """``points`` and ``cell`` of ``grid_subsample`` alone. ValueError as there."""
    if not (np.isfinite(size) and size > 0):
        raise ValueError(f"a grid of {size} m")
    cells = Cells.of(points, size, aligned=True)
    cell = np.full(len(points), -1, np.int32)
    cell[cells.rows] = np.repeat(np.arange(len(cells), dtype=np.int32), np.diff(cells.start))
    finite = np.flatnonzero(cell >= 0)
    sums, counts = np.zeros((len(cells), 3)), np.zeros(len(cells), np.int64)
    _add(cell[finite], np.asarray(points[finite], np.float64), sums, counts)
    return (sums / np.maximum(counts, 1)[:, None]).astype(np.float32), cell


@numba.njit(cache=True, nogil=True)
def _add(cell: I32, values: F64, sums: F64, counts: I64) -> None:
    """Sums in order of the points: the same on any machine, whatever order the cells were sorted in."""
    for point in range(len(cell)):
        if cell[point] >= 0:
            counts[cell[point]] += 1
            for k in range(values.shape[1]):
                sums[cell[point], k] += values[point, k]


@numba.njit(cache=True, nogil=True)
def _closest(cell: I32, points: F64, means: F64, row: I32) -> None:
    best = np.full(len(means), np.inf)
    for point in range(len(cell)):
        own = cell[point]
        if own >= 0:
            distance = 0.0
            for axis in range(3):
                distance += (points[point, axis] - means[own, axis]) ** 2
            if distance < best[own]:
                best[own], row[own] = distance, point
