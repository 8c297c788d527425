from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ssl3d.data.errors import DataError
from ssl3d.data.formats import inspect, read_blocks, read_cloud

ENCODINGS = ["ascii", "binary_little_endian", "binary_big_endian"]
Columns = dict[str, npt.NDArray[Any]]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_gives_back_what_was_written(write_ply: Any, columns: Columns, encoding: str) -> None:
    cloud = read_cloud(write_ply(columns, encoding))
    for axis, name in enumerate("xyz"):
        np.testing.assert_array_equal(cloud.points[:, axis], columns[name].astype(np.float64))
    assert list(cloud.columns) == ["red", "intensity", "scalar_Label"]
    for name, values in cloud.columns.items():
        assert values.dtype == columns[name].dtype
        np.testing.assert_array_equal(values, columns[name])
    assert cloud.not_finite == {"points": 1}
    assert cloud.header["encoding"] == encoding and cloud.header["comments"] == ["made by a test"]
    assert cloud.mesh.faces is None and cloud.mesh.edges is None


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("mesh_first", [False, True])
def test_faces_and_edges(write_ply: Any, columns: Columns, encoding: str, mesh_first: bool) -> None:
    edges = [(0, 1), (4, 49)]
    triangles = read_cloud(
        write_ply(columns, encoding, faces=[[0, 1, 2], [3, 4, 49]], edges=edges, mesh_first=mesh_first)
    )
    assert triangles.mesh.faces is not None and triangles.mesh.faces.tolist() == [[0, 1, 2], [3, 4, 49]]
    assert triangles.mesh.edges is not None and triangles.mesh.edges.tolist() == [[0, 1], [4, 49]]
    np.testing.assert_array_equal(triangles.columns["red"], columns["red"])
    polygons = read_cloud(write_ply(columns, encoding, faces=[[0, 1], [5, 6, 7, 8], [9, 10, 11]], edges=edges))
    assert polygons.mesh.faces is not None
    assert polygons.mesh.faces.tolist() == [[5, 6, 7], [5, 7, 8], [9, 10, 11]]
    mixed = read_cloud(write_ply(columns, encoding, faces=[[1, 2, 3, 4], [0, 1, 2]], mesh_first=mesh_first))
    assert mixed.mesh.faces is not None and mixed.mesh.faces.tolist() == [[1, 2, 3], [1, 3, 4], [0, 1, 2]]
    np.testing.assert_array_equal(mixed.columns["scalar_Label"], columns["scalar_Label"])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_chunks_are_the_whole_and_only_wanted_columns_are_read(write_ply: Any, columns: Columns, encoding: str) -> None:
    path = write_ply(columns, encoding, faces=[[0, 1, 2]])
    chunks = list(read_blocks(path, columns=["scalar_Label"], rows=7))
    assert [len(chunk.points) for chunk in chunks] == [7] * 7 + [1]
    assert all(list(chunk.columns) == ["scalar_Label"] and chunk.mesh.faces is None for chunk in chunks)
    np.testing.assert_array_equal(np.concatenate([c.columns["scalar_Label"] for c in chunks]), columns["scalar_Label"])
    np.testing.assert_array_equal(np.concatenate([c.points for c in chunks]), read_cloud(path).points)


def test_inspect_reads_the_header_alone(write_ply: Any, columns: Columns) -> None:
    source = inspect(write_ply(columns, "binary_big_endian", faces=[[0, 1, 2]]))
    assert source.format == "ply" and source.count == 50
    assert source.columns["scalar_Label"] == np.dtype(np.int32) and source.columns["x"] == np.dtype(np.float32)
    assert source.header["elements"] == {"vertex": 50, "face": 1}


def header(*lines: str, encoding: str = "ascii") -> bytes:
    return "\n".join(["ply", f"format {encoding} 1.0", *lines, "end_header", ""]).encode()


XYZ = ("element vertex 2", "property float x", "property float y", "property float z")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PLX\n", "does not begin with 'ply'"),
        (b"\x1f\x8b\x08\0\0", "a gzip archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (header(*XYZ)[:-12], "end_header is missing"),
        (header(*XYZ[:3], "property real z"), "unknown type 'real'.*line: 6; property: z"),
        (header(*XYZ, "property float x"), "two properties have the same name.*property: x"),
        (header("element vertex many"), "not understood: 'element vertex many'.*line: 3"),
        (header(*XYZ, encoding="binary_middle_endian"), "not understood.*line: 2"),
        (b"ply\nelement vertex 1\nproperty float x\nend_header\n1\n", "before the line format.*line: 3; property: x"),
        (b"ply\nelement vertex 1\nend_header\n", "no line format"),
        (header("element face 1", "property list uchar int vertex_indices") + b"3 0 1 2\n", "no points"),
        (header("element vertex 0", *XYZ[1:]), "no points"),
        (header(*XYZ, "property list uchar int extra"), "vertices with lists.*property: extra"),
        (header(*XYZ) + b"1 2 3\n", "truncated: it holds 1 of 2"),
        (header(*XYZ) + b"1 2 3\n4 5\n", "fewer than 3 fields: '4 5'.*line: 9"),
        (header(*XYZ) + b"1 2 3\n4 5 6 7\n", "more than 3 fields.*line: 9"),
        (header(*XYZ) + b"1 2 3\n4 five 6\n", "no number: 'five'.*line: 9; column: 2 .y."),
        (header(*XYZ, "property uchar red") + b"1 2 3 4\n1 2 3 256\n", "256 is no uint8.*line: 10; property: red"),
        (header(*XYZ, "property uchar red") + b"1 2 3 4\n1 2 3 4.5\n", "4.5 is no uint8.*line: 10"),
        (header(*XYZ, "property uchar red") + b"1 2 3 4\n1 2 3 nan\n", "nan is no uint8.*line: 10"),
        (header(*XYZ[:3], "property float height") + b"1 2 3\n4 5 6\n", "no column 'z'.*x, y, height"),
        (
            header(*XYZ, encoding="binary_little_endian") + b"\0" * 23,
            "truncated: it holds 1 of 2 rows of element .vertex",
        ),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.ply"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_cloud(path)
    assert caught.value.where["file"] == path


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_damaged_meshes_are_named(write_ply: Any, columns: Columns, encoding: str) -> None:
    with pytest.raises(DataError, match=r"the triangles name a vertex that is not there: \[0, 1, 50\] of 50"):
        read_cloud(write_ply(columns, encoding, faces=[[1, 2, 3], [0, 1, 50]]))
    with pytest.raises(DataError, match=r"the edges name a vertex that is not there: \[-1, 2\]"):
        read_cloud(write_ply(columns, encoding, edges=[(-1, 2)]))
    path = write_ply(columns, encoding, faces=[[1, 2, 3], [4, 5, 6]])
    content = path.read_bytes()
    path.write_bytes(content[:-8])
    with pytest.raises(DataError, match=r"truncated|not understood"):
        read_cloud(path)
    assert sum(len(chunk.points) for chunk in read_blocks(path)) == 50  # the points are whole
