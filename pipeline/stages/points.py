"""Which points of a scan show their labels, by ratio or one per class: named protocols of the field.

Every point gets a random key that depends on the seed and the scan's id alone; the smallest keys win. So a draw is the
same on every machine, does not depend on other scans, and a smaller ratio lies inside a larger one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import xxhash

from ssl3d.data.errors import DataError
from ssl3d.data.scan import IGNORE

VOXEL_SIZE = 0.06
"""Meters (COARSE3D)."""

Labels = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Drawn:
    """What a scan shows.

    Attributes:
        label: (n,) uint8 visible labels, IGNORE where hidden.
        clicks: annotations that it took: voxels with ``voxel`` and ``voxel-first``, points otherwise.
    """

    label: Labels
    clicks: int


def scan_keys(seed: int, scan_id: str, count: int) -> Keys:
    """(count,) uint64: the key of each point. PCG64's raw bits, whose stream numpy keeps the same in all versions."""
    state = xxhash.xxh3_128_intdigest(f"points {seed} {scan_id}".encode())
    bits: Keys = np.random.PCG64(state).random_raw(count)
    return bits


def draw_points(
    protocol: str, label: Labels, ratio: Fraction, keys: Keys, points: npt.NDArray[np.float32] | None = None
) -> Drawn:
    """The points that ``protocol`` shows of a scan; everything when fewer are annotated than it asks for.

    Args:
        protocol: one of ``split_params.PROTOCOLS``.
        label: (n,) uint8 train ids, IGNORE where not annotated.
        ratio: share of raw points (of each class with ``class``), 0 < ratio <= 1.
        keys: (n,) uint64, see ``scan_keys``.
        points: (n, 3) float32 meters; the voxel protocols need them.
    """
    if protocol == "class":
        return draw_per_class(label, lambda count: max(1, int(ratio * count)), keys)
    if protocol == "raw":
        rows = np.flatnonzero(label != IGNORE)
        return _shown(label, rows[_smallest(keys[rows], max(1, int(ratio * len(label))))])
    assert points is not None
    first, voxel = voxels_of(points)
    known = np.flatnonzero(label[first] != IGNORE)
    drawn = known[_smallest(keys[first[known]], max(1, round(ratio * len(label))))]
    if protocol == "voxel-first":
        return _shown(label, first[drawn])
    of_voxel = np.full(len(first), IGNORE, np.uint8)
    of_voxel[drawn] = label[first[drawn]]
    return Drawn(of_voxel[voxel], len(drawn))


def draw_per_class(label: Labels, count: Callable[[int], int], keys: Keys) -> Drawn:
    """``count(n_c)`` points of every class that a scan has, of its n_c points (all of them when it asks for more)."""
    present = np.unique(label[label != IGNORE]).tolist()
    of_class = [np.flatnonzero(label == train_id) for train_id in present]
    chosen = [rows[_smallest(keys[rows], count(len(rows)))] for rows in of_class]
    return _shown(label, np.concatenate([np.zeros(0, np.int64), *chosen]))


def show_rows(label: Labels, rows: Rows) -> Drawn:
    """The labels of ``rows`` (k,), each an annotation, also where the dataset has no class for the point."""
    return _shown(label, rows)


def cut_scan(points: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.uint8]:
    """Which of its two parts a point of a scan that is cut belongs to: (n,) uint8, 0 or 1.

    Part 0 are the first ``count`` points along the longer horizontal extent (x of equal ones), of equal coordinates
    those that come first (WS3D's limited reconstruction).

    Args:
        points: (n, 3) float32 meters, z up.
    """
    extent = points[:, :2].max(axis=0) - points[:, :2].min(axis=0)
    order = np.argsort(points[:, int(extent[1] > extent[0])], kind="stable")
    part = np.ones(len(points), np.uint8)
    part[order[:count]] = 0
    return part


def voxels_of(points: npt.NDArray[np.float32]) -> tuple[Rows, Rows]:
    """The cubic grid of COARSE3D: cells of 0.06 m whose origin is the least corner of the scan minus half a cell.

    Args:
        points: (n, 3) float32 meters.

    Returns:
        first (V,) int64: the first point of every occupied cell; cell (n,) int64: which of the V cells a point is in.

    Raises:
        DataError: coordinates that are no numbers, or too far apart for a grid.
    """
    if not len(points):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    axes = np.ascontiguousarray(points.T, np.float64)  # (3, n): whole rows are many times quicker than triples
    least = axes.min(axis=1, keepdims=True)
    extent = (axes.max(axis=1) - least[:, 0]) / VOXEL_SIZE + 2
    if not np.isfinite(extent).all() or float(np.prod(extent)) >= 2.0**62:
        raise DataError("the points of a scan are too far apart for a grid", where={"meters": extent * VOXEL_SIZE})
    x, y, z = np.floor((axes - (least - VOXEL_SIZE / 2)) / VOXEL_SIZE).astype(np.int64)
    _, first, voxel = np.unique((x * (y.max() + 1) + y) * (z.max() + 1) + z, return_index=True, return_inverse=True)
    return first.astype(np.int64), voxel.astype(np.int64).reshape(-1)


def _smallest(keys: Keys, count: int) -> Rows:
    """Positions of the ``count`` smallest keys, rising; of equal keys the first. All when there are not so many."""
    if count >= len(keys):
        return np.arange(len(keys))
    limit = np.partition(keys, count - 1)[count - 1]
    below = np.flatnonzero(keys < limit)
    equal = np.flatnonzero(keys == limit)[: count - len(below)]
    return np.sort(np.concatenate([below, equal]))


def _shown(label: Labels, rows: Rows) -> Drawn:
    shown = np.full(len(label), IGNORE, np.uint8)
    shown[rows] = label[rows]
    return Drawn(shown, len(rows))
