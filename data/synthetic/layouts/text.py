"""Numbers as text, by the million: a compiled loop over digits instead of a Python string a line."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

_BLOCK = 1 << 18
_SPACE, _NEWLINE, _MINUS, _POINT, _ZERO = 32, 10, 45, 46, 48


@njit
def _integer(out: np.ndarray, at: int, value: int, decimals: int) -> int:
    """Writes value / 10**decimals from ``at`` on; returns where it ends."""
    if value < 0:
        out[at] = _MINUS
        at += 1
        value = -value
    digits, rest = 1, value // 10
    while rest > 0:
        digits += 1
        rest //= 10
    digits = max(digits, decimals + 1)
    end = at + digits + (1 if decimals > 0 else 0)
    place = end - 1
    for k in range(digits):
        if decimals > 0 and k == decimals:
            out[place] = _POINT
            place -= 1
        out[place] = _ZERO + value % 10
        value //= 10
        place -= 1
    return end


@njit(cache=True)
def _lines(values: np.ndarray, decimals: np.ndarray, out: np.ndarray) -> int:
    at = 0
    for i in range(values.shape[0]):
        for k in range(values.shape[1]):
            at = _integer(out, at, values[i, k], decimals[k])
            out[at] = _SPACE if k + 1 < values.shape[1] else _NEWLINE
            at += 1
    return at


def text_lines(values: npt.NDArray[np.int64], decimals: tuple[int, ...]) -> bytes:
    """Lines of numbers, blank separated.

    Args:
        values: (n, k) int64; ``decimals``: (k,) column j holds its numbers times 10**decimals[j].
    """
    widest = 22 * values.shape[1]  # 19 digits, sign, point, separator
    out = np.empty(widest * min(_BLOCK, max(1, len(values))), np.uint8)
    counts = np.array(decimals, np.int64)
    parts = []
    for start in range(0, len(values), _BLOCK):
        block = np.ascontiguousarray(values[start : start + _BLOCK])
        parts.append(out[: _lines(block, counts, out)].tobytes())
    return b"".join(parts)
