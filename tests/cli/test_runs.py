"""Runs as users find them: damaged, copied, of other classes; and the words that go with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssl3d.pipeline.workspace import Workspace


@pytest.fixture
def damaged(here: Path) -> Path:
    workspace = Workspace.open(here / "workspace")
    workspace.ensure()
    runs = workspace.runs_dir
    for name, text in (("empty", ""), ("list", "[]"), ("types", '{"created": "today", "dataset": 3, "train": []}')):
        (runs / name).mkdir(parents=True)
        (runs / name / "config.json").write_text(text)
        (runs / name / "status.json").write_text('{"state": [], "step": "one", "seconds": "two"}')
        (runs / name / "metrics.jsonl").write_text("what\n3\n")
    return runs


@pytest.fixture
def trained(here: Path, ssl3d) -> Path:
    """A workspace with one finished run."""
    space = ("--workspace", here / "w")
    assert ssl3d("synth", "street", "--preset", "tiny", "--out", here / "streets", "--jobs", "1").code == 0
    assert ssl3d("prepare", "semantickitti", "--root", here / "streets", *space, "--jobs", "1").code == 0
    assert ssl3d("split", "--ratio", "50%", *space).code == 0
    words = ("--backbone", "minkunet-micro", "--steps", "1", "--set", "train.batch=1", "--device", "cpu", "--jobs", "1")
    assert ssl3d("train", "supervised", *words, *space).code == 0
    return here / "w"


def test_damaged_runs_are_listed_and_shown(damaged: Path, ssl3d) -> None:
    for words in (("runs",), ("status",), ("runs", "show", "list"), ("runs", "show", "types")):
        answer = ssl3d(*words)
        assert answer.code == 0, answer.err
    listed = json.loads(ssl3d("runs", "--json").out)
    assert {item["run"] for item in listed} == {"empty", "list", "types"}
    assert {(item["state"], item["protocol"]) for item in listed} == {("new", "nanmean")}
    answer = ssl3d("train", "--resume", "empty")
    assert answer.code == 1
    assert "unreadable" in answer.err and "Traceback" not in answer.err


@pytest.mark.parametrize(
    "words",
    [
        ("--set", "train.batch=1"),
        ("--steps", "9"),
        ("--seed", "0"),
        ("--split", "x"),
        ("--dataset", "x"),
        ("--backbone", "minkunet18"),
        ("--overwrite",),
        ("--init-from", "x"),
    ],
)
def test_resume_takes_everything_from_the_run(ssl3d, words: tuple[str, ...]) -> None:
    answer = ssl3d("train", "--resume", "some-run", *words)
    assert answer.code == 2
    assert words[0] in answer.err and "--resume RUN takes everything" in answer.err


def test_a_bad_run_that_nobody_named_does_not_stop_the_evaluation_of_the_others(trained: Path, ssl3d) -> None:
    (good,) = (trained / "runs").iterdir()
    config = json.loads((good / "config.json").read_text())
    for name, change in (("other-classes", {"dataset": {**config["dataset"], "classes": ["a", "b"]}}),
                         ("newer", {"schema": 99}), ("no-checkpoint", {})):  # fmt: skip
        folder = trained / "runs" / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        (folder / "status.json").write_text('{"state": "finished"}')
    answer = ssl3d("eval", "--report", "json", "--workspace", trained)
    assert answer.code == 0, answer.err
    assert [row["run"] for row in json.loads(answer.out)["runs"]] == [good.name]
    for name, why in (("other-classes", "other classes"), ("newer", "schema 99"), ("no-checkpoint", "no checkpoint")):
        assert name in answer.err and why in answer.err
    moved = good.rename(good.with_name("renamed"))
    answer = ssl3d("eval", moved.name, "--report", "json", "--workspace", trained)
    assert [row["run"] for row in json.loads(answer.out)["runs"]] == ["renamed"]
    for name in ("other-classes", "newer", "no-checkpoint"):
        answer = ssl3d("eval", name, "--workspace", trained)
        assert answer.code in (1, 2) and "unexpected" not in answer.err


def test_averaged_weights_and_the_holdout_from_the_command_line(trained: Path, ssl3d) -> None:
    space = ("--workspace", trained)
    (plain,) = (trained / "runs").iterdir()
    for words, why in (
        (("--weights", "ema"), ("keeps no average", "train.ema=0.99")),
        (("--subset", "holdout"), ("holds no scans out", "--holdout")),
    ):
        answer = ssl3d("eval", plain.name, *words, *space)
        assert answer.code == 2 and all(word in answer.err.replace("\n", " ") for word in why), answer.err
        answer = ssl3d("eval", *words, *space)  # nobody named it
        assert answer.code == 2 and "left out" in answer.err and why[0] in answer.err
    words = ("--backbone", "minkunet-micro", "--steps", "2", "--device", "cpu", "--jobs", "1")
    assert ssl3d("train", "supervised", *words, "--set", "train.batch=1", "--set", "train.ema=0.9", *space).code == 0
    (averaged,) = [path for path in (trained / "runs").iterdir() if path != plain]
    seen = {}
    for weights in ("auto", "own", "ema"):
        answer = ssl3d("eval", averaged.name, plain.name, "--weights", weights, "--report", "json", *space)
        if weights != "ema":
            seen[weights] = [run["weights"] for run in json.loads(answer.out)["runs"]]
    assert seen == {"auto": ["ema", "own"], "own": ["own", "own"]}
    assert answer.code == 2 and plain.name in answer.err
    answer = ssl3d("eval", "--weights", "ema", "--report", "json", *space)
    assert [run["run"] for run in json.loads(answer.out)["runs"]] == [averaged.name]
    assert sorted(path.name for path in (averaged / "eval").iterdir()) == ["val-last-ema.json", "val-last.json"]
    listed = {item["run"]: set(item["miou"]) for item in json.loads(ssl3d("runs", "--json", *space).out)}
    assert listed == {averaged.name: {"val", "val ema"}, plain.name: {"val"}}
    out = trained.parent / "out"
    answer = ssl3d("predict", averaged.name, "--weights", "own", "--out", out, *space)
    assert answer.code == 0, answer.err
    assert json.loads((out / "ssl3d_predict.json").read_text())["weights"] == "own"


def test_what_a_method_says_of_itself_is_shown_by_class(trained: Path, ssl3d) -> None:
    (run,) = (trained / "runs").iterdir()
    classes = json.loads((run / "config.json").read_text())["dataset"]["classes"]
    assert "unlabelled elements" not in ssl3d("runs", "show", run.name, "--workspace", trained).out
    shares = [None] * len(classes)
    pseudo = {"share": 0.123, "classes": [0.75, *[0.0] * 18], "visible": [0.5, *[0.0] * 18]}
    line = {"step": 1, "losses": {"ce": 1.0}, "lr": 0.1, "visible_miou": 1.0}
    measures = {"classes": {"sure": [0.4321, *shares[1:]]}, "means": {"norm": 2.5, "density": None}}
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps({**line, "step": step, **more}) + "\n" for step, more in (
            (1, {"pseudo_labels": {**pseudo, "share": 0.9}}),
            (2, {"pseudo_labels": pseudo, "measures": measures}),
            (3, {"measures": {"classes": {"sure": shares}, "means": {"norm": None}}}),
        ))
    )  # fmt: skip
    out = ssl3d("runs", "show", run.name, "--workspace", trained).out
    assert "at step 2" in out and "12.3% of the unlabelled elements are used" in out
    assert "norm 2.5, density -" in out
    (row,) = [line for line in out.splitlines() if line.strip().startswith("car ")]
    assert row.split() == ["car", "75.0", "50.0", "43.2"]
    (row,) = [line for line in out.splitlines() if line.strip().startswith("bicycle ")]
    assert row.split() == ["bicycle", "0.0", "0.0", "-"]
    told = json.loads(ssl3d("runs", "show", run.name, "--json", "--workspace", trained).out)["diagnostics"]
    assert told == {"step": 2, "pseudo_labels": pseudo, "measures": measures}


def test_unlabelled_scans_and_confidence_from_the_command_line(trained: Path, ssl3d) -> None:
    space = ("--subset", "unlabelled", "--workspace", trained)
    answer = ssl3d("eval", "--report", "json", *space)
    assert answer.code == 0 and "a diagnosis, no result" in answer.err
    (row,) = json.loads(answer.out)["runs"]
    answer = ssl3d("eval", "--confidence", "0.1", "--report", "json", *space)
    assert answer.code == 0, answer.err
    (told,) = json.loads(answer.out)["confidence"]
    assert (told["run"], told["subset"], told["above"], told["scans"]) == (row["run"], "unlabelled", 0.1, 4)
    assert set(told["classes"]) == set(row["iou"])
    drawn = ssl3d("eval", "--confidence", "0.1", *space).out
    assert "surer than 0.1, %" in drawn and f"{told['all']['predicted']:,}" in drawn and "no result" in drawn
    assert ssl3d("eval", "--confidence", "0.1", "--out", trained / "sure.txt", *space).out == ""
    assert "surer than 0.1, %" in (trained / "sure.txt").read_text("utf-8")
    for words, why in (
        (("--report", "csv"), "--report csv"),
        (("--pictures", "1", "--protocol", "nanmean"), "--protocol, --pictures"),
        (("--predictions", trained), "--predictions"),
    ):
        answer = ssl3d("eval", "--confidence", "0.9", *words, "--workspace", trained)
        assert answer.code == 2 and f"does not go with {why}" in answer.err, answer.err
    answer = ssl3d("eval", "--confidence", "90", "--workspace", trained)
    assert answer.code == 2 and "0..1" in answer.err
