"""The tables, scans, labels and images of generated streets are those of nuScenes."""

from __future__ import annotations

import io
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl3d.data.datasets.root import MANIFEST
from ssl3d.data.synthetic.ground import Ground
from ssl3d.data.synthetic.layouts import nuscenes as layout
from ssl3d.data.synthetic.layouts.boxes import box_of
from ssl3d.data.synthetic.layouts.nuscenes_rig import CAMERAS, LIDAR, ego_at, make_rig, quaternion
from ssl3d.data.synthetic.layouts.nuscenes_tables import TABLES
from ssl3d.data.synthetic.materials import PLASTER, Paint
from ssl3d.data.synthetic.primitives import Builder, Frame, Primitives
from ssl3d.data.synthetic.raycast import Scene, make_scene
from ssl3d.data.synthetic.rng import Rng
from ssl3d.data.synthetic.street import generate_street
from ssl3d.data.synthetic.vehicles import car
from ssl3d.data.synthetic.world import World

VERSION = "v1.0-mini"
REFERENCES = {
    "log_token": "log",
    "sample_token": "sample",
    "first_sample_token": "sample",
    "last_sample_token": "sample",
    "scene_token": "scene",
    "sensor_token": "sensor",
    "ego_pose_token": "ego_pose",
    "calibrated_sensor_token": "calibrated_sensor",
    "category_token": "category",
    "instance_token": "instance",
    "visibility_token": "visibility",
    "first_annotation_token": "sample_annotation",
    "last_annotation_token": "sample_annotation",
    "sample_data_token": "sample_data",
}
LISTS = {"attribute_tokens": "attribute", "log_tokens": "log"}


def tables(root: Path) -> dict[str, list[dict[str, Any]]]:
    return {file.stem: json.loads(file.read_text()) for file in sorted((root / VERSION).glob("*.json"))}


def by_token(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["token"]: row for row in rows}


def matrix(row: dict[str, Any]) -> np.ndarray:
    """(4, 4) of translation and rotation w, x, y, z."""
    w, x, y, z = row["rotation"]
    axis = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    out = np.eye(4)
    out[:3, :3] += 2.0 * w * axis + 2.0 * axis @ axis
    out[:3, 3] = row["translation"]
    return out


def test_every_reference_leads_to_a_record(nuscenes: Path) -> None:
    rows = tables(nuscenes)
    assert sorted(rows) == sorted(TABLES) and all(rows.values())
    known = {name: by_token(records) for name, records in rows.items()}
    for name, records in rows.items():
        assert len(known[name]) == len(records)
        for row in records:
            assert name == "visibility" or (len(row["token"]) == 32 and int(row["token"], 16) >= 0)
            for field, value in row.items():
                if field in ("prev", "next"):
                    assert value == "" or value in known[name]
                    assert value == "" or known[name][value][{"prev": "next", "next": "prev"}[field]] == row["token"]
                elif field in REFERENCES:
                    assert value in known[REFERENCES[field]], (name, field)
                elif field in LISTS:
                    assert all(item in known[LISTS[field]] for item in value), (name, field)
            if "filename" in row:
                assert (nuscenes / row["filename"]).is_file()


def test_scenes_are_chains_of_samples_of_the_published_lists(nuscenes: Path) -> None:
    rows = tables(nuscenes)
    samples = by_token(rows["sample"])
    lists = resources.files("ssl3d.data.datasets").joinpath("lists")
    for subset, names in json.loads((nuscenes / MANIFEST).read_text())["subsets"].items():
        published = lists.joinpath(f"nuscenes_scenes_mini_{subset}.txt").read_text().split()
        assert names and set(names) <= set(published)
    for scene in rows["scene"]:
        token, stamps = scene["first_sample_token"], []
        while token:
            stamps.append(samples[token]["timestamp"])
            last, token = token, samples[token]["next"]
        assert last == scene["last_sample_token"] and len(stamps) == scene["nbr_samples"] == 3
        assert set(np.diff(stamps)) == {500_000}


def test_categories_are_numbered_as_label_files_are(nuscenes: Path) -> None:
    found = {row["index"]: row["name"] for row in tables(nuscenes)["category"]}
    assert found == layout.CATEGORIES and sorted(found) == list(range(32))
    assert (found[24], found[25], found[30], found[31]) == (
        "flat.driveable_surface",
        "flat.other",
        "static.vegetation",
        "vehicle.ego",
    )


