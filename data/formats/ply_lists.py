"""Rows of a PLY file whose length varies: elements with lists, which are faces nearly always."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from ssl3d.data.formats.cloud import I64, Array
from ssl3d.data.formats.fixed import truncated
from ssl3d.data.formats.ply_header import Element, Property
from ssl3d.data.formats.problems import damaged

_LONGEST_LIST = 1 << 24


@njit(cache=True, nogil=True)
def _walk(
    data: npt.NDArray[np.uint8],
    rows: int,
    count_bytes: I64,
    item_bytes: I64,
    big: bool,
    chosen: int,
    starts: I64,
    lengths: I64,
) -> tuple[int, int]:
    """Fills where the list ``chosen`` (-1: none) of each row starts, and its length.

    Returns:
        rows that are whole, and the byte behind them.
    """
    at = 0
    for row in range(rows):
        begin = at
        for k in range(len(item_bytes)):
            length = 1
            if count_bytes[k] > 0:
                if at + count_bytes[k] > len(data):
                    return row, begin
                length = 0
                for b in range(count_bytes[k]):
                    byte = int(data[at + (b if big else count_bytes[k] - 1 - b)])
                    length = (length << 8) | byte
                at += count_bytes[k]
                if length < 0 or length > _LONGEST_LIST:
                    return row, begin
            if k == chosen:
                starts[row] = at
                lengths[row] = length
            at += length * item_bytes[k]
            if at > len(data):
                return row, begin
    return rows, at


def walk(path: Path, element: Element, offset: int, chosen: Property | None = None) -> tuple[I64, I64, Array, int]:
    """Goes through the rows of a binary element from byte ``offset`` on.

    Args:
        chosen: the list to locate.

    Returns:
        byte at which that list of each row starts, relative to ``offset``; its length; the bytes from ``offset`` on;
        how many of them the element has.

    Raises:
        DataError: the file ends before its last row, or a list is absurdly long.
    """
    data = np.fromfile(path, np.uint8, offset=offset)
    counts = np.array([prop.count.itemsize if prop.count else 0 for prop in element.properties], np.int64)
    items = np.array([prop.dtype.itemsize for prop in element.properties], np.int64)
    big = any(prop.count is not None and prop.count.str[0] == ">" for prop in element.properties)
    place = -1 if chosen is None else element.properties.index(chosen)
    starts, lengths = np.zeros(element.rows, np.int64), np.zeros(element.rows, np.int64)
    whole, end = _walk(data, element.rows, counts, items, big, place, starts, lengths)
    if whole < element.rows:
        raise damaged(
            path,
            f"the file is truncated or damaged: {whole} of {element.rows} rows of element {element.name!r} are whole",
            "copy it again",
            byte=offset + end,
        )
    return starts, lengths, data, end


def triangles(path: Path, element: Element, faces: Property, offset: int) -> I64:
    """(m, 3) rows of points of a binary element of faces; polygons become fans.

    Raises:
        DataError: the file ends before its last row.
    """
    quick = _all_triangles(path, element, faces, offset)
    if quick is not None:
        return quick
    starts, lengths, data, _ = walk(path, element, offset, faces)
    size = faces.dtype.itemsize
    fans = np.maximum(lengths - 2, 0)
    first = np.repeat(starts, fans)
    step = np.arange(len(first)) - np.repeat(np.cumsum(fans) - fans, fans)
    corners = np.stack([np.zeros_like(step), step + 1, step + 2], axis=1)
    where = (first[:, None] + corners * size)[..., None] + np.arange(size)
    found: I64 = np.ascontiguousarray(data[where]).view(faces.dtype)[..., 0].astype(np.int64)
    return found


def _all_triangles(path: Path, element: Element, faces: Property, offset: int) -> I64 | None:
    """The faces when this list is the only one and every face has three corners; None otherwise."""
    if len(element.lists) != 1:
        return None
    fields: list[tuple[Any, ...]] = []
    for k, prop in enumerate(element.properties):
        fields += [(f"n{k}", prop.count), ("corners", prop.dtype, (3,))] if prop is faces else [(f"p{k}", prop.dtype)]
    rows = np.fromfile(path, np.dtype(fields), element.rows, offset=offset)
    count = rows[f"n{element.properties.index(faces)}"]
    if len(rows) < element.rows or not (count == 3).all():
        return None
    corners: I64 = rows["corners"].astype(np.int64)
    return corners


def text_triangles(path: Path, element: Element, faces: Property, offset: int, line: int) -> I64:
    """As ``triangles``, of an element in ASCII that begins at byte ``offset``, line ``line``.

    Raises:
        DataError: the file ends before its last row, or a row is not understood.
    """
    found: list[tuple[int, int, int]] = []
    with path.open("rb") as handle:
        handle.seek(offset)
        for row in range(element.rows):
            words = handle.readline().split()
            if not words:
                raise truncated(path, row, element.rows, f"rows of element {element.name!r}")
            try:
                corners = _corners(words, element, faces)
            except (ValueError, IndexError):
                text = b" ".join(words)[:60].decode("utf-8", "replace")
                raise damaged(path, f"a face is not understood: {text!r}", line=line + row) from None
            found += [(corners[0], corners[k], corners[k + 1]) for k in range(1, len(corners) - 1)]
    return np.array(found, np.int64).reshape(-1, 3)


def _corners(words: list[bytes], element: Element, faces: Property) -> list[int]:
    at = 0
    for prop in element.properties:
        length = 1
        if prop.count is not None:
            length = int(words[at])
            at += 1
        if prop is faces:
            corners = [int(word) for word in words[at : at + length]]
            if len(corners) != length:
                raise ValueError
            return corners
        at += length
    raise ValueError
