"""How well regions keep classes apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.geometry.neighbors import nearest_neighbors
from ssl3d.data.scan import IGNORE

Rows = npt.NDArray[np.int32]
Labels = npt.NDArray[np.uint8]


def count_pure(region: Rows, label: Labels) -> tuple[int, int]:
    """Points with the most frequent label of their region, and all points; those without a region or label left out.

    Args:
        region: (n,) ids, -1 without one. label: (n,) uint8, 255 without one.
    """
    known = (region >= 0) & (label != IGNORE)
    pairs, counts = np.unique(region[known].astype(np.int64) * 256 + label[known], return_counts=True)
    most = np.zeros(int(region.max(initial=-1)) + 1, np.int64)
    np.maximum.at(most, pairs // 256, counts)
    return int(most.sum()), int(known.sum())


def count_boundaries(
    points: npt.NDArray[np.float32],
    region: Rows,
    label: Labels,
    reach: float | npt.NDArray[np.floating[Any]],
    *,
    neighbors: int = 8,
    threads: int = 1,
) -> tuple[int, int]:
    """Points on a boundary of labels that are also on one of regions, and all that are on one of labels.

    On a boundary: another label (or region) is among the ``neighbors`` nearest points, nearer than ``reach`` meters (or
    (n,), one for each point). Points without a region or label are not looked at.
    """
    known = np.flatnonzero((region >= 0) & (label != IGNORE) & np.isfinite(points).all(axis=1))
    near = nearest_neighbors(points[known], neighbors + 1, threads=threads)[:, 1:]
    others = known[near]  # of nobody (-1) the last one, which does not count
    limit = np.broadcast_to(reach, len(points))[known]
    offset = points[others].astype(np.float64) - points[known][:, None]
    close = (near >= 0) & (np.einsum("nki,nki->nk", offset, offset) < np.square(limit, dtype=np.float64)[:, None])
    label_edge = (close & (label[others] != label[known][:, None])).any(axis=1)
    region_edge = (close & (region[others] != region[known][:, None])).any(axis=1)
    return int((label_edge & region_edge).sum()), int(label_edge.sum())
