"""``ssl3d eval --compare paper`` as a user types it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest


@pytest.fixture
def trained(here: Path, ssl3d) -> Path:
    """Two runs at 50% of generated streets that differ in their seed, and one at 100%."""
    space = ("--workspace", here / "w")
    words = ("--backbone", "minkunet-micro", "--steps", "1", "--set", "train.batch=1", "--device", "cpu", "--jobs", "1")
    assert ssl3d("synth", "street", "--preset", "tiny", "--out", here / "streets", "--jobs", "1").code == 0
    assert ssl3d("prepare", "semantickitti", "--root", here / "streets", *space, "--jobs", "1").code == 0
    for seed in ("0", "1"):
        assert ssl3d("split", "--ratio", "50%", "--seed", seed, *space).code == 0
        assert ssl3d("train", "supervised", *words, "--seed", seed, *space).code == 0
    assert ssl3d("split", "--ratio", "60%", *space).code == 0
    assert ssl3d("train", "supervised", *words, *space).code == 0
    return here / "w"


def test_published_numbers_stand_beside_runs_of_the_same_ratio(trained: Path, ssl3d) -> None:
    space = ("--workspace", trained, "--jobs", "1", "--device", "cpu")
    answer = ssl3d("eval", "--compare", "paper", "--report", "json", *space)
    assert answer.code == 0, answer.err
    value = json.loads(answer.out)
    assert len(value["runs"]) == 3
    at_50 = [row for row in value["published"] if row["ratio"] == 50]
    assert {row["published"] for row in at_50} == {58.7, 57.2, 62.7, 60.1}  # Cylinder3D, FIDNet, SPVCNN, CENet
    mean = sum(run["miou"] for run in value["runs"] if "50" in run["split"]) / 2
    for row in at_50:
        assert row["seeds"] == [0, 1] and row["ours"] == pytest.approx(mean)
        assert not row["comparable"]
        assert row["differs"][0] == "generated data" and any(why.startswith("backbone ") for why in row["differs"])
        assert any(why.startswith("split lasermix") for why in row["differs"])
    (lonely,) = [row for row in value["published"] if row["ratio"] == 60]
    assert lonely["published"] is None and "no number is published" in lonely["differs"][0]

    drawn = ssl3d("eval", "--compare", "paper", *space).out
    assert "Published numbers beside ours" in drawn and "protocol semantickitti" in drawn
    out = trained.parent / "report.md"
    assert ssl3d("eval", "--compare", "paper", "--report", "markdown", "--out", out, *space).code == 0
    text = out.read_text()
    assert text.index("| Run |") < text.index("| method |") and "not comparable: generated data" in text
    lines = list(csv.DictReader(io.StringIO(ssl3d("eval", "--compare", "paper", "--report", "csv", *space).out)))
    assert [line["published"] for line in lines if line["ratio"] == "60.0"] == [""]
    assert sum(line["ratio"] == "50.0" for line in lines) == len(at_50)


@pytest.mark.parametrize("form", ["latex", "html"])
def test_formats_without_a_place_for_published_numbers_are_refused(ssl3d, form: str) -> None:
    answer = ssl3d("eval", "--compare", "paper", "--report", form)
    assert answer.code == 2 and "table, markdown, json or csv" in " ".join(answer.err.split())
