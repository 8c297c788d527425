"""Coordinate work on the CPU. Importing this module imports numba but compiles nothing; results are cached on disk.

Kernel maps are merge joins of two *sorted* key lists, one pass for up to three kernel offsets that are neighbors along
the last axis: sequential memory, no hash table. Compiled kernels are single-threaded and release the GIL; ``join``
shares the keys among threads.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from ssl3d.models.sparse import parallel
from ssl3d.models.sparse.keys import COORDINATE_LIMIT, FIELD_BITS, coarse_mask

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

_BITS = tuple(FIELD_BITS.get(axes, 0) for axes in range(5))
_LIMITS = tuple(COORDINATE_LIMIT.get(axes, 0) for axes in range(5))
_BEHIND_ALL = np.int64(np.iinfo(np.int64).max)
_WORK_OF_A_THREAD = 300_000
"""Steps of a pass (3 ns each) for which starting one more thread (0.1 ms) pays."""
CLIPPED = -1
"""Key of a point without a voxel: not finite, or outside the clip range."""


def join(
    in_keys: I64, in_rows: I32, out_keys: I64, out_rows: I32, deltas: I64, gap: int, threads: int = 1
) -> tuple[list[list[I32]], list[list[I32]]]:
    """Pairs of rows with ``in_key == out_key + delta``: the same for any number of threads.

    Args:
        in_keys, out_keys: (n,), (m,) sorted, unique.
        in_rows, out_rows: the row that each sorted key stands for.
        deltas: (K,) what each kernel offset adds to a key.
        gap: tensor stride of the input's last axis: two of its keys differ by at least so much.

    Returns:
        for each offset, its rows of the input and its rows of the output in the order of the keys, in pieces.
    """
    order = np.argsort(deltas, kind="stable")
    ascending = deltas[order]
    runs, before = [0], np.diff(ascending)
    for k in range(1, len(deltas)):
        if before[k - 1] != gap or k - runs[-1] == 3:
            runs.append(k)
    bounds = np.array([*runs, len(deltas)])
    padded = np.append(in_keys, [_BEHIND_ALL] * 3), np.append(in_rows, np.zeros(3, np.int32))
    threads = max(1, min(threads, (len(in_keys) + len(out_keys)) * len(runs) // _WORK_OF_A_THREAD))
    cuts = np.linspace(0, len(out_keys), threads + 1).astype(np.int64)

    def part(t: int) -> tuple[I32, I32, I64]:
        own = slice(cuts[t], cuts[t + 1])
        found: tuple[I32, I32, I64] = _join_part(*padded, out_keys[own], out_rows[own], ascending, bounds)
        return found

    found = parallel.in_threads(part, threads)
    places = np.argsort(order).tolist()
    ins = [[rows[place, : counts[place]] for rows, _, counts in found] for place in places]
    outs = [[rows[place, : counts[place]] for _, rows, counts in found] for place in places]
    return ins, outs


@numba.njit(cache=True, nogil=True)
def _join_part(
    in_keys: I64, in_rows: I32, out_keys: I64, out_rows: I32, deltas: I64, runs: I64
) -> tuple[I32, I32, I64]:
    """Rows of the input (K, .) and of the output (K, .) of the pairs of ascending ``deltas``, and their number (K,).

    One pass over the keys for each run of 1 to 3 neighboring deltas. It has no branch that depends on the keys, as the
    processor could not predict it: a pair is written before it is known to be one, and counted if it is.
    ``in_keys`` ends with three that are behind all others.
    """
    n, m = len(in_keys) - 3, len(out_keys)
    # reserved, not touched: the operating system commits only the pages that pairs are written to
    found_in = np.empty((len(deltas) + 2, min(n, m) + 1), np.int32)
    found_out = np.empty((len(deltas) + 2, min(n, m) + 1), np.int32)
    counts = np.zeros(len(deltas), np.int64)
    if n == 0 or m == 0:
        return found_in, found_out, counts
    for r in range(len(runs) - 1):
        k, size = runs[r], runs[r + 1] - runs[r]
        delta = deltas[k]
        second = deltas[k + 1] - delta if size > 1 else -1  # no key at or behind the wanted one is before it
        third = deltas[k + 2] - delta if size > 2 else -1
        in0, in1, in2 = found_in[k], found_in[k + 1], found_in[k + 2]
        out0, out1, out2 = found_out[k], found_out[k + 1], found_out[k + 2]
        i, j, c0, c1, c2 = np.searchsorted(in_keys[:n], out_keys[0] + delta), 0, 0, 0, 0
        while j < m:
            wanted, row = out_keys[j] + delta, out_rows[j]
            there = in_keys[i] >= wanted
            hit = in_keys[i] == wanted
            in0[c0], out0[c0] = in_rows[i], row
            c0 += hit
            if size > 1:
                t = i + hit
                hit = there & (in_keys[t] == wanted + second)
                in1[c1], out1[c1] = in_rows[t], row
                c1 += hit
                t += hit
                hit = there & (in_keys[t] == wanted + third)
                in2[c2], out2[c2] = in_rows[t], row
                c2 += hit
            j += there
            i += 1 - there
        counts[k] = c0
        if size > 1:
            counts[k + 1] = c1
        if size > 2:
            counts[k + 2] = c2
    return found_in, found_out, counts


@numba.njit(cache=True, nogil=True)
def lookup(keys: I64, rows: I32, wanted: I64) -> I32:
    """Row of each wanted key, -1 where it is missing. ``keys`` sorted and unique, ``wanted`` in any order."""
    out = np.empty(len(wanted), np.int32)
    for j in range(len(wanted)):
        i = np.searchsorted(keys, wanted[j])
        out[j] = rows[i] if i < len(keys) and keys[i] == wanted[j] else -1
    return out


@numba.njit(cache=True, nogil=True)
def pack(coordinates: npt.NDArray[np.integer]) -> I64:
    """(n, 1 + D) [batch, x, ...], within the limits -> (n,) keys."""
    axes = coordinates.shape[1] - 1
    bits = _BITS[axes]
    half = np.int64(1) << (bits - 1)
    out = np.empty(len(coordinates), np.int64)
    for i in range(len(out)):
        key = np.int64(coordinates[i, 0])
        for axis in range(1, axes + 1):
            key = (key << bits) + coordinates[i, axis] + half
        out[i] = key
    return out


@numba.njit(cache=True, nogil=True)
def unpack(keys: I64, axes: int) -> I32:
    """(n,) keys -> (n, 1 + axes) coordinates."""
    bits = _BITS[axes]
    mask = (np.int64(1) << bits) - 1
    half = np.int64(1) << (bits - 1)
    out = np.empty((len(keys), 1 + axes), np.int32)
    for i in range(len(keys)):
        key = keys[i]
        for axis in range(axes, 0, -1):
            out[i, axis] = (key & mask) - half
            key >>= bits
        out[i, 0] = key
    return out


@numba.njit(cache=True, nogil=True)
def extent(coordinates: npt.NDArray[np.integer]) -> tuple[I64, I64]:
    """(n, W), n > 0 -> the smallest and the largest number of each column."""
    low, high = coordinates[0].astype(np.int64), coordinates[0].astype(np.int64)
    for i in range(len(coordinates)):
        for c in range(coordinates.shape[1]):
            low[c] = min(low[c], coordinates[i, c])
            high[c] = max(high[c], coordinates[i, c])
    return low, high


def sorted_unique(keys: I64) -> I64:
    """Each key once, ascending. (numpy sorts with vector instructions.)"""
    keys = np.sort(keys)
    first = np.ones(len(keys), np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return keys[first]


def coarse_keys(keys: I64, stride: tuple[int, ...]) -> I64:
    """Keys of floor(coordinate / stride) * stride, in the order of ``keys`` (neither sorted nor unique)."""
    mask = coarse_mask(stride)
    if mask is not None:
        return keys & np.int64(mask)
    coordinates = unpack(keys, len(stride))
    coordinates[:, 1:] -= coordinates[:, 1:] % np.array(stride, np.int32)
    return pack(coordinates)


@numba.njit(cache=True, nogil=True)
def reach_keys(coordinates: I32, offsets: I64, sizes: I64, stride: I64, bounds: I64) -> I64:
    """Keys of all multiples y of ``stride`` with y + o = x for a row x and an offset o, several times or once.

    Args:
        coordinates: (n, 1 + D).
        offsets: (D, longest) offsets along each axis, of which ``sizes`` (D,) count.
        stride: (D,).
        bounds: (D,), only y in 0 <= y < bounds; or empty for all.
    """
    axes = len(stride)
    bits = _BITS[axes]
    half = np.int64(1) << (bits - 1)
    parts = np.empty((axes, offsets.shape[1]), np.int64)
    counts = np.empty(axes, np.int64)
    out = np.empty(max(16, 2 * len(coordinates)), np.int64)
    total = 0
    for i in range(len(coordinates)):
        number = 1
        for axis in range(axes):
            count = 0
            for o in range(sizes[axis]):
                y = coordinates[i, axis + 1] - offsets[axis, o]
                if y % stride[axis] == 0 and (len(bounds) == 0 or 0 <= y < bounds[axis]):
                    parts[axis, count] = (y + half) << bits * (axes - 1 - axis)
                    count += 1
            counts[axis] = count
            number *= count
        if total + number > len(out):
            grown = np.empty(2 * (total + number), np.int64)
            grown[:total] = out[:total]
            out = grown
        base = np.int64(coordinates[i, 0]) << bits * axes
        for which in range(number):
            key, rest = base, which
            for axis in range(axes):
                key += parts[axis, rest % counts[axis]]
                rest //= counts[axis]
            out[total + which] = key
        total += number
    return out[:total]


@numba.njit(cache=True, nogil=True)
def voxel_keys(
    points: npt.NDArray[np.floating], batch: I32, voxel: npt.NDArray[np.float64], clip: npt.NDArray[np.float64]
) -> tuple[I64, int]:
    """Key of each point's voxel.

    Args:
        points: (n, D) meters.
        batch: (n,) index of the cloud.
        voxel: (D,) edge lengths, meters.
        clip: (D, 2) kept range per axis, low <= x <= high.

    Returns:
        (n,) keys (``CLIPPED`` where the point is not finite or outside ``clip``), and how many points do not fit a key.
    """
    axes = points.shape[1]
    bits, limit = _BITS[axes], _LIMITS[axes]
    half = np.int64(1) << (bits - 1)
    keys = np.empty(len(points), np.int64)
    outside = 0
    for i in range(len(points)):
        keys[i] = CLIPPED
        key = np.int64(batch[i])
        kept = True
        fits = True
        for axis in range(axes):
            value = np.float64(points[i, axis])
            if not (clip[axis, 0] <= value <= clip[axis, 1]) or not np.isfinite(value):
                kept = False
                break
            cell = np.floor(value / voxel[axis])
            if not (-limit <= cell < limit):
                fits = False
                break
            key = (key << bits) + np.int64(cell) + half
        if not kept:
            continue
        if not fits:
            outside += 1
            continue
        keys[i] = key
    return keys, outside


@numba.njit(cache=True, nogil=True)
def group(keys: I64, order: I64) -> tuple[I64, I64]:
    """Unique keys in sorted order, and for each point its place among them (-1 for ``CLIPPED``)."""
    unique = np.empty(len(keys), np.int64)
    inverse = np.empty(len(keys), np.int64)
    count = 0
    last = np.int64(CLIPPED)
    for j in range(len(order)):
        key = keys[order[j]]
        if key == CLIPPED:
            inverse[order[j]] = -1
            continue
        if key != last:
            unique[count] = key
            count += 1
            last = key
        inverse[order[j]] = count - 1
    return unique[:count].copy(), inverse


@numba.njit(cache=True, nogil=True)
def group_mean(values: npt.NDArray[np.float32], inverse: I64, count: int) -> npt.NDArray[np.float32]:
    """Mean of the rows of ``values`` (n, F) in each of ``count`` groups (sums in float64); -1 belongs to none."""
    width = values.shape[1]
    total = np.zeros((count, width), np.float64)
    number = np.zeros(count, np.int64)
    for i in range(len(values)):
        row = inverse[i]
        if row >= 0:
            number[row] += 1
            for c in range(width):
                total[row, c] += values[i, c]
    out = np.zeros((count, width), np.float32)
    for row in range(count):
        for c in range(width):
            out[row, c] = total[row, c] / max(number[row], 1)
    return out
