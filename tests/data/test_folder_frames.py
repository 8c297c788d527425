"""Frames with poses and cameras in files of their own, in the world or the sensor's frame; rows of one lidar of two."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl3d.data.datasets.convert import ConvertParams, UnitInfo, convert_unit
from ssl3d.data.datasets.folder import Folder
from ssl3d.data.datasets.folder_config import parse_config
from ssl3d.data.datasets.folder_guess_text import guess_text
from ssl3d.data.datasets.rigid import from_quaternion, inverse
from ssl3d.data.errors import DataError
from ssl3d.data.store import ShardReader

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FRAMES = (2, 5)
"""Of ten: names of clouds say which pose is theirs."""
INTRINSIC = {"fx": 500.0, "fy": 510.0, "cx": 32.0, "cy": 24.0}


def pose(number: int) -> np.ndarray:
    half = 0.1 * number
    return from_quaternion([1000.0 + number, 20.0, 1.5], [np.cos(half), 0.0, 0.0, np.sin(half)])


def as_entry(number: int) -> dict[str, Any]:
    half = 0.1 * number
    position = {"x": 1000.0 + number, "y": 20.0, "z": 1.5}
    return {"position": position, "heading": {"w": np.cos(half), "x": 0.0, "y": 0.0, "z": np.sin(half)}}


def local(number: int) -> np.ndarray:
    """(60, 3) of a frame, seen from its sensor; multiples of 1/64."""
    return np.random.default_rng(number).integers(-2000, 2000, (60, 3)) / 64


@pytest.fixture
def drive(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """``<root>/01/{lidar,labels,camera}`` in the manner of PandaSet, as .npz."""
    root = tmp_path / "root"
    for name in ("lidar", "labels", "camera"):
        (root / "01" / name).mkdir(parents=True)
    for number in FRAMES:
        xyz = local(number) @ pose(number)[:3, :3].T + pose(number)[:3, 3]
        columns = dict(zip("xyz", xyz.T, strict=True))
        d = np.arange(60) % 3 % 2  # 0 1 0
        np.savez(root / f"01/lidar/0{number}.npz", **columns, i=np.arange(60.0), d=d)
        np.save(root / f"01/labels/0{number}.npy", np.where(d == 1, 99, np.arange(60) % 2 + 1))
        (root / f"01/camera/0{number}-{number}77.jpg").write_bytes(b"")
    (root / "01/lidar/poses.json").write_text(json.dumps([as_entry(number) for number in range(10)]))
    (root / "01/camera/poses.json").write_text(json.dumps([as_entry(number + 1) for number in range(10)]))
    (root / "01/camera/intrinsics.json").write_text(json.dumps(INTRINSIC))
    return root, {
        "name": "drive",
        "root": str(root),
        "clouds": {"files": ["*/lidar/*.npz"], "group": "folder", "keep": {"d": [0]}},
        "columns": {"intensity": "i", "intensity_range": [0, 60]},
        "labels": {"files": "{folder}/../labels/{stem}.npy"},
        "poses": {"files": "{folder}/poses.json", "by": "stem", "world": True},
        "images": [
            {
                "name": "front",
                "files": "{folder}/../camera/{stem}-*.jpg",
                "size": [64, 48],
                "intrinsic": "{folder}/../camera/intrinsics.json",
                "poses": {"files": "{folder}/../camera/poses.json", "by": "stem"},
            }
        ],
        "classes": {"1": "one", "2": "two"},
    }


def convert(table: dict[str, Any], out: Path) -> list[tuple[UnitInfo, dict[str, ShardReader]]]:
    reader = Folder(parse_config(table, out / "my.toml").text())
    done = []
    for unit in reader.discover(reader.config.base()).units:
        with reader.opened(unit, reader.spec(), out) as (reading, source):
            files = {product: out / f"{unit.id}.{product}.h5" for product in source.products()}
            info = convert_unit(reading, source, files, ConvertParams(sync=False))
        done.append((info, {product: ShardReader(path) for product, path in files.items()}))
    return done


def test_points_in_the_world_come_back_to_their_sensor(drive: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    _, table = drive
    kept = np.flatnonzero(np.arange(60) % 3 != 1)
    for number, (info, shards) in zip(FRAMES, convert(table, tmp_path), strict=True):
        assert info.scan_ids == [f"01-lidar/0{number}"] and info.num_points == [40] and info.ignored == 0
        points = shards["points"]
        assert np.abs(points.read("points", 0) - local(number)[kept]).max() < 1e-5
        assert points.read("source_row", 0).tolist() == kept.tolist()
        assert np.allclose(points.read("intensity", 0), kept / 60)
        assert points.read("origin", 0).tolist() == [0, 0, 0]
        assert np.allclose(points.read("pose", 0), pose(number))
        assert (shards["labels"].read("label", 0) == kept % 2).all()
        cameras = shards["cameras"]
        assert cameras.array("image").tolist() == [f"01/camera/0{number}-{number}77.jpg"]
        assert cameras.array("intrinsic")[0].tolist() == [[500, 0, 32], [0, 510, 24], [0, 0, 1]]
        assert np.allclose(cameras.array("extrinsic")[0], inverse(pose(number + 1)) @ pose(number))


def test_points_that_stay_in_the_world(drive: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Without poses of the clouds, cameras take points of the world; rows are all kept."""
    _, table = drive
    del table["poses"], table["clouds"]["keep"]
    table["ignored"] = {"99": "other lidar"}
    for number, (info, shards) in zip(FRAMES, convert(table, tmp_path), strict=True):
        assert info.num_points == [60] and info.ignored == 20 and "source_row" not in info.columns
        at = shards["points"].read("points", 0) + shards["points"].read("origin", 0)
        assert np.abs(at - (local(number) @ pose(number)[:3, :3].T + pose(number)[:3, 3])).max() < 1e-4
        assert np.allclose(shards["cameras"].array("extrinsic")[0], inverse(pose(number + 1)))


