"""Semantic3D: small clouds as text in the publisher's layout, and every way in which they are damaged."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ssl3d.data.datasets.convert import ConvertParams, UnitInfo, convert_unit
from ssl3d.data.datasets.registry import list_readers
from ssl3d.data.datasets.semantic3d import Semantic3D
from ssl3d.data.datasets.source import ReadOptions, SourceUnit
from ssl3d.data.datasets.spool import TileParams
from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.scan import IGNORE
from ssl3d.data.store import ShardReader

TRAIN = "bildstein_station1_xyz_intensity_rgb"
VAL = "bildstein_station3_xyz_intensity_rgb"
TEST = "MarketplaceFeldkirch_Station4_rgb_intensity-reduced"
LONG = "neugasse_station1_xyz_intensity_rgb"
PARTIAL = ReadOptions(allow_partial=True)


def rows_of(count: int, seed: int = 0) -> npt.NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    xyz = np.round(rng.normal(0, 15, (count, 3)), 3)
    others = [rng.integers(-2048, 2048, count), *rng.integers(0, 256, (3, count))]
    return np.column_stack([xyz, *others])


def write_cloud(folder: Path, name: str, count: int = 40, labels: bool = True, seed: int = 0) -> npt.NDArray[np.int64]:
    rows = rows_of(count, seed)
    lines = [" ".join(f"{value:g}" if i < 3 else f"{value:.0f}" for i, value in enumerate(row)) for row in rows]
    (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    ids = np.random.default_rng(seed + 1).integers(0, 9, count)
    if labels:
        (folder / f"{name}.labels").write_text("\n".join(map(str, ids)) + "\n")
    return ids


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three clouds that say themselves that they are all."""
    folder = tmp_path / "semantic3d"
    folder.mkdir()
    write_cloud(folder, TRAIN, seed=1)
    write_cloud(folder, VAL, 30, seed=2)
    write_cloud(folder, TEST, 20, labels=False, seed=3)
    counts = {TRAIN: 1, VAL: 1, TEST: 1}
    (folder / "ssl3d_synth.json").write_text(json.dumps({"complete": True, "scans_per_sequence": counts}))
    return folder


def convert(reader: Semantic3D, unit: SourceUnit, out: Path) -> tuple[UnitInfo, ShardReader, ShardReader]:
    files = {product: out / f"{unit.id}.{product}.h5" for product in unit.products()}
    with reader.opened(unit, reader.spec(), out) as (inner, whole):
        info = convert_unit(inner, whole, files, ConvertParams())
    return info, ShardReader(files["points"]), ShardReader(files.get("labels", files["points"]))


def unit_of(root: Path, group: str, reader: Semantic3D) -> SourceUnit:
    return next(unit for unit in reader.discover(root).units if unit.group == group)


def test_a_cloud_becomes_a_scan_with_color_and_train_ids(root: Path, tmp_path: Path) -> None:
    assert "semantic3d" in list_readers()
    reader = Semantic3D()
    layout = reader.discover(root)
    assert {unit.group: unit.subset for unit in layout.units} == {TRAIN: "train", VAL: "val", TEST: "test"}
    info, points, labels = convert(reader, unit_of(root, TRAIN, reader), tmp_path)
    rows = rows_of(40, 1)
    ids = np.loadtxt(root / f"{TRAIN}.labels", dtype=np.int64)
    assert info.scan_ids == [f"{TRAIN}/all"] and info.num_points == [40] and info.labelled == [True]
    text = np.loadtxt(root / f"{TRAIN}.txt")
    assert np.allclose(points.read("points", 0) + points.read("origin", 0), text[:, :3], atol=1e-5)
    assert np.array_equal(points.read("color", 0), rows[:, 4:7])
    assert np.allclose(points.read("intensity", 0) * 4096 - 2048, rows[:, 3])
    expected = np.where(ids == 0, IGNORE, ids - 1)
    assert np.array_equal(labels.read("label", 0), expected)
    assert info.class_counts == np.bincount(expected, minlength=256)[:8].tolist()
    assert info.ignored == np.count_nonzero(ids == 0)


