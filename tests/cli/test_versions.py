"""SemanticPOSS under both conventions in one workspace, and with 11 classes: a run is scored on what it held out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

TRAIN = ("train", "supervised", "--backbone", "minkunet-micro", "--steps", "1", "--set", "train.batch=1")
FRAMES = {f"0{number}": 2 + (number == 3) for number in range(6)}
RAW_IDS = [4, 6, 7, 8, 9, 10, 13, 14, 15, 16, 17, 21, 22]


def write_poss(root: Path, points: int = 300) -> Path:
    rng = np.random.default_rng(0)
    for sequence, frames in FRAMES.items():
        folder = root / "sequences" / sequence
        for part in ("velodyne", "labels", "tag"):
            (folder / part).mkdir(parents=True)
        for frame in range(frames):
            scan = rng.uniform(-20, 20, (points, 4)).astype("<f4")
            scan[:, 3] = rng.uniform(0, 255, points)
            scan.tofile(folder / "velodyne" / f"{frame:06d}.bin")
            rng.choice(RAW_IDS, points).astype("<u4").tofile(folder / "labels" / f"{frame:06d}.label")
            tag = np.zeros(72000, np.uint8)
            tag[:points] = 1
            tag.tofile(folder / "tag" / f"{frame:06d}.tag")
    (root / "ssl3d_synth.json").write_text(json.dumps({"complete": True, "scans_per_sequence": FRAMES}))
    return root


@pytest.fixture
def trained(here: Path, ssl3d):
    """``trained("--version", "val03")``: prepared so, split, trained; the name of the run."""
    root = write_poss(here / "poss")

    def run(*words: str, split: tuple[str, ...] = ()) -> str:
        assert ssl3d("prepare", "semanticposs", "--root", root, "--jobs", "1", *words).code == 0
        assert ssl3d("split", "--ratio", "50%", *split).code == 0
        before = set((here / "workspace").glob("runs/*"))
        answer = ssl3d(*TRAIN, "--device", "cpu", "--jobs", "1")
        assert answer.code == 0, answer.err
        (made,) = set((here / "workspace").glob("runs/*")) - before
        return made.name

    return run


def scored(ssl3d, *words: str) -> dict[str, tuple[str, int]]:
    """Run -> its protocol, how many points it was scored on."""
    answer = ssl3d("eval", "--report", "csv", "--jobs", "1", *words)
    assert answer.code == 0, answer.err
    head, *lines = answer.out.splitlines()
    columns = head.split(",")
    rows = [dict(zip(columns, line.split(","), strict=True)) for line in lines]
    return {row["run"]: (row["protocol"], int(row["points"])) for row in rows}


def test_both_conventions_side_by_side(here: Path, trained, ssl3d) -> None:
    first = trained(split=("--holdout", "05"))
    second = trained("--version", "val03")
    assert scored(ssl3d, first, "--subset", "holdout") == {first: ("semanticposs-val02", 600)}
    wanted = {first: ("semanticposs-val02", 600), second: ("semanticposs-val03", 900)}
    assert scored(ssl3d) == wanted
    third = trained(split=("--val", "03"))  # prepared for 02 again, and held out by the split
    assert scored(ssl3d) == {**wanted, third: ("semanticposs-val03", 900)}
    answer = ssl3d("predict", second, "--out", here / "out", "--jobs", "1")
    assert answer.code == 0 and len(list((here / "out" / "sequences" / "03" / "predictions").iterdir())) == 3


def test_a_run_whose_scans_are_gone_is_not_scored_on_what_it_has_seen(here: Path, trained, ssl3d) -> None:
    first = trained()
    trained("--version", "val03")
    assert ssl3d("clean", "--yes").code == 0
    answer = ssl3d("eval", first)
    assert answer.code != 0 and "other scans for validation" in " ".join(answer.err.split())
    assert "val02" in answer.err and "--version" in answer.err


def test_eleven_classes_where_a_user_asks(trained, ssl3d) -> None:
    run = trained("--classes", "11")
    answer = ssl3d("eval", run, "--report", "json", "--jobs", "1")
    (row,) = json.loads(answer.out)["runs"]
    assert len(row["iou"]) == 11 and not {"trashcan", "cone/stone"} & set(row["iou"])
    assert row["protocol"] == "semanticposs-val02"
