"""The meshes of ScanNet (``_vh_clean_2.ply`` and its twin with labels): vertices, normals and edges."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash
from numba import njit

from ssl3d.data.datasets.raw import read_bytes, unreadable
from ssl3d.data.datasets.source import SourceFile
from ssl3d.data.errors import DataError
from ssl3d.data.formats.cloud import Options
from ssl3d.data.formats.ply import open_ply
from ssl3d.data.formats.ply_header import Element, PlyHeader, read_ply_header

_TRIANGLE = np.dtype([("corners", "u1"), ("vertices", "<u4", 3)])
"""Published as int32; without a sign here: negative ones are then too high, and numba looks for none (`_edges`)."""
_PUBLISHED = [(name, np.dtype("<f4")) for name in "xyz"] + [(name, np.dtype("u1")) for name in ("red", "green", "blue")]
_DAMAGED = "the download was cut, or a tool has written the file anew: download it again"
_NEEDED = ("x", "y", "z", "red", "green", "blue")


class MeshHead(NamedTuple):
    """What the header of a mesh says."""

    vertices: int
    faces: int


@dataclass(slots=True)
class ScanMesh:
    """A mesh as it is stored.

    Attributes:
        points: (n, 3) float32 meters. color: (n, 3) uint8.
        faces: (m, 3) uint32 rows of points; may be a view of the file's bytes, not aligned.
        label: (n,) nyu40 ids, of a mesh with labels.
    """

    points: npt.NDArray[np.float32]
    color: npt.NDArray[np.uint8]
    faces: npt.NDArray[np.uint32]
    label: npt.NDArray[np.integer[Any]] | None


def read_head(file: SourceFile) -> MeshHead:
    """How many vertices and faces there are, from the header and the size alone.

    Raises:
        DataError: the header is damaged, properties are missing, or the file is shorter than it says.
    """
    header, vertex, face = _header(file)
    rows = {"vertices": vertex.rows, "faces": 0 if face is None else face.rows}
    least = header.offset + sum(prop.dtype.itemsize for prop in vertex.properties) * rows["vertices"]
    least += _TRIANGLE.itemsize * rows["faces"] if face is not None and _is_standard(header, face) else 0
    if header.encoding != "ascii" and file.size < least:
        raise DataError(
            f"truncated mesh: {file.size} bytes, {rows['vertices']} vertices and {rows['faces']} faces take {least}",
            where={"file": file.path},
            hint=_DAMAGED,
        )
    return MeshHead(rows["vertices"], rows["faces"])


def read_mesh(file: SourceFile, digest: xxhash.xxh3_128 | None = None, *, faces_too: bool = True) -> ScanMesh:
    """A whole mesh, or (quicker) one without faces. DataError when it is damaged, or names vertices that it has not."""
    content = read_bytes(file, digest)
    header, vertex, face = _header(file)
    if header.encoding == "ascii" or header.elements[0] is not vertex or vertex.lists:
        return _read_any(file, vertex.rows)
    dtype = np.dtype([(prop.name, prop.dtype) for prop in vertex.properties])
    end = header.offset + dtype.itemsize * vertex.rows
    if len(content) < end:
        raise DataError("truncated mesh", where={"file": file.path, "vertices": vertex.rows}, hint=_DAMAGED)
    rows = np.frombuffer(content, dtype, vertex.rows, header.offset)
    if face is None or not faces_too:
        faces = np.zeros((0, 3), np.uint32)
    elif _is_standard(header, face) and len(content) >= end + _TRIANGLE.itemsize * face.rows:
        triangles = np.frombuffer(content, _TRIANGLE, face.rows, end)
        faces = triangles["vertices"] if (triangles["corners"] == 3).all() else _triangulated(file)
    else:
        faces = _triangulated(file)
    if len(faces) and int(_highest(faces)) >= vertex.rows:
        raise DataError(
            "faces name vertices that the mesh has not",
            where={"file": file.path, "vertices": vertex.rows, "highest": int(faces.view(np.int32).max())},
            hint=_DAMAGED,
        )
    if [(prop.name, prop.dtype) for prop in vertex.properties[:6]] == _PUBLISHED:
        triples = np.dtype(
            {"names": ["point", "color"], "formats": ["V12", "V3"], "offsets": [0, 12], "itemsize": dtype.itemsize}
        )
        point, color = (np.ascontiguousarray(rows.view(triples)[name]) for name in ("point", "color"))
        label = rows["label"] if "label" in (dtype.names or ()) else None
        return ScanMesh(point.view("<f4").reshape(-1, 3), color.view("u1").reshape(-1, 3), faces, label)
    return _mesh({name: rows[name] for name in dtype.names or ()}, faces)


def _read_any(file: SourceFile, rows: int) -> ScanMesh:
    """A mesh that some tool has written anew, as text for instance."""
    source = open_ply(Path(file.path), file.size, Options())
    names = [name for name in (*_NEEDED, "label") if name in source.columns]
    (table,) = source.tables(names, rows)
    faces = source.mesh().faces
    return _mesh(table, np.zeros((0, 3), np.uint32) if faces is None else faces.astype(np.uint32))


def _triangulated(file: SourceFile) -> npt.NDArray[np.uint32]:
    """Faces of any number of corners, or in another encoding."""
    found = open_ply(Path(file.path), file.size, Options()).mesh().faces
    return np.zeros((0, 3), np.uint32) if found is None else found.astype(np.uint32)


def _mesh(columns: dict[str, npt.NDArray[Any]], faces: npt.NDArray[np.uint32]) -> ScanMesh:
    count = len(columns["x"])
    points, color = np.empty((count, 3), np.float32), np.empty((count, 3), np.uint8)
    for axis in range(3):
        points[:, axis] = columns[_NEEDED[axis]]
        color[:, axis] = columns[_NEEDED[3 + axis]]
    return ScanMesh(points, color, faces, columns.get("label"))


def _header(file: SourceFile) -> tuple[PlyHeader, Element, Element | None]:
    try:
        header = read_ply_header(Path(file.path))
    except OSError as error:
        raise unreadable(file.path, error) from error
    elements = {element.name: element for element in header.elements}
    vertex = elements.get("vertex")
    if vertex is None or not vertex.rows:
        raise DataError("the mesh has no vertices", where={"file": file.path}, hint=_DAMAGED)
    kinds = {prop.name: prop.dtype for prop in vertex.properties}
    for name in _NEEDED:
        if name not in kinds:
            raise DataError(
                "the vertices of a mesh lack a property", where={"file": file.path, "field": name}, hint=_DAMAGED
            )
        if name in _NEEDED[3:] and kinds[name] != np.uint8:
            raise DataError(
                f"colors are stored as {kinds[name].name}, not as bytes",
                where={"file": file.path, "field": name},
                hint=_DAMAGED,
            )
    return header, vertex, elements.get("face")


def _is_standard(header: PlyHeader, face: Element) -> bool:
    """Whether faces follow the vertices as (uchar 3, three int), the form that is published."""
    (*_, faces) = face.properties
    return (
        header.encoding == "binary_little_endian"
        and [element.name for element in header.elements[:2]] == ["vertex", "face"]
        and len(face.properties) == 1
        and faces.count == np.dtype("u1")
        and faces.dtype == np.dtype("<i4")
    )


def vertex_normals(points: npt.NDArray[np.float32], faces: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
    """(n, 3) unit normals: those of the faces around a vertex, weighted by area; (0, 0, 0) without any."""
    normals: npt.NDArray[np.float32] = _normals(points, faces)
    return normals


def mesh_edges(faces: npt.NDArray[np.uint32], num_points: int) -> npt.NDArray[np.int32]:
    """(e, 2) int32: the pairs of vertices that a face joins, each once, a < b, in rising order."""
    return _edges(faces, num_points).view(np.int32)


@njit(cache=True, nogil=True)
def _highest(faces: npt.NDArray[np.uint32]) -> np.uint32:
    zero, one, two = np.uint64(0), np.uint64(1), np.uint64(2)
    a, b, c = np.uint32(0), np.uint32(0), np.uint32(0)
    for f in range(np.uint64(len(faces))):
        a, b, c = max(a, faces[f, zero]), max(b, faces[f, one]), max(c, faces[f, two])
    return max(a, b, c)


@njit(cache=True, nogil=True)
def _normals(points: npt.NDArray[np.float32], faces: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
    sums = np.zeros((len(points), 3))
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = (
            np.float64(points[b, 0]) - points[a, 0],
            np.float64(points[b, 1]) - points[a, 1],
            np.float64(points[b, 2]) - points[a, 2],
        )
        vx, vy, vz = (
            np.float64(points[c, 0]) - points[a, 0],
            np.float64(points[c, 1]) - points[a, 1],
            np.float64(points[c, 2]) - points[a, 2],
        )
        # the cross product is the normal times twice the area
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        if not np.isfinite(nx + ny + nz):
            continue
        for corner in (a, b, c):
            sums[corner, 0] += nx
            sums[corner, 1] += ny
            sums[corner, 2] += nz
    normals = np.zeros((len(points), 3), np.float32)
    for i in range(len(points)):
        length = np.sqrt(sums[i, 0] ** 2 + sums[i, 1] ** 2 + sums[i, 2] ** 2)
        if length > 0:
            for axis in range(3):
                normals[i, axis] = sums[i, axis] / length
    return normals


@njit(cache=True, nogil=True)
def _edges(faces: npt.NDArray[np.uint32], num_points: int) -> npt.NDArray[np.uint32]:
    """Sides of faces, sorted by counting: by their higher vertex, then (each once) by the lower one.

    Numbers without a sign: numba looks for negative places otherwise, which takes as long as the rest.
    """
    zero, one, two, step = np.uint64(0), np.uint64(1), np.uint64(2), np.uint32(1)
    ends = np.zeros(num_points, np.uint32)
    for f in range(np.uint64(len(faces))):
        a, b, c = faces[f, zero], faces[f, one], faces[f, two]
        ends[max(a, b)] += step
        ends[max(b, c)] += step
        ends[max(a, c)] += step
    _starts(ends)
    lows = np.empty(3 * len(faces), np.uint32)
    for f in range(np.uint64(len(faces))):  # filling from where each begins leaves where it ends
        a, b, c = faces[f, zero], faces[f, one], faces[f, two]
        high, low = max(a, b), min(a, b)
        place = ends[high]
        lows[place] = low
        ends[high] = place + step
        high, low = max(b, c), min(b, c)
        place = ends[high]
        lows[place] = low
        ends[high] = place + step
        high, low = max(a, c), min(a, c)
        place = ends[high]
        lows[place] = low
        ends[high] = place + step
    counts = np.zeros(num_points, np.uint32)
    last = np.arange(num_points).astype(np.uint32)  # the higher vertex that each was seen with last; not with itself
    kept, at = np.uint32(0), np.uint32(0)
    for i in range(np.uint64(num_points)):
        high, end = np.uint32(i), ends[i]
        while at < end:
            low = lows[at]
            new = np.uint32(last[low] != high)
            last[low] = high
            lows[kept] = low
            kept += new
            counts[low] += new
            at += step
        ends[i] = kept
    _starts(counts)
    edges = np.empty((np.int64(kept), 2), np.uint32)
    at = np.uint32(0)
    for i in range(np.uint64(num_points)):
        end = ends[i]
        while at < end:
            low = lows[at]
            place = counts[low]
            edges[place, zero] = low
            edges[place, one] = i
            counts[low] = place + step
            at += step
    return edges


@njit(cache=True, nogil=True)
def _starts(counts: npt.NDArray[np.uint32]) -> None:
    """How many there are of each becomes where each begins."""
    start = np.uint32(0)
    for i in range(np.uint64(len(counts))):
        count = counts[i]
        counts[i] = start
        start += count
