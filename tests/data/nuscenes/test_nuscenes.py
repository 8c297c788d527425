"""nuScenes-lidarseg: what is read of a whole folder, and what becomes of it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssl3d.data.datasets.convert import ConvertParams, convert_unit
from ssl3d.data.datasets.nuscenes import NuScenes
from ssl3d.data.datasets.nuscenes_scan import matrix
from ssl3d.data.datasets.nuscenes_survey import scenes_of
from ssl3d.data.datasets.nuscenes_tables import CAMERAS
from ssl3d.data.datasets.registry import get_reader
from ssl3d.data.datasets.source import ReadOptions
from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.scan import IGNORE
from ssl3d.data.spec import load_spec
from ssl3d.data.store import ShardReader

READER = NuScenes()
SPEC = load_spec("nuscenes")
Make = Callable[..., Path]


def test_it_is_found_by_its_name() -> None:
    assert isinstance(get_reader("nuscenes"), NuScenes)


def test_the_16_classes_in_official_order() -> None:
    assert SPEC.num_classes == 16 and SPEC.classes[0] == "barrier" and SPEC.classes[15] == "vegetation"
    table, known = SPEC.lut()
    assert [int(table[raw]) for raw in (0, 2, 6, 7, 15, 16, 24, 28, 29, 30, 31)] == [
        *(IGNORE, 6, 6, IGNORE, 2, 2, 10, 14, IGNORE, 15, IGNORE)
    ]
    assert int(known[:32].sum()) == int(known.sum()) == 32
    assert SPEC.to_raw(np.arange(16, dtype=np.uint8)).tolist() == [
        *(9, 14, 16, 17, 18, 21, 2, 12, 22, 23, 24, 25, 26, 27, 28, 30)
    ]
    assert {key: len(names) for key, names in SPEC.splits.items()} == {"train": 700, "val": 150, "test": 150}
    # published points of bicycles, motorcycles and roads among all points of train and val scenes
    assert SPEC.content[[1, 5, 10]] * 1185656192 == pytest.approx([141351, 427391, 316958899])
    assert SPEC.content.sum() == pytest.approx(1 - 340994448 / 1185656192)
    assert "traffic_cone" in SPEC.tail and "truck" in SPEC.head


def test_a_complete_folder(make_nuscenes: Make) -> None:
    root = make_nuscenes()
    report = READER.check(root)
    assert report.all_problems() == ()
    rows = {g.group: (g.subset, g.scans, g.expected, dict(g.facts)) for g in report.groups}
    assert rows == {
        "scene-0061": ("train", 3, 3, {"labels": 3, "instances": 0, "images": 3}),
        "scene-0103": ("val", 2, 2, {"labels": 2, "instances": 0, "images": 2}),
    }
    layout = READER.discover(root)
    assert [(unit.id, unit.group, unit.subset, len(unit.scans)) for unit in layout.units] == [
        ("scene-0061-000", "scene-0061", "train", 3),
        ("scene-0103-000", "scene-0103", "val", 2),
    ]
    assert layout.units[0].products() == ("points", "labels", "cameras") and layout.units[0].num_points == 153
    assert [scan.scan_id.partition("/")[0] for scan in layout.units[0].scans] == ["scene-0061"] * 3
    tokens = [scan.alias for unit in layout.units for scan in unit.scans]
    assert {f"{token}_lidarseg.bin" for token in tokens} == {p.name for p in root.rglob("*_lidarseg.bin")}


def test_units_are_blocks_of_64_key_frames(make_nuscenes: Make) -> None:
    root = make_nuscenes({"scene-0061": 130}, points=1, images=False)
    units = READER.discover(root).units
    assert [(u.id, len(u.scans)) for u in units] == [
        (f"scene-0061-{n:03d}", c) for n, c in ((0, 64), (64, 64), (128, 2))
    ]
    before = {unit.id: unit.signature() for unit in units}
    Path(units[0].scans[5].files["points"].path).unlink()
    partial = READER.discover(root, ReadOptions(allow_partial=True)).units
    assert [len(u.scans) for u in partial] == [63, 64, 2]
    assert {u.id for u in partial if u.signature() != before[u.id]} == {"scene-0061-000"}


def test_what_is_stored_is_what_was_written(make_nuscenes: Make, tmp_path: Path) -> None:
    root = make_nuscenes(panoptic=True)
    unit = pickle.loads(pickle.dumps(READER.discover(root).units[0]))
    out = {name: tmp_path / f"{name}.h5" for name in unit.products()}
    info = convert_unit(READER, unit, out, ConvertParams())
    points, labels, cameras = (ShardReader(out[name]) for name in ("points", "labels", "cameras"))
    assert (
        info.warnings == [] and info.columns == ["intensity", "ring"] and info.has_pose and info.labelled == [True] * 3
    )
    assert sum(info.class_counts) + info.ignored == 153
    table = SPEC.lut()[0]
    for i, scan in enumerate(unit.scans):
        rows = np.fromfile(scan.files["points"].path, "<f4").reshape(-1, 5)
        raw = np.fromfile(scan.files["labels"].path, "u1")
        assert np.array_equal(points.read("points", i), rows[:, :3])
        assert np.allclose(255 * points.read("intensity", i), rows[:, 3]) and rows[:, 3].max() > 200
        assert points.read("ring", i).dtype == np.uint8 and np.array_equal(points.read("ring", i), rows[:, 4])
        assert np.array_equal(labels.read("label", i), table[raw])
        both = raw.astype(np.uint32) * 1000 + np.arange(len(raw)) % 3
        assert np.array_equal(labels.read("instance", i), np.where(np.arange(len(raw)) % 3, both, 0))
        pose = points.read(
            "pose", i
        )  # the car is at (100 + i / 2, 200), the lidar 0.9 m ahead of it, turned by -90 degrees
        assert np.allclose(pose[:3, 3], [100.9 + 0.5 * i, 200, 1.8])
        assert np.allclose(pose[:3, :3], [[0, 1, 0], [-1, 0, 0], [0, 0, 1]])
        assert list(cameras.read("name", i).astype(str)) == list(CAMERAS)
    assert cameras.read("image", 1)[0] == "samples/CAM_FRONT/scene-0061__CAM_FRONT__01.jpg"
    assert cameras.read("size", 0).tolist() == [[1600, 900]] * 6


def test_cameras_are_where_the_car_was_when_they_looked(make_nuscenes: Make) -> None:
    """The camera is 1.5 m ahead of the car's origin, and the car was 0.3 m behind: 1.2 m, the lidar is at 0.9 m."""
    unit = READER.discover(make_nuscenes()).units[0]
    camera = READER.read_scan(unit, 1, SPEC).cameras[0]
    ahead = camera.extrinsic @ [0.0, 10.0, 0.0, 1.0]  # ahead is y for the lidar, z for cameras
    assert np.allclose(ahead, [0, 1.5 - 1.8, 10 + 0.9 - 1.2, 1])
    right = camera.extrinsic @ [1.0, 10.0, 0.0, 1.0]
    assert np.allclose(right - ahead, [1, 0, 0, 0])  # right is x for both
    u, v, depth = camera.intrinsic @ ahead[:3]
    assert np.allclose([u / depth, v / depth], [816.3, 491.5 + 1266.4 * -0.3 / 9.7])


