"""``.pcd``, the files of the Point Cloud Library, version 0.7 and before: ASCII, binary, binary compressed by LZF.

Packed colors (field ``rgb`` or ``rgba`` of 4 bytes, float or integer) are given as red, green, blue (alpha) uint8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ssl3d.data.formats.cloud import Array, Options, Source, Table, native
from ssl3d.data.formats.fixed import fixed_rows, row_dtype, truncated
from ssl3d.data.formats.lzf import decompress
from ssl3d.data.formats.problems import beginning, damaged, looks_like, no_points
from ssl3d.data.formats.text_rows import Rows
from ssl3d.data.formats.typed_text import text_table

_LONGEST_HEADER = 1 << 16
_KINDS = {("F", 4), ("F", 8), *((kind, size) for kind in "UI" for size in (1, 2, 4, 8))}
_KNOWN = ("VERSION", "FIELDS", "COLUMNS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA")
_BYTES_OF_COLOR = {"red": 2, "green": 1, "blue": 0, "alpha": 3}
_MOST_EXPANSION = 300
"""LZF makes at most 264 bytes of 3."""


@dataclass(slots=True)
class _Field:
    name: str
    dtype: np.dtype[Any]
    count: int

    @property
    def packed(self) -> np.dtype[Any]:
        """The dtype of a row's part."""
        return self.dtype if self.count == 1 else np.dtype((self.dtype, (self.count,)))

    @property
    def colors(self) -> list[str]:
        """The colors that are packed in this field; none in most."""
        if self.dtype.itemsize != 4 or self.count != 1:
            return []
        return {"rgb": ["red", "green", "blue"], "rgba": ["red", "green", "blue", "alpha"]}.get(self.name.lower(), [])


@dataclass(slots=True)
class _Header:
    words: dict[str, list[str]] = field(default_factory=dict)
    fields: list[_Field] = field(default_factory=list)
    points: int = 0
    encoding: str = ""
    offset: int = 0
    line: int = 0


def open_pcd(path: Path, size: int, options: Options) -> Source:
    """A PCD file. DataError when its header is damaged or it has no points."""
    return PcdSource(path, size, _read_header(path))


class PcdSource(Source):
    """The points of a PCD file; padding fields ``_`` are left out."""

    def __init__(self, path: Path, size: int, header: _Header) -> None:
        self.layout = header
        self.size = size
        columns: dict[str, np.dtype[Any]] = {}
        self.owner: dict[str, str] = {}
        used = [part for part in header.fields if part.name != "_"]
        self.dtype = row_dtype(path, _padded(header.fields))
        row_dtype(path, [(part.name, part.packed) for part in used])
        for part in used:
            names = part.colors or [part.name]
            for name in names:
                columns[name] = np.dtype(np.uint8) if part.colors else native_part(part)
                self.owner[name] = part.name
        viewpoint = header.words.get("VIEWPOINT", [])
        facts: dict[str, object] = {
            "encoding": header.encoding,
            "width": header.words.get("WIDTH", [str(header.points)])[0],
            "height": header.words.get("HEIGHT", ["1"])[0],
            "viewpoint": " ".join(viewpoint),
        }
        super().__init__(path, "pcd", columns, header.points, facts)
        if header.points == 0:
            raise no_points(path)
        if header.encoding == "binary":
            held = (size - header.offset) // self.dtype.itemsize
            if held < header.points:
                raise truncated(path, held, header.points, "points")

    def tables(self, names: Sequence[str], chunk: int) -> Iterator[Table]:
        owners = list(dict.fromkeys(self.owner[name] for name in names))
        read = {"ascii": self._text, "binary": self._binary}.get(self.layout.encoding, self._compressed)
        for table in read(owners, chunk):
            yield {name: self._part(name, table[self.owner[name]]) for name in names}

    def _part(self, name: str, values: Array) -> Array:
        """A column, from the field that holds it."""
        if self.owner[name] == name:
            return values
        packed: Array = values.view(np.uint32)
        return ((packed >> (8 * _BYTES_OF_COLOR[name])) & 255).astype(np.uint8)

    def _binary(self, owners: list[str], chunk: int) -> Iterator[Table]:
        for rows in fixed_rows(self.path, self.layout.offset, self.dtype, self.layout.points, chunk):
            yield {name: native(rows[name]) for name in owners}

    def _text(self, owners: list[str], chunk: int) -> Iterator[Table]:
        names: list[str] = []
        columns: dict[str, np.dtype[Any]] = {}
        parts: dict[str, list[str]] = {}
        for place, part in enumerate(self.layout.fields):
            plain = part.count == 1 and part.name != "_"
            own = [part.name] if plain else [f"{part.name} {place}.{k}" for k in range(part.count)]
            names += own
            columns.update(dict.fromkeys(own, part.dtype))
            parts.setdefault(part.name, own)
        rows = Rows(self.path, self.layout.offset, self.layout.line, tuple(names), limit=self.layout.points)
        wanted = [name for owner in owners for name in parts[owner]]
        for table in text_table(rows, columns, wanted, chunk):
            yield {
                owner: np.stack([table[name] for name in parts[owner]], axis=1)
                if len(parts[owner]) > 1
                else table[parts[owner][0]]
                for owner in owners
            }

    def _compressed(self, owners: list[str], chunk: int) -> Iterator[Table]:
        """Field after field, decompressed as a whole: so the format is made."""
        offset, points = self.layout.offset, self.layout.points
        with self.path.open("rb") as handle:
            handle.seek(offset)
            head = handle.read(8)
            data = handle.read(int.from_bytes(head[:4], "little"))
        sizes = np.frombuffer(head.ljust(8, b"\0"), "<u4")
        if len(head) < 8 or len(data) < sizes[0]:
            raise truncated(self.path, len(head) + len(data), 8 + int(sizes[0]), "bytes of compressed points")
        full = points * self.dtype.itemsize
        if sizes[1] != full or full > _MOST_EXPANSION * len(data):
            raise damaged(
                self.path,
                f"the compressed points are stated to be {sizes[1]} bytes, {points} points have {full}",
                "copy it again",
                byte=offset + 4,
            )
        try:
            whole = decompress(data, full)
        except ValueError as error:
            place = offset + 8 + error.args[0]
            raise damaged(self.path, "compressed points are damaged", "copy it again", byte=place) from None
        columns: Table = {}
        at = 0
        for part in self.layout.fields:
            end = at + points * part.packed.itemsize
            if part.name in owners:
                values = whole[at:end].view(part.dtype)
                columns[part.name] = native(values.reshape(points, part.count) if part.count > 1 else values)
            at = end
        for start in range(0, points, chunk):
            yield {name: values[start : start + chunk] for name, values in columns.items()}


