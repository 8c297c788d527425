"""The real chain through the real command line, on generated streets: what each command makes, prints and returns."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ssl3d.cli import app

TRAIN = ("train", "supervised", "--backbone", "minkunet-micro", "--steps", "2", "--set", "train.batch=1")


class Chain:
    """A workspace in which the chain has run once."""

    def __init__(self, folder: Path) -> None:
        self.streets = folder / "streets"
        self.workspace = folder / "workspace"

    def words(self, *words: object) -> list[str]:
        return [*map(str, words), "--workspace", str(self.workspace)]

    @property
    def run(self) -> str:
        return next((self.workspace / "runs").iterdir()).name


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    made = Chain(tmp_path_factory.mktemp("chain"))
    assert app.run(["synth", "street", "--preset", "tiny", "--out", str(made.streets), "--jobs", "1"]) == 0
    assert app.run(made.words("prepare", "semantickitti", "--root", made.streets, "--jobs", "1")) == 0
    assert app.run(made.words("split", "--ratio", "50%")) == 0
    assert app.run(made.words(*TRAIN, "--jobs", "1", "--device", "cpu")) == 0
    return made


@pytest.fixture
def ask(chain: Chain, ssl3d):
    """``ask("status")`` in the workspace of the chain."""
    return lambda *words: ssl3d(*chain.words(*words))


def test_generated_streets_are_complete(chain: Chain, ssl3d) -> None:
    answer = ssl3d("prepare", "semantickitti", "--root", chain.streets, "--check")
    assert answer.code == 0
    assert "08" in answer.out and "val" in answer.out


def test_check_of_a_damaged_download_is_exit_code_1_and_converts_nothing(chain: Chain, ssl3d, here: Path) -> None:
    broken = here / "broken"
    shutil.copytree(chain.streets, broken)
    (broken / "sequences" / "00" / "labels" / "000001.label").unlink()
    cut = broken / "sequences" / "01" / "velodyne" / "000000.bin"
    cut.write_bytes(cut.read_bytes()[:-3])
    answer = ssl3d("prepare", "semantickitti", "--root", broken, "--check")
    assert answer.code == 1
    assert "000001" in answer.out and "000000.bin" in answer.out.replace("\n", "")
    assert not (here / "workspace").exists()
    answer = ssl3d("prepare", "semantickitti", "--root", broken)
    assert answer.code == 1
    assert "Traceback" not in answer.err and "--check" in answer.err


def test_prepare_again_is_cached(chain: Chain, ask) -> None:
    answer = ask("prepare", "semantickitti", "--root", chain.streets)
    assert answer.code == 0
    assert "0 made now" in answer.err
    assert answer.out == ""


def test_split_as_json_is_alone_on_stdout(ask) -> None:
    answer = ask("split", "--ratio", "50%", "--json")
    value = json.loads(answer.out)
    assert len(value["labelled"]) == 4
    assert value["budget"]["labelled_points"] == sum(value["budget"]["per_class"])


def test_split_shows_its_budget(ask) -> None:
    answer = ask("split", "--show")
    assert answer.code == 0
    assert "4 labelled scans" in answer.out and "clicks" in answer.out and "traffic-sign" in answer.out


def test_status_says_cached_and_lists_the_run(chain: Chain, ask) -> None:
    value = json.loads(ask("status", "--json").out)
    states = {stage["name"]: stage["state"] for stage in value["stages"]}
    assert {name for name, state in states.items() if state == "cached"} == {"prepare", "split"}
    assert {state for name, state in states.items() if name not in ("prepare", "split")} == {"missing"}
    assert [(run["run"], run["state"]) for run in value["runs"]] == [(chain.run, "finished")]
    assert "finished" in ask("status").out


def test_status_says_why_something_is_stale(chain: Chain, ssl3d, here: Path) -> None:
    shutil.copytree(chain.workspace, here / "workspace")
    shutil.rmtree(here / "workspace" / "runs")
    assert ssl3d("prepare", "semantickitti", "--root", chain.streets, "--compress").code == 0
    stages = {stage["name"]: stage for stage in json.loads(ssl3d("status", "--json").out)["stages"]}
    assert stages["split"]["state"] == "stale"
    assert "prepare" in stages["split"]["why"]
    answer = ssl3d("clean", "--stale")
    assert "nothing was removed" in answer.err  # no terminal, no --yes
    assert ssl3d("clean", "--stale", "--yes").code == 0
    assert "nothing to remove" in ssl3d("clean").out


def test_training_again_does_nothing(ask) -> None:
    answer = ask(*TRAIN, "--device", "cpu")
    assert answer.code == 0
    assert "finished" in answer.err and "--overwrite" in answer.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("train", "supervisd"), "supervised"),
        (("train", "supervised", "--backbone", "minkunet81"), "minkunet18"),
        (("train", "supervised", "--set", "optimizer.lrr=1"), "optimizer.lr"),
        (("train", "supervised", "--set", "train.batch=none at all"), "train.batch"),
        (("train", "supervised", "--device", "gpu"), "--device cpu"),
        (("train", "supervised", "--split", "nothing"), "scan-50%-seed0"),
        (("train",), "--list"),
        (("train", "supervised", "--resume", "x"), "--resume"),
        (("eval", "nothing-like-it"), "nothing-like-it"),
        (("eval", "--dataset", "nuscenes"), "semantickitti"),
        (("eval", "--report", "tabel"), "table"),
        (("eval", "--protocol", "nanmeen"), "nanmean"),
        (("split", "--official", "lasermix-1%"), "lasermix"),
        (("split", "--ratio", "110%"), "110%"),
        (("prepare", "semantickitti", "--root", "nowhere"), "nowhere"),
    ],
)
def test_wrong_words(ask, words: tuple[str, ...], says: str) -> None:
    answer = ask(*words)
    assert answer.code in (1, 2)
    assert answer.out == ""
    assert says in answer.err
    assert "Traceback" not in answer.err and "unexpected" not in answer.err


def test_lists_of_methods_and_keys(ask) -> None:
    listed = ask("train", "--list").out
    assert "supervised" in listed and "minkunet18" in listed and "spunet16" in listed
    assert "optimizer.lr" in ask("train", "supervised", "--list-keys").out


def test_reports(chain: Chain, ask, here: Path) -> None:
    row = json.loads(ask("eval", "--report", "json").out)["runs"][0]
    known = {"run", "method", "backbone", "dataset", "split", "protocol", "weights", "miou", "accuracy", "iou"}
    assert set(row) == known
    assert row["run"] == chain.run and row["protocol"] == "semantickitti"
    assert row["miou"] == pytest.approx(np.mean(list(row["iou"].values())))
    lines = list(csv.DictReader(io.StringIO(ask("eval", chain.run, "--report", "csv").out)))
    assert float(lines[0]["miou"]) == pytest.approx(row["miou"])
    for form, begins in (("markdown", "**"), ("latex", "%"), ("html", "<!")):
        assert ask("eval", "--report", form).out.lower().startswith(begins)
    assert chain.run[:20] in ask("eval").out.replace("\n", "")
    answer = ask("eval", "--out", here / "report.txt")
    assert answer.out == "" and "mIoU" in (here / "report.txt").read_text("utf-8")


def test_pictures(chain: Chain, ask) -> None:
    answer = ask("eval", "--pictures", "1", "--report", "json")
    json.loads(answer.out)
    pictures = list((chain.workspace / "runs" / chain.run / "pictures").glob("val-08-*.png"))
    assert len(pictures) == 1 and pictures[0].read_bytes().startswith(b"\x89PNG")
    assert str(pictures[0]) in answer.err


def test_predictions_have_original_ids_for_every_point(chain: Chain, ask, here: Path) -> None:
    answer = ask("predict", chain.run, "--out", here / "predictions")
    assert answer.code == 0
    for velodyne in sorted(chain.streets.glob("sequences/08/velodyne/*.bin")):
        label = here / "predictions" / "sequences" / "08" / "predictions" / f"{velodyne.stem}.label"
        ids = np.fromfile(label, "<u4")
        assert len(ids) == velodyne.stat().st_size // 16
        assert ids.min() >= 10 and ids.max() < 100
    assert "0 files" in ask("predict", chain.run, "--out", here / "predictions").err


def test_runs(chain: Chain, ask) -> None:
    assert [run["run"] for run in json.loads(ask("runs", "--json").out)] == [chain.run]
    assert "supervised" in ask("runs").out
    value = json.loads(ask("runs", "show", chain.run, "--json").out)
    assert value["config"]["train"]["steps"] == 2
    shown = ask("runs", "show", chain.run[-6:])
    assert "minkunet-micro" in shown.out
    assert (chain.workspace / "runs" / chain.run / "curves.png").exists()


def test_clean_leaves_a_run_that_is_being_trained(chain: Chain, ask) -> None:
    from ssl3d.pipeline.training.run import RunDirectory

    directory = RunDirectory(chain.workspace / "runs" / chain.run)
    with directory.lock():
        answer = ask("clean", "--runs", "--yes")
    assert answer.code == 1 and chain.run in answer.err.replace("\n", "")
    assert directory.checkpoint_path().exists()


def test_ctrl_c_says_how_to_go_on(here: Path) -> None:
    command = [sys.executable, "-m", "ssl3d.cli.app", "synth", "street", "--preset", "small", "--out", "my streets"]
    child = subprocess.Popen([*command, "--jobs", "1"], cwd=here, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not list(here.glob("my streets/sequences/*/velodyne/*.bin")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=300)
    assert child.returncode == 130
    last = err.strip().splitlines()[-1]
    assert last.endswith("to continue: ssl3d synth street --preset small --out 'my streets' --jobs 1")
    assert "Traceback" not in err


@pytest.mark.slow
def test_demo_makes_everything_and_goes_on(shell, here: Path) -> None:
    words = ("demo", "--preset", "tiny", "--steps", "3", "--out", "out", "--device", "cpu")
    first = shell(*words, timeout=600)
    assert first.code == 0, first.err
    assert "mIoU" in first.out
    assert "$ ssl3d train supervised" in first.err and "ssl3d prepare semantickitti --root /your/kitti" in first.err
    for name in ("report.html", "report.md", "report.json", "curves.png", "classes.png"):
        assert (here / "out" / name).stat().st_size > 100
    assert len(list((here / "out" / "pictures").glob("*/*.png"))) == 4
    again = shell(*words, timeout=600)
    assert again.code == 0 and again.out == first.out
    assert again.err.count("nothing was done") == 2
