"""What all formats share: suffixes, missing files, columns, and files cut anywhere."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssl3d.data.errors import DataError, Ssl3dError, UsageError
from ssl3d.data.formats import (
    SUFFIXES,
    Labelled,
    Options,
    inspect,
    read_blocks,
    read_cloud,
    read_table,
    write_labelled,
)

Columns = dict[str, npt.NDArray[Any]]
NAMED = Options(names=("x", "y", "z", "intensity"))


def test_unknown_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown suffix '.docx'.*\.ply"):
        inspect(tmp_path / "a.docx")
    for suffix in SUFFIXES:
        with pytest.raises(DataError, match="no such file"):
            inspect(tmp_path / f"a{suffix}")
        (tmp_path / f"b{suffix}").touch()
        with pytest.raises(DataError, match="the file is empty"):
            inspect(tmp_path / f"b{suffix}")
    (tmp_path / "folder.ply").mkdir()
    with pytest.raises(DataError, match="a folder stands where a file should be"):
        inspect(tmp_path / "folder.ply")


def test_columns_that_are_not_there(write_ply: Any, columns: Columns) -> None:
    path = write_ply(columns)
    with pytest.raises(DataError, match=r"no column 'intensitiy'.*did you mean 'intensity'"):
        read_cloud(path, columns=["intensitiy"])
    with pytest.raises(DataError, match="no column 'easting'"):
        read_cloud(path, Options(coordinates=("easting", "y", "z")))
    cloud = read_cloud(path, columns=["x", "red"])  # a coordinate may be asked for once more
    np.testing.assert_array_equal(cloud.columns["x"], columns["x"])
    assert read_cloud(path, columns=[]).columns == {}
    table = read_table(path, columns=["scalar_Label"])
    assert list(table) == ["scalar_Label"]


def test_upper_case_and_suffixes_in_upper_case(write_ply: Any, columns: Columns) -> None:
    upper = {name.upper(): values for name, values in columns.items()}
    path = write_ply(upper, name="A.PLY")
    assert read_cloud(path).points.shape == (50, 3)


def test_infinities_are_counted_by_column(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    matrix = np.zeros((10, 4), np.float32)
    matrix[2, 0], matrix[2, 1], matrix[3, 1], matrix[:4, 3] = np.nan, np.inf, -np.inf, np.nan
    matrix.tofile(path)
    assert read_cloud(path, NAMED).not_finite == {"points": 2, "intensity": 4}
    parts = [cloud.not_finite for cloud in read_blocks(path, NAMED, rows=4)]
    assert parts == [{"points": 2, "intensity": 4}, {}, {}]


@pytest.fixture
def whole(tmp_path: Path, columns: Columns, write_ply: Any, write_pcd: Any) -> dict[str, bytes]:
    """One whole file of every format and encoding."""
    matrix = np.stack([columns["x"], columns["y"], columns["z"], columns["intensity"].astype(np.float32)], axis=1)
    made: dict[str, Callable[[Path], Any]] = {
        "a.bin": matrix.tofile,
        "a.npy": lambda path: np.save(path, matrix),
        "f.npy": lambda path: np.save(path, np.asfortranarray(matrix)),
        "a.npz": lambda path: np.savez_compressed(path, points=matrix),
        "a.csv": lambda path: path.write_text("x,y,z,i\n" + "\n".join(",".join(map(repr, r)) for r in matrix.tolist())),
    }
    for name, make in made.items():
        make(tmp_path / name)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("points", data=matrix, compression="gzip")
    for encoding in ("ascii", "binary_little_endian", "binary_big_endian"):
        write_ply(columns, encoding, faces=[[0, 1, 2], [1, 2, 3, 4]], edges=[(0, 1)], name=f"{encoding}.ply")
    for encoding in ("ascii", "binary", "binary_compressed"):
        write_pcd(columns, encoding, name=f"{encoding}.pcd")
    return {path.name: path.read_bytes() for path in sorted(tmp_path.iterdir())}


def write_rows(path: Path, rows: int) -> None:
    matrix = np.random.default_rng(0).normal(0, 40, (rows, 4)).astype(np.float32)
    if path.suffix == ".bin":
        matrix.tofile(path)
    elif path.suffix == ".npy":
        np.save(path, matrix)
    elif path.suffix == ".npz":
        np.savez_compressed(path, points=matrix)
    elif path.suffix == ".txt":
        np.savetxt(path, matrix, fmt="%.3f")
    else:
        write_labelled(path, Labelled(matrix[:, :3], np.zeros(rows, np.uint8)))


@pytest.mark.parametrize("suffix", [".bin", ".npy", ".npz", ".ply", ".txt", ".las", ".laz"])
def test_memory_is_bounded_by_the_rows_of_a_block(tmp_path: Path, suffix: str) -> None:
    if suffix in (".las", ".laz"):
        pytest.importorskip("laspy", reason="the extra las is not installed")
    peaks = []
    for rows in (100, 20_000, 80_000):  # the first: what is allocated once
        path = tmp_path / f"{rows}{suffix}"
        write_rows(path, rows)
        tracemalloc.start()
        points = sum(len(cloud.points) for cloud in read_blocks(path, NAMED if suffix == ".bin" else None, 2000))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert points == rows
    assert peaks[2] < 1.3 * peaks[1] < 80_000 * 24  # bytes of all coordinates


def outcome(path: Path) -> int | None:
    """Points of a file; None when it is refused with an error that names it."""
    try:
        return len(read_cloud(path, NAMED if path.suffix == ".bin" else None).points)
    except Ssl3dError as error:
        assert Path(str(error.where["file"])) == path
        return None


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_files_cut_anywhere_are_refused(tmp_path: Path, whole: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(whole)))
    content = whole[name]
    path = tmp_path / name
    path.write_bytes(content)
    assert outcome(path) == 50
    end = data.draw(st.integers(0, len(content) - 2))
    path.write_bytes(content[:end])
    points = outcome(path)
    # rows are what a .bin and a .csv are cut into unnoticed, and the last number of a text may lose digits
    unnoticed = name.endswith((".bin", ".csv")) or (name.startswith("ascii") and end > len(content) - 60)
    assert points is None or (points <= 50 and unnoticed)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_files_with_wrong_bytes_are_read_or_refused(
    tmp_path: Path, whole: dict[str, bytes], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from([name for name in whole if name != "a.h5"]))
    content = bytearray(whole[name])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, min(len(content), 600) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / name
    path.write_bytes(bytes(content))
    outcome(path)