def test_the_order_of_names_and_keys(drive: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    root, table = drive
    table["poses"] |= {"by": "order", "world": False}
    found = [shards["points"].read("pose", 0) for _, shards in convert(table, tmp_path)]
    assert np.allclose(found, [pose(0), pose(1)])
    flat = {f"0{number}": pose(number)[:3].ravel().tolist() for number in FRAMES}
    nested = {name: np.reshape(values, (3, 4)).tolist() for name, values in flat.items()}
    for content in (flat, nested):
        (root / "01/lidar/poses.json").write_text(json.dumps(content))
        found = [shards["points"].read("pose", 0) for _, shards in convert(table, tmp_path)]
        assert np.allclose(found, [pose(number) for number in FRAMES])
    for number in FRAMES:
        (root / f"01/lidar/0{number}.json").write_text(json.dumps(as_entry(number)))
    table["poses"] = {"files": "{folder}/{stem}.json"}
    found = [shards["points"].read("pose", 0) for _, shards in convert(table, tmp_path)]
    assert np.allclose(found, [pose(number) for number in FRAMES])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("lidar/poses.json", "[{]", "the JSON is damaged"),
        ("lidar/poses.json", "3", "holds no poses"),
        ("lidar/poses.json", "[]", "0 poses, too few"),
        ("lidar/poses.json", '{"00": [1]}', "a cloud has no pose.*key: 02"),
        ("lidar/poses.json", json.dumps([{"position": {}}] * 9), "not understood: KeyError"),
        ("lidar/poses.json", json.dumps([[1, 2]] * 9), "a pose has 2 numbers"),
        ("lidar/poses.json", json.dumps([["a"] * 12] * 9), "holds no numbers"),
        ("lidar/poses.json", json.dumps([None] * 9), "a pose has 1 numbers"),
        ("lidar/poses.json", json.dumps([as_entry(0) | {"heading": dict.fromkeys("wxyz", 0)}] * 9), "unit quaternion"),
        ("lidar/poses.json", json.dumps([as_entry(0) | {"position": dict.fromkeys("xyz", 1e999)}] * 9), "no position"),
        ("camera/intrinsics.json", "{}", "intrinsics of a camera are not understood"),
        ("camera/intrinsics.json", "[1]", "intrinsics of a camera are not understood"),
        ("camera/poses.json", "[]", "0 poses, too few"),
    ],
)
def test_damaged_files_beside_the_clouds(
    drive: tuple[Path, dict[str, Any]], tmp_path: Path, name: str, content: str, message: str
) -> None:
    root, table = drive
    (root / "01" / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        convert(table, tmp_path)
    assert name in str(caught.value.where["file"])


def test_files_that_are_missing(drive: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    root, table = drive
    reader = Folder(parse_config(table, tmp_path / "my.toml").text())
    for name, what in (
        ("lidar/poses.json", "a cloud has no poses"),
        ("camera/poses.json", "an image has no poses"),
        ("camera/intrinsics.json", "an image has no intrinsic"),
    ):
        place = root / "01" / name
        place.rename(tmp_path / "away")
        (problem, _) = reader.check(root).errors
        assert problem.what == what and str(problem.where["file"]) == str(place)
        (tmp_path / "away").rename(place)
    (root / "01/camera/02-3.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="2 images match"):
        convert(table, tmp_path)
    for path in (root / "01/camera").glob("*.jpg"):
        path.unlink()
    report = reader.check(root)
    assert report.ok and any("no cloud has an image of this camera" in problem.what for problem in report.warnings)


def test_what_is_kept(drive: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    root, table = drive
    table["clouds"]["keep"] = {"d": [7]}
    with pytest.raises(DataError, match="no points") as caught:
        convert(table, tmp_path)
    assert "clouds.keep" in str(caught.value.hint)
    table["clouds"]["keep"] = {"e": [7]}
    with pytest.raises(DataError, match="no column 'e'"):
        convert(table, tmp_path)
    table["clouds"]["keep"] = {"d": [0]}
    np.save(root / "01/labels/02.npy", np.ones(59, np.int64))
    with pytest.raises(DataError, match="has 60 points, the file beside it 59 labels"):
        convert(table, tmp_path)
    values = np.ones(60)
    values[44] = 1.5  # row 44 is the 30th that is kept
    np.save(root / "01/labels/02.npy", values)
    with pytest.raises(DataError, match="no whole number") as caught:
        convert(table, tmp_path)
    assert caught.value.where["row"] == 44


def test_a_large_cloud_of_which_rows_are_kept_is_cut(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    rng = np.random.default_rng(0)
    xyz, d = rng.uniform(0, 60, (5000, 3)), rng.integers(0, 3, 5000)
    np.savez(root / "a.npz", **dict(zip("xyz", xyz.T, strict=True)), d=d, label=d + 1)
    clouds = {"files": ["*.npz"], "keep": {"d": [0, 2]}}
    table = {"name": "n", "root": str(root), "clouds": clouds, "columns": {"label": "label"}}
    ((info, shards),) = convert(
        table | {"classes": {"1": "one", "3": "three"}, "tiles": {"points": 1000, "size": 20.0}}, tmp_path
    )
    assert len(info.scan_ids) >= 9
    rows = [shards["points"].read("source_row", scan) for scan in range(len(info.scan_ids))]
    assert sorted(np.concatenate(rows).tolist()) == np.flatnonzero(d != 1).tolist()
    for scan, numbers in enumerate(rows):
        at = shards["points"].read("points", scan) + shards["points"].read("origin", scan)
        assert np.abs(at - xyz[numbers]).max() < 1e-5
        assert (shards["labels"].read("label", scan) == d[numbers] // 2).all()


def test_a_root_elsewhere_has_the_images_too(drive: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    root, table = drive
    root.rename(tmp_path / "moved")
    reader = Folder(parse_config(table, tmp_path / "my.toml").text())
    unit = reader.discover(tmp_path / "moved").units[0]
    frame = reader.read_frame(unit, 0, None)
    assert [camera.image for camera in frame.cameras] == ["01/camera/02-277.jpg"]


def test_the_guess_finds_poses_cameras_and_names(drive: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    from PIL import Image

    root, _ = drive
    for number in FRAMES:
        Image.new("RGB", (64, 48)).save(root / f"01/camera/0{number}.jpg")
    (root / "01/labels/classes.json").write_text(json.dumps({"1": "one", "2": "two", "7": "seven", "99": "other"}))
    text = guess_text(root)
    assert "keep = { d = [0] }" in text
    config = parse_config(tomllib.loads(text), tmp_path / "my.toml")
    assert config.poses is not None and config.poses.world and config.poses.by == "stem"
    assert [image.name for image in config.images] == ["camera"] and config.images[0].size == (64, 48)
    assert config.classes == {1: "one", 2: "two", 7: "seven", 99: "other"}
    done = convert(tomllib.loads(text), tmp_path)
    assert [shards["cameras"].array("image").tolist() for _, shards in done] == [
        [f"01/camera/0{number}.jpg"] for number in FRAMES
    ]
