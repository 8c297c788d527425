from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl3d.data.datasets.semantickitti import SemanticKitti
from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.synthetic.frames import lidar_poses
from ssl3d.data.synthetic.presets import PRESETS
from ssl3d.data.synthetic.street import GENERATOR_VERSION, MANIFEST, generate_street, planned_scans

RAW_IDS = {0, 1, 10, 11, 13, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 52, 60, 70, 71, 72, 80, 81, 99}
RAW_IDS |= {252, 253, 254, 255, 257, 258, 259}
THINGS = [10, 11, 13, 15, 16, 18, 20, 30, 31, 32, 252, 253, 254, 255, 257, 258, 259]

TINY_SHA256 = "9a6e6632bfbb6b48e609fd2c52568ca23cfac434b68ee0cd5648051805dc2691"
BENCH_SHA256 = "a899b22723332b9efbb72f314af93a66b8221846924dd965be153b16cfec5532"


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def read(root: Path, sequence: str, frame: int) -> tuple[np.ndarray, np.ndarray]:
    folder = root / "sequences" / sequence
    points = np.fromfile(folder / "velodyne" / f"{frame:06d}.bin", "<f4").reshape(-1, 4)
    return points, np.fromfile(folder / "labels" / f"{frame:06d}.label", "<u4")


def test_layout(streets: Path) -> None:
    manifest = json.loads((streets / MANIFEST).read_text())
    assert manifest["scans_per_sequence"] == {"00": 4, "01": 4, "08": 3, "11": 3}
    assert manifest["subsets"] == {"train": ["00", "01"], "val": ["08"], "test": ["11"]}
    assert manifest["complete"] is True
    for name, scans in manifest["scans_per_sequence"].items():
        folder = streets / "sequences" / name
        assert sorted(p.name for p in (folder / "velodyne").iterdir()) == [f"{k:06d}.bin" for k in range(scans)]
        assert len((folder / "poses.txt").read_text().splitlines()) == scans
        assert len((folder / "times.txt").read_text().splitlines()) == scans
        assert [line.split(":")[0] for line in (folder / "calib.txt").read_text().splitlines()] == [
            "P0",
            "P1",
            "P2",
            "P3",
            "Tr",
        ]
        assert (folder / "labels").exists() == (name != "11")


def test_scans_and_labels(streets: Path) -> None:
    found: set[int] = set()
    for name, scans in (("00", 4), ("01", 4), ("08", 3)):
        classes: dict[int, set[int]] = {}
        for frame in range(scans):
            points, words = read(streets, name, frame)
            assert 3000 < len(points) == len(words) < 32 * 256
            assert np.isfinite(points).all()
            assert points[:, 3].min() >= 0.0 and points[:, 3].max() <= 0.99
            distance = np.linalg.norm(points[:, :3], axis=1)
            assert distance.min() > 0.5 and distance.max() < 121.0
            raw, instance = words & 0xFFFF, words >> 16
            assert set(np.unique(raw).tolist()) <= RAW_IDS
            assert np.all((instance > 0) == np.isin(raw, THINGS))
            assert np.all(raw[distance > 50.5] == 0)
            found |= set(np.unique(raw).tolist())
            for number in np.unique(instance[instance > 0]):
                classes.setdefault(int(number), set()).update(np.unique(raw[instance == number]).tolist())
        assert all(len(labels) == 1 for labels in classes.values())  # an instance keeps its class over the sequence
    merged = {252: 10, 253: 31, 254: 30, 255: 32, 257: 20, 258: 18, 259: 20, 13: 20, 60: 40}
    evaluated = {merged.get(raw, raw) for raw in found} - {0, 1, 52, 99}
    assert len(evaluated) >= 15, sorted(evaluated)


def test_rings_come_from_the_top_each_turning_left(streets: Path) -> None:
    points, _ = read(streets, "00", 0)
    azimuth = np.mod(np.arctan2(points[:, 1].astype(float), points[:, 0]), 2 * np.pi)
    starts = np.flatnonzero(np.diff(azimuth) < -3.0) + 1
    assert 28 <= len(starts) + 1 <= 33
    rings = np.split(points, starts)
    pitch = [np.median(np.arctan2(r[:, 2], np.hypot(r[:, 0], r[:, 1]))) for r in rings if len(r) > 20]
    assert np.all(np.diff(pitch) < 0)
    assert np.degrees(pitch[0]) == pytest.approx(2.5, abs=0.6)


