"""LZF, the compression of PCD files (M. Lehmann, liblzf), for which no package has wheels for all systems."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

U8 = npt.NDArray[np.uint8]


@njit(cache=True, nogil=True)
def _expand(data: U8, out: U8) -> tuple[int, int]:
    """Fills ``out``; returns bytes read and written. Fewer than all of both: the data are damaged.

    A byte below 32 is followed by so many literal bytes and one more. Another holds a length (upper 3 bits; 7: the next
    byte is added) of 2 or more, and with the byte behind it a distance of 13 bits, back to where to copy from.
    """
    i, o = 0, 0
    while i < len(data):
        control = int(data[i])
        if control < 32:
            length = control + 1
            if i + 1 + length > len(data) or o + length > len(out):
                return i, o
            for k in range(length):
                out[o + k] = data[i + 1 + k]
            i += 1 + length
            o += length
            continue
        length = control >> 5
        head = 2
        if length == 7:
            head = 3
            if i + 1 >= len(data):
                return i, o
            length += int(data[i + 1])
        if i + head > len(data):
            return i, o
        source = o - ((control & 31) << 8) - int(data[i + head - 1]) - 1
        length += 2
        if source < 0 or o + length > len(out):
            return i, o
        for k in range(length):  # one by one: the copy may overlap what it writes
            out[o + k] = out[source + k]
        i += head
        o += length
    return i, o


def decompress(data: bytes, size: int) -> U8:
    """(size,) bytes.

    Raises:
        ValueError: the data are damaged, or give another number of bytes; its argument is the first wrong byte.
    """
    out = np.empty(size, np.uint8)
    read, written = _expand(np.frombuffer(data, np.uint8), out)
    if read < len(data) or written < size:
        raise ValueError(read)
    return out
