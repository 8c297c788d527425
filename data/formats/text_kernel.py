"""Lines of numbers to a matrix, compiled, the GIL released. Compiled results are cached on disk."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from ssl3d.data.formats.decimal import number
from ssl3d.data.formats.digits import at

GOOD, TOO_FEW, TOO_MANY, NO_NUMBER = range(4)
_LF, _CR, _TAB, _SPACE, _QUOTE = 10, 13, 9, 32, 34


@njit(cache=True, nogil=True)
def _blank(c: int, delimiter: int) -> bool:
    if c > _QUOTE:
        return False
    return c in (_SPACE, _CR, _QUOTE) or (c == _TAB and delimiter != _TAB)


@njit(cache=True, nogil=True)
def parse_lines(
    data: npt.NDArray[np.uint8],
    begin: int,
    end: int,
    delimiter: int,
    point: int,
    comments: npt.NDArray[np.bool_],
    slots: npt.NDArray[np.int64],
    out: npt.NDArray[np.float64],
    top: int,
) -> tuple[int, int, int, int, int]:
    """The numbers of the lines of ``data[begin:end]``, which ends with a line feed; blank and comment lines hold none.

    Args:
        data: text, with ``digits.PADDING`` bytes behind ``end``.
        begin, end: bytes of the part to read.
        delimiter: between fields; a space stands for any run of blanks. Between others an empty field is NaN.
        point: the decimal point.
        comments: (256,) bytes that begin a comment, at the start of a line or of a field.
        slots: (width,) where the column of each field begins in ``out``, -1: the field is not read.
        out: (k * lines,) columns, one behind the other; each is filled from ``top`` on.

    Returns:
        rows filled; GOOD or what is wrong; the line of the part at which it ended (0, 1, ...); its first byte; the
        field that is wrong (0, 1, ...).
    """
    text = data.ctypes.data
    width = len(slots)
    rows, line, i = 0, 0, begin
    while i < end:
        start = i
        while _blank(at(text, i), delimiter):
            i += 1
        if at(text, i) == _LF or comments[at(text, i)]:
            while at(text, i) != _LF:
                i += 1
            i += 1
            line += 1
            continue
        field = 0
        while True:
            c = at(text, i)  # no blank
            last = c == _LF or comments[c]
            if field == width:
                if last:
                    break
                return rows, TOO_MANY, line, start, field
            if last and (delimiter == _SPACE or field < width - 1):
                return rows, TOO_FEW, line, start, field
            slot = slots[np.uint64(field)]
            if last or c == delimiter:  # an empty field
                if slot >= 0:
                    out[np.uint64(slot + top + rows)] = np.nan
            elif slot >= 0:
                value, behind = number(text, i, point)
                if behind == i:
                    return rows, NO_NUMBER, line, start, field
                out[np.uint64(slot + top + rows)] = value
                c = at(text, behind)
                if c != _LF and c != delimiter and not _blank(c, delimiter) and not comments[c]:
                    return rows, NO_NUMBER, line, start, field
                i = behind
            else:
                while (
                    at(text, i) != _LF
                    and at(text, i) != delimiter
                    and not (delimiter == _SPACE and at(text, i) == _TAB)
                ):
                    i += 1
            while _blank(at(text, i), delimiter):
                i += 1
            field += 1
            if delimiter != _SPACE:
                if at(text, i) == delimiter:
                    i += 1
                    while _blank(at(text, i), delimiter):
                        i += 1
                elif field < width:
                    short = at(text, i) == _LF or comments[at(text, i)]
                    return rows, TOO_FEW if short else NO_NUMBER, line, start, field if short else field - 1
        rows += 1
        while at(text, i) != _LF:
            i += 1
        i += 1
        line += 1
    return rows, GOOD, line, i, 0


@njit(cache=True, nogil=True)
def count_lines(data: npt.NDArray[np.uint8], begin: int, end: int) -> int:
    """Line feeds in ``data[begin:end]``."""
    found = 0
    for i in range(np.uint64(begin), np.uint64(end)):
        found += data[i] == _LF
    return found


@njit(cache=True, nogil=True)
def behind_line(data: npt.NDArray[np.uint8], begin: int, end: int) -> int:
    """The byte behind the first line feed of ``data[begin:end]``; ``end`` without one."""
    for i in range(np.uint64(begin), np.uint64(end)):
        if data[i] == _LF:
            return int(i) + 1
    return end


@njit(cache=True, nogil=True)
def behind_last_line(data: npt.NDArray[np.uint8], begin: int, end: int) -> int:
    """The byte behind the last line feed of ``data[begin:end]``; ``begin`` without one."""
    i = end
    while i > begin and data[np.uint64(i - 1)] != _LF:
        i -= 1
    return i


@njit(cache=True, nogil=True)
def behind_lines(data: npt.NDArray[np.uint8], begin: int, end: int, lines: int) -> tuple[int, int]:
    """The byte behind so many lines of ``data[begin:end]``, or behind its last one, and how many those are."""
    found, i = 0, begin
    while i < end and found < lines:
        found += data[np.uint64(i)] == _LF
        i += 1
    return i, found
