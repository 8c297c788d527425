"""``ssl3d split`` as it is typed: regimes of points and groups, what is held out, and what is said about it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ssl3d.cli import app

FRAMES = {"00": 3, "01": 2, "02": 1, "08": 1}
POINTS = 200
RARE = 3  # points of a class that a draw of one percent misses


def write_kitti(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for sequence, frames in FRAMES.items():
        folder = root / "sequences" / sequence
        for part in ("velodyne", "labels"):
            (folder / part).mkdir(parents=True)
        for frame in range(frames):
            rng.uniform(1, 2, (POINTS, 4)).astype("<f4").tofile(folder / "velodyne" / f"{frame:06d}.bin")
            words = np.full(POINTS, 40, "<u4")  # road
            words[:RARE] = 80  # pole
            words.tofile(folder / "labels" / f"{frame:06d}.label")
        (folder / "calib.txt").write_text("P2: 700 0 600 0 0 700 180 0 0 0 1 0\nTr: 0 -1 0 0 0 0 -1 0 1 0 0 0\n")
        (folder / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * frames)
    (root / "ssl3d_synth.json").write_text(json.dumps({"complete": True, "scans_per_sequence": FRAMES}))
    return root


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    kitti = write_kitti(folder / "kitti")
    words = ["prepare", "semantickitti", "--root", str(kitti), "--workspace", str(folder / "workspace"), "--jobs", "1"]
    assert app.run(words) == 0
    return folder / "workspace"


@pytest.fixture
def ask(prepared: Path, here: Path, ssl3d):
    """``ask("--ratio", "1%")``: a split in a workspace of one's own."""
    shutil.copytree(prepared, here / "workspace")
    return lambda *words: ssl3d("split", *words)


def test_points_and_the_class_that_nobody_sees(ask) -> None:
    answer = ask("--regime", "points", "--ratio", "1%", "--protocol", "raw")
    assert answer.code == 0
    assert "points-1%-raw-seed0" in answer.out and "12 clicks, 12 labelled points, 1% of the points" in answer.out
    assert "6 of the labelled scans are labelled in part" in answer.out and "no scan is unlabelled" in answer.out
    (pole,) = (line for line in answer.out.splitlines() if line.split()[:1] == ["pole"])
    assert "no label" in pole
    (warning,) = (line for line in answer.err.splitlines() if line.startswith("warning"))
    assert "pole" in warning and "road" not in warning and "car" not in warning
    again = ask("--show")
    assert again.out == answer.out and "pole" in again.err


def test_scans_by_their_points(ask) -> None:
    answer = ask("--ratio", "45%", "--protocol", "limited")
    assert answer.code == 0 and "scan-45%-limited-seed0" in answer.out
    text = " ".join(answer.out.split())
    assert "is cut: 140 of its 200 points are the labelled scan" in text and "540 labelled points, 45% of" in text
    value = json.loads(ask("--show", "--json").out)
    cut = value["cut"]
    assert (cut["points"], cut["of"]) == (140, 200) and f"{cut['scan']}:a" in value["labelled"]
    assert len(value["labelled"]) == 3 and len(value["unlabelled"]) == 4 and value["share"] == 0.45


def test_points_of_a_list(ask, here: Path) -> None:
    np.savez(here / "mine.npz", **{"00/000001": np.arange(4), "02/000000": np.array([150])})
    answer = ask("--list", "mine.npz")
    assert answer.code == 0 and "list-mine" in answer.out and "5 clicks, 5 labelled points" in answer.out
    np.savez(here / "mine.npz", **{"00/000001": np.array([3, POINTS])})
    answer = ask("--list", "mine.npz")
    text = " ".join(answer.err.split())
    assert answer.code == 1 and f"is not there: {POINTS} of {POINTS}" in text and "00/000001" in text
    assert answer.err.count("╭") == 1 and "Traceback" not in answer.err


def test_another_fold(ask) -> None:
    answer = ask("--ratio", "50%", "--val", "01")
    assert answer.code == 0 and "scan-50%-seed0-val-01" in answer.out
    assert "for validation, in place of the dataset's own: 01" in answer.out and "08: 0/1" in answer.out


def test_json_carries_what_is_drawn(ask) -> None:
    answer = ask("--regime", "1pt", "--per-class", "2", "--holdout", "01", "--json")
    value = json.loads(answer.out)
    assert value["name"] == "2pt-seed0-holdout-01" and value["partial"] is True and value["no_label"] == []
    assert value["holdout"] == ["01/000000", "01/000001"]
    budget = value["budget"]
    assert (budget["clicks"], budget["labelled_points"], budget["partial_scans"]) == (16, 16, 4)
    assert value["share"] == 16 / (4 * POINTS) and budget["train_scans"] == 4
    assert json.loads(ask("--show", "--json").out) == value


def test_groups_and_everything(ask) -> None:
    half = ask("--regime", "sequence", "--ratio", "50%")
    assert "sequence-50%-seed0" in half.out and "unlabelled" in half.out
    every = ask("--ratio", "100%")
    assert every.code == 0 and "6 labelled scans, 0 unlabelled" in every.out
    assert "no scan is unlabelled: nothing is left to learn from" in every.out
    held = ask("--ratio", "100%", "--holdout", "00,01")
    assert "held out, neither labelled nor unlabelled: 00, 01 (5 scans)" in held.out and "1 labelled scans" in held.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--regime", "room", "--ratio", "1%"), "scene, sequence, points, 1pt"),
        (("--regime", "points", "--ratio", "1%", "--protocol", "clas"), "did you mean class"),
        (("--regime", "1pt", "--ratio", "1%"), "--regime 1pt"),
        (("--ratio", "1%", "--protocol", "voxel"), "--regime points"),
        (("--regime", "sequence", "--ratio", "1%", "--protocol", "limited"), "draws groups of them"),
        (("--ratio", "1%", "--val", "07"), "no prepared scan belongs to it"),
        (("--ratio", "1%", "--holdout", "08"), "val subset"),
        (("--ratio", "1%", "--holdout", "00,01,02"), "takes every scan"),
        (("--official", "gpc-7%"), "gpc-5%"),
        (("--show", "--regime", "1pt"), "Leave out --show"),
        (("--show", "--holdout", "01"), "Leave out --show"),
    ],
)
def test_wrong_words(ask, words: tuple[str, ...], says: str) -> None:
    answer = ask(*words)
    assert answer.code == 2 and answer.out == ""
    assert answer.err.count("╭") == 1 and says in answer.err and "Traceback" not in answer.err
