"""Which regions touch (WS3D, section 3.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Rows = npt.NDArray[np.int32]


def adjacent_regions(
    points: npt.NDArray[np.float32],
    regions: Rows,
    neighbors: Rows,
    reach: float | npt.NDArray[np.floating[Any]],
) -> Rows:
    """Pairs of regions of which a point of one is among the neighbors of a point of the other, and within reach.

    Args:
        points: (n, 3) float32 meters. regions: (n,) ids, -1 without one.
        neighbors: (n, k) rows, -1 is nobody.
        reach: pairs of points nearer than this count, meters; or (n,), one for each point whose neighbors these are.

    Returns:
        (e, 2) int32 ids i < j, each pair once, in rising order.
    """
    limits = np.ascontiguousarray(np.broadcast_to(np.square(reach, dtype=np.float64), len(points)))
    count = int(regions.max(initial=-1)) + 1
    keys = np.unique(_pairs(points, regions, neighbors, limits, count))
    return np.stack(np.divmod(keys, max(1, count)), axis=1).astype(np.int32).reshape(-1, 2)


@njit(cache=True, nogil=True)
def _pairs(
    points: npt.NDArray[np.float32], regions: Rows, neighbors: Rows, reach: npt.NDArray[np.float64], count: int
) -> npt.NDArray[np.int64]:
    found = np.empty(neighbors.size, np.int64)
    number = 0
    for p in range(len(points)):
        a = np.int64(regions[p])
        for q in neighbors[p]:
            if a < 0 or q < 0 or regions[q] < 0 or regions[q] == a:
                continue
            dx = np.float64(points[p, 0]) - points[q, 0]
            dy = np.float64(points[p, 1]) - points[q, 1]
            dz = np.float64(points[p, 2]) - points[q, 2]
            if dx * dx + dy * dy + dz * dz < reach[p]:
                b = np.int64(regions[q])
                found[number] = min(a, b) * count + max(a, b)
                number += 1
    return found[:number].copy()
