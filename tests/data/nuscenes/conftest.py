"""Small folders in nuScenes' layout: real tables, two or three key frames a scene."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl3d.data.datasets.nuscenes_tables import CAMERAS
from ssl3d.data.spec import load_spec

SPEC = load_spec("nuscenes")
MakeNuScenes = Callable[..., Path]


def token(*parts: object) -> str:
    return hashlib.md5(" ".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def turn(yaw: float) -> list[float]:
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]


class Writer:
    """One version, scene by scene. The car drives 0.5 m a sample along x; cameras look 30 ms earlier, 0.3 m back."""

    def __init__(self, root: Path, version: str, points: int, images: bool, panoptic: bool, seed: int) -> None:
        self.root, self.version, self.points, self.images = root, version, points, images
        self.rng = np.random.default_rng(seed)
        names = ["scene", "sample", "sample_data", "sensor", "calibrated_sensor", "ego_pose", "category", "lidarseg"]
        self.tables: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        if panoptic:
            self.tables["panoptic"] = []
        self.tables["category"] = [{"token": token(i), "name": n, "index": i} for i, n in SPEC.raw_names.items()]
        for channel in ("LIDAR_TOP", *CAMERAS, "RADAR_FRONT"):
            self.tables["sensor"].append({"token": token(channel), "channel": channel})
            camera = channel in CAMERAS
            self.tables["calibrated_sensor"].append(
                {
                    "token": token("calibrated", channel),
                    "sensor_token": token(channel),
                    "translation": [1.5, 0.0, 1.5] if camera else [0.9, 0.0, 1.8],
                    "rotation": [0.5, -0.5, 0.5, -0.5] if camera else turn(-np.pi / 2),
                    "camera_intrinsic": [[1266.4, 0, 816.3], [0, 1266.4, 491.5], [0, 0, 1]] if camera else [],
                }
            )

    def scene(self, name: str, samples: int, labelled: bool) -> None:
        tokens = [token(name, number) for number in range(samples)]
        self.tables["scene"].append(
            {
                "token": token(name),
                "name": name,
                "nbr_samples": samples,
                "first_sample_token": tokens[0],
                "last_sample_token": tokens[-1],
            }
        )
        for number, sample in enumerate(tokens):
            following = tokens[number + 1] if number + 1 < samples else ""
            self.tables["sample"].append({"token": sample, "next": following, "scene_token": token(name)})
            for channel in ("LIDAR_TOP", *CAMERAS):
                self.recording(name, number, sample, channel, key=True)
            self.recording(name, number, sample, "LIDAR_TOP", key=False)
            self.scan(name, number, labelled)

    def recording(self, scene: str, number: int, sample: str, channel: str, key: bool) -> None:
        camera = channel in CAMERAS
        own = token(scene, number, channel, key)
        folder = f"{'samples' if key else 'sweeps'}/{channel}"
        file = f"{folder}/{scene}__{channel}__{number:02d}{'.jpg' if camera else '.pcd.bin'}"
        self.tables["ego_pose"].append(
            {
                "token": own,
                "timestamp": 1000 + number,
                "translation": [100 + 0.5 * number - 0.3 * camera, 200.0, 0.0],
                "rotation": [1.0, 0.0, 0.0, 0.0],
            }
        )
        self.tables["sample_data"].append(
            {
                "token": own,
                "sample_token": sample,
                "ego_pose_token": own,
                "calibrated_sensor_token": token("calibrated", channel),
                "filename": file,
                "is_key_frame": key,
                "width": 1600 if camera else 0,
                "height": 900 if camera else 0,
            }
        )
        if key and camera and self.images:
            (self.root / folder).mkdir(parents=True, exist_ok=True)
            (self.root / file).write_bytes(b"")

    def scan(self, scene: str, number: int, labelled: bool) -> None:
        n = self.points + number
        rows = self.rng.normal(0, 10, (n, 5)).astype("<f4")
        rows[:, 3], rows[:, 4] = self.rng.integers(0, 256, n), np.arange(n) % 32
        self.write(f"samples/LIDAR_TOP/{scene}__LIDAR_TOP__{number:02d}.pcd.bin", rows)
        if not labelled:
            return
        own = token(scene, number, "LIDAR_TOP", True)
        raw = self.rng.integers(0, 32, n).astype("u1")
        self.label("lidarseg", own, f"lidarseg/{self.version}/{own}_lidarseg.bin", raw)
        if "panoptic" in self.tables:
            file = f"panoptic/{self.version}/{own}_panoptic.npz"
            self.label("panoptic", own, file, raw.astype("<u2") * np.uint16(1000) + (np.arange(n) % 3).astype("<u2"))

    def label(self, table: str, own: str, file: str, values: np.ndarray[Any, Any]) -> None:
        self.tables[table].append({"token": own, "sample_data_token": own, "filename": file})
        if table == "lidarseg":
            self.write(file, values)
        else:
            (self.root / file).parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(self.root / file, data=values)

    def write(self, file: str, values: np.ndarray[Any, Any]) -> None:
        (self.root / file).parent.mkdir(parents=True, exist_ok=True)
        values.tofile(self.root / file)

    def finish(self) -> None:
        folder = self.root / self.version
        folder.mkdir(parents=True)
        for name, rows in self.tables.items():
            (folder / f"{name}.json").write_text(json.dumps(rows, indent=0))


@pytest.fixture
def make_nuscenes(tmp_path: Path) -> MakeNuScenes:
    """``make_nuscenes({"scene-0061": 3}, version="v1.0-mini", points=50, images=True, panoptic=False, name="nu")``.

    Its manifest states its own counts, as generated data does; ``manifest=False`` leaves it out.
    """

    def make(
        scenes: Mapping[str, int] | None = None,
        *,
        version: str = "v1.0-mini",
        points: int = 50,
        images: bool = True,
        panoptic: bool = False,
        manifest: bool = True,
        name: str = "nu",
        seed: int = 0,
    ) -> Path:
        root, counts = tmp_path / name, dict(scenes or {"scene-0061": 3, "scene-0103": 2})
        writer = Writer(root, version, points, images, panoptic, seed)
        for scene, samples in counts.items():
            writer.scene(scene, samples, labelled=version != "v1.0-test")
        writer.finish()
        if manifest:
            file = root / "ssl3d_synth.json"
            before = json.loads(file.read_text())["scans_per_sequence"] if file.exists() else {}
            file.write_text(json.dumps({"complete": True, "scans_per_sequence": {**before, **counts}}))
        return root

    return make
