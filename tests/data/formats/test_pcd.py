from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl3d.data.errors import DataError
from ssl3d.data.formats import inspect, read_blocks, read_cloud
from ssl3d.data.formats.lzf import decompress

ENCODINGS = ["ascii", "binary", "binary_compressed"]
Columns = dict[str, npt.NDArray[Any]]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_gives_back_what_was_written(write_pcd: Any, columns: Columns, encoding: str) -> None:
    columns["normal"] = np.arange(150, dtype=np.float32).reshape(50, 3)
    columns["stamp"] = np.arange(50, dtype=np.uint64) + 2**40
    cloud = read_cloud(write_pcd(columns, encoding))
    for axis, name in enumerate("xyz"):
        np.testing.assert_array_equal(cloud.points[:, axis], columns[name].astype(np.float64))
    for name, values in cloud.columns.items():
        assert values.dtype == columns[name].dtype and values.shape == columns[name].shape
        np.testing.assert_array_equal(values, columns[name])
    assert len(cloud.columns) == 5 and cloud.not_finite == {"points": 1}
    assert cloud.header["encoding"] == encoding and cloud.header["viewpoint"] == "0 0 0 1 0 0 0"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_packed_colors_and_padding(write_pcd: Any, columns: Columns, encoding: str) -> None:
    packed = np.full(50, (200 << 16) | (100 << 8) | 7, np.uint32)
    xyz = {axis: columns[axis] for axis in "xyz"}
    padded = {"x": xyz["x"], "_": np.zeros((50, 4), np.uint8), "y": xyz["y"], "z": xyz["z"], "rgb": packed}
    cloud = read_cloud(write_pcd(padded, encoding))
    assert list(cloud.columns) == ["red", "green", "blue"]
    assert [int(cloud.columns[name][3]) for name in cloud.columns] == [200, 100, 7]
    assert cloud.columns["red"].dtype == np.uint8
    np.testing.assert_array_equal(cloud.points[:, 1], xyz["y"].astype(np.float64))
    alpha = read_cloud(write_pcd({**xyz, "rgba": packed | np.uint32(9 << 24)}, encoding), columns=["alpha", "blue"])
    assert (int(alpha.columns["alpha"][0]), int(alpha.columns["blue"][0])) == (9, 7)
    as_float = read_cloud(write_pcd({**xyz, "rgb": packed.view(np.float32)}, encoding))
    assert int(as_float.columns["green"][49]) == 100


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_chunks_are_the_whole(write_pcd: Any, columns: Columns, encoding: str) -> None:
    path = write_pcd(columns, encoding)
    assert inspect(path).count == 50
    chunks = list(read_blocks(path, rows=20))
    assert [len(chunk.points) for chunk in chunks] == [20, 20, 10]
    np.testing.assert_array_equal(np.concatenate([chunk.points for chunk in chunks]), read_cloud(path).points)


def header(points: int = 2, data: str = "ascii", **changes: str) -> bytes:
    words = {"VERSION": "0.7", "FIELDS": "x y z", "SIZE": "4 4 4", "TYPE": "F F F", "COUNT": "1 1 1"}
    words |= {"WIDTH": str(points), "HEIGHT": "1", "POINTS": str(points), **changes, "DATA": data}
    return "".join(f"{key} {value}\n" for key, value in words.items() if value).encode()


def test_old_headers_without_counts_and_points(tmp_path: Path) -> None:
    path = tmp_path / "old.pcd"
    path.write_bytes(header(FIELDS="", COUNT="", POINTS="", COLUMNS="x y z", VERSION=".6") + b"1 2 3\n4 5 nan\n")
    cloud = read_cloud(path)
    np.testing.assert_array_equal(cloud.points, [[1, 2, 3], [4, 5, np.nan]])
    assert cloud.not_finite == {"points": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ply\nformat", "it looks like a PLY file"),
        (b"1 2 3\n", "not understood: '1'.*line: 1"),
        (header()[:-11], "header does not end"),
        (header(data="binary_lz4"), "unknown DATA 'binary_lz4'"),
        (header(FIELDS=""), "no FIELDS"),
        (header(SIZE="4 4"), "3 FIELDS, but 2 of SIZE"),
        (header(TYPE="F F Q"), "TYPE Q, SIZE 4, COUNT 1.*field: z"),
        (header(SIZE="4 4 2"), "TYPE F, SIZE 2"),
        (header(FIELDS="x y x"), "same name"),
        (header(WIDTH="3"), "WIDTH times HEIGHT is 3, POINTS is 2"),
        (header(WIDTH="many"), "WIDTH is no number"),
        (header(WIDTH="", POINTS=""), "no POINTS"),
        (header(points=0), "no points"),
        (header() + b"1 2 3\n", "truncated: it holds 1 of 2"),
        (header() + b"1 2 3\n4 q 6\n", "no number: 'q'.*line: 11; column: 2 .y."),
        (header(data="binary") + b"\0" * 23, "truncated: it holds 1 of 2"),
        (header(data="binary_compressed") + b"\0\0\0", "truncated"),
        (header(data="binary_compressed") + struct.pack("<II", 30, 24) + b"\0" * 9, "truncated: it holds 17 of 38"),
        (header(data="binary_compressed") + struct.pack("<II", 3, 25) + b"\0" * 3, "25 bytes, 2 points have 24"),
        (header(data="binary_compressed") + struct.pack("<II", 3, 24) + b"\x01ab", "compressed points are damaged"),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.pcd"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_cloud(path)
    assert caught.value.where["file"] == path


def test_lzf_by_hand() -> None:
    assert decompress(b"\x02abc", 3).tobytes() == b"abc"
    assert decompress(b"\x02abc\x20\x02", 6).tobytes() == b"abcabc"  # length 3, distance 3
    assert decompress(b"\x00a\xe0\x03\x00", 13).tobytes() == b"a" * 13  # length 7 + 3 + 2, overlapping
    far = bytes(range(256)) * 3
    packed = b"".join(b"\x1f" + far[k : k + 32] for k in range(0, 768, 32)) + b"\x42\xff"  # distance 768, length 4
    assert decompress(packed, 772).tobytes() == far + far[:4]


@pytest.mark.parametrize(
    ("data", "size", "byte"),
    [
        (b"\x02ab", 3, 0),  # a literal runs out
        (b"\x02abc", 2, 0),  # more than stated
        (b"\x02abc", 4, 4),  # less than stated
        (b"\x00a\x20", 4, 2),  # a copy without its distance
        (b"\x00a\xe0", 4, 2),
        (b"\x00a\xe0\x01", 11, 2),
        (b"\x00a\x20\x01", 4, 2),  # from before the beginning
        (b"\x00a\x20\x00", 3, 2),  # beyond the end
    ],
)
def test_damaged_lzf_is_found(data: bytes, size: int, byte: int) -> None:
    with pytest.raises(ValueError) as caught:
        decompress(data, size)
    assert caught.value.args == (byte,)


@given(st.binary(max_size=60), st.integers(0, 200))
def test_any_bytes_decompress_or_are_refused(data: bytes, size: int) -> None:
    try:
        assert len(decompress(data, size)) == size
    except ValueError as error:
        assert 0 <= error.args[0] <= len(data)
