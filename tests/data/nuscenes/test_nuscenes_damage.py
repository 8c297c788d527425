"""Mistakes that users make with nuScenes folders: each is named, with the file and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl3d.data.datasets import nuscenes_tables
from ssl3d.data.datasets.nuscenes import NuScenes
from ssl3d.data.datasets.nuscenes_tables import read_records
from ssl3d.data.datasets.source import ReadOptions
from ssl3d.data.errors import DataError
from ssl3d.data.spec import load_spec

READER = NuScenes()
SPEC = load_spec("nuscenes")
PARTIAL = ReadOptions(allow_partial=True)
Make = Callable[..., Path]


def error_of(root: Path, options: ReadOptions | None = None) -> str:
    """The message, which ``discover`` raises and ``check`` lists."""
    with pytest.raises(DataError) as caught:
        READER.discover(root, options)
    assert READER.check(root, options).errors[0].what == caught.value.what
    return str(caught.value)


def read_error(root: Path) -> str:
    unit = READER.discover(root).units[0]
    with pytest.raises(DataError) as caught:
        READER.read_scan(unit, 0, SPEC)
    return str(caught.value)


def edit(root: Path, name: str, change: Callable[[list[dict[str, Any]]], None], version: str = "v1.0-mini") -> Path:
    file = root / version / f"{name}.json"
    rows = json.loads(file.read_text())
    change(rows)
    file.write_text(json.dumps(rows))
    return file


def first_scan(root: Path, role: str = "points") -> Path:
    return Path(READER.discover(root).units[0].scans[0].files[role].path)


# ------------------------------------------------------------------------------------------------ the published list


def test_the_old_category_table(make_nuscenes: Make) -> None:
    root = make_nuscenes()

    def change(rows: list[dict[str, Any]]) -> None:
        del rows[23:]
        for row in rows:
            del row["index"]

    file = edit(root, "category", change)
    text = error_of(root)
    assert "old one, without `index`" in text and str(file) in text and "lidarseg archive" in text


def test_the_order_of_the_annotators_page(make_nuscenes: Make) -> None:
    root = make_nuscenes()
    edit(root, "category", lambda rows: rows[25].update(name="flat.sidewalk"))
    text = error_of(root)
    assert "index: 25" in text and "found: flat.sidewalk" in text and "expected: flat.other" in text


def test_no_table_of_labels(make_nuscenes: Make, tmp_path: Path) -> None:
    root = make_nuscenes()
    (root / "v1.0-mini/lidarseg.json").unlink()
    (root / "v1.0-mini/category.json").unlink()  # the old one has nothing to say then
    text = error_of(root)
    assert "no table of labels" in text and "lidarseg archive" in text and "lidarseg.json" in text
    units = READER.discover(root, PARTIAL).units
    assert [unit.products() for unit in units] == [("points", "cameras")] * 2


@pytest.mark.parametrize("nested", ["lidarseg/lidarseg/v1.0-mini", "nuScenes-lidarseg-mini-v1.0/lidarseg/v1.0-mini"])
def test_labels_one_level_too_deep(make_nuscenes: Make, nested: str) -> None:
    root = make_nuscenes()
    aside = shutil.move(root / "lidarseg", root.parent / "aside")
    (root / nested).parent.mkdir(parents=True)
    shutil.move(Path(aside) / "v1.0-mini", root / nested)
    text = error_of(root)
    assert (
        "too deep" in text and f"found: {root / nested}" in text and f"expected: {root / 'lidarseg/v1.0-mini'}" in text
    )


def test_fewer_label_files_than_records(make_nuscenes: Make) -> None:
    root = make_nuscenes()
    file = first_scan(root, "labels")
    file.unlink()
    text = error_of(root)
    assert "4 label files, but 5 records" in text and str(file) in text and "--allow-partial" in text
    units = READER.discover(root, PARTIAL).units
    assert [scan.labelled for scan in units[0].scans] == [False, True, True]
    shutil.rmtree(root / "lidarseg")
    assert "0 label files, but 5 records" in error_of(root)


def test_more_label_files_than_records(make_nuscenes: Make) -> None:
    root = make_nuscenes()
    (root / "lidarseg/v1.0-mini/0000_lidarseg.bin").write_bytes(b"\0")
    assert "6 label files, but 5 records" in error_of(root)
    assert READER.discover(root, PARTIAL).num_scans == 5


def test_a_truncated_scan(make_nuscenes: Make) -> None:
    root = make_nuscenes()
    file = first_scan(root)
    file.write_bytes(file.read_bytes()[:-3])
    text = error_of(root)
    assert "truncated scan: 997 bytes are no multiple of 20" in text and str(file) in text


@pytest.mark.parametrize(
    ("labels", "dtype", "hint"),
    [(62, "u1", "N x 4"), (50, "<u2", "one byte a point"), (50, "<u4", "one byte a point"), (49, "u1", "two scans")],
)
def test_labels_of_other_length(make_nuscenes: Make, labels: int, dtype: str, hint: str) -> None:
    root = make_nuscenes()
    file = first_scan(root, "labels")
    np.zeros(labels, dtype).tofile(file)
    text = error_of(root)
    assert "50 points" in text and f"{labels * np.dtype(dtype).itemsize} labels" in text
    assert hint in text and str(file) in text


def test_unknown_ids(make_nuscenes: Make) -> None:
    root = make_nuscenes()
    ids = np.full(50, 24, "u1")
    ids[:4] = 32, 40, 40, 31
    ids.tofile(first_scan(root, "labels"))
    text = read_error(root)
    assert "32 (1 points), 40 (2 points)" in text and "lidarseg" in text


def test_tables_of_another_version(make_nuscenes: Make) -> None:
    root = make_nuscenes(manifest=False)
    (root / "v1.0-mini").rename(root / "v1.0-trainval")
    text = error_of(root)
    assert (
        "848 of the 850 scenes of v1.0-trainval are not in its tables" in text and "first missing: scene-0001" in text
    )
    assert READER.discover(make_nuscenes(name="other"), PARTIAL).num_scans == 5


def test_scenes_that_the_version_does_not_have(make_nuscenes: Make) -> None:
    root = make_nuscenes({"scene-0061": 1, "scene-0002": 1})
    (warning,) = READER.check(root).all_problems()
    assert "1 scenes left aside that v1.0-mini does not have" in warning.what and warning.where["found"] == "scene-0002"
    assert READER.discover(root).num_scans == 1


def test_missing_scans(make_nuscenes: Make) -> None:
    root = make_nuscenes()
    files = [Path(scan.files["points"].path) for scan in READER.discover(root).units[0].scans]
    files[1].unlink()
    files[2].unlink()
    text = error_of(root)
    assert "2 scans are missing" in text and str(files[1]) in text and "all are needed" in text and "trainval10" in text
    layout = READER.discover(root, PARTIAL)
    assert layout.num_scans == 3 and layout.report.groups[0].scans == 1 and layout.report.groups[0].expected == 3


def test_labels_of_sweeps(make_nuscenes: Make) -> None:
    root = make_nuscenes()
    sweep = next(r for r in json.loads((root / "v1.0-mini/sample_data.json").read_text()) if not r["is_key_frame"])
    edit(root, "lidarseg", lambda rows: rows[0].update(sample_data_token=sweep["token"]))
    text = error_of(root)
    assert "only key frames" in text and sweep["token"] in text and "lidarseg.json" in text


# ------------------------------------------------------------------------------------------------------ damaged tables


@pytest.mark.parametrize(
    "name", ["scene", "sample", "sample_data", "sensor", "calibrated_sensor", "ego_pose", "category"]
)
def test_a_missing_table(make_nuscenes: Make, name: str) -> None:
    root = make_nuscenes()
    (root / "v1.0-mini" / f"{name}.json").unlink()
    text = error_of(root)
    assert f"the table {name}.json is missing" in text and "metadata archive" in text


@pytest.mark.parametrize("content", [b"", b"{}", b"[{]", b"[1]", b"\xff\xfe[", b"null", b'[{"token": "a"}'])
@pytest.mark.parametrize("name", ["scene", "sample_data", "lidarseg"])
def test_a_damaged_table(make_nuscenes: Make, name: str, content: bytes) -> None:
    root = make_nuscenes()
    file = root / "v1.0-mini" / f"{name}.json"
    file.write_bytes(content)
    text = error_of(root)
    assert "is damaged" in text and str(file) in text


def test_every_cut_of_a_table_is_noticed(make_nuscenes: Make) -> None:
    file = make_nuscenes({"scene-0061": 1}) / "v1.0-mini/scene.json"
    content = file.read_bytes()
    for size in range(len(content) - 1):
        file.write_bytes(content[:size])
        with pytest.raises(DataError, match="is damaged"):
            list(read_records(file, {"token": str}))


@pytest.mark.parametrize("piece", [90, 128, 1000])
def test_records_across_the_pieces_of_a_large_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(nuscenes_tables, "_CHUNK", piece)
    file = tmp_path / "large.json"
    rows = [{"token": f"{number:08x}", "text": "ü}],[{" * (number % 9)} for number in range(2000)]
    for indent in (None, 1):
        file.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")
        assert list(read_records(file, {"token": str})) == rows


@pytest.mark.parametrize(
    ("table", "field", "value", "message"),
    [
        ("sample_data", "ego_pose_token", "00", "ego_pose.json does not have"),
        ("sample_data", "calibrated_sensor_token", "00", "calibrated_sensor.json does not have"),
        ("calibrated_sensor", "sensor_token", "00", "sensor.json does not have"),
        ("sample_data", "filename", None, "field: filename"),
        ("sample_data", "is_key_frame", 1, "field: is_key_frame"),
        ("sample_data", "filename", "/tmp/a.bin", "outside of the root"),
        ("lidarseg", "filename", "../a.bin", "outside of the root"),
        ("ego_pose", "rotation", [0, 0, 0, 2], "length 1"),
        ("ego_pose", "rotation", [1, 0, 0], "4 finite numbers"),
        ("ego_pose", "translation", [1, "x", 0], "3 finite numbers"),
        ("ego_pose", "translation", [1, float("nan"), 0], "3 finite numbers"),
        ("scene", "nbr_samples", 7, "3 found, 7 stated"),
        ("sample", "next", "", "1 found, 3 stated"),
        ("scene", "first_sample_token", "", "0 found, 3 stated"),
    ],
)
def test_records_that_are_wrong(make_nuscenes: Make, table: str, field: str, value: object, message: str) -> None:
    root = make_nuscenes()
    file = edit(root, table, lambda rows: rows[0].update({field: value}))
    text = error_of(root)
    assert message in text and (file.name in text or table == "scene")


def test_a_camera_without_a_matrix(make_nuscenes: Make) -> None:
    root = make_nuscenes()
    edit(root, "calibrated_sensor", lambda rows: rows[1].update(camera_intrinsic=[[1, 0], [0, 1]]))
    assert "no intrinsic matrix" in error_of(root)


def test_samples_in_a_circle_end(make_nuscenes: Make) -> None:
    root = make_nuscenes({"scene-0061": 3})
    edit(root, "sample", lambda rows: rows[1].update(next=rows[0]["token"]))
    assert "4 found, 3 stated" in error_of(root)


def test_rows_that_are_missing(make_nuscenes: Make) -> None:
    root = make_nuscenes()
    edit(root, "lidarseg", lambda rows: rows.pop(0))
    text = error_of(root)
    assert "1 key frames have no record of labels" in text
    other = make_nuscenes(name="other")
    edit(other, "sample_data", lambda rows: rows.pop(0))
    assert "1 samples have no key frame of LIDAR_TOP" in error_of(other)
