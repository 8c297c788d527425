"""The whole chain on recordings that nobody here made: PandaSet's frames, from its own files to predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl3d.data.formats import read_table

pytestmark = pytest.mark.real
TRAIN = ("train", "supervised", "--backbone", "minkunet-micro", "--steps", "3", "--set", "train.batch=1")
CHOICES = """
[clouds]
keep = { d = [0] }"""


def test_frames_of_pandaset(ssl3d: Any, real_data: Path, here: Path) -> None:
    root = real_data / "pandaset"
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    answer = ssl3d("prepare", "folder", "--guess", root)
    assert answer.code == 0, answer.err
    text = answer.out.replace("\n[clouds]", CHOICES).replace('group = "folder"', 'group = "cloud"')
    text = text.replace("[subsets]", '[subsets]\nval = ["002/lidar/52", "002/lidar/59"]')
    (here / "pandaset.toml").write_text(text)
    answer = ssl3d("prepare", "folder", "--config", "pandaset.toml", "--jobs", "1")
    assert answer.code == 0, answer.err
    assert ssl3d("split", "--ratio", "40%").code == 0
    answer = ssl3d(*TRAIN, "--set", "backbone.voxel_size=0.3", "--device", "cpu", "--jobs", "2")
    assert answer.code == 0, answer.err
    answer = ssl3d("eval", "--report", "json")
    assert answer.code == 0, answer.err
    (run,) = json.loads(answer.out)["runs"]
    assert {"Road", "Car", "Building"} <= set(run["iou"]) and 0 <= run["miou"] <= 100
    answer = ssl3d("predict", run["run"], "--format", "npz", "--out", "out")
    assert answer.code == 0, answer.err
    assert len(list((here / "out").rglob("*.npz"))) >= 2
    frame = root / "002" / "lidar" / "52.pkl.gz"
    answer = ssl3d("predict", run["run"], frame, "--out", "loose")
    assert answer.code == 0, answer.err
    labels = read_table(here / "loose" / "52.npz")
    stored = read_table(frame)
    assert len(labels["label"]) == len(stored["d"])
    nothing = json.loads((here / "loose" / "ssl3d_classes.json").read_text())["nothing_predicted"]
    assert ((labels["label"] == nothing) == (stored["d"] == 1)).all()  # the other lidar is left alone
    assert np.abs(labels["x"] - stored["x"]).max() < 1e-3
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_frame_of_rellis(ssl3d: Any, real_data: Path, here: Path, repository: Path) -> None:
    """Described as the documentation does; there is one frame, so nothing is held out and the labels are its own."""
    page = (repository / "docs" / "own-scans.md").read_text()
    text = next(part for part in page.split("```") if "pylon_camera" in part)
    names = {3: "grass", 4: "tree", 17: "person", 18: "fence", 19: "bush", 23: "concrete", 31: "puddle", 33: "mud"}
    classes = "".join(f'{raw} = "{name}"\n' for raw, name in names.items())
    head = f'name = "rellis"\nroot = "{real_data / "rellis3d"}"\n'
    (here / "rellis.toml").write_text(f'{head}{text}\n[classes]\n{classes}\n[ignored]\n0 = "void"\n')
    answer = ssl3d("prepare", "folder", "--config", "rellis.toml", "--jobs", "1")
    assert answer.code == 0, answer.err
    assert ssl3d("split", "--ratio", "100%").code == 0
    answer = ssl3d(*TRAIN, "--set", "backbone.voxel_size=0.3", "--device", "cpu", "--jobs", "2")
    assert answer.code == 0, answer.err
    (run,) = (here / "workspace" / "runs").iterdir()
    frame = real_data / "rellis3d" / "utils" / "example" / "000104.bin"
    answer = ssl3d("predict", run.name, frame, "--out", "out", "--format", "npz")
    assert answer.code == 0, answer.err
    assert len(read_table(here / "out" / "000104.npz")["label"]) == 131_072
