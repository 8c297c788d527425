"""Anyone's scans: small folders in several formats, their descriptions, and what can be wrong with both."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ssl3d.data.datasets.convert import ConvertParams, UnitInfo, convert_unit
from ssl3d.data.datasets.folder import Folder
from ssl3d.data.datasets.folder_config import FolderConfig, parse_config
from ssl3d.data.datasets.source import ReadOptions, SourceUnit
from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.scan import IGNORE
from ssl3d.data.store import ShardReader

FAR = np.array([651_000.0, 6_861_000.0, 120.0])
CLASSES = {"2": "ground", "5": "tree", "4": "tree", "6": "building"}
IGNORED = {"1": "unclassified", "-1": "none", "66": "synthetic"}


def scene(count: int, seed: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return np.round(rng.uniform(0, 60, (count, 3)), 3), rng.choice([2, 4, 5, 6, 1, -1, 66], count)


def text_folder(root: Path, clouds: int = 4, count: int = 50) -> dict[str, Any]:
    """``<root>/sub/c0.csv`` ... with coordinates in the millions, and the description of them."""
    (root / "sub").mkdir(parents=True)
    for number in range(clouds):
        xyz, ids = scene(count + number, number)
        rows = np.column_stack([xyz + FAR, np.arange(len(xyz)) % 200, *np.tile([[1], [2], [3]], len(xyz)), ids])
        lines = [",".join(f"{value:.3f}" for value in row) for row in rows]
        (root / "sub" / f"c{number}.csv").write_text("E,N,H,i,r,g,b,code\n" + "\n".join(lines) + "\n")
    columns = {"coordinates": ["E", "N", "H"], "intensity": "i", "intensity_range": [0, 200], "label": "code"}
    return {
        "name": "mine",
        "root": str(root),
        "clouds": {"files": ["**/*.csv"]},
        "columns": {**columns, "color": ["r", "g", "b"]},
        "classes": CLASSES,
        "ignored": IGNORED,
        "subsets": {"val": ["sub/c3*"]},
    }


def reader_of(table: dict[str, Any], folder: Path) -> Folder:
    return Folder(parse_config(table, folder / "my.toml").text())


def convert(reader: Folder, unit: SourceUnit, out: Path) -> tuple[UnitInfo, dict[str, ShardReader]]:
    out.mkdir(exist_ok=True)
    with reader.opened(unit, reader.spec(), out) as (reading, source):
        files = {product: out / f"{unit.id}.{product}.h5" for product in source.products()}
        info = convert_unit(reading, source, files, ConvertParams())
    return info, {product: ShardReader(path) for product, path in files.items()}


def units_of(reader: Folder, options: ReadOptions | None = None) -> tuple[SourceUnit, ...]:
    return reader.discover(reader.config.base(), options).units


def problems_of(table: dict[str, Any], folder: Path) -> list[str]:
    reader = reader_of(table, folder)
    found = reader.check(reader.config.base()).errors
    return [f"{problem.what} {dict(problem.where)} {problem.hint}" for problem in found]


# ---------------------------------------------------------------- reading


def test_text_with_coordinates_in_the_millions(tmp_path: Path) -> None:
    reader = reader_of(text_folder(tmp_path / "data"), tmp_path)
    units = units_of(reader)
    assert {unit.group: unit.subset for unit in units} == {
        **dict.fromkeys(("sub-c0", "sub-c1", "sub-c2"), "train"),
        "sub-c3": "val",
    }
    assert reader.spec().classes == ("ground", "tree", "building")
    info, shards = convert(reader, units[1], tmp_path / "out")
    xyz, ids = scene(51, 1)
    assert info.scan_ids == ["sub-c1/all"] and info.num_points == [51]
    points = shards["points"]
    at = points.read("points", 0).astype(np.float64) + points.read("origin", 0)
    assert np.abs(at - xyz - FAR).max() < 0.001  # a tenth of the centimeter that has to survive
    assert points.read("color", 0).tolist() == [[1, 2, 3]] * 51
    assert np.allclose(points.read("intensity", 0), np.arange(51) / 200)
    train = {2: 0, 4: 1, 5: 1, 6: 2}
    assert shards["labels"].read("label", 0).tolist() == [train.get(int(raw), IGNORE) for raw in ids]


def test_an_outlier_takes_no_precision_from_the_others(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    points = scene(200, 0)[0] + FAR
    points[3], points[4] = 1e11, 1e300
    np.save(root / "a.npy", points)
    reader = reader_of({"name": "n", "root": str(root), "clouds": {"files": ["*"]}, "classes": CLASSES}, tmp_path)
    info, shards = convert(reader, units_of(reader)[0], tmp_path / "out")
    at = shards["points"].read("points", 0).astype(np.float64) + shards["points"].read("origin", 0)
    assert np.abs(at - points)[5:].max() < 0.001 and info.not_finite == 1
    assert np.isfinite(at).all()


def test_the_reader_is_made_from_its_text_alone(tmp_path: Path) -> None:
    config = parse_config(text_folder(tmp_path / "data"), tmp_path / "my.toml")
    again = FolderConfig.from_text(config.text())
    assert again == config and again.text() == config.text()
    assert list(again.classes) == [2, 5, 4, 6]  # the order decides the order of the classes
    assert Folder(config.text()).spec().learning_map == Folder(again.text()).spec().learning_map
    with pytest.raises(UsageError, match="needs a description"):
        Folder()


def test_a_large_cloud_becomes_tiles(tmp_path: Path) -> None:
    table = text_folder(tmp_path / "data", 1, 3000) | {"subsets": {}, "tiles": {"points": 1000, "size": 20.0}}
    reader = reader_of(table, tmp_path)
    info, shards = convert(reader, units_of(reader)[0], tmp_path / "out")
    assert len(info.scan_ids) >= 9 and sum(info.num_points) == 3000 and max(info.num_points) <= 1000
    xyz, _ = scene(3000, 0)
    rows = np.concatenate([shards["points"].read("source_row", i) for i in range(len(info.scan_ids))])
    assert sorted(rows.tolist()) == list(range(3000))
    for i in range(len(info.scan_ids)):
        at = shards["points"].read("points", i).astype(np.float64) + shards["points"].read("origin", i)
        assert np.abs(at - (xyz + FAR)[shards["points"].read("source_row", i)]).max() < 0.001


def test_kitti_like_frames_with_instances_poses_and_images(tmp_path: Path) -> None:
    root = tmp_path / "lidar"
    for name in ("a/points", "a/labels", "a/cam"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for frame in range(3):
        points = rng.normal(0, 10, (40, 4)).astype("<f4")
        points[5, :3] = 0
        points[6, 1] = np.nan
        points.tofile(root / "a/points" / f"00010{frame}.bin")
        words = np.full(40, 5 | (7 << 16), "<u4")
        words.tofile(root / "a/labels" / f"00010{frame}.label")
    (root / "a/cam/000101.jpg").write_bytes(b"")
    (root / "a/poses.txt").write_text("".join(f"1 0 0 {i} 0 1 0 0 0 0 1 0\n" for i in range(3)))
    sensor = {"fov_up_deg": 3.0, "fov_down_deg": -25.0, "height": 64, "width": 512, "max_points": 9000}
    table = {
        "name": "lidar",
        "root": "lidar",
        "clouds": {
            "files": ["*/points/*.bin"],
            "names": ["x", "y", "z", "i"],
            "group": "folder",
            "zero_is_none": True,
        },
        "columns": {"intensity": "i"},
        "labels": {"files": "{folder}/../labels/{stem}.label", "dtype": "<u4", "bits": 16},
        "poses": {"files": "{folder}/../poses.txt"},
        "images": [
            {
                "name": "front",
                "files": "{folder}/../cam/{stem}.jpg",
                "size": [64, 48],
                "intrinsic": np.eye(3).ravel().tolist(),
                "extrinsic": np.eye(4).ravel().tolist(),
            }
        ],
        "classes": {"5": "tree"},
        "sensor": {**sensor, "mean": [0.0] * 5, "std": [1.0] * 5},
    }
    reader = reader_of(table, tmp_path)
    (unit,) = units_of(reader)
    assert unit.id == "a-points.0001xx" and unit.group == "a-points"
    info, shards = convert(reader, unit, tmp_path / "out")
    assert info.scan_ids == [f"a-points/00010{frame}" for frame in range(3)]
    assert (info.not_finite, info.all_zero, info.ignored, info.class_counts) == (3, 3, 6, [114])
    assert shards["labels"].read("instance", 1).tolist() == [7] * 40
    assert shards["points"].read("pose", 2)[0, 3] == 2.0
    assert shards["points"].read("origin", 2).tolist() == [0, 0, 0]  # the sensor stays where it is
    assert shards["cameras"].array("image").tolist() == ["a/cam/000101.jpg"]
    sensor_spec = reader.spec().sensor
    assert sensor_spec is not None and sensor_spec.width == 512


def test_labels_beside_clouds_as_npy_and_text(tmp_path: Path) -> None:
    for number, suffix in enumerate(("npy", "txt")):
        root = tmp_path / suffix
        root.mkdir()
        xyz, ids = scene(30, number)
        np.savez(root / "one.npz", xyz=xyz, rgb=np.full((30, 3), 0.5))
        np.save(root / "one_seg.npy", ids.astype(np.int16))
        np.savetxt(root / "one_seg.txt", ids, fmt="%d")
        table = {
            "name": "n",
            "root": str(root),
            "clouds": {"files": ["*.npz"], "dataset": "xyz"},
            "columns": {"color": ["rgb"], "color_max": 1.0},
            "labels": {"files": f"{{path}}_seg.{suffix}"},
            "classes": CLASSES,
            "ignored": IGNORED,
        }
        reader = reader_of(table, tmp_path)
        info, shards = convert(reader, units_of(reader)[0], tmp_path / f"out{suffix}")
        assert info.class_counts == [int((ids == 2).sum()), int(np.isin(ids, (4, 5)).sum()), int((ids == 6).sum())]
        assert shards["points"].read("color", 0).tolist() == [[128, 128, 128]] * 30


def test_shares_are_drawn_by_name_and_seed(tmp_path: Path) -> None:
    table = text_folder(tmp_path / "data", 10, 20) | {"subsets": {"val_share": 0.2, "test_share": 0.1, "seed": 3}}
    subsets = [unit.subset for unit in units_of(reader_of(table, tmp_path))]
    assert (subsets.count("val"), subsets.count("test"), subsets.count("train")) == (2, 1, 7)
    assert subsets == [unit.subset for unit in units_of(reader_of(table, tmp_path))]
    other = reader_of(table | {"subsets": {"val_share": 0.2, "test_share": 0.1, "seed": 4}}, tmp_path)
    assert subsets != [unit.subset for unit in units_of(other)]


def test_units_of_measure(tmp_path: Path) -> None:
    table = text_folder(tmp_path / "data", 1) | {"subsets": {}}
    table["clouds"]["scale"] = 0.001
    reader = reader_of(table, tmp_path)
    _, shards = convert(reader, units_of(reader)[0], tmp_path / "out")
    at = shards["points"].read("points", 0) + shards["points"].read("origin", 0)
    assert np.allclose(at, (scene(50, 0)[0] + FAR) / 1000, atol=1e-5)


# ---------------------------------------------------------------- damaged folders


def test_patterns_that_match_nothing(tmp_path: Path) -> None:
    table = text_folder(tmp_path / "data", 2)
    with pytest.raises(DataError, match="no clouds") as caught:
        reader_of(table | {"clouds": {"files": ["*.csv"]}}, tmp_path).check(tmp_path / "data")
    assert "sub/c0.csv" in str(caught.value.hint)
    assert "no cloud matches 'c3*'" in problems_of(table | {"subsets": {"val": ["c3*"]}}, tmp_path)[0]
    (tmp_path / "data" / "all.zip").write_bytes(b"PK")
    table["clouds"] = {"files": ["**/*.csv", "**/*.ply"]}
    table["subsets"] = {}
    (found,) = problems_of(table, tmp_path)
    assert "no file matches '**/*.ply'" in found and "unpack all.zip" in found


def test_a_group_in_two_subsets(tmp_path: Path) -> None:
    table = text_folder(tmp_path / "data", 3)
    table["clouds"]["group"] = "folder"
    table["subsets"] = {"train": ["sub/c0*"], "val": ["sub/c1*"]}
    assert "clouds of one group are in train and val" in problems_of(table, tmp_path)[0]


def test_a_column_that_there_is_not(tmp_path: Path) -> None:
    table = text_folder(tmp_path / "data", 1)
    table["columns"]["label"] = "Code"
    table["subsets"] = {}
    (found,) = problems_of(table, tmp_path)
    assert "no column 'Code'" in found and "did you mean 'code'" in found and "c0.csv" in found
    table["columns"]["label"] = "code"
    table["columns"]["coordinates"] = ["X", "N", "H"]
    assert "no column 'X'" in problems_of(table, tmp_path)[0]


def test_ids_that_are_neither_class_nor_ignored(tmp_path: Path) -> None:
    table = text_folder(tmp_path / "data", 1) | {"ignored": {"1": "x", "-1": "y"}, "subsets": {}}
    reader = reader_of(table, tmp_path)
    with pytest.raises(DataError, match="mine does not have") as caught:
        convert(reader, units_of(reader)[0], tmp_path / "out")
    assert "66 (" in str(caught.value.where["ids"]) and "[ignored]" in str(caught.value.hint)


def test_missing_labels_and_labels_of_another_cloud(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for name in ("a", "b"):
        np.save(root / f"{name}.npy", scene(30, 0)[0])
    np.save(root / "a_l.npy", scene(29, 0)[1])
    table = {
        "name": "n",
        "root": str(root),
        "clouds": {"files": ["?.npy"]},
        "labels": {"files": "{stem}_l.npy"},
        "classes": CLASSES,
        "ignored": IGNORED,
    }
    first, second = problems_of(table, tmp_path)
    assert "30 points, the file beside it 29 labels" in first
    assert "b_l.npy" in second and "has no labels" in second and "--allow-partial" in second
    np.save(root / "a_l.npy", scene(30, 0)[1])
    units = units_of(reader_of(table, tmp_path), ReadOptions(allow_partial=True))
    assert [unit.scans[0].labelled for unit in units] == [True, False]


def test_a_folder_of_which_some_clouds_have_labels(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for number in range(3):
        np.save(root / f"c0{number}.npy", scene(30, 0)[0])
    np.save(root / "c01_l.npy", np.full(30, 6))
    clouds = {"files": ["c0?.npy"], "group": "folder"}
    table = {"name": "n", "root": str(root), "clouds": clouds, "labels": {"files": "{stem}_l.npy"}, "classes": CLASSES}
    reader = reader_of(table, tmp_path)
    (unit,) = units_of(reader, ReadOptions(allow_partial=True))
    info, shards = convert(reader, unit, tmp_path / "out")
    assert (info.labelled, info.class_counts, info.ignored) == ([False, True, False], [0, 0, 30], 0)
    assert shards["labels"].read("label", 1).tolist() == [2] * 30


def test_text_labels_that_end_early(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    np.savetxt(root / "a.xyz", scene(30, 0)[0])
    table = {
        "name": "n",
        "root": str(root),
        "clouds": {"files": ["a.xyz"]},
        "labels": {"files": "{stem}.txt"},
        "classes": CLASSES,
        "ignored": IGNORED,
    }
    for count in (29, 31):
        (root / "a.txt").write_text("2\n" * count)
        reader = reader_of(table, tmp_path)
        with pytest.raises(DataError, match=f"30 points, the file beside it {count} labels"):
            convert(reader, units_of(reader)[0], tmp_path / "out")
    (root / "a.txt").write_text("2\n" * 29 + "2.5\n")
    with pytest.raises(DataError, match=r"no whole number: 2\.5") as caught:
        convert(reader, units_of(reader)[0], tmp_path / "out")
    assert caught.value.where["row"] == 29


def test_pickles_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "00.pth").write_bytes(pickle.dumps([1]))
    (root / "01.pkl.gz").write_bytes(gzip.compress(pickle.dumps(Path())))
    (root / "02.pkl").write_bytes(pickle.dumps([1]))
    table = {"name": "n", "root": str(root), "clouds": {"files": ["*"]}, "classes": CLASSES}
    found = problems_of(table, tmp_path)
    for text, (name, what) in zip(
        found,
        (("00.pth", "pickles are not read"), ("01.pkl.gz", "asks for pathlib"), ("02.pkl", "a list, not a DataFrame")),
        strict=True,
    ):
        assert name in text and what in text


def test_damaged_files_are_named_before_anything_is_converted(tmp_path: Path) -> None:
    root = tmp_path / "data"
    table = text_folder(root, 4) | {"subsets": {}}
    (root / "sub/c0.csv").write_bytes(b"")
    (root / "sub/c1.csv").write_bytes(b"PK\x03\x04" + bytes(50))
    (root / "sub/c2.csv").unlink()
    (root / "sub/c2.csv").symlink_to(root / "gone.csv")
    found = problems_of(table, tmp_path)
    assert any("empty" in text and "c0.csv" in text for text in found)
    assert any("zip archive" in text and "c1.csv" in text for text in found)
    assert any("leads nowhere" in text and "c2.csv" in text for text in found)


def test_names_that_would_be_the_same(tmp_path: Path) -> None:
    root = tmp_path / "data"
    table = text_folder(root, 1) | {"subsets": {}}
    (root / "sub-c0.csv").write_bytes((root / "sub/c0.csv").read_bytes())
    assert any("same name sub-c0/all" in text for text in problems_of(table, tmp_path))
