"""Sums and maxima over lists of row pairs on the CPU. Importing this module imports numba but compiles nothing.

All kernels are single-threaded, release the GIL, and meet the pairs in their order, so results are bit-equal from run
to run. Rows are int32, features float32 or float64; nothing is checked here.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

I32 = npt.NDArray[np.int32]
Floats = npt.NDArray[np.floating[Any]]


@numba.njit(cache=True, nogil=True)
def by_target(source: I32, target: I32, count: int) -> tuple[I32, I32]:
    """The pairs (P,) in the order of their targets 0..count - 1, equal ones as they were: a row of the output is then
    finished while it is in the cache."""
    ends = np.zeros(count + 1, np.int64)
    for i in range(len(target)):
        ends[target[i] + 1] += 1
    for t in range(count):
        ends[t + 1] += ends[t]
    sources, targets = np.empty_like(source), np.empty_like(target)
    for i in range(len(target)):
        place = ends[target[i]]
        sources[place], targets[place] = source[i], target[i]
        ends[target[i]] += 1
    return sources, targets


@numba.njit(cache=True, nogil=True)
def add_rows(values: Floats, source: I32, target: I32, out: Floats) -> None:
    """``out[target[i]] += values[source[i]]``; ``out`` may be of a wider type."""
    for i in range(len(source)):
        s, t = source[i], target[i]
        for c in range(values.shape[1]):
            out[t, c] += values[s, c]


@numba.njit(cache=True, nogil=True)
def max_rows(values: Floats, source: I32, target: I32, out: Floats, winner: I32) -> None:
    """``out[target[i]] = max(out[target[i]], values[source[i]])`` per channel; ``winner`` (n_out, C) keeps the source.

    ``out`` starts at -inf and ``winner`` at -1 (no row yet). The first of equal values wins; the first NaN beats all.
    """
    for i in range(len(source)):
        s, t = source[i], target[i]
        for c in range(values.shape[1]):
            new, old = values[s, c], out[t, c]
            # written without branches, for the vectorizer; not (new <= old): greater, or one of them is NaN
            take = ((not (new <= old)) & (old == old)) | (winner[t, c] < 0)
            out[t, c] = new if take else old
            winner[t, c] = s if take else winner[t, c]


@numba.njit(cache=True, nogil=True)
def add_to_winners(values: Floats, winner: I32, out: Floats) -> None:
    """``out[winner[t, c], c] += values[t, c]``; a winner of -1 is left out."""
    for t in range(len(values)):
        for c in range(values.shape[1]):
            if winner[t, c] >= 0:
                out[winner[t, c], c] += values[t, c]
