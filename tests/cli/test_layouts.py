"""The whole chain on every published layout, as its generator writes it: no reader is proven on its own files alone."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ssl3d.data.formats.read import read_cloud
from ssl3d.data.spec import load_spec
from ssl3d.pipeline.evaluation.protocols import PROTOCOLS

TRAIN = ("train", "supervised", "--backbone", "minkunet-micro", "--steps", "1", "--set", "train.batch=1")
LAYOUTS = {
    "nuscenes": ("street", "nuscenes", "lidarseg/val/"),
    "semanticposs": ("street", "semanticposs-val02", "sequences/02/predictions/000000.label"),
    "semantic3d": ("street", "semantic3d", "sg27_10-reduced.labels"),
    "scannet": ("rooms", "scannet", "scene0707_00.txt"),
    "s3dis": ("rooms", "s3dis-area5", "Area_5/"),
}
"""Layout -> generator, protocol, how a file of its submission begins."""


def ways(layout: str, root: Path, file: Path, ssl3d, space: tuple[object, ...]) -> tuple[object, ...]:
    """What is split: ScanNet by a file of limited annotations, S3DIS with a room that is cut, others by whole scans."""
    if layout == "s3dis":
        return "--ratio", "40%", "--protocol", "limited"
    if layout != "scannet":
        return "--ratio", "40%"
    import torch

    scans = json.loads(ssl3d("split", "--ratio", "100%", "--json", *space).out)["labelled"]
    rows = {}
    for scan in scans:
        head = (root / "scans" / scan / f"{scan}_vh_clean_2.ply").read_bytes()[:2000]
        found = re.search(rb"element vertex (\d+)", head)
        assert found is not None
        rows[scan] = np.linspace(0, int(found[1]) - 1, 20).astype(np.int64)
    torch.save(rows, file)
    return "--list", file


def mixes_by_inclination(layout: str, ssl3d, space: tuple[object, ...]) -> None:
    """Scans of a spinning sensor are mixed over its field of view; others have no inclination, and it says so."""
    sensor = load_spec(layout).sensor
    answer = ssl3d("train", "lasermix", *TRAIN[2:], "--device", "cpu", *space)
    if sensor is None:
        assert answer.code == 2 and "needs scans of a spinning sensor" in answer.err
        answer = ssl3d("train", "cps", *TRAIN[2:], "--set", "cps.mix=lasermix", "--device", "cpu", *space)
        assert answer.code == 2 and "cps.mix=lasermix needs scans of a spinning sensor" in " ".join(answer.err.split())
        return
    assert answer.code == 0, answer.err
    (file,) = (space[1] / "runs").glob("lasermix-*/config.json")
    params = json.loads(file.read_text())["method_params"]
    assert (params["fov_up"], params["fov_down"]) == (sensor.fov_up_deg, sensor.fov_down_deg)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_generated_prepared_trained_scored_and_handed_in(layout: str, tmp_path: Path, ssl3d) -> None:
    kind, protocol, first = LAYOUTS[layout]
    root, space = tmp_path / layout, ("--workspace", tmp_path / "workspace", "--jobs", "1")
    assert ssl3d("synth", kind, "--layout", layout, "--preset", "tiny", "--out", root, "--jobs", "1").code == 0
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert ssl3d("prepare", layout, "--root", root, *space).code == 0
    answer = ssl3d("split", *ways(layout, root, tmp_path / "points20", ssl3d, space), "--json", *space)
    assert answer.code == 0, answer.err
    split = json.loads(answer.out)
    assert layout != "scannet" or (split["budget"]["clicks"] == 20 * len(split["labelled"]) and split["partial"])
    assert layout != "s3dis" or split["cut"]["scan"] + ":b" in split["unlabelled"]
    answer = ssl3d(*TRAIN, "--device", "cpu", *space)
    assert answer.code == 0, answer.err
    answer = ssl3d("eval", "--report", "json", *space)
    assert answer.code == 0, answer.err
    (run,) = json.loads(answer.out)["runs"]
    assert run["protocol"] == protocol and protocol in PROTOCOLS
    assert set(run["iou"]) == set(load_spec(layout).classes)
    archive = tmp_path / "ours.zip"
    answer = ssl3d("predict", run["run"], "--out", tmp_path / "out", "--submit", archive, *space)
    assert answer.code == 0, answer.err
    names = [name for name in zipfile.ZipFile(archive).namelist() if not name.endswith("/")]
    assert any(name.startswith(first) for name in names)
    if layout in ("nuscenes", "semantic3d", "scannet"):  # those with a server
        subset = "val" if layout == "nuscenes" else "test"
        answer = ssl3d("submit", "--check", archive, "--dataset", layout, "--subset", subset, "--json", *space[:2])
        assert answer.code == 0, answer.out
    mixes_by_inclination(layout, ssl3d, space)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before  # nothing is written under the root


def test_predicted_points_lie_where_the_dataset_has_them(tmp_path: Path, ssl3d) -> None:
    """A dataset without a format of its own: points with ids and colors, in the frame of its files."""
    root, space = tmp_path / "rooms", ("--workspace", tmp_path / "workspace", "--jobs", "1")
    assert ssl3d("synth", "rooms", "--layout", "s3dis", "--preset", "tiny", "--out", root, "--jobs", "1").code == 0
    assert ssl3d("prepare", "s3dis", "--root", root, *space).code == 0
    assert ssl3d("split", "--ratio", "40%", *space).code == 0
    assert ssl3d(*TRAIN, "--device", "cpu", *space).code == 0
    run = next((tmp_path / "workspace" / "runs").iterdir()).name
    assert ssl3d("predict", run, "--out", tmp_path / "out", "--format", "ply", *space).code == 0
    for path in (tmp_path / "out").rglob("*.ply"):
        cloud = read_cloud(path)
        area, room = path.parent.name, path.stem
        texts = sorted((root / area / room / "Annotations").glob("*.txt"))
        source = np.concatenate([np.loadtxt(text, ndmin=2)[:, :3] for text in texts])
        found = cloud.points
        assert found.shape == source.shape
        assert np.abs(np.sort(found, axis=0) - np.sort(source, axis=0)).max() < 1e-3


def test_nuscenes_test_scenes_from_the_generator_to_the_server(tmp_path: Path, ssl3d) -> None:
    """Trained on v1.0-mini, predicted on v1.0-test, which has no labels, and checked as the server checks it."""
    space = ("--workspace", tmp_path / "workspace", "--jobs", "1")
    for layout in ("nuscenes", "nuscenes-test"):
        words = ("--layout", layout, "--preset", "tiny", "--out", tmp_path / layout, "--jobs", "1")
        assert ssl3d("synth", "street", *words).code == 0
    assert ssl3d("prepare", "nuscenes", "--root", tmp_path / "nuscenes", *space).code == 0
    assert ssl3d("split", "--ratio", "40%", *space).code == 0
    assert ssl3d(*TRAIN, "--device", "cpu", *space).code == 0
    run = next((tmp_path / "workspace" / "runs").iterdir()).name
    answer = ssl3d("prepare", "nuscenes", "--root", tmp_path / "nuscenes-test", "--version", "v1.0-test", *space)
    assert answer.code == 0, answer.err
    assert "nuscenes val (3 scans" in ssl3d("eval", run, *space).out  # scored where it was held out, as before
    archive = tmp_path / "ours.zip"
    answer = ssl3d("predict", run, "--out", tmp_path / "out", "--submit", archive, *space)
    assert answer.code == 0, answer.err
    tokens = {
        row["token"]
        for row in json.loads((tmp_path / "nuscenes-test/v1.0-test/sample_data.json").read_text())
        if row["is_key_frame"] and "LIDAR_TOP" in row["filename"]
    }
    names = [name for name in zipfile.ZipFile(archive).namelist() if not name.endswith("/")]
    assert sorted(names) == sorted(
        ["test/submission.json", *(f"lidarseg/test/{token}_lidarseg.bin" for token in tokens)]
    )
    answer = ssl3d("submit", "--check", archive, "--dataset", "nuscenes", "--json", *space[:2])
    assert answer.code == 0, answer.out
    found = json.loads(answer.out)
    assert found["ok"] and found["benchmark"] == "nuscenes" and found["files"] == len(tokens) + 1
    cut = tmp_path / "cut.zip"
    with zipfile.ZipFile(cut, "w") as out, zipfile.ZipFile(archive) as source:
        for name in names[:-1]:
            out.writestr(name, source.read(name))
    answer = ssl3d("submit", "--check", cut, "--dataset", "nuscenes", *space[:2])
    assert answer.code == 1 and "missing" in answer.out
    answer = ssl3d("predict", run, "--out", tmp_path / "val", "--subset", "val", *space)
    assert answer.code == 0 and len(list((tmp_path / "val/lidarseg/val").iterdir())) == 3
