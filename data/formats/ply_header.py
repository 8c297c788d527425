"""The header of a PLY file (G. Turk, "The PLY polygon file format", 1994)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ssl3d.data.formats.problems import beginning, damaged, wrong_magic

_LONGEST_HEADER = 1 << 20
_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4"},
    **{"double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float32": "f4", "float64": "f8", "int64": "i8", "uint64": "u8", "long": "i8", "ulong": "u8"},
}
ENCODINGS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


def name_of(dtype: np.dtype[Any]) -> str:
    """How PLY calls a type of number."""
    return next(name for name, code in _TYPES.items() if code == dtype.str[1:])


@dataclass(frozen=True, slots=True)
class Property:
    """A property: a number, or a list of ``dtype`` with its length before it as ``count``."""

    name: str
    dtype: np.dtype[Any]
    count: np.dtype[Any] | None = None


@dataclass(slots=True)
class Element:
    """An element: ``rows`` rows of the same properties."""

    name: str
    rows: int
    properties: list[Property] = field(default_factory=list)

    @property
    def lists(self) -> list[Property]:
        """The properties that are lists."""
        return [prop for prop in self.properties if prop.count is not None]


@dataclass(slots=True)
class PlyHeader:
    """What stands before ``end_header``.

    Attributes:
        encoding: ``ascii``, ``binary_little_endian`` or ``binary_big_endian``.
        elements: in the stored order.
        comments: lines of ``comment`` and ``obj_info``.
        offset: byte of the first row.
        lines: lines of the header.
    """

    encoding: str = ""
    elements: list[Element] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    offset: int = 0
    lines: int = 0


def read_ply_header(path: Path) -> PlyHeader:
    """The header.

    Raises:
        DataError: it is none, it does not end, or a line of it is not understood.
    """
    head = beginning(path, _LONGEST_HEADER)
    if not head.startswith(b"ply"):
        raise wrong_magic(path, "PLY", b"ply")
    header = PlyHeader()
    at = 0
    while True:
        end = head.find(b"\n", at)
        if end < 0:
            raise damaged(path, "the header does not end: end_header is missing", "copy it again")
        line = head[at:end].rstrip(b"\r").decode("utf-8", "replace")
        at = end + 1
        header.lines += 1
        words = line.split()
        if words == ["end_header"]:
            break
        if header.lines > 1 and words:
            _take(path, header, words, line)
    header.offset = at
    if not header.encoding:
        raise damaged(path, "the header has no line format", "copy it again")
    return header


def _take(path: Path, header: PlyHeader, words: list[str], line: str) -> None:
    """Adds one line of the header."""
    match words:
        case ["format", encoding, *_] if encoding in ENCODINGS:
            header.encoding = encoding
        case ["comment" | "obj_info", *_]:
            header.comments.append(line.partition(" ")[2])
        case ["element", name, rows] if rows.isdecimal():
            header.elements.append(Element(name, int(rows)))
        case ["property", "list", count, kind, name] if header.elements:
            length = _dtype(path, header, count, name)
            if length.kind == "f":
                raise damaged(path, "the length of a list is no whole number", line=header.lines, property=name)
            _add(path, header, Property(name, _dtype(path, header, kind, name), length))
        case ["property", kind, name] if header.elements:
            _add(path, header, Property(name, _dtype(path, header, kind, name)))
        case _:
            raise damaged(path, f"a line of the header is not understood: {line[:60]!r}", line=header.lines)


def _add(path: Path, header: PlyHeader, prop: Property) -> None:
    element = header.elements[-1]
    if any(other.name == prop.name for other in element.properties):
        raise damaged(path, "two properties have the same name", line=header.lines, property=prop.name)
    element.properties.append(prop)


def _dtype(path: Path, header: PlyHeader, kind: str, name: str) -> np.dtype[Any]:
    if kind not in _TYPES:
        known = "char uchar short ushort int uint float double"
        raise damaged(path, f"unknown type {kind!r} of a property", f"known: {known}", line=header.lines, property=name)
    if not header.encoding:
        raise damaged(path, "a property stands before the line format", line=header.lines, property=name)
    return np.dtype(ENCODINGS[header.encoding] + _TYPES[kind])
