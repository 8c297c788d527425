from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl3d.data.errors import DataError, Ssl3dError
from ssl3d.data.formats import inspect, read_blocks, read_cloud


def test_without_laspy_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tile.laz"
    path.write_bytes(b"LASF" + bytes(90) + struct.pack("<HII", 375, 375, 0) + bytes(300))
    monkeypatch.setitem(sys.modules, "laspy", None)
    with pytest.raises(Ssl3dError, match=r"needs the package laspy.*tile\.laz.*ssl3d\[las\]"):
        inspect(path)
    path.write_bytes(b"LASX" + bytes(400))
    with pytest.raises(DataError, match="does not begin with 'LASF'"):
        inspect(path)


@pytest.fixture
def laspy() -> Any:
    return pytest.importorskip("laspy", reason="the extra las is not installed")


def write(laspy: Any, path: Path, points: int = 100, point_format: int = 6) -> np.ndarray:
    """A tile with coordinates in the millions, to the centimeter; returns them."""
    header = laspy.LasHeader(point_format=point_format, version="1.4")
    header.scales, header.offsets = [0.01] * 3, [650_000.0, 6_860_000.0, 0.0]
    header.add_extra_dim(laspy.ExtraBytesParams(name="height", type=np.float32))
    las = laspy.LasData(header)
    xyz = np.random.default_rng(0).integers(0, 100_000, (points, 3)) / 100 + [650_000.0, 6_860_000.0, 0.0]
    las.x, las.y, las.z = xyz.T
    las.classification = np.arange(points) % 7
    las.return_number = np.arange(points) % 3 + 1
    las.height = np.arange(points) / 2
    las.write(str(path))
    return xyz


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_round_trip(tmp_path: Path, laspy: Any, suffix: str) -> None:
    path = tmp_path / f"tile{suffix}"
    xyz = write(laspy, path)
    source = inspect(path)
    assert source.count == 100 and source.header["point_format"] == 6
    cloud = read_cloud(path, columns=["classification", "return_number", "height"])
    np.testing.assert_allclose(cloud.points, xyz, rtol=0, atol=1e-6)
    assert cloud.columns["classification"].dtype == np.uint8
    assert cloud.columns["classification"].tolist() == (np.arange(100) % 7).tolist()
    assert cloud.columns["return_number"].tolist() == (np.arange(100) % 3 + 1).tolist()
    assert cloud.columns["height"].dtype == np.float32
    chunks = list(read_blocks(path, rows=40))
    assert [len(chunk.points) for chunk in chunks] == [40, 40, 20]
    for name, dtype in source.columns.items():
        if name not in "xyz":
            assert chunks[0].columns[name].dtype == dtype.base


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_cut_files_are_refused(tmp_path: Path, laspy: Any, suffix: str) -> None:
    path = tmp_path / f"tile{suffix}"
    write(laspy, path)
    content = path.read_bytes()
    for end in (10, 100, 300, 375, 500, len(content) // 2, len(content) - 40):
        path.write_bytes(content[:end])
        with pytest.raises(DataError):
            read_cloud(path)


def test_counts_that_the_file_has_no_room_for(tmp_path: Path, laspy: Any) -> None:
    path = tmp_path / "tile.laz"
    write(laspy, path)
    content = path.read_bytes()
    points_at = int.from_bytes(content[96:100], "little")
    table_at = int.from_bytes(content[points_at : points_at + 8], "little")
    for where, value, message in [
        (100, b"\xff" * 4, "4294967295 records before the points"),
        (96, b"\xff" * 4, "points, which begin at byte 4294967295"),
        (points_at, b"\x7f" * 8, "table of chunks is missing"),
        (table_at + 4, b"\xff" * 4, "4294967295 chunks in"),
        (table_at + 9, b"\x10", "table of chunks is damaged|layers of chunk 0"),
        (points_at + 8 + 34 + 8, b"\xff\xff\xff\x7f", "the layers of chunk 0 end at byte"),  # 30 bytes and a float
    ]:
        path.write_bytes(content[:where] + value + content[where + len(value) :])
        with pytest.raises(DataError, match=message) as caught:
            read_cloud(path)
        assert caught.value.where["file"] == path
    items = content.index(b"laszip encoded") - 2 + 54 + 34  # type, size and version of each part of a point
    path.write_bytes(content[: items + 2] + b"\x00\xff" + content[items + 4 :])  # memory for 65 kB a point
    with pytest.raises(DataError, match=r"points of \d+ bytes are stored as 65\d\d\d bytes"):
        read_cloud(path)
    streamed = content[:points_at] + b"\xff" * 8 + content[points_at + 8 :] + content[points_at : points_at + 8]
    path.write_bytes(streamed)  # the place of the table stands at the end
    assert len(read_cloud(path).points) == 100


def test_a_tile_without_points(tmp_path: Path, laspy: Any) -> None:
    path = tmp_path / "tile.las"
    write(laspy, path, points=0)
    with pytest.raises(DataError, match="no points"):
        inspect(path)
