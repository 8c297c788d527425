"""Text with one whole number a line, of any length: blocks of numbers; the first line that is none is named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
from numba import njit

from ssl3d.data.errors import DataError

_LF, _CR, _TAB, _SPACE, _MINUS, _PLUS = 10, 13, 9, 32, 45, 43
_MOST_DIGITS = 18
"""As many always fit into 64 bits."""


@njit(cache=True, nogil=True)
def _parse(data: npt.NDArray[np.uint8], out: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Numbers of the lines of ``data``, which ends with a line feed.

    Returns:
        how many, and the line (0, 1, ...) that is no whole number; -1: all are.
    """
    count, i, end = 0, 0, len(data)
    while i < end:
        while data[i] in (_SPACE, _TAB):
            i += 1
        negative = data[i] == _MINUS
        if data[i] in (_MINUS, _PLUS):
            i += 1
        digits, value = 0, 0
        while 48 <= data[i] <= 57:
            value = 10 * value + (data[i] - 48)
            digits += 1
            i += 1
        while data[i] in (_SPACE, _TAB, _CR):
            i += 1
        if data[i] != _LF or digits == 0 or digits > _MOST_DIGITS:
            return count, count
        out[count] = -value if negative else value
        count += 1
        i += 1
    return count, -1


def whole_numbers(blocks: Iterable[bytes], where: Mapping[str, object]) -> Iterator[npt.NDArray[np.int64]]:
    """The numbers of a text, in blocks of (m,) int64; blank lines at its end hold none.

    Args:
        blocks: the bytes of the text, cut anywhere.
        where: what an error says of the file.

    Raises:
        DataError: a line is not one whole number.
    """
    rest, lines, ended = b"", 0, False
    for block in _closed(blocks):
        head, feed, tail = block.rpartition(b"\n")
        if not feed:
            rest += block
            _check_length(rest, lines, where)
            continue
        text, rest = rest + head + feed, tail
        if ended and text.strip():
            raise _no_number(b"", lines, where)
        found = _numbers(text, lines, where)
        ended = ended or len(found) < text.count(b"\n")
        lines += len(found)
        yield found


def _closed(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The last line of a file may lack its line feed."""
    last = b"\n"
    for block in blocks:
        last = block or last
        yield block
    if not last.endswith(b"\n"):
        yield b"\n"


def _numbers(text: bytes, before: int, where: Mapping[str, object]) -> npt.NDArray[np.int64]:
    out = np.empty(text.count(b"\n"), np.int64)
    count, wrong = _parse(np.frombuffer(text, np.uint8), out)
    if wrong >= 0:
        lines = text.split(b"\n")[wrong:]
        if any(line.strip() for line in lines):
            raise _no_number(lines[0], before + wrong, where)
    return out[:count]


def _check_length(rest: bytes, lines: int, where: Mapping[str, object]) -> None:
    if len(rest) > 1 << 20:
        raise _no_number(rest, lines, where)


def _no_number(text: bytes, line: int, where: Mapping[str, object]) -> DataError:
    return DataError(
        "a line is not one whole number",
        where={**where, "line": line + 1, "found": repr(text[:40].decode("utf-8", "replace"))},
        hint="write one id a line, without decimals: numpy.savetxt(file, ids, fmt='%d')",
    )


__all__ = ["whole_numbers"]
