"""Weighted sums of a few rows for each point, on the CPU. Importing this module imports numba but compiles nothing.

Single-threaded, GIL released, in the order of the points and corners: bit-equal from run to run. A row of -1 is none.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]


@numba.njit(cache=True, nogil=True)
def corner_rows(keys: I64, rows: I32, wanted: I64, order: I64, deltas: I64) -> I32:
    """(P, K) the row of ``wanted[p] + deltas[k]``, -1 where that key is missing.

    Args:
        keys: (n,) sorted, unique.
        rows: (n,) the row that each of them stands for.
        wanted: (P,) in any order.
        order: (P,) sorts ``wanted``: every corner is then one pass over both lists.
        deltas: (K,) what each corner adds to a key.
    """
    out = np.full((len(wanted), len(deltas)), -1, np.int32)
    if len(wanted) == 0:
        return out
    for k in range(len(deltas)):
        i = np.searchsorted(keys, wanted[order[0]] + deltas[k])
        for p in order:
            key = wanted[p] + deltas[k]
            while i < len(keys) and keys[i] < key:
                i += 1
            if i == len(keys):
                break
            if keys[i] == key:
                out[p, k] = rows[i]
    return out


@numba.njit(cache=True, nogil=True)
def gather(features: Floats, weights: Floats, rows: I32, out: Floats) -> None:
    """``out[p] += weights[p, k] * features[rows[p, k]]``; a weight of 0 takes nothing, also of NaN."""
    for p in range(len(rows)):
        for k in range(rows.shape[1]):
            row, weight = rows[p, k], weights[p, k]
            if row >= 0 and weight != 0:
                for c in range(features.shape[1]):
                    out[p, c] += weight * features[row, c]


@numba.njit(cache=True, nogil=True)
def scatter(weights: Floats, rows: I32, values: Floats, out: Floats) -> None:
    """``out[rows[p, k]] += weights[p, k] * values[p]``."""
    for p in range(len(rows)):
        for k in range(rows.shape[1]):
            row, weight = rows[p, k], weights[p, k]
            if row >= 0 and weight != 0:
                for c in range(values.shape[1]):
                    out[row, c] += weight * values[p, c]


@numba.njit(cache=True, nogil=True)
def dots(features: Floats, rows: I32, values: Floats, out: Floats) -> None:
    """``out[p, k] = features[rows[p, k]] . values[p]``; 0 without a row."""
    for p in range(len(rows)):
        for k in range(rows.shape[1]):
            row = rows[p, k]
            if row >= 0:
                total = out[p, k]
                for c in range(features.shape[1]):
                    total += features[row, c] * values[p, c]
                out[p, k] = total
