"""``ssl3d pair`` on recorded frames of PandaSet: points in the world, and a pose of the camera for every image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl3d.data.formats import read_table
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.pairs import PairSource
from ssl3d.pipeline.workspace import Workspace

pytestmark = pytest.mark.real


def inverse_pose(record: dict[str, Any]) -> np.ndarray:
    """(4, 4) world to camera of an entry of poses.json."""
    w, x, y, z = (record["heading"][name] for name in "wxyz")
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = [record["position"][axis] for axis in "xyz"]
    return np.linalg.inv(pose)


def test_pixels_are_those_of_the_development_kit(ssl3d: Any, real_data: Path, here: Path) -> None:
    root = real_data / "pandaset"
    answer = ssl3d("prepare", "folder", "--guess", root)
    (here / "pandaset.toml").write_text(answer.out.replace("\n[clouds]", "\n[clouds]\nkeep = { d = [0] }"))
    assert ssl3d("prepare", "folder", "--config", "pandaset.toml", "--jobs", "1").code == 0
    answer = ssl3d("pair", "--preview", "first", "--out", "look.png")
    assert answer.code == 0 and "13.1%" in answer.out and (here / "look.png").stat().st_size > 100_000, answer.err
    dataset = PreparedDataset(Workspace.open(here / "workspace").dataset())
    source, folder = PairSource.of(dataset), root / "002" / "camera" / "front_camera"
    poses, lens = (json.loads((folder / name).read_text()) for name in ("poses.json", "intrinsics.json"))
    assert len(dataset.scans) == 5
    for scan in dataset.scans:
        frame = scan.scan_id[-2:]
        table = read_table(root / "002" / "lidar" / f"{frame}.pkl.gz")
        rows = table["d"] == 0
        world = np.stack([table[axis][rows] for axis in "xyz"], axis=1)
        extrinsic = inverse_pose(poses[int(frame)])
        inside = world @ extrinsic[:3, :3].T + extrinsic[:3, 3]
        with np.errstate(divide="ignore", invalid="ignore"):
            u = lens["fx"] * inside[:, 0] / inside[:, 2] + lens["cx"]
            v = lens["fy"] * inside[:, 1] / inside[:, 2] + lens["cy"]
            seen = (inside[:, 2] > 1) & (u >= -0.5) & (u < 1919.5) & (v >= -0.5) & (v < 1079.5)
        pairs = source.pairs(scan.index)
        assert pairs.num_points == rows.sum()
        assert len(np.setxor1d(pairs.point, np.flatnonzero(seen))) <= 2  # on the very border of the image
        off = np.abs(pairs.uv - np.stack([u, v], axis=1)[pairs.point])
        assert off.max() < 0.51 and np.allclose(pairs.depth, inside[pairs.point, 2], atol=1e-4)
