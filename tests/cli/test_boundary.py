"""``ssl3d boundary`` as it is typed: what it prints, draws and refuses, after ``oversegment`` and ``split``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl3d.cli import app

Run = Callable[..., Any]
WORDS = ("--backbone", "spunet-micro", "--steps", "3", "--device", "cpu", "--jobs", "1")
SMALL = [word for key in ("backbone.m=4", "backbone.voxel_size=0.5") for word in ("--set", key)]


def write_street(root: Path, frames: int = 4, points: int = 1500) -> None:
    """A road between two walls, one frame like the other."""
    rng = np.random.default_rng(0)
    folder = root / "sequences" / "00"
    for part in ("velodyne", "labels"):
        (folder / part).mkdir(parents=True)
    for frame in range(frames):
        cloud = np.c_[rng.uniform(-15, 15, points), rng.uniform(-4, 4, points), rng.normal(0, 0.01, points)]
        wall = rng.random(points) < 0.5
        cloud[wall, 1] = np.sign(cloud[wall, 1]) * 4
        cloud[wall, 2] = rng.uniform(0, 3, wall.sum())
        np.c_[cloud, rng.random(points)].astype("<f4").tofile(folder / "velodyne" / f"{frame:06d}.bin")
        np.where(wall, 50, 40).astype("<u4").tofile(folder / "labels" / f"{frame:06d}.label")
    (root / "ssl3d_synth.json").write_text(json.dumps({"complete": True, "scans_per_sequence": {"00": frames}}))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boundary")
    write_street(folder / "kitti")
    place = ["--workspace", str(folder / "workspace"), "--jobs", "1"]
    assert app.run(["prepare", "semantickitti", "--root", str(folder / "kitti"), "--allow-partial", *place]) == 0
    assert app.run(["split", "--ratio", "50%", *place]) == 0
    return folder / "workspace"


@pytest.fixture
def space(prepared: Path, here: Path) -> Path:
    return Path(shutil.copytree(prepared, here / "workspace"))


def test_from_regions_to_a_picture(space: Path, ssl3d: Run) -> None:
    before = ssl3d("boundary", *WORDS, *SMALL)
    assert before.code == 1 and "ssl3d oversegment" in before.err
    assert ssl3d("oversegment", "--jobs", "1").code == 0
    first = ssl3d("boundary", *WORDS, *SMALL, "--preview", "first", "--out", "look.png")
    assert first.code == 0, first.err
    assert "held out" in first.out and "trained on" in first.out and "across a boundary" in first.out
    with Image.open("look.png") as picture:
        assert picture.size[0] == 1600 and len(picture.convert("RGB").getcolors(1 << 24) or ()) > 20
    again = ssl3d("boundary", *WORDS, *SMALL)
    assert again.out == first.out and "1 of 1 units" in again.err
    status = ssl3d("status")
    assert "boundary" in status.out and "cached" in status.out
    listed = ssl3d("runs")
    assert "boundary-" not in listed.out  # its network is no run of the user's


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "boundary.threshold=2"), "less than 1"),
        (("--set", "treshold=0.4"), "boundary.threshold"),
        (("--backbone", "cylinder3d"), "spunet16"),
        (("--steps", "0"), "greater than or equal to 1"),
        (("--preview", "00/000009"), "00/00000"),
        (("--out", "x.png"), "--preview"),
    ],
)
def test_what_is_refused(space: Path, ssl3d: Run, words: tuple[str, ...], message: str) -> None:
    answer = ssl3d("boundary", *words)
    assert answer.code == 2 and message in answer.err, answer.err
    assert not list((space / "data" / "semantickitti").glob("boundary/*"))


def test_keys(space: Path, ssl3d: Run) -> None:
    listed = ssl3d("boundary", "--list-keys", "--set", "rule=interface")
    assert listed.code == 0
    for word in ("boundary.radius", "0.2", "interface", "100 epochs", "optimizer.lr", "0.001", "backbone.voxel_size"):
        assert word in listed.out
    refused = ssl3d("train", "boundary", "--steps", "2")
    assert refused.code == 2 and "ssl3d boundary" in refused.err
