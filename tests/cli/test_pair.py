"""``ssl3d pair``: what a user types and sees."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CALIB = "P2: 300 0 200 0 0 300 90 0 0 0 1 0\nTr: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27\n"


@pytest.fixture
def streets(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "streets" / "sequences" / "00"
    for name in ("velodyne", "image_2"):
        (folder / name).mkdir(parents=True)
    for frame in range(2):
        turn, far = rng.uniform(-np.pi, np.pi, 4000), rng.uniform(4, 40, 4000)
        points = np.c_[far * np.cos(turn), far * np.sin(turn), rng.uniform(-1.5, 0.5, 4000), rng.random(4000)]
        points.astype("<f4").tofile(folder / "velodyne" / f"{frame:06d}.bin")
        Image.fromarray(rng.integers(0, 255, (180, 400, 3), np.uint8)).save(folder / "image_2" / f"{frame:06d}.png")
    (folder / "calib.txt").write_text(CALIB)
    manifest = {"complete": True, "scans_per_sequence": {"00": 2}}
    (tmp_path / "streets" / "ssl3d_synth.json").write_text(json.dumps(manifest))
    return tmp_path / "streets"


def test_paired_drawn_and_shown(streets: Path, tmp_path: Path, ssl3d) -> None:
    assert ssl3d("prepare", "semantickitti", "--root", streets, "--allow-partial").code == 0
    answer = ssl3d("pair", "--preview", "00/000001", "--out", tmp_path / "look.png")
    assert answer.code == 0, answer.err
    assert "usual for SemanticKITTI: 10 to 20%" in answer.out and "without captions" in answer.out
    with Image.open(tmp_path / "look.png") as picture:
        assert picture.width == 1600 and len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50
    again = ssl3d("pair", "--jobs", "1")
    assert again.code == 0 and "1 of 1 units" in again.err and again.out == answer.out
    rows = json.loads(ssl3d("status", "--json").out)
    (status,) = [row for row in rows["stages"] if row["name"] == "pair"]
    assert status["state"] == "cached"


def test_what_is_wrong_is_said(streets: Path, ssl3d) -> None:
    assert ssl3d("prepare", "semantickitti", "--root", streets, "--allow-partial").code == 0
    calib = streets / "sequences" / "00" / "calib.txt"
    answer = ssl3d("pair", "--occlusion", "depth")
    assert answer.code == 1 and "no depth maps" in answer.err and "--occlusion zbuffer" in answer.err
    assert ssl3d("pair", "--set", "pair.near=3").code == 2
    assert ssl3d("pair", "--preview", "00/000009").code == 2
    # a camera that looks back
    calib.write_text(CALIB.replace("Tr: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27", "Tr: 0 1 0 0 0 0 1 -50 -1 0 0 0"))
    assert ssl3d("prepare", "semantickitti", "--root", streets, "--allow-partial").code == 0
    answer = ssl3d("pair")
    assert answer.code == 0 and "is the calibration right?" in answer.err and "no image of image_2" in answer.err
    image = streets / "sequences" / "00" / "image_2" / "000001.png"
    Image.new("RGB", (100, 45)).save(image)
    assert ssl3d("prepare", "semantickitti", "--root", streets, "--allow-partial").code == 0
    assert "far from their middles" in ssl3d("pair").err
    Image.new("RGB", (101, 45)).save(image)
    answer = ssl3d("pair", "--occlusion", "zbuffer")
    assert answer.code == 1 and "101 x 45" in answer.err and "100 x 45" in answer.err


def test_a_dataset_without_images(streets: Path, ssl3d) -> None:
    for image in (streets / "sequences" / "00" / "image_2").iterdir():
        image.unlink()
    assert ssl3d("prepare", "semantickitti", "--root", streets, "--allow-partial").code == 0
    answer = ssl3d("pair", "--preview", "first")
    assert answer.code == 0 and "no scan has an image" in answer.err


def test_help_has_an_example(ssl3d) -> None:
    answer = ssl3d("pair", "--help")
    assert answer.code == 0 and "ssl3d pair --preview first" in answer.out and "zbuffer" in answer.out
