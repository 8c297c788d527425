from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.formats import Options, inspect, read_blocks, read_cloud, read_table
from ssl3d.data.formats.raw import guess_width

MATRIX = np.random.default_rng(0).normal(0, 10, (40, 5)).astype(np.float32)
FIVE = Options(names=("x", "y", "z", "intensity", "ring"))


def test_bin(tmp_path: Path) -> None:
    path = tmp_path / "scan.pcd.bin"
    MATRIX.tofile(path)
    cloud = read_cloud(path, FIVE)
    assert cloud.points.dtype == np.float64
    np.testing.assert_array_equal(cloud.points, MATRIX[:, :3].astype(np.float64))
    np.testing.assert_array_equal(cloud.columns["ring"], MATRIX[:, 4])
    chunks = list(read_blocks(path, FIVE, columns=["ring"], rows=16))
    assert [len(chunk.points) for chunk in chunks] == [16, 16, 8] and list(chunks[0].columns) == ["ring"]
    np.testing.assert_array_equal(np.concatenate([chunk.columns["ring"] for chunk in chunks]), MATRIX[:, 4])


def test_labels_beside_a_bin(tmp_path: Path) -> None:
    path = tmp_path / "scan.label"
    np.arange(7, dtype=np.uint32).tofile(path)
    table = read_table(path, Options(names=("label",), dtype="<u4"))
    assert table["label"].dtype == np.uint32 and table["label"].tolist() == list(range(7))


def test_bad_bins(tmp_path: Path) -> None:
    path = tmp_path / "scan.bin"
    path.write_bytes(MATRIX.tobytes()[:-4])
    with pytest.raises(DataError, match=r"796 bytes are no whole number of rows of 5 numbers \(20 bytes\).*byte: 780"):
        read_cloud(path, FIVE)
    MATRIX.tofile(path)
    with pytest.raises(DataError, match="does not name its columns"):
        read_cloud(path)
    with pytest.raises(DataError, match=r"same name.*column: x"):
        read_cloud(path, Options(names=("x", "x", "y", "z")))
    with pytest.raises(UsageError, match="unknown type of number 'float33'"):
        read_cloud(path, Options(names=("x",), dtype="float33"))
    with pytest.raises(UsageError, match="holds numbers"):
        read_cloud(path, Options(names=("x",), dtype="O"))
    path.write_bytes(b"PK\x03\x04" + bytes(76))
    with pytest.raises(DataError, match="a zip archive"):
        read_cloud(path, FIVE)