def test_quaternions_are_w_x_y_z() -> None:
    half = float(np.sqrt(0.5))
    assert np.allclose(matrix((1, 2, 3, half, 0, 0, half)) @ [1, 0, 0, 1], [1, 3, 3, 1])  # x turns to y
    assert np.allclose(matrix((0, 0, 0, half, half, 0, 0)) @ [0, 1, 0, 1], [0, 0, 1, 1])  # y turns to z


def test_without_images_and_instances(make_nuscenes: Make, tmp_path: Path) -> None:
    unit = READER.discover(make_nuscenes(images=False)).units[0]
    assert unit.products() == ("points", "labels") and unit.fields.truths == {}
    convert_unit(READER, unit, {name: tmp_path / f"{name}.h5" for name in unit.products()}, ConvertParams())


def test_the_test_set_has_no_labels(make_nuscenes: Make) -> None:
    root = make_nuscenes({"scene-0077": 2}, version="v1.0-test")
    (unit,) = READER.discover(root).units
    assert unit.subset == "test" and unit.products() == ("points", "cameras")
    (root / "v1.0-test/lidarseg.json").unlink()
    (root / "v1.0-test/category.json").unlink()
    assert READER.check(root).all_problems() == ()


def test_versions(make_nuscenes: Make) -> None:
    root = make_nuscenes({"scene-0001": 1, "scene-0003": 2}, version="v1.0-trainval")
    make_nuscenes({"scene-0077": 1}, version="v1.0-test")
    assert [(u.id, u.subset) for u in READER.discover(root).units] == [
        ("scene-0001-000", "train"),
        ("scene-0003-000", "val"),
        ("scene-0077-000", "test"),
    ]
    make_nuscenes({"scene-0061": 1}, version="v1.0-mini")
    with pytest.raises(UsageError, match="several versions are in this folder") as caught:
        READER.discover(root)
    assert "--version v1.0-mini" in str(caught.value.hint)
    for name in ("mini", "v1.0-mini"):
        assert [u.id for u in READER.discover(root, ReadOptions(version=name)).units] == ["scene-0061-000"]
    with pytest.raises(UsageError, match=r"no version 'v1\.1'"):
        READER.discover(root, ReadOptions(version="v1.1"))


