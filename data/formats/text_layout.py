"""How a text file is written, found from its first lines: delimiter, decimal point, names, where the rows begin."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from ssl3d.data.errors import UsageError
from ssl3d.data.formats.cloud import Options
from ssl3d.data.formats.problems import damaged, looks_like, no_points

_HEAD = 1 << 18
_DELIMITERS = ";,|\t"
_BLANK = ' \t\r"'


@dataclass(frozen=True, slots=True)
class Layout:
    """How a text file is written.

    Attributes:
        offset: byte of the first row.
        line: number of its line, from 1.
        names: of all columns.
        delimiter: between fields; a space stands for any run of spaces and tabs.
        point: the decimal point.
        declared: rows that a first line of one number promises; None without one.
        header: whether the file names its columns.
    """

    offset: int
    line: int
    names: tuple[str, ...]
    delimiter: str
    point: str
    declared: int | None
    header: bool


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    number: int
    offset: int


def find_layout(path: Path, options: Options) -> Layout:
    """Reads the first lines of a text file.

    Raises:
        UsageError: a delimiter or decimal point is no single character.
        DataError: it is no text, holds no rows, or its rows and its names differ in number.
    """
    for name, text in (("delimiter", options.delimiter), ("decimal", options.decimal)):
        if len(text) > 1 or not text.isascii():
            raise UsageError(f"the {name} is one character, not {text!r}", hint="for example ',' or ';'")
    with path.open("rb") as handle:
        head = handle.read(_HEAD)
    _check_text(path, head)
    lines, comment = _data_lines(head, options)
    if not lines:
        raise no_points(path)
    declared = None
    if len(lines) > 1 and lines[0].text.strip(_BLANK).isdecimal() and len(_split(lines[1], options)[0]) > 1:
        declared = int(lines[0].text.strip(_BLANK))
        lines, comment = lines[1:], ""
    named, first = _names_of_file(path, lines, comment, options)
    fields, delimiter, point = _split(first, options)
    names = named or _default_names(len(fields))
    if options.names:
        if len(options.names) != len(fields):
            raise damaged(
                path,
                f"a row has {len(fields)} columns, {len(options.names)} are named",
                f"name all of them; the first row is {first.text.strip()[:60]!r}",
                line=first.number,
            )
        names = list(options.names)
    for name in names:
        if names.count(name) > 1:
            raise damaged(path, "two columns have the same name", "name the columns apart", column=name)
    return Layout(first.offset, first.number, tuple(names), delimiter, point, declared, named is not None)


def _names_of_file(path: Path, lines: list[_Line], comment: str, options: Options) -> tuple[list[str] | None, _Line]:
    """The names of the columns, from a header or from the comment before the first row; and the first row."""
    fields, delimiter, point = _split(lines[0], options)
    if any(fields) and not any(_is_number(field, point) for field in fields):
        if len(lines) < 2:
            raise no_points(path)
        fields, delimiter, point = _split(lines[1], options)
        names = _names(lines[0].text, delimiter, len(fields))
        if names is None and not options.names:
            raise damaged(
                path,
                f"the header names {len(_fields(lines[0].text, delimiter))} columns, the first row has {len(fields)}",
                "correct the header, or pass over it with skip",
                line=lines[0].number,
            )
        return names, lines[1]
    names = _names(comment, delimiter, len(fields)) if comment else None
    if names and any(_is_number(name, point) for name in names):
        names = None
    return names, lines[0]


def _check_text(path: Path, head: bytes) -> None:
    found = looks_like(head)
    if found:
        raise damaged(path, f"this is no text file: it looks like {found}", byte=0)
    if b"\0" in head:
        raise damaged(
            path,
            "this is no text file: it holds zero bytes",
            "save UTF-16 text as UTF-8; give binary data its own suffix",
            byte=head.index(b"\0"),
        )
    if b"\r" in head and b"\n" not in head:
        raise damaged(path, "lines end with carriage returns alone", "convert the ends of lines (mac2unix)")


def _data_lines(head: bytes, options: Options) -> tuple[list[_Line], str]:
    """The first three lines that are neither blank nor comments, and the comment right before the first of them."""
    offset = 3 if head.startswith(b"\xef\xbb\xbf") else 0
    found: list[_Line] = []
    comment = ""
    for number, raw in enumerate(io.BytesIO(head[offset:]), start=1):
        text = raw.decode("utf-8", "replace").rstrip("\r\n")
        bare = text.strip(_BLANK)
        if number > options.skip and bare:
            if bare[0] not in options.comments:
                found.append(_Line(text, number, offset))
            elif not found:
                comment = bare.lstrip(options.comments)
        offset += len(raw)
        if len(found) == 3:
            break
    return found, comment


def _split(line: _Line, options: Options) -> tuple[list[str], str, str]:
    """Fields of a line, with the delimiter and the decimal point that they were found by."""
    text = line.text
    for mark in options.comments:
        text = text.split(f" {mark}")[0]
    delimiter = options.delimiter or next((mark for mark in _DELIMITERS if mark in text), " ")
    fields = _fields(text, delimiter)
    if delimiter == "\t" and not options.delimiter and fields == text.split():
        delimiter = " "  # aligned by tabs, perhaps by several; with empty fields or words it is the tab alone
    point = options.decimal
    if not point:
        commas = delimiter != "," and any("," in field for field in fields)
        point = "," if commas and not any("." in field for field in fields) else "."
    return fields, delimiter, point


def _fields(text: str, delimiter: str) -> list[str]:
    if delimiter == " ":
        return [field.strip(_BLANK) for field in text.split()]
    fields = [field.strip(_BLANK) for field in text.split(delimiter)]
    return fields[:-1] if len(fields) > 1 and not fields[-1] else fields


def _names(text: str, delimiter: str, width: int) -> list[str] | None:
    """``width`` names written in a line; None when it holds another number of them."""
    text = text.strip(_BLANK).lstrip("/#").strip(_BLANK)
    for mark in (delimiter, *_DELIMITERS, " "):
        names = _fields(text, mark)
        if len(names) == width and any(names):
            return [name or f"column{number}" for number, name in enumerate(names, start=1)]
    return None


def _default_names(width: int) -> list[str]:
    named = ["x", "y", "z"] if width >= 3 else []
    return named + [f"column{number}" for number in range(len(named) + 1, width + 1)]


def _is_number(field: str, point: str) -> bool:
    try:
        float(field.replace(point, "."))
    except ValueError:
        return False
    return "_" not in field
