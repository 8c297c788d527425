"""``.ply``: element ``vertex`` as points, whatever other properties it has; elements ``face`` and ``edge`` as mesh."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl3d.data.formats.cloud import I64, Mesh, Options, Source, Table, native
from ssl3d.data.formats.fixed import fixed_rows, row_dtype, truncated
from ssl3d.data.formats.ply_header import Element, PlyHeader, read_ply_header
from ssl3d.data.formats.ply_lists import text_triangles, triangles, walk
from ssl3d.data.formats.problems import damaged, no_points
from ssl3d.data.formats.text_rows import Rows
from ssl3d.data.formats.typed_text import text_table

_CORNERS = ("vertex_indices", "vertex_index")


def open_ply(path: Path, size: int, options: Options) -> Source:
    """A PLY file. DataError when its header is damaged or it has no vertices."""
    return PlySource(path, size, read_ply_header(path))


class PlySource(Source):
    """Vertices, faces and edges of a PLY file."""

    def __init__(self, path: Path, size: int, header: PlyHeader) -> None:
        self.layout = header
        self.by_name = {element.name: element for element in header.elements}
        self.ascii = header.encoding == "ascii"
        vertex = self.by_name.get("vertex")
        if vertex is None or vertex.rows == 0:
            raise no_points(path)
        if not vertex.properties:
            raise damaged(path, "the vertices have no properties", "copy it again")
        if vertex.lists:
            raise damaged(
                path,
                "vertices with lists are not read",
                "write the list as properties of its own",
                property=vertex.lists[0].name,
            )
        columns = {prop.name: prop.dtype.newbyteorder("=") for prop in vertex.properties}
        facts: dict[str, object] = {
            "encoding": header.encoding,
            "comments": header.comments,
            "elements": {element.name: element.rows for element in header.elements},
        }
        super().__init__(path, "ply", columns, vertex.rows, facts)
        self.vertex = vertex
        if not self.ascii:
            for element in header.elements:  # before memory is taken for them
                _check_rows(path, size - header.offset, element)
        self.offset, self.line = self._begin(vertex)
        if not self.ascii:
            _check_rows(path, size - self.offset, vertex)

    def tables(self, names: Sequence[str], chunk: int) -> Iterator[Table]:
        if self.ascii:
            text = self._text(self.vertex, self.offset, self.line)
            yield from text_table(text, self.columns, names, chunk)
            return
        dtype = _packed(self.path, self.vertex)
        for rows in fixed_rows(self.path, self.offset, dtype, self.vertex.rows, chunk):
            yield {name: native(rows[name]) for name in names}

    def mesh(self) -> Mesh:
        return Mesh(self._faces(), self._edges())

    def _faces(self) -> I64 | None:
        element = self.by_name.get("face")
        if element is None or element.rows == 0:
            return None
        faces = next((prop for prop in element.lists if prop.name in _CORNERS), None)
        if faces is None:
            raise damaged(self.path, "faces name no vertices", f"their list is {' or '.join(_CORNERS)}")
        if faces.dtype.kind == "f":
            raise damaged(self.path, "faces name vertices by fractions", property=faces.name)
        offset, line = self._begin(element)
        if self.ascii:
            found = text_triangles(self.path, element, faces, offset, line)
        else:
            found = triangles(self.path, element, faces, offset)
        return self._checked(found, "triangle")

    def _edges(self) -> I64 | None:
        element = self.by_name.get("edge")
        names = ["vertex1", "vertex2"]
        if element is None or element.rows == 0 or not {prop.name for prop in element.properties} >= {*names}:
            return None
        if element.lists:
            raise damaged(self.path, "edges with lists are not read", property=element.lists[0].name)
        offset, line = self._begin(element)
        if self.ascii:
            columns = {prop.name: prop.dtype for prop in element.properties}
            text = self._text(element, offset, line)
            parts = list(text_table(text, columns, names, element.rows))
        else:
            packed = fixed_rows(self.path, offset, _packed(self.path, element), element.rows, element.rows)
            parts = [{name: rows[name] for name in names} for rows in packed]
        found = np.concatenate([np.stack([part[name].astype(np.int64) for name in names], axis=1) for part in parts])
        if len(found) < element.rows:
            raise truncated(self.path, len(found), element.rows, "edges")
        return self._checked(found, "edge")

    def _checked(self, rows: I64, kind: str) -> I64:
        wrong = np.flatnonzero((rows < 0).any(1) | (rows >= self.vertex.rows).any(1))
        if len(wrong):
            raise damaged(
                self.path,
                f"the {kind}s name a vertex that is not there: {rows[wrong[0]].tolist()} of {self.vertex.rows}",
                "copy it again",
                row=int(wrong[0]),
            )
        return rows

    def _begin(self, element: Element) -> tuple[int, int]:
        """The byte at which an element begins, and its line from 1 (of a text)."""
        offset, line = self.layout.offset, self.layout.lines + 1
        for other in self.layout.elements:
            if other is element:
                break
            if self.ascii:
                offset = _skip_lines(self.path, offset, other.rows)
                line += other.rows
            elif other.lists:
                offset += walk(self.path, other, offset)[3]
            else:
                offset += other.rows * _packed(self.path, other).itemsize
        return offset, line

    def _text(self, element: Element, offset: int, line: int) -> Rows:
        names = tuple(prop.name for prop in element.properties)
        return Rows(self.path, offset, line, names, limit=element.rows)


def _check_rows(path: Path, size: int, element: Element) -> None:
    """DataError when ``size`` bytes cannot hold the rows of a binary element, were all its lists empty."""
    least = sum((prop.count or prop.dtype).itemsize for prop in element.properties)
    if element.rows * least > size:
        raise truncated(path, max(0, size) // least, element.rows, f"rows of element {element.name!r}")


def _packed(path: Path, element: Element) -> np.dtype[Any]:
    return row_dtype(path, [(prop.name, prop.dtype) for prop in element.properties])


def _skip_lines(path: Path, offset: int, lines: int) -> int:
    """The byte behind so many lines; the end of the file when it has fewer."""
    with path.open("rb") as handle:
        handle.seek(offset)
        while lines:
            block = handle.read(1 << 22)
            if not block:
                break
            found = block.count(b"\n")
            if found >= lines:
                ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
                return offset + int(ends[lines - 1]) + 1
            lines -= found
            offset += len(block)
    return offset
