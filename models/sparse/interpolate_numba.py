"""Weighted sums of a few rows for each point, on the CPU. Importing this module imports numba but compiles nothing.

Single-threaded, GIL released, in the order of the points and corners: bit-equal from run to run. A row of -1 is none.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

I32 = npt.NDArray[np.int32]
Floats = npt.NDArray[np.floating[Any]]


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