def test_moving_things_move_and_parked_ones_stay(streets: Path) -> None:
    moved = {True: [], False: []}
    for name in ("00", "01"):
        poses = lidar_poses("tiny", 0, name)
        places: dict[int, list[np.ndarray]] = {}
        moving: dict[int, bool] = {}
        for frame in range(4):
            points, words = read(streets, name, frame)
            world = points[:, :3].astype(float) @ poses[frame, :3, :3].T + poses[frame, :3, 3]
            for word in np.unique(words[words >> 16 > 0]):
                mine = world[words == word]
                if len(mine) >= 8:
                    places.setdefault(int(word) >> 16, []).append(np.median(mine, axis=0))
                    moving[int(word) >> 16] = bool(word & 0xFFFF >= 252)
        for number, seen in places.items():
            moved[moving[number]] += [float(np.linalg.norm(b - a)) for a, b in itertools.pairwise(seen)]
    assert len(moved[False]) > 5 and np.median(moved[False]) < 0.8
    assert len(moved[True]) > 0 and np.median(moved[True]) > 0.8


def test_poses_are_of_the_left_camera_in_its_first_frame(streets: Path) -> None:
    folder = streets / "sequences" / "08"
    calibration = {line.split(":")[0]: line.split(":")[1] for line in (folder / "calib.txt").read_text().splitlines()}
    tr = np.vstack([np.fromstring(calibration["Tr"], sep=" ").reshape(3, 4), [0, 0, 0, 1]])
    rows = np.loadtxt(folder / "poses.txt").reshape(-1, 3, 4)
    np.testing.assert_allclose(rows[0], np.eye(4)[:3], atol=1e-8)
    lidar = lidar_poses("tiny", 0, "08")
    for row, pose in zip(rows, lidar, strict=True):
        from_file = np.linalg.inv(tr) @ np.vstack([row, [0, 0, 0, 1]]) @ tr
        np.testing.assert_allclose(from_file, np.linalg.inv(lidar[0]) @ pose, atol=1e-6)
    assert rows[-1, 2, 3] > 5.0  # the camera looks along z, where the car drives


def test_images_have_the_size_of_the_calibration(streets: Path) -> None:
    with Image.open(streets / "sequences" / "00" / "image_2" / "000000.png") as image:
        assert image.mode == "RGB"
        assert image.size == (248, 75)
        pixels = np.asarray(image).astype(int)
    assert pixels[:10].mean() > pixels[-10:].mean()  # sky above, road below
    assert pixels.std() > 20


def test_any_number_of_processes_and_any_repetition_give_the_same_bytes(streets: Path, tmp_path: Path) -> None:
    calls = []
    summary = generate_street(tmp_path / "again", "tiny", 0, jobs=2, on_scan=lambda: calls.append(1))
    assert contents(tmp_path / "again") == contents(streets)
    assert len(calls) == planned_scans("tiny") == summary.scans == 14
    assert sum(summary.points.values()) > 40000
    assert summary.bytes == sum(len(c) for c in contents(streets).values())


def test_goes_on_after_a_kill(streets: Path, tmp_path: Path) -> None:
    out = tmp_path / "town"

    def stop_after_five() -> None:
        done.append(1)
        if len(done) == 5:
            raise KeyboardInterrupt

    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        generate_street(out, "tiny", 0, on_scan=stop_after_five)
    assert not (out / MANIFEST).exists()
    kept = (out / "sequences/00/velodyne/000001.bin").stat().st_mtime_ns
    generate_street(out, "tiny", 0)
    assert (out / "sequences/00/velodyne/000001.bin").stat().st_mtime_ns == kept
    assert contents(out) == contents(streets)