def native_part(part: _Field) -> np.dtype[Any]:
    """The dtype of a column in the machine's byte order."""
    number = part.dtype.newbyteorder("=")
    return number if part.count == 1 else np.dtype((number, (part.count,)))


def _padded(fields: list[_Field]) -> list[tuple[str, np.dtype[Any]]]:
    """Fields with names of their own for the padding ones."""
    return [(f"_ {k}" if part.name == "_" else part.name, part.packed) for k, part in enumerate(fields)]


def _read_header(path: Path) -> _Header:
    head = beginning(path, _LONGEST_HEADER)
    found = looks_like(head)
    if found not in (None, "a PCD file"):
        raise damaged(path, f"this is no PCD file: it looks like {found}", byte=0)
    header = _Header()
    at = 0
    while not header.encoding:
        end = head.find(b"\n", at)
        if end < 0:
            raise damaged(path, "the header does not end: this is no PCD file, or DATA is missing", "copy it again")
        words = head[at:end].decode("utf-8", "replace").split()
        at = end + 1
        header.line += 1
        if not words or words[0].startswith("#"):
            continue
        key = "FIELDS" if words[0] == "COLUMNS" else words[0]
        if key not in _KNOWN:
            raise damaged(path, f"a line of the header is not understood: {words[0][:60]!r}", line=header.line)
        header.words[key] = words[1:]
        if key == "DATA":
            header.encoding = words[1].lower() if len(words) == 2 else "?"
    header.offset = at
    header.line += 1
    if header.encoding not in ("ascii", "binary", "binary_compressed"):
        raise damaged(
            path, f"unknown DATA {header.encoding!r}", "known: ascii binary binary_compressed", line=header.line - 1
        )
    header.fields = _fields(path, header.words)
    header.points = _points(path, header.words)
    return header


def _fields(path: Path, words: dict[str, list[str]]) -> list[_Field]:
    names = words.get("FIELDS", [])
    if not names:
        raise damaged(path, "the header has no FIELDS", "copy it again")
    rows = {key: words.get(key, ["1"] * len(names) if key == "COUNT" else []) for key in ("SIZE", "TYPE", "COUNT")}
    for key, row in rows.items():
        if len(row) != len(names):
            raise damaged(path, f"the header has {len(names)} FIELDS, but {len(row)} of {key}", field=key)
    fields = []
    for name, size, kind, count in zip(names, rows["SIZE"], rows["TYPE"], rows["COUNT"], strict=True):
        if not (size.isdecimal() and count.isdecimal() and (kind, int(size)) in _KINDS and 0 < int(count) <= 100_000):
            raise damaged(
                path,
                f"unknown type of a field: TYPE {kind}, SIZE {size}, COUNT {count}",
                "known: F 4 8; U and I 1 2 4 8",
                field=name,
            )
        letter = {"F": "f", "U": "u", "I": "i"}[kind]
        fields.append(_Field(name, np.dtype(f"<{letter}{size}"), int(count)))
    return fields


def _points(path: Path, words: dict[str, list[str]]) -> int:
    numbers = {}
    for key in ("WIDTH", "HEIGHT", "POINTS"):
        if key in words:
            if len(words[key]) != 1 or not words[key][0].isdecimal():
                raise damaged(path, f"{key} is no number", field=key)
            numbers[key] = int(words[key][0])
    if "POINTS" not in numbers and "WIDTH" not in numbers:
        raise damaged(path, "the header has no POINTS", "copy it again")
    area = numbers.get("WIDTH", numbers.get("POINTS", 0)) * numbers.get("HEIGHT", 1)
    points = numbers.get("POINTS", area)
    if "WIDTH" in numbers and area != points:
        raise damaged(path, f"WIDTH times HEIGHT is {area}, POINTS is {points}", field="POINTS")
    return points