def test_every_ray_of_a_scan_is_in_its_file(nuscenes: Path) -> None:
    rows = tables(nuscenes)
    data = by_token(rows["sample_data"])
    assert len(rows["lidarseg"]) == len(list((nuscenes / "lidarseg" / VERSION).iterdir())) == 9
    labels, reach = np.zeros(32, np.int64), np.zeros(2)
    for row in rows["lidarseg"]:
        scan = data[row["sample_data_token"]]
        assert scan["is_key_frame"] and scan["filename"].endswith(".pcd.bin") and LIDAR in scan["filename"]
        points = np.fromfile(nuscenes / scan["filename"], "<f4").reshape(-1, 5)
        label = np.fromfile(nuscenes / row["filename"], np.uint8)
        assert len(points) == len(label) == 32 * 256
        np.testing.assert_array_equal(points[:, 4], np.arange(len(points)) % 32)
        assert np.isfinite(points).all() and points[:, 3].min() >= 0 and points[:, 3].max() <= 255
        ground = points[(label == 24) & (np.hypot(points[:, 0], points[:, 1]) < 8)]
        assert abs(np.median(ground[:, 2]) + 1.84) < 0.2
        reach += np.abs(points[label == 24, :2]).sum(axis=0)
        labels += np.bincount(label, minlength=32)
    assert reach[1] > 1.3 * reach[0]  # y is where the street leads
    assert 0.2 < labels[31] / labels.sum() < 0.36  # 28% in the recordings
    evaluated = [9, 12, 14, 17, 18, 24, 26, 27, 28, 30]
    assert np.all(labels[evaluated] > 0)