@pytest.mark.parametrize("width", [3, 4, 5, 6, 9])
@pytest.mark.parametrize("shuffled", [False, True])
def test_the_width_of_a_file_is_guessed(tmp_path: Path, width: int, shuffled: bool) -> None:
    rng = np.random.default_rng(1)
    turn = np.linspace(0, 2 * np.pi, 5040)
    reach = 20 + 5 * np.sin(3 * turn) + rng.normal(0, 0.02, 5040)
    columns = [reach * np.cos(turn), reach * np.sin(turn), np.sin(turn) - 1.7, rng.random(5040)]
    columns += [np.arange(5040) // 1260, turn * 100, *rng.integers(0, 256, (3, 5040))]
    rows = np.stack(columns[:width], axis=1).astype(np.float32)
    path = tmp_path / "scan.bin"
    (rng.permutation(rows) if shuffled else rows).tofile(path)
    assert guess_width(path) == width
    with pytest.raises(DataError, match=f"looks like {width} float32 columns"):
        inspect(path)


def test_no_width_is_guessed_where_columns_are_alike(tmp_path: Path) -> None:
    path = tmp_path / "cube.bin"
    np.random.default_rng(0).random((5040, 3)).astype(np.float32).tofile(path)
    assert guess_width(path) is None
    np.zeros(7, np.float32).tofile(path)
    assert guess_width(path) is None
    np.zeros(2, np.float32).tofile(path)
    assert guess_width(path) is None


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<i4"])
def test_npy(tmp_path: Path, order: str, dtype: str) -> None:
    path = tmp_path / "a.npy"
    matrix = np.array(MATRIX, dtype, order=order)  # type: ignore[call-overload]
    np.save(path, matrix)
    cloud = read_cloud(path)
    np.testing.assert_array_equal(cloud.points, matrix[:, :3].astype(np.float64))
    assert list(cloud.columns) == ["column4", "column5"]
    assert cloud.columns["column5"].dtype == np.dtype(dtype).newbyteorder("=")
    chunks = list(read_blocks(path, FIVE, rows=16))
    np.testing.assert_array_equal(np.concatenate([chunk.columns["ring"] for chunk in chunks]), matrix[:, 4])


def test_npy_with_names_images_and_single_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    rows = np.zeros(4, [("x", "<f8"), ("y", "<f8"), ("z", "<f8"), ("rgb", "u1", (3,)), ("label", "<u2")])
    rows["x"], rows["label"], rows["rgb"] = 650_000.123456, [1, 2, 3, 4], [9, 8, 7]
    np.save(path, rows)
    cloud = read_cloud(path)
    assert cloud.points[3, 0] == 650_000.123456 and cloud.columns["label"].tolist() == [1, 2, 3, 4]
    assert cloud.columns["rgb"].shape == (4, 3) and cloud.columns["label"].dtype == np.uint16
    np.save(path, MATRIX.reshape(8, 5, 5))
    np.testing.assert_array_equal(read_cloud(path).points, MATRIX[:, :3])
    np.save(path, np.arange(5, dtype=np.uint8))
    table = read_table(path)
    assert table["column1"].tolist() == [0, 1, 2, 3, 4]


def test_bad_npy(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, MATRIX)
    content = path.read_bytes()
    for wrong, message in [
        (content[:-20], "truncated: it holds 39 of 40"),
        (content[:60], "header of an array is damaged"),
        (b"\x93NUMPZ" + content[6:], "does not begin with"),
        (content.replace(b"(40, 5)", b"(-4, 5)"), r"states the shape \(-4, 5\)"),
        (content.replace(b"(40, 5)", b"(40, 0)"), "holds no rows of points"),
        (content.replace(b"(40, 5)", b"(0, 55)"), "no points"),
    ]:
        path.write_bytes(wrong)
        with pytest.raises(DataError, match=message):
            read_cloud(path)
    for array, message in [
        (np.array([{}, {}]), "Python objects"),
        (np.array([["a", "b", "c"]]), "holds no numbers but <U1"),
        (np.zeros((3, 2)), "no column 'x'"),
        (np.array(3.0), "holds no rows of points"),
    ]:
        np.save(path, array, allow_pickle=True)
        with pytest.raises(DataError, match=message):
            read_cloud(path)
    np.save(path, MATRIX)
    with pytest.raises(DataError, match="5 columns, 3 are named"):
        read_cloud(path, Options(names=("x", "y", "z")))


def write(path: Path, arrays: dict[str, np.ndarray], compressed: bool = True) -> Path:
    if path.suffix == ".npz":
        (np.savez_compressed if compressed else np.savez)(path, **arrays)  # type: ignore[arg-type]
    else:
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                file.create_dataset(name, data=values, compression="gzip" if compressed else None)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_by_name(tmp_path: Path, suffix: str, compressed: bool) -> None:
    labels = np.arange(40, dtype=np.int16)
    arrays = {"xyz": MATRIX[:, :3].astype(">f8"), "labels": labels, "rgb": np.full((40, 3), 7, np.uint8)}
    arrays |= {"height": MATRIX[:, 2:3], "pose": np.eye(4), "far": np.asfortranarray(MATRIX)}
    path = write(tmp_path / f"a{suffix}", arrays, compressed)
    source = inspect(path)
    assert source.count == 40 and source.header["others"] == ["pose"]
    chunks = list(read_blocks(path, rows=16))
    assert [len(chunk.points) for chunk in chunks] == [16, 16, 8]
    np.testing.assert_array_equal(np.concatenate([chunk.points for chunk in chunks]), MATRIX[:, :3])
    for name in ("labels", "rgb", "far"):
        joined = np.concatenate([chunk.columns[name] for chunk in chunks])
        assert joined.dtype == arrays[name].dtype
        np.testing.assert_array_equal(joined, arrays[name])
    assert chunks[0].columns["height"].shape == (16,)
    assert list(read_cloud(path, columns=["labels"]).columns) == ["labels"]


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_which_array_holds_the_points(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    split = {axis: MATRIX[:, column] for column, axis in enumerate("xyz")}
    np.testing.assert_array_equal(read_cloud(write(path, {**split, "label": np.arange(40)})).points, MATRIX[:, :3])
    assert list(read_cloud(write(path, {"scan": MATRIX, "label": np.arange(40)})).columns) == [
        *("column4", "column5"),
        "label",
    ]
    two = write(path, {"a": MATRIX, "b": MATRIX[:, :4]})
    with pytest.raises(DataError, match=r"several arrays may hold the points.*a, b"):
        read_cloud(two)
    assert list(read_cloud(two, Options(dataset="b")).columns) == ["column4", "a"]
    with pytest.raises(DataError, match=r"no array 'c'.*a, b"):
        read_cloud(two, Options(dataset="c"))
    with pytest.raises(DataError, match="no points"):
        read_cloud(write(path, {"points": MATRIX[:0]}))
    table = read_table(write(path, {"label": np.arange(40)}))
    assert table["label"].tolist() == list(range(40))


def test_groups_and_compound_types_of_h5(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    compound = np.zeros(6, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("label", "<i4")])
    compound["label"] = np.arange(6)
    with h5py.File(path, "w") as file:
        file["level_0/pos"], file["level_0/rgb"], file["level_1/pos"] = MATRIX[:, :3], MATRIX[:, 3:], MATRIX[:9, :3]
        file["table"], file["words"] = compound, ["a", "b"]
    with pytest.raises(DataError, match="level_0/pos, level_1/pos"):
        inspect(path)
    cloud = read_cloud(path, Options(dataset="level_0/pos"))
    assert list(cloud.columns) == ["rgb"] and cloud.columns["rgb"].shape == (40, 2)
    assert read_cloud(path, Options(dataset="table")).columns["label"].tolist() == list(range(6))
    with pytest.raises(DataError, match="no numbers"):
        inspect(path, Options(dataset="words"))


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_damaged_archives(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", {"points": MATRIX})
    content = bytearray(path.read_bytes())
    path.write_bytes(bytes(content[: len(content) // 2]))
    with pytest.raises(DataError, match="damaged"):
        read_cloud(path)
    path.write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="does not begin with"):
        read_cloud(path)
    if suffix == ".npz":
        content[len(content) // 2] ^= 0xFF  # inside the compressed numbers
        path.write_bytes(bytes(content))
        with pytest.raises(DataError, match="damaged"):
            read_cloud(path)