def test_a_large_cloud_becomes_tiles_that_know_their_rows(root: Path, tmp_path: Path) -> None:
    ids = write_cloud(root, TRAIN, 5000, seed=9)
    reader = Semantic3D()
    whole, points, labels = convert(reader, unit_of(root, TRAIN, reader), tmp_path)
    before = points.read("points", 0) + points.read("origin", 0)
    reader.tiles = TileParams(400, 20.0)
    (tmp_path / "cut").mkdir()
    info, points, labels = convert(reader, unit_of(root, TRAIN, reader), tmp_path / "cut")
    assert len(info.scan_ids) > 10 and max(info.num_points) <= 400 and sum(info.num_points) == 5000
    assert all(scan_id.startswith(f"{TRAIN}/") for scan_id in info.scan_ids)
    assert (info.digest, info.class_counts) == (whole.digest, whole.class_counts)
    seen = np.zeros(5000, np.int64)
    for position in range(len(info.scan_ids)):
        rows = points.read("source_row", position)
        seen[rows] += 1
        at = points.read("points", position) + points.read("origin", position)
        assert np.allclose(at, before[rows], atol=1e-4)
        assert np.array_equal(labels.read("label", position), np.where(ids == 0, IGNORE, ids - 1)[rows])
    assert (seen == 1).all()


def test_a_test_cloud_has_no_labels(root: Path, tmp_path: Path) -> None:
    reader = Semantic3D()
    info, _, _ = convert(reader, unit_of(root, TEST, reader), tmp_path)
    assert info.labelled == [False] and not (tmp_path / f"{TEST}.labels.h5").exists()


@pytest.mark.parametrize(("version", "val"), [("kpconv", False), ("spg", True), ("", True)])
def test_the_validation_clouds_are_a_choice(root: Path, version: str, val: bool) -> None:
    layout = Semantic3D().discover(root, ReadOptions(version=version))
    assert {unit.group: unit.subset for unit in layout.units}[VAL] == ("val" if val else "train")


def test_an_unknown_choice_of_validation_clouds(root: Path) -> None:
    with pytest.raises(UsageError, match="has no division 'fold7'") as caught:
        Semantic3D().discover(root, ReadOptions(version="fold7"))
    assert "kpconv" in str(caught.value.hint)


def test_the_folder_above_and_original_data_are_found(root: Path) -> None:
    inner = root.parent / "semantic3d_2" / "original_data"
    inner.parent.mkdir()
    root.rename(inner)
    assert len(Semantic3D().discover(inner.parent).units) == 3
    with pytest.raises(DataError, match="too high") as caught:
        Semantic3D().discover(inner.parent.parent)
    assert "semantic3d_2" in str(caught.value.hint)


# ---------------------------------------------------------------- damaged


def errors(root: Path) -> list[str]:
    report = Semantic3D().check(root)
    return [f"{problem.what} {dict(problem.where)} {problem.hint}" for problem in report.errors]


def test_a_label_archive_that_is_not_unpacked(root: Path) -> None:
    (root / f"{TRAIN}.labels").unlink()
    (found,) = errors(root)
    assert "has no labels" in found and f"{TRAIN}.labels" in found and "sem8_labels_training.7z" in found
    layout = Semantic3D().discover(root, PARTIAL)
    assert [unit.scans[0].labelled for unit in layout.units if unit.group == TRAIN] == [False]


def test_the_cloud_that_unpacks_to_a_short_name(root: Path) -> None:
    write_cloud(root, "station1_xyz_intensity_rgb", labels=False)
    (found,) = errors(root)
    assert f"rename it to {LONG}.txt" in found


@pytest.mark.parametrize(
    ("wrong", "right"),
    [(TRAIN.upper(), TRAIN), (TEST.lower(), TEST), (TEST.removesuffix("-reduced") + "-reducd", TEST)],
)
def test_a_name_that_is_nearly_one(root: Path, wrong: str, right: str) -> None:
    (root / f"{right}.txt").rename(root / f"{wrong}.txt")
    assert any(f"{wrong}.txt" in found and f"rename it to {right}.txt" in found for found in errors(root))


def test_an_archive_that_is_not_unpacked(root: Path) -> None:
    (root / f"{TEST}.txt").rename(root / f"{TEST}.txt.7z")
    (found,) = errors(root)
    assert "not unpacked" in found and f"7z x {TEST}.txt.7z" in found


