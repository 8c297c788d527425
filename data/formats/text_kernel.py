"""Lines of numbers to a matrix, compiled, the GIL released. Compiled results are cached on disk."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from ssl3d.data.formats.decimal import at, number

GOOD, TOO_FEW, TOO_MANY, NO_NUMBER = range(4)
_LF, _CR, _TAB, _SPACE, _QUOTE = 10, 13, 9, 32, 34


@njit(cache=True, nogil=True)
def _blank(c: int, delimiter: int) -> bool:
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
) -> tuple[int, int, int, int, int]:
    """The numbers of the lines of ``data[begin:end]``, which ends with a line feed; blank and comment lines hold none.

    Args:
        data: text.
        begin, end: bytes of the part to read.
        delimiter: between fields; a space stands for any run of blanks. Between others an empty field is NaN.
        point: the decimal point.
        comments: (256,) bytes that begin a comment, at the start of a line or of a field.
        slots: (width,) the column of ``out`` for each field, -1: the field is not read.
        out: (lines, k), filled from the top.

    Returns:
        rows filled; GOOD or what is wrong; the line of the part at which it ended (0, 1, ...); its first byte; the
        field that is wrong (0, 1, ...).
    """
    width = len(slots)
    rows, line, i = 0, 0, begin
    while i < end:
        start = i
        while _blank(at(data, i), delimiter):
            i += 1
        if at(data, i) == _LF or comments[at(data, i)]:
            while at(data, i) != _LF:
                i += 1
            i += 1
            line += 1
            continue
        field = 0
        while True:
            while _blank(at(data, i), delimiter):
                i += 1
            c = at(data, i)
            last = c == _LF or comments[c]
            if field == width:
                if last:
                    break
                return rows, TOO_MANY, line, start, field
            if last and (delimiter == _SPACE or field < width - 1):
                return rows, TOO_FEW, line, start, field
            slot = slots[field]
            if last or c == delimiter:  # an empty field
                if slot >= 0:
                    out[rows, slot] = np.nan
            elif slot >= 0:
                value, behind = number(data, i, point)
                if behind == i:
                    return rows, NO_NUMBER, line, start, field
                out[rows, slot] = value
                c = at(data, behind)
                if c != _LF and c != delimiter and not _blank(c, delimiter) and not comments[c]:
                    return rows, NO_NUMBER, line, start, field
                i = behind
            else:
                while (
                    at(data, i) != _LF
                    and at(data, i) != delimiter
                    and not (delimiter == _SPACE and at(data, i) == _TAB)
                ):
                    i += 1
            while _blank(at(data, i), delimiter):
                i += 1
            field += 1
            if delimiter != _SPACE and at(data, i) == delimiter:
                i += 1
            elif field < width and delimiter != _SPACE:
                short = at(data, i) == _LF or comments[at(data, i)]
                return rows, TOO_FEW if short else NO_NUMBER, line, start, field if short else field - 1
        rows += 1
        while at(data, i) != _LF:
            i += 1
        i += 1
        line += 1
    return rows, GOOD, line, i, 0
