"""Descriptions that are guessed from files: formats, columns, labels beside clouds, ranges, codes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl3d.data.datasets.folder import Folder
from ssl3d.data.datasets.folder_config import parse_config
from ssl3d.data.datasets.folder_guess_text import describe_file, guess_text
from ssl3d.data.errors import DataError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def guessed(root: Path) -> dict[str, Any]:
    """The description, which has to be one that its reader takes without an error."""
    table = tomllib.loads(guess_text(root))
    reader = Folder(parse_config(table, root / "my.toml").text())
    assert reader.check(root).ok
    return table


def cloud(rows: int, seed: int = 0, spread: float = 30.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(0, spread, (rows, 3)) * [1, 1, 0.1]


def test_kitti_like_frames(tmp_path: Path) -> None:
    root = tmp_path / "drive"
    for name in ("00/velodyne", "00/labels", "01/velodyne", "01/labels"):
        (root / name).mkdir(parents=True)
        for frame in range(3):
            if name.endswith("velodyne"):
                points = np.column_stack([cloud(5000, frame), np.random.default_rng(frame).random(5000)])
                points[:500] = 0
                points.astype("<f4").tofile(root / name / f"{frame:06d}.bin")
            else:
                words = np.random.default_rng(frame).choice([0, 3, 9 | (5 << 16)], 5000)
                words.astype("<u4").tofile(root / name / f"{frame:06d}.label")
    table = guessed(root)
    assert table["clouds"]["files"] == ["**/velodyne/*.bin"]
    assert table["clouds"]["names"] == ["x", "y", "z", "intensity"]
    assert table["clouds"]["group"] == "folder" and table["clouds"]["zero_is_none"]
    assert table["columns"] == {"intensity": "intensity", "intensity_range": [0.0, 1.0]}
    assert table["labels"] == {"files": "{folder}/../labels/{stem}.label", "dtype": "<u4", "bits": 16}
    assert table["classes"] == {"3": "class 3", "9": "class 9"} and list(table["ignored"]) == ["0"]
    assert "10% of the rows are at (0, 0, 0)" in guess_text(root)


def test_labels_of_one_byte_in_a_folder_beside(tmp_path: Path) -> None:
    for name in ("points", "labels"):
        (tmp_path / name).mkdir()
    for block in range(4):
        colors = np.random.default_rng(block).random((4000, 3))
        np.column_stack([cloud(4000, block), colors]).astype("<f4").tofile(tmp_path / f"points/b{block}.bin")
        np.random.default_rng(block).integers(0, 13, 4000).astype("u1").tofile(tmp_path / f"labels/b{block}.label")
    table = guessed(tmp_path)
    assert table["columns"] == {"color": ["r", "g", "b"], "color_max": 1.0}
    assert table["labels"] == {"files": "{folder}/../labels/{stem}.label", "dtype": "u1"}
    assert list(table["classes"]) == [str(number) for number in range(13)]  # 0 may be a class: SensatUrban's ground
    assert table["subsets"] == {"val_share": 0.2}


def test_a_text_file_with_names(tmp_path: Path) -> None:
    rows = np.column_stack([cloud(300) + 5e6, np.arange(300) * 100, np.arange(300) % 4])
    np.savetxt(tmp_path / "a.csv", rows, delimiter=",", header="X,Y,Z,Intensity,Classification", comments="")
    text = guess_text(tmp_path)
    table = guessed(tmp_path)
    assert table["columns"]["label"] == "Classification" and table["columns"]["intensity"] == "Intensity"
    assert table["columns"]["intensity_range"] == [0.0, 65535.0]
    assert table["defaults"] == ["backbone.voxel_size=2"]  # 300 points on about 180 x 180 m
    assert "large coordinates keep their precision" in text and "by its name, in a.csv" in text


def test_text_without_names(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (400, 3))
    rows = [cloud(400), rng.integers(-2000, 2000, (400, 1)), colors]
    np.savetxt(tmp_path / "a.txt", np.column_stack(rows), fmt="%.3f %.3f %.3f %d %d %d %d")
    (tmp_path / "a.labels").write_text("".join(f"{n}\n" for n in rng.integers(0, 9, 400)))
    table = guessed(tmp_path)
    assert table["clouds"]["names"] == ["x", "y", "z", "intensity", "r", "g", "b"]
    assert table["labels"]["files"] == "{folder}/{stem}.labels" and table["labels"]["format"] == "text"
    np.savetxt(tmp_path / "a.txt", np.column_stack([cloud(400), colors, rows[1] % 5]), fmt="%g")
    (tmp_path / "a.labels").unlink()
    table = guessed(tmp_path)
    assert table["clouds"]["names"] == ["x", "y", "z", "r", "g", "b", "label"]
    assert list(table["classes"]) == ["0", "1", "2", "3", "4"]


def test_arrays_by_their_names(tmp_path: Path) -> None:
    rgb, ids = np.full((100, 3), 7, "u1"), np.arange(100) % 3 - 1
    np.savez(tmp_path / "a.npz", xyz=cloud(100), rgb=rgb, semantic=ids)
    table = guessed(tmp_path)
    assert table["columns"] == {"color": ["rgb"], "color_max": 255.0, "label": "semantic"}
    assert table["ignored"] == {"-1": "unlabeled"}


def test_aspr_codes_of_a_las(tmp_path: Path) -> None:
    laspy = pytest.importorskip("laspy")
    las = laspy.create(point_format=6, file_version="1.4")
    las.header.scales, las.header.offsets = [0.001] * 3, [650_000, 6_860_000, 0]
    las.x, las.y, las.z = (cloud(600) + np.array([651_000, 6_861_000, 100])).T
    las.classification = np.repeat([1, 2, 5, 6, 66, 17], 100)
    las.intensity = np.arange(600) * 50
    las.write(tmp_path / "tile.las")
    table = guessed(tmp_path)
    assert table["classes"] == {"2": "ground", "5": "high vegetation", "6": "building", "17": "bridge deck"}
    assert table["ignored"] == {"1": "unclassified", "66": "the producer's code 66"}
    assert table["columns"]["label"] == "classification"
    assert "66 synthetic (not measured)" in guess_text(tmp_path)
    assert describe_file(tmp_path / "tile.las").columns.intensity_range == (0.0, 65535.0)


def test_what_is_ambiguous_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", cloud(100))
    np.savetxt(tmp_path / "a.xyz", cloud(100))
    with pytest.raises(DataError, match="several kinds of files may be the clouds") as caught:
        guess_text(tmp_path)
    assert ".npy (a.npy)" in caught.value.what and ".xyz (a.xyz)" in caught.value.what


def test_a_bin_of_unknown_width(tmp_path: Path) -> None:
    np.random.default_rng(0).random(13 * 17).astype("<f4").tofile(tmp_path / "a.bin")
    with pytest.raises(DataError, match="how many columns") as caught:
        guess_text(tmp_path)
    assert "clouds.names" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("00.pth", "pickles are not read"),
        ("00.pkl.gz", "damaged, or holds no table"),
        ("all.zip", "no clouds here"),
        ("readme.md", "no clouds here"),
    ],
)
def test_a_folder_without_clouds(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(DataError, match=message) as caught:
        guess_text(tmp_path)
    assert ("unpack all.zip" in str(caught.value.hint)) == (name == "all.zip")


def test_columns_that_are_no_coordinates(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "a.csv", cloud(50), delimiter=",", header="easting,northing,up", comments="")
    with pytest.raises(DataError, match="no columns are named x, y and z") as caught:
        guess_text(tmp_path)
    assert "easting" in str(caught.value.where["columns"])
