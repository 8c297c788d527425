"""The text files of S3DIS: ``x y z r g b`` a line, with single damaged bytes that are mended while reading."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from ssl3d.data.datasets.raw import check_unchanged, read_bytes, unreadable
from ssl3d.data.datasets.source import SourceFile
from ssl3d.data.errors import DataError
from ssl3d.data.formats.digits import PADDING
from ssl3d.data.formats.text_kernel import GOOD, TOO_FEW, TOO_MANY, count_lines, parse_lines

COLUMNS = ("x", "y", "z", "r", "g", "b")
_CONTROL = bytes(code for code in range(32) if code not in b"\t\n\r")
_OTHERS = bytes(set(range(256)) - set(_CONTROL))
_MOST = 100
"""Damaged bytes that a text file may have; what has more is no text file."""
_BLOCK = 1 << 22
_NO_COMMENTS = np.zeros(256, np.bool_)
_AGAIN = "unpack the file from its archive again; damaged bytes of the published archives are mended while reading"


@dataclass(slots=True)
class TextRows:
    """The points of a file.

    Attributes:
        points: (n, 3) float64 meters, as written. color: (n, 3) uint8.
        mended: lines (from 1) in which a damaged byte was mended.
    """

    points: npt.NDArray[np.float64]
    color: npt.NDArray[np.uint8]
    mended: list[int]


def read_rows(file: SourceFile, digest: xxhash.xxh3_128 | None = None) -> TextRows:
    """All points of a file; an empty file has none.

    Raises:
        DataError: a row has not six columns, a field is no number, or a color is no whole number in 0..255.
    """
    content, mended = mend(read_bytes(file, digest), file.path)
    end = len(content) + (not content.endswith(b"\n"))
    content += b"\n" * (PADDING + 1)
    data = np.frombuffer(content, np.uint8)
    lines = count_lines(data, 0, end)
    rows = np.empty((6, lines))
    count, code, line, begin, place = parse_lines(
        data, 0, end, 32, 46, _NO_COMMENTS, np.arange(6) * lines, rows.reshape(-1), 0
    )
    if code != GOOD:
        raise _wrong_row(file, code, line + 1, content[begin : content.index(b"\n", begin)], place)
    rows = rows[:, :count].T
    with np.errstate(invalid="ignore"):
        color = rows[:, 3:].astype(np.uint8)
    if (color != rows[:, 3:]).any():
        wrong = int(np.flatnonzero((color != rows[:, 3:]).any(axis=1))[0])
        raise DataError(
            "a color is no whole number in 0..255",
            where={
                "file": file.path,
                "line": _line_of(content, wrong),
                "found": " ".join(f"{value:g}" for value in rows[wrong, 3:]),
            },
            hint=_AGAIN,
        )
    return TextRows(np.ascontiguousarray(rows[:, :3]), color, mended)


def count_rows(file: SourceFile, digest: xxhash.xxh3_128 | None = None) -> tuple[int, list[int]]:
    """How many lines a file has, and those with a damaged byte; in the memory of a block."""
    lines, size, last = 0, 0, b"\n"
    damaged: list[int] = []
    try:
        with Path(file.path).open("rb") as stream:
            while block := stream.read(_BLOCK):
                if digest is not None:
                    digest.update(block)
                if len(damaged) <= _MOST and block.translate(None, _OTHERS):
                    damaged += [lines + line for line in _damaged_lines(block)]
                lines += block.count(b"\n")
                size, last = size + len(block), block[-1:]
    except OSError as error:
        raise unreadable(file.path, error) from error
    check_unchanged(file, size)
    return lines + (last != b"\n"), damaged


def mend(content: bytes, path: str) -> tuple[bytes, list[int]]:
    """Bytes that lost the bit 0x20 get it back: NUL is a blank, 0x10 is "0", and so on.

    Every damaged byte that is known in the published archives is of this kind; no text file holds such bytes otherwise.

    Returns:
        the text, and the lines (from 1) that were mended.

    Raises:
        DataError: there are so many that this is no text file.
    """
    control = content.translate(None, _OTHERS)
    if not control:
        return content, []
    if len(control) > _MOST:
        raise DataError(
            f"this is no text file: it holds {len(control)} control bytes",
            where={"file": path, "beginning": content[:8].hex(" ")},
            hint="unpack it from its archive again",
        )
    return content.translate(_REPAIR), _damaged_lines(content)


_REPAIR = bytes(code | 0x20 if code in _CONTROL else code for code in range(256))


def _damaged_lines(content: bytes) -> list[int]:
    pattern = re.compile(b"[" + re.escape(_CONTROL) + b"]")
    return [content.count(b"\n", 0, found.start()) + 1 for found in pattern.finditer(content)][: _MOST + 1]


def _line_of(content: bytes, row: int) -> int:
    """The line (from 1) of a row; blank lines hold none."""
    lines = [number for number, line in enumerate(content.splitlines(), 1) if line.strip()]
    return lines[row]


def _wrong_row(file: SourceFile, code: int, line: int, text: bytes, place: int) -> DataError:
    words = text.split()
    where: dict[str, object] = {"file": file.path, "line": line}
    if code in (TOO_FEW, TOO_MANY):
        hint = "patches in circulation put blanks where bytes were damaged: " if code == TOO_MANY else ""
        return DataError(
            f"a line has {len(words)} columns, not 6",
            where={**where, "found": text[:60].decode("utf-8", "replace").strip()},
            hint=f"{hint}{_AGAIN}",
        )
    word = words[place] if place < len(words) else text
    return DataError(
        f"a field is no number: {word[:20].decode('utf-8', 'replace')!r}",
        where={**where, "field": COLUMNS[place], "bytes": word[:20].hex(" ")},
        hint=_AGAIN,
    )