def test_labels_of_a_test_cloud(root: Path) -> None:
    (root / f"{TEST}.labels").write_text("1\n" * 20)
    (found,) = errors(root)
    assert "test cloud with labels" in found and f"{TEST}.labels" in found


def test_a_cloud_that_is_missing(root: Path) -> None:
    (root / f"{VAL}.txt").unlink()
    (found,) = errors(root)
    assert "missing" in found and "--allow-partial" in found
    assert len(Semantic3D().discover(root, PARTIAL).units) == 2


def test_a_complete_folder_needs_all_train_clouds(root: Path) -> None:
    (root / "ssl3d_synth.json").unlink()
    assert sum("missing" in found for found in errors(root)) == 13


def edit(path: Path, line: int, text: str) -> None:
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.5 2 3 -40 1 2", "fewer than 7 fields"),
        ("1.5 2 3 -40 1 2 3 4", "more than 7 fields"),
        ("1.5 2 nan -40 1 2 3", "coordinates are not finite: 1.5 2 nan"),
        ("1.5 2 3 -40.5 1 2 3", "intensity is not an integer: -40.5"),
        ("1.5 2 3 -40 1 256 3", "r g b are not integers within 0..255: 1 256 3"),
        ("1.5 2 abc -40 1 2 3", "no number: 'abc'"),
    ],
)
@pytest.mark.parametrize("line", [17, 40])
def test_a_damaged_line_is_named(root: Path, tmp_path: Path, text: str, message: str, line: int) -> None:
    edit(root / f"{TRAIN}.txt", line, text)
    reader = Semantic3D()
    with pytest.raises(DataError, match=message) as caught:
        convert(reader, unit_of(root, TRAIN, reader), tmp_path)
    assert caught.value.where["line"] == line and TRAIN in str(caught.value.where["file"])
    assert not list(tmp_path.glob("*.h5"))


def test_a_download_that_ends_in_half_a_line(root: Path, tmp_path: Path) -> None:
    path = root / f"{TRAIN}.txt"
    path.write_text(path.read_text()[:-12])
    reader = Semantic3D()
    with pytest.raises(DataError, match="fewer than 7 fields") as caught:
        convert(reader, unit_of(root, TRAIN, reader), tmp_path)
    assert caught.value.where["line"] == 40


@pytest.mark.parametrize(("text", "message"), [("9", "9 is no label"), ("-1", "-1 is no"), ("1.5", "1.5 is no label")])
def test_a_label_that_there_is_not(root: Path, tmp_path: Path, text: str, message: str) -> None:
    edit(root / f"{TRAIN}.labels", 23, text)
    reader = Semantic3D()
    with pytest.raises(DataError, match=message) as caught:
        convert(reader, unit_of(root, TRAIN, reader), tmp_path)
    assert caught.value.where["line"] == 23 and "labels" in str(caught.value.where["file"])


@pytest.mark.parametrize("count", [39, 41, 90])
def test_other_numbers_of_labels_and_points(root: Path, tmp_path: Path, count: int) -> None:
    (root / f"{TRAIN}.labels").write_text("1\n" * count)
    reader = Semantic3D()
    with pytest.raises(DataError, match=f"40 points, the file beside it {count} labels") as caught:
        convert(reader, unit_of(root, TRAIN, reader), tmp_path)
    assert TRAIN in str(caught.value.where["cloud"])


def test_a_file_that_grows_while_it_is_read(root: Path, tmp_path: Path) -> None:
    reader = Semantic3D()
    unit = unit_of(root, TRAIN, reader)
    scan = unit.scans[0]
    points = scan.files["points"]._replace(stamp=(7, 0))
    changed = dataclasses.replace(unit, scans=(scan._replace(files={**scan.files, "points": points}),))
    with pytest.raises(DataError, match="changed while it was in use"):
        convert(reader, changed, tmp_path)


def test_a_zip_in_place_of_text(root: Path, tmp_path: Path) -> None:
    (root / f"{TRAIN}.txt").write_bytes(b"PK\x03\x04" + bytes(100))
    reader = Semantic3D()
    with pytest.raises(DataError, match="looks like a zip archive"):
        convert(reader, unit_of(root, TRAIN, reader), tmp_path)