def test_instances_of_the_panoptic_files_are_those_of_the_labels(nuscenes: Path) -> None:
    rows = tables(nuscenes)
    labels = by_token(rows["lidarseg"])
    for row in rows["panoptic"]:
        values = np.load(nuscenes / row["filename"])["data"]
        assert values.dtype == np.uint16
        label = np.fromfile(nuscenes / labels[row["token"]]["filename"], np.uint8)
        np.testing.assert_array_equal(values // 1000, label)
        assert np.all(values[label >= 24] % 1000 == 0) and np.all(values[label == 17] % 1000 > 0)


def test_boxes_hold_the_points_they_count(nuscenes: Path) -> None:
    rows = tables(nuscenes)
    data, calibrations, egos = (by_token(rows[name]) for name in ("sample_data", "calibrated_sensor", "ego_pose"))
    scans = {data[row["token"]]["sample_token"]: row for row in rows["panoptic"]}
    categories = {row["token"]: row["index"] for row in rows["category"]}
    instances = {row["token"]: categories[row["category_token"]] for row in rows["instance"]}
    inside, total = 0, 0
    for box in rows["sample_annotation"]:
        panoptic = scans[box["sample_token"]]
        scan = data[panoptic["token"]]
        values = np.load(nuscenes / panoptic["filename"])["data"]
        points = np.fromfile(nuscenes / scan["filename"], "<f4").reshape(-1, 5)[:, :3].astype(np.float64)
        pose = matrix(egos[scan["ego_pose_token"]]) @ matrix(calibrations[scan["calibrated_sensor_token"]])
        local = (points @ pose[:3, :3].T + pose[:3, 3] - box["translation"]) @ matrix(box)[:3, :3]
        width, length, height = box["size"]
        near = np.all(np.abs(local) < 0.5 * np.array([length, width, height]) + 0.25, axis=1)
        mine = (values // 1000 == instances[box["instance_token"]]) & (values % 1000 > 0)
        assert box["num_lidar_pts"] > 0
        inside += min(int((near & mine).sum()), box["num_lidar_pts"])
        total += box["num_lidar_pts"]
    assert total > 500 and inside > 0.97 * total


class Straight(World):
    """A drive at 30 m/s over a plane with red boxes in all directions."""

    def __init__(self, ground: Ground) -> None:
        solids = Primitives()
        for x, y in ((16.0, 2.0), (-12.0, -1.0), (4.0, 11.0), (-5.0, 11.0), (3.0, -11.0), (-6.0, -11.0)):
            solids.box((x, y, 1.0), (0.8, 0.8, 1.0), (0.8, 0.6), Paint(PLASTER, 0.6, (1.0, 0.0, 0.0)), (50, 0))
        self.place = make_scene(solids.arrays(), ground)
        self.key, self.sun = 5, (0.0, 0.0, 1.0)

    def scene(self, time: float) -> Scene:
        return self.place

    def pose(self, time: float) -> np.ndarray:
        pose = np.eye(4)
        pose[:3, 3] = (30.0 * time, 0.0, 1.73)
        return pose


def test_points_fall_on_their_pixels_along_the_published_chain(flat_ground: Ground) -> None:
    world, rig = Straight(flat_ground), make_rig(5, 0.15)
    unit = layout.Unit("scene-0001", 0)
    frame = layout.frame_of("tiny", 0, unit, LIDAR, rig[LIDAR])
    points, label, _ = layout._turn(world, frame, rig[LIDAR], 1500)
    red = points[label == 28, :3].astype(np.float64)
    hits = {False: 0, True: 0}
    seen = 0
    for channel in CAMERAS:
        at = layout.frame_of("tiny", 0, unit, channel, rig[channel])
        with Image.open(io.BytesIO(layout._photograph(world, at, rig[channel], 1))) as image:
            pixels = np.asarray(image).astype(int)
        assert pixels.shape[:2] == (rig[channel].size[1], rig[channel].size[0]) == (135, 240)
        for one_pose in (False, True):
            egos = [ego_at(world, frame.time), ego_at(world, frame.time if one_pose else at.time)]
            to_world = [
                matrix({"rotation": ego.rotation, "translation": (*ego.place[:2], 0.0)})
                @ matrix({"rotation": rig[name].rotation, "translation": rig[name].translation})
                for ego, name in zip(egos, (LIDAR, channel), strict=True)
            ]
            chain = np.linalg.inv(to_world[1]) @ to_world[0]
            p = red @ chain[:3, :3].T + chain[:3, 3]
            fx, fy, cx, cy = rig[channel].lens
            u, v = np.floor(fx * p[:, 0] / p[:, 2] + cx), np.floor(fy * p[:, 1] / p[:, 2] + cy)
            ok = (p[:, 2] > 1.0) & (u >= 0) & (v >= 0) & (u < 240) & (v < 135)
            color = pixels[v[ok].astype(int), u[ok].astype(int)]
            hits[one_pose] += int((color[:, 0] > 2 * color[:, 1]).sum())
            seen += int(ok.sum()) if not one_pose else 0
    assert seen > 300
    assert hits[False] > 0.95 * seen
    assert hits[True] < 0.9 * seen  # a single pose for both times is off by more than half a meter


def test_a_box_is_as_large_as_its_car() -> None:
    primitives = Primitives()
    frame = Frame(3.0, -7.0, 0.5, (0.6, 0.8))
    length, width = car(Builder(primitives, frame, 10, 4), Rng(1))
    box = box_of(primitives.arrays(), 4)
    assert box is not None and box_of(primitives.arrays(), 5) is None
    assert box.turn == (0.6, 0.8)
    assert box.size[0] == pytest.approx(length, abs=0.1) and width - 0.05 < box.size[1] < width + 0.5
    np.testing.assert_allclose(box.center[:2], (3.0, -7.0), atol=0.1)
    assert 1.3 < box.size[2] < 2.1


@pytest.mark.parametrize("seed", range(6))
def test_a_quaternion_is_its_rotation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    q = quaternion(rotation)
    assert q[0] >= 0.0 and np.linalg.norm(q) == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(matrix({"rotation": q, "translation": (0, 0, 0)})[:3, :3], rotation, atol=1e-12)


def test_the_test_version_has_recordings_and_no_labels(tmp_path: Path) -> None:
    generate_street(tmp_path, "tiny", 0, layout="nuscenes-test")
    rows = {file.stem: json.loads(file.read_text()) for file in (tmp_path / "v1.0-test").glob("*.json")}
    assert sorted(rows) == sorted(TABLES)
    assert {name for name, records in rows.items() if not records} == {
        "instance", "lidarseg", "panoptic", "sample_annotation"
    }  # fmt: skip
    published = resources.files("ssl3d.data.datasets").joinpath("lists/nuscenes_scenes_test.txt").read_text().split()
    assert {row["name"] for row in rows["scene"]} <= set(published)
    assert all((tmp_path / row["filename"]).is_file() for row in rows["sample_data"])
    assert not (tmp_path / "lidarseg").exists() and not (tmp_path / "panoptic").exists()
    assert len(list((tmp_path / "samples" / LIDAR).iterdir())) == len(rows["sample"]) == 4
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert generate_street(tmp_path, "tiny", 0, layout="nuscenes-test").scans == 4
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
