"""S3DIS in six folds, as they are typed: one preparation, six splits, six runs, one row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ssl3d.cli import app

SETTINGS = ("--backbone", "minkunet-micro", "--steps", "1", "--set", "train.batch=1", "--device", "cpu")


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folds") / "rooms"
    words = ["synth", "rooms", "--layout", "s3dis", "--preset", "tiny", "--out", str(root), "--jobs", "1"]
    assert app.run(words) == 0
    return root


def test_six_folds_in_one_workspace(rooms: Path, here: Path, ssl3d) -> None:
    assert ssl3d("prepare", "s3dis", "--root", rooms, "--jobs", "1").code == 0
    for number in range(1, 7):
        answer = ssl3d("split", "--val", f"Area_{number}", "--ratio", "20%", "--jobs", "1", "--json")
        split = json.loads(answer.out)
        seen = {scan_id.partition("/")[0] for scan_id in (*split["labelled"], *split["unlabelled"])}
        assert seen == {f"Area_{other}" for other in range(1, 7) if other != number}
        if number == 6:  # what was trained up to now makes no whole
            answer = ssl3d("eval", "--protocol", "s3dis-6fold", "--jobs", "1")
            assert answer.code == 2 and "no run holds out Area_6" in " ".join(answer.err.split())
            assert not list(here.glob("workspace/runs/*/eval"))  # nothing was computed in vain
        answer = ssl3d("train", "supervised", *SETTINGS, "--jobs", "1")
        assert answer.code == 0, answer.err
    assert len(list(here.glob("workspace/data/s3dis/prepare/*"))) == 1
    assert ssl3d("train", "supervised", *SETTINGS, "--seed", "1", "--jobs", "1").code == 0  # Area_6 once more
    answer = ssl3d("eval", "--protocol", "s3dis-6fold", "--report", "json", "--jobs", "1")
    assert answer.code == 0, answer.err
    said = " ".join(answer.err.split())
    assert "left out: supervised-minkunet-micro-scan-20pct-seed0: no run holds out Area_1, Area_2" in said
    (row,) = json.loads(answer.out)["runs"]
    counts = np.zeros((14, 13), np.int64)
    assert sorted(row["folds"]) == [f"Area_{number}" for number in range(1, 7)]
    for area, run in row["folds"].items():
        (file,) = (here / "workspace" / "runs" / run / "eval").glob("val-*.json")
        result = json.loads(file.read_text())
        assert result["held"] == [area]
        counts += np.array(result["confusion"]["counts"])
    hit, truth, predicted = np.diagonal(counts[:13]), counts.sum(0), counts[:13].sum(1)
    assert row["miou"] == pytest.approx(100 * np.mean(hit / np.maximum(1, truth + predicted - hit)))
    assert row["macc"] == pytest.approx(100 * np.mean(hit / np.maximum(1, truth)))
    assert row["accuracy"] == pytest.approx(100 * hit.sum() / counts.sum())
    total = sum(int(np.loadtxt(file, ndmin=2).shape[0]) for file in rooms.glob("Area_*/*/Annotations/*.txt"))
    assert counts.sum() == total  # every point of every room, once

    one, two = row["folds"]["Area_1"], row["folds"]["Area_2"]
    runs = json.loads(ssl3d("eval", one, two, "--report", "json", "--jobs", "1").out)["runs"]
    assert [(run["run"], run["protocol"]) for run in runs] == [(one, "s3dis-area1"), (two, "s3dis-area2")]
    answer = ssl3d("eval", one, two, "--protocol", "s3dis-6fold")
    assert answer.code == 2 and "no run holds out Area_3, Area_4, Area_5, Area_6" in " ".join(answer.err.split())
    answer = ssl3d("predict", one, "--out", here / "out", "--format", "npz", "--jobs", "1")
    assert answer.code == 0 and {path.name for path in (here / "out").iterdir() if path.is_dir()} == {"Area_1"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--val", "Area_9"), "no prepared scan belongs to it"),
        (("--val", "Area_1,Area_2,Area_3,Area_4,Area_5,Area_6"), "nothing is left to train on"),
        (("--val", "Area_3", "--holdout", "Area_3"), "--holdout and --val both name Area_3"),
        (("--val", "Area_3", "--show"), "Leave out --show"),
    ],
)
def test_what_cannot_be_held_out(rooms: Path, here: Path, ssl3d, words: tuple[str, ...], says: str) -> None:
    assert ssl3d("prepare", "s3dis", "--root", rooms, "--jobs", "1").code == 0
    answer = ssl3d("split", "--ratio", "20%", *words)
    assert answer.code == 2 and says in " ".join(answer.err.split())
