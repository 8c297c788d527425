"""Means of the largest values of rows on the CPU. Importing this module imports numba but compiles nothing."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


@numba.njit(cache=True, nogil=True)
def mean_of_largest(values: Floats, k: int, out: Floats) -> None:
    """``out[i]``: the mean of the k largest of ``values[i]`` above -inf; of all where they are fewer, 1 without any."""
    top = np.empty(k, values.dtype)
    for i in range(len(values)):
        count, least = 0, values.dtype.type(-np.inf)
        for j in range(values.shape[1]):
            value = values[i, j]
            if value > least:
                place = count if count < k else k - 1
                count = min(count + 1, k)
                while place > 0 and top[place - 1] < value:
                    top[place] = top[place - 1]
                    place -= 1
                top[place] = value
                if count == k:
                    least = top[k - 1]
        total = 0.0
        for place in range(count):
            total += top[place]
        out[i] = total / count if count else 1.0