def test_repairs_what_is_missing_or_cut(streets: Path, tmp_path: Path) -> None:
    out = tmp_path / "town"
    shutil.copytree(streets, out)
    folder = out / "sequences" / "00"
    (folder / "labels" / "000002.label").unlink()
    cut = folder / "velodyne" / "000003.bin"
    cut.write_bytes(cut.read_bytes()[:1000])
    (folder / "velodyne" / ".000001.bin.99999999.tmp").write_bytes(b"half")
    (out / "sequences" / "08" / "poses.txt").unlink()
    generate_street(out, "tiny", 0)
    assert contents(out) == contents(streets)


def test_refuses_to_mix(streets: Path, tmp_path: Path) -> None:
    out = tmp_path / "town"
    shutil.copytree(streets, out)
    with pytest.raises(UsageError, match="other streets: preset tiny, seed 0"):
        generate_street(out, "tiny", 3)
    assert contents(out) == contents(streets)
    (out / "sequences" / "00" / "notes.md").write_text("mine")
    generate_street(out, "tiny", 3, overwrite=True)
    assert json.loads((out / MANIFEST).read_text())["seed"] == 3
    assert (out / "sequences" / "00" / "notes.md").read_text() == "mine"
    a, b = contents(streets), contents(out)  # another seed is another town
    assert set(b) - set(a) == {str(Path("sequences/00/notes.md"))}
    assert all(a[name] != b[name] for name in a if name.endswith(".bin"))


def test_refuses_a_folder_of_recordings(tmp_path: Path) -> None:
    (tmp_path / "sequences" / "00").mkdir(parents=True)
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="not generated here"):
            generate_street(tmp_path, "tiny", 0, overwrite=overwrite)


def test_wrong_preset_and_unwritable_place_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no street preset 'huge'"):
        generate_street(tmp_path, "huge", 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="not a folder"):
        generate_street(tmp_path / "file", "tiny", 0)
    with pytest.raises(DataError, match="Cannot write"):
        generate_street(tmp_path / "file" / "below", "tiny", 0)


def test_the_ordinary_reader_reads_them(streets: Path) -> None:
    reader = SemanticKitti()
    layout = reader.discover(streets)
    assert [(unit.group, unit.subset, len(unit.scans)) for unit in layout.units] == [
        ("00", "train", 4),
        ("01", "train", 4),
        ("08", "val", 3),
        ("11", "test", 3),
    ]
    scan = reader.read_scan(layout.units[0], 2, reader.spec())
    points, words = read(streets, "00", 2)
    np.testing.assert_array_equal(scan.points, points[:, :3])
    np.testing.assert_array_equal(scan.truths["moving"], (words & 0xFFFF) >= 252)
    lidar = lidar_poses("tiny", 0, "00")
    np.testing.assert_allclose(scan.pose, np.linalg.inv(lidar[0]) @ lidar[2], atol=1e-6)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets_keep_to_the_published_split(preset: str) -> None:
    names = [drive.name for drive in PRESETS[preset].sequences]
    assert len(set(names)) == len(names)
    for drive in PRESETS[preset].sequences:
        if drive.subset in ("train", "dev"):
            assert drive.name in {"00", "01", "02", "03", "04", "05", "06", "07", "09", "10"}
        elif drive.subset == "val":
            assert drive.name == "08"
        else:
            assert drive.name >= "11" and not drive.labels


@pytest.mark.slow
def test_bench_is_frozen_and_holds_most_classes_in_train_and_in_val(tmp_path: Path) -> None:
    generate_street(tmp_path, "bench", 0, jobs=2)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert manifest["sha256"] == BENCH_SHA256
    per_sequence = manifest["points_per_class"]
    for names in ([n for n in per_sequence if n != "08"], ["08"]):
        present = [c for c in per_sequence["08"] if c != "unlabeled" and sum(per_sequence[n][c] for n in names) > 50]
        assert len(present) >= 15, present


def test_the_bytes_are_those_of_this_generator_version(streets: Path) -> None:
    """Also the test that another machine gives the same scans. Whoever changes them on purpose raises the version."""
    manifest = json.loads((streets / MANIFEST).read_text())
    assert manifest["generator_version"] == GENERATOR_VERSION
    assert (GENERATOR_VERSION, manifest["sha256"]) == (1, TINY_SHA256)
