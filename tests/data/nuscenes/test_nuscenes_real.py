"""The recorded sample beside the checkout, where it is present: no tables exist for it, so they are written here."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ssl3d.data.datasets.convert import ConvertParams, convert_unit
from ssl3d.data.datasets.nuscenes import NuScenes
from ssl3d.data.datasets.source import Layout, RawScan, ReadOptions
from ssl3d.data.errors import DataError
from ssl3d.data.images import ImageFiles
from ssl3d.data.pairs import Rule, pair_scan
from ssl3d.data.spec import load_spec
from ssl3d.data.store import ShardReader

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "real" / "nuscenes_unlabelled"
READER = NuScenes()
SPEC = load_spec("nuscenes")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not REAL.is_dir(), reason="no real recordings beside the checkout"),
]
SPEED = 9.24  # m/s forward; what the published matrices of the front camera say of the car


def quaternion(rotation: npt.NDArray[np.float64]) -> list[float]:
    w = np.sqrt(1 + np.trace(rotation)) / 2
    if w > 0.1:
        x, y, z = (rotation[i, j] - rotation[j, i] for i, j in ((2, 1), (0, 2), (1, 0)))
        found = np.array([w, x / (4 * w), y / (4 * w), z / (4 * w)])
    else:  # the eigenvector of K (Bar-Itzhack 2000) is x, y, z, w
        m = rotation
        k = np.zeros((4, 4))
        k[:3, :3] = m + m.T - np.eye(3) * np.trace(m)
        k[3, :3] = k[:3, 3] = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
        k[3, 3] = np.trace(m)
        vector = np.linalg.eigh(k)[1][:, -1]
        found = np.array([vector[3], *vector[:3]])
    return [float(value) for value in found / np.linalg.norm(found)]


@pytest.fixture(scope="module")
def sample() -> dict[str, Any]:
    (file,) = REAL.glob("*.pkl")
    info: dict[str, Any] = pickle.loads(file.read_bytes())["data_list"][0]  # numbers and texts only
    return info


@pytest.fixture(scope="module")
def layout(sample: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """The sample as the reader finds it. When an image was taken the car was ``SPEED`` x time further back."""
    root = tmp_path_factory.mktemp("nuscenes")
    (root / "samples").symlink_to(REAL / "samples")
    tables: dict[str, list[dict[str, Any]]] = {
        "scene": [{"name": "scene-0103", "first_sample_token": "s", "last_sample_token": "s", "nbr_samples": 1}],
        "sample": [{"token": "s", "next": ""}],
        **{name: [] for name in ("sensor", "calibrated_sensor", "ego_pose", "sample_data")},
    }
    lidar = {"mount": sample["lidar_points"]["lidar2ego"], "file": sample["lidar_points"]["lidar_path"]}
    records = {"LIDAR_TOP": {**lidar, "timestamp": sample["timestamp"], "intrinsic": []}} | {
        name: {"mount": c["cam2ego"], "file": c["img_path"], "timestamp": c["timestamp"], "intrinsic": c["cam2img"]}
        for name, c in sample["images"].items()
    }
    car = np.array(sample["ego2global"])
    for name, record in records.items():
        mount, back = np.array(record["mount"]), SPEED * (record["timestamp"] - sample["timestamp"])
        tables["sensor"].append({"token": name, "channel": name})
        tables["calibrated_sensor"].append(
            {
                **{"token": name, "sensor_token": name, "camera_intrinsic": record["intrinsic"]},
                **{"translation": mount[:3, 3].tolist(), "rotation": quaternion(mount[:3, :3])},
            }
        )
        place = (car @ [back, 0, 0, 1])[:3].tolist()
        tables["ego_pose"].append({"token": name, "translation": place, "rotation": quaternion(car[:3, :3])})
        tables["sample_data"].append(
            {
                **{"token": name, "sample_token": "s", "ego_pose_token": name, "calibrated_sensor_token": name},
                **{"filename": f"samples/{name}/{record['file']}", "is_key_frame": True, "width": 1600, "height": 900},
            }
        )
    (root / "v1.0-mini").mkdir()
    for name, rows in tables.items():
        (root / "v1.0-mini" / f"{name}.json").write_text(json.dumps(rows))
    layout = READER.discover(root, ReadOptions(allow_partial=True))
    assert [(unit.subset, unit.products()) for unit in layout.units] == [("val", ("points", "cameras"))]
    return layout


@pytest.fixture(scope="module")
def scan(layout: Layout) -> RawScan:
    return READER.read_scan(layout.units[0], 0, SPEC)


def test_the_points(scan: RawScan) -> None:
    assert len(scan.points) == 34688 and scan.not_finite == scan.all_zero == 0 and scan.notes == {}
    assert np.bincount(scan.columns["ring"]).tolist() == [1084] * 32
    assert scan.columns["intensity"].min() == 0 and scan.columns["intensity"].max() == 1
    ground = (abs(scan.points[:, 0]) < 5) & (scan.points[:, 1] > 5) & (scan.points[:, 1] < 12)
    assert -2.2 < np.median(scan.points[ground, 2]) < -1.5  # y is ahead, and the sensor is 1.84 m above the road


def test_the_cameras_are_where_others_computed_them(scan: RawScan, sample: dict[str, Any]) -> None:
    for camera in scan.cameras:
        published = np.array(sample["images"][camera.name]["lidar2cam"])
        mounts = (np.array(sample["lidar_points"]["lidar2ego"]), np.array(sample["images"][camera.name]["cam2ego"]))
        at_once = np.linalg.inv(mounts[1]) @ mounts[0]  # as if nothing had moved between scan and image
        assert np.abs(camera.extrinsic - published).max() < 0.012
        assert np.abs(at_once - published).max() > 0.09 or camera.name == "CAM_BACK_LEFT"  # which looked 0.5 ms before
    assert [camera.size for camera in scan.cameras] == [(1600, 900)] * 6


def test_cameras_see_the_points_of_their_side(scan: RawScan) -> None:
    ahead = {"CAM_FRONT": (0, 1), "CAM_BACK": (0, -1), "CAM_FRONT_RIGHT": (1, 0.6), "CAM_BACK_LEFT": (-1, -0.3)}
    for camera in scan.cameras:
        seen = scan.points @ camera.extrinsic[:3, :3].T + camera.extrinsic[:3, 3]
        pixel = seen @ camera.intrinsic.T
        with np.errstate(divide="ignore", invalid="ignore"):
            u, v = pixel[:, 0] / pixel[:, 2], pixel[:, 1] / pixel[:, 2]
        visible = (seen[:, 2] > 1) & (u > 1) & (u < 1599) & (v > 1) & (v < 899)
        assert 1500 < visible.sum() < 8000
        if camera.name in ahead:
            assert ((scan.points[visible, :2] @ ahead[camera.name]) > 0).mean() > 0.99


def test_the_cameras_are_kept(scan: RawScan, layout: Layout, tmp_path: Path) -> None:
    """What is read of the shards is what pairs points with pixels."""
    (unit,) = layout.units
    out = {name: tmp_path / f"{name}.h5" for name in unit.products()}
    convert_unit(READER, unit, out, ConvertParams(sync=False))
    stored = ShardReader(out["cameras"])
    assert stored.array("name").tolist() == [camera.name for camera in scan.cameras] and len(scan.cameras) == 6
    assert (stored.array("extrinsic") == [camera.extrinsic for camera in scan.cameras]).all()
    assert (stored.array("intrinsic") == [camera.intrinsic for camera in scan.cameras]).all()
    assert all((layout.root / image).is_file() for image in stored.array("image"))


def test_without_tables_it_says_so() -> None:
    with pytest.raises(DataError, match="scans, but no tables"):
        READER.check(REAL)


def test_pairs_are_what_the_published_matrices_say(scan: RawScan, sample: dict[str, Any]) -> None:
    pairs = pair_scan(scan.points, scan.origin, scan.cameras, ImageFiles(REAL), Rule())
    assert SPEC.paired is not None and SPEC.paired[0] < pairs.paired / len(scan.points) < SPEC.paired[1]
    points = np.c_[scan.points.astype(np.float64), np.ones(len(scan.points))]
    for number, camera in enumerate(scan.cameras):
        published = sample["images"][camera.name]
        lens = np.array(published["cam2img"])
        inside = (np.array(published["lidar2cam"]) @ points.T)[:3]
        with np.errstate(divide="ignore", invalid="ignore"):
            u, v = np.floor((lens @ inside / inside[2])[:2] + 0.5)
        theirs = np.flatnonzero((inside[2] > 1) & (u >= 0) & (u < 1600) & (v >= 0) & (v < 900))
        here = pairs.image == number
        both, mine, other = np.intersect1d(pairs.point[here], theirs, return_indices=True)
        assert len(both) > 0.985 * max(here.sum(), len(theirs)) and len(both) > 2000
        off = pairs.uv[here][mine] - np.stack([u, v], axis=1)[theirs[other]]
        assert np.median(np.abs(off)) <= 1 and (np.abs(off) <= 4).mean() > 0.98  # matrices differ by up to 12 mm