def test_scenes_of_versions() -> None:
    mini = scenes_of("v1.0-mini")
    assert len(scenes_of("v1.0-trainval")) == 850 and len(scenes_of("v1.0-test")) == 150 and len(mini) == 10
    assert mini["scene-0103"] == "val" and mini["scene-0061"] == "train"


def test_points_that_are_no_measurement_keep_their_place(make_nuscenes: Make) -> None:
    root = make_nuscenes()
    scan = READER.discover(root).units[0].scans[0]
    rows = np.fromfile(scan.files["points"].path, "<f4").reshape(-1, 5)
    rows[3, 1], rows[7, 3], rows[8, 3], rows[9, :3] = np.nan, np.inf, 300, 0
    rows.tofile(scan.files["points"].path)
    raw = READER.read_scan(READER.discover(root).units[0], 0, SPEC)
    ids = np.fromfile(scan.files["labels"].path, "u1")
    assert raw.label is not None and raw.not_finite == 2 and raw.all_zero == 0
    assert not raw.points[[3, 7]].any() and raw.label[[3, 7]].tolist() == [IGNORE, IGNORE]
    assert np.allclose(255 * raw.columns["intensity"][7:9], [0, 300]) and raw.label[9] == SPEC.lut()[0][ids[9]]
    assert list(raw.notes.values()) == [1]


def test_scribbles_are_not_nuscenes(make_nuscenes: Make) -> None:
    with pytest.raises(UsageError, match="no scribbles"):
        READER.check(make_nuscenes(), ReadOptions(label_set="scribbles"))


def test_an_empty_scan(make_nuscenes: Make) -> None:
    root = make_nuscenes({"scene-0061": 1}, points=0)
    assert [problem.severity for problem in READER.check(root).all_problems()] == ["warning"]
    raw = READER.read_scan(READER.discover(root).units[0], 0, SPEC)
    assert raw.points.shape == (0, 3) and raw.label is not None and len(raw.label) == len(raw.columns["ring"]) == 0


def test_nothing_is_written_into_the_folder(make_nuscenes: Make, tmp_path: Path) -> None:
    root = make_nuscenes()
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    unit = READER.discover(root).units[0]
    convert_unit(READER, unit, {name: tmp_path / f"{name}.h5" for name in unit.products()}, ConvertParams())
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_reader_of_another_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no nuScenes data here"):
        READER.check(tmp_path)
