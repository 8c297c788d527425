"""Files of nuScenes folders that are damaged, missing or elsewhere: each mistake is named, with the file."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl3d.data.datasets.nuscenes import NuScenes
from ssl3d.data.datasets.root import WrongRoot
from ssl3d.data.datasets.source import DatasetReader, ReadOptions
from ssl3d.data.errors import DataError
from ssl3d.data.spec import load_spec

Damage = Callable[[DatasetReader, Path, list[Path], int], int]
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


def first_scan(root: Path, role: str = "points") -> Path:
    return Path(READER.discover(root).units[0].scans[0].files[role].path)


# ------------------------------------------------------------------------------------------------------ damaged files


def test_a_scan_of_other_columns(make_nuscenes: Make) -> None:
    root = make_nuscenes()
    file = first_scan(root)
    rows = np.fromfile(file, "<f4").reshape(-1, 5)
    rows[:, [3, 4]] = rows[:, [4, 3]]
    rows.tofile(file)
    text = read_error(root)
    assert "no ring index 0..31" in text and str(file) in text and "N x 5" in text
    np.random.default_rng(0).normal(0, 10, 250).astype(">f4").tofile(file)
    assert "no ring index" in read_error(root)


def test_files_that_change_or_vanish_after_they_were_found(make_nuscenes: Make) -> None:
    root = make_nuscenes()
    unit = READER.discover(root).units[0]
    file = Path(unit.scans[0].files["labels"].path)
    file.write_bytes(b"\0" * 3)
    with pytest.raises(DataError, match="changed"):
        READER.read_scan(unit, 0, SPEC)
    file.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        READER.read_scan(unit, 0, SPEC)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"text"])
def test_damaged_instances(make_nuscenes: Make, content: bytes) -> None:
    root = make_nuscenes(panoptic=True)
    file = first_scan(root, "panoptic")
    file.write_bytes(content)
    text = read_error(root)
    assert "panoptic file is damaged" in text and str(file) in text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": np.zeros(49, "u2")}, "49 labels"),
        ({"other": np.zeros(50, "u2")}, "damaged"),
        ({"data": np.zeros(50)}, "whole"),
    ],
)
def test_wrong_instances(make_nuscenes: Make, values: dict[str, Any], message: str) -> None:
    root = make_nuscenes(panoptic=True)
    np.savez(first_scan(root, "panoptic"), **values)
    assert message in read_error(root)


def test_missing_instances_are_left_out(make_nuscenes: Make) -> None:
    root = make_nuscenes(panoptic=True)
    first_scan(root, "panoptic").unlink()
    layout = READER.discover(root)
    assert [bool(unit.fields.truths) for unit in layout.units] == [False, True]
    assert "1 panoptic files are missing" in layout.warnings[0].what
    shutil.rmtree(root / "panoptic")
    assert "no file of it" in READER.discover(root).warnings[0].what


def test_missing_images_are_left_out(make_nuscenes: Make) -> None:
    root = make_nuscenes()
    next((root / "samples/CAM_BACK").iterdir()).unlink()
    layout = READER.discover(root)
    assert "1 of 30 images are missing" in layout.warnings[0].what
    assert sorted(len(scan.details.cameras) for unit in layout.units for scan in unit.scans) == [5, 6, 6, 6, 6]
    assert sorted(group.facts["images"] for group in layout.report.groups) in ([1, 3], [2, 2])


# ------------------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("below", ["samples", "samples/LIDAR_TOP", "v1.0-mini", "lidarseg", "lidarseg/v1.0-mini", ".."])
def test_the_wrong_level_is_named(make_nuscenes: Make, below: str) -> None:
    root = make_nuscenes()
    with pytest.raises(WrongRoot, match=r"too (deep|high)") as caught:
        READER.check(root / below)
    assert caught.value.hint == f"--root {root}"


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("v1.0-mini", "V1.0-Mini"),
        ("samples", "Samples"),
        ("samples/LIDAR_TOP", "samples/lidar_top"),
        ("lidarseg", "LidarSeg"),
    ],
)
def test_names_in_other_case(make_nuscenes: Make, name: str, other: str) -> None:
    root = make_nuscenes()
    (root / name).rename(root / other)
    with pytest.raises(DataError) as caught:
        READER.discover(root)
    assert f"rename {root / other} to " in str(caught.value) or f"rename {other} to {name}" in str(caught.value)


def test_archives_that_are_not_unpacked(tmp_path: Path, make_nuscenes: Make) -> None:
    (tmp_path / "v1.0-mini.tgz").write_bytes(b"")
    with pytest.raises(DataError, match="not unpacked"):
        READER.check(tmp_path)
    archive = tmp_path / "nu.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("v1.0-mini/scene.json", "[]")
    with pytest.raises(WrongRoot, match="a file, not a folder"):
        READER.check(archive)


def test_folders_without_tables(make_nuscenes: Make, tmp_path: Path) -> None:
    root = make_nuscenes()
    shutil.rmtree(root / "v1.0-mini")
    with pytest.raises(DataError, match="scans, but no tables") as caught:
        READER.check(root)
    assert "metadata archive" in str(caught.value.hint)
    (root / "v1.0-interp_12Hz").mkdir()
    with pytest.raises(DataError, match=r"v1\.0-interp_12Hz is no version"):
        READER.check(root)
    shutil.rmtree(root / "samples")
    (root / "v1.0-interp_12Hz").rmdir()
    with pytest.raises(DataError, match="labels, but neither tables nor scans"):
        READER.check(root)


def test_links_are_followed(make_nuscenes: Make, tmp_path: Path) -> None:
    root = make_nuscenes()
    for name in ("samples", "v1.0-mini"):
        (root / name).rename(tmp_path / name)
        (root / name).symlink_to(tmp_path / name)
    assert READER.discover(root).num_scans == 5
    file = first_scan(root)
    file.unlink()
    file.symlink_to(tmp_path / "nowhere")
    text = error_of(root)
    assert "links that lead nowhere" in text and str(file) in text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files(make_nuscenes: Make) -> None:
    root = make_nuscenes()
    first_scan(root).chmod(0)
    assert "cannot be read" in read_error(root)
    (root / "v1.0-mini/scene.json").chmod(0)
    assert "cannot be read" in error_of(root)


@pytest.mark.parametrize("seed", range(8))
def test_no_damage_is_anything_but_an_error_with_a_name(
    make_nuscenes: Make, seed: int, damage_at_random: Damage
) -> None:
    root = make_nuscenes(panoptic=True)
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".jpg")
    assert damage_at_random(READER, root, files, seed) > 10
