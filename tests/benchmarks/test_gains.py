"""The matrix of the gains benchmark: its plan, real processes that are stopped and go on, and what it reports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ssl3d.benchmarks import gains_report
from ssl3d.benchmarks.frames import write_frames
from ssl3d.benchmarks.gains import PUBLISHED, RECIPE, SHORT, Cell, Job, Recipe, Variant, choose
from ssl3d.benchmarks.gains_data import Bench, make_streets
from ssl3d.benchmarks.gains_plan import make_plan
from ssl3d.benchmarks.gains_runs import Failure, Runner
from ssl3d.benchmarks.recipes import RECIPES
from ssl3d.cli import app
from ssl3d.data.errors import UsageError
from ssl3d.models.methods.registry import list_methods
from ssl3d.pipeline.evaluation.result import EvalResult
from ssl3d.pipeline.progress import Silent
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.workspace import Workspace

FRAMES = {"00": 4, "08": 1, "09": 1}
SMALL = Recipe(methods=("mean_teacher",), steps=2, seeds=2, ratios={"scan": ("50%",)}, reference=Cell("scan", "50%"))
SCRIPT = """
import sys
from ssl3d.benchmarks.gains import Cell, Recipe
from ssl3d.benchmarks.gains_data import Bench
from ssl3d.benchmarks.gains_runs import Runner
from ssl3d.pipeline.progress import Silent
from ssl3d.pipeline.workspace import Workspace
recipe = Recipe(
    methods=("mean_teacher",), steps=2, seeds=2, ratios={"scan": ("50%",)}, reference=Cell("scan", "50%")
)
bench = Bench.open(Workspace.open(sys.argv[1]), recipe, "val")
bench.make_splits(bench.recipe.jobs(), 1, Silent())
Runner(bench, 1, "cpu", lambda job, ended, wall: print(job.name, flush=True), print).run(bench.recipe.jobs())
"""


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans of random content, in the layout of streets; one sequence is for choosing parameters."""
    root = tmp_path_factory.mktemp("gains") / "streets"
    write_frames(root, FRAMES, num_points=300)
    (root / "ssl3d_synth.json").write_text(json.dumps({"complete": True, "scans_per_sequence": FRAMES}))
    return root


@pytest.fixture
def space(streets: Path, tmp_path: Path) -> Workspace:
    space = Workspace.open(tmp_path / "ws")
    make_streets(space, SMALL, streets, 1, Silent())
    return space


# ---------------------------------------------------------------- plan


def test_partial_results_are_paired() -> None:
    """At any time at most one seed of the matrix is incomplete, and the baseline comes first in every cell."""
    jobs = RECIPE.jobs()
    assert len(jobs) == len(set(jobs)) == RECIPE.seeds * (len(RECIPE.variants) * len(RECIPE.cells) + 1)
    assert [job.seed for job in jobs] == sorted(job.seed for job in jobs)
    assert [job.variant.name for job in jobs[:2]] == ["supervised", "mean_teacher"]
    assert {job.cell for job in jobs[: len(RECIPE.variants)]} == {RECIPE.cells[0]}
    assert Job(Variant("supervised", "supervised"), Cell("scan", "100%"), 0) in jobs


def test_a_seed_fixes_split_and_training_for_every_method() -> None:
    first, second = RECIPE.jobs()[:2]
    assert RECIPE.split(first) == RECIPE.split(second)
    assert RECIPE.split(first).seed == RECIPE.config(first).seed == RECIPE.config(second).seed == 0
    assert RECIPE.split(first).holdout == ("09", "10")
    mine, theirs = RECIPE.config(first), RECIPE.config(second)
    assert mine.train == theirs.train and mine.train.ema == RECIPE.ema
    assert mine.optimizer == theirs.optimizer and mine.backbone_params == theirs.backbone_params


def test_every_ablation_is_a_valid_run_and_differs_from_its_method() -> None:
    full = choose(full=True)
    assert len(full.variants) > len(RECIPE.variants)
    hashes = [full.config(Job(variant, RECIPE.cells[0], 0)).hash for variant in full.variants]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize("method", sorted(set(RECIPES) & set(list_methods())))
def test_every_method_has_the_supervised_loss_of_the_baseline(method: str) -> None:
    """And its keys exist, those of its ablations too."""
    full = choose(methods=method, full=True)
    for variant in full.variants:
        config = full.config(Job(variant, RECIPE.cells[0], 0))
        assert config.method_params.model_dump()["lambda_lov"] == 1


@pytest.mark.parametrize("method", sorted(SHORT))
def test_the_published_variant_takes_every_key_of_the_preset_back(method: str) -> None:
    """But for the crops of gpc, which for LiDAR are fans in both."""
    short, published = ({item.partition("=")[0] for item in keys[method]} for keys in (SHORT, PUBLISHED))
    assert short - published <= {"gpc.crop"}
    assert f"{method} published" in [variant.name for variant in choose(methods=method, full=True).variants]


def test_ablations_of_ddsemi_are_those_of_its_third_table() -> None:
    full = choose(methods="ddsemi", full=True)
    names = [variant.name for variant in full.variants]
    assert names == [
        "supervised", "ddsemi", "ddsemi published", "ddsemi ce", "ddsemi ce_inter", "ddsemi ce_inter_intra",
        "ddsemi plus_geometric", "ddsemi plus_feature",
    ]  # fmt: skip
    configs = [full.config(Job(variant, RECIPE.cells[0], 0)) for variant in full.variants]
    assert len({config.hash for config in configs}) == len(configs)


def test_options_narrow_the_recipe() -> None:
    recipe = choose(regimes="points", ratios="10%,1%", seeds=2, steps=7, settings=["mean_teacher.w=5", "train.clip=1"])
    assert [cell.name for cell in recipe.cells] == ["points 1%", "points 10%"]
    assert (recipe.seeds, recipe.steps) == (2, 7)
    supervised, teacher = (recipe.overrides(job) for job in recipe.jobs()[:2])
    assert "mean_teacher.w=5" in teacher and "mean_teacher.w=5" not in supervised
    assert "train.clip=1" in supervised
    assert [cell.name for cell in choose(ratios="scan:5%,points:1%").cells] == ["scan 5%", "points 1%"]


@pytest.mark.parametrize(
    "words",
    [
        {"methods": "mean_teachr"},
        {"regimes": "scans"},
        {"ratios": "scan:0%"},
        {"settings": ["mean_teacher.ww=1"]},
        {"settings": ["train.ema=0.5"]},
    ],
)
def test_what_does_not_exist_is_refused_before_anything_is_made(words: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        choose(**words)


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--dry-run", "--seeds", "2", "--methods", "mean_teacher"]
    assert app.run(["bench", "gains", "--workspace", str(tmp_path / "ws"), *words]) == 0
    assert "18 runs" in capsys.readouterr().err
    assert not (tmp_path / "ws").exists()


def test_a_report_of_nothing_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--workspace", str(tmp_path / "ws"), "--json", str(tmp_path / "mistyped.json")]
    assert app.run(["bench", "gains", *place, "--report-only"]) == 1
    assert "nothing to report" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_lines_of_results_compare_the_seeds_that_both_have() -> None:
    scores = {("supervised", 0): 10.0, ("supervised", 1): 40.0, ("mean_teacher", 0): 12.0}
    runs = [
        {"variant": name, "regime": "scan", "ratio": "0.5%", "seed": seed, **dict.fromkeys(gains_report.PARTS, score)}
        | {"iou": {}}
        for (name, seed), score in scores.items()
    ]
    (row,) = gains_report.results({"runs": runs, "cells": gains_report.cells(RECIPE, runs)})
    assert (row["ours"], row["theirs"], row["ratio"]) == (12.0, 10.0, 1.2)
    assert row["name"] == "mean_teacher, scan 0.5%, 1 seeds"


# ---------------------------------------------------------------- running


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_stopped_in_the_middle_it_goes_on_and_repeats_nothing(space: Workspace, tmp_path: Path) -> None:
    script = tmp_path / "matrix.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(space.root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.readline().strip()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0 and "KeyboardInterrupt" in errors
    bench = Bench.open(space, SMALL, "val")
    bench.find_splits()
    plan = make_plan(bench)
    assert [job.name for job in plan.done] == [first] == ["supervised, scan 50%, seed 0"]
    assert len(plan.left) == 3
    assert all(not run.is_locked() for run in RunDirectory.list(space))  # the processes are gone
    before = _sessions(space)
    _run_while_somebody_trains_the_first(bench, plan.left)
    again = make_plan(bench)
    assert not again.left and len(again.done) == 4
    after = _sessions(space)
    done = bench.run(next(iter(plan.done)))
    assert done is not None and after[done.name] == before[done.name] == 1
    _check_report(bench, again.done)
    _damage_one(bench, again.done)
    dev = Bench.open(space, SMALL, "holdout")
    dev.find_splits()
    other = make_plan(dev)
    assert len(other.left) == len(other.trained) == 4  # trained already, only to be evaluated on other scans


def _run_while_somebody_trains_the_first(bench: Bench, jobs: Sequence[Job]) -> None:
    """A run left behind by a benchmark that was killed is waited for; here a thread has it until it is missed."""
    run = bench.run(jobs[0])
    assert run is not None
    held, missed = threading.Event(), threading.Event()

    def hold() -> None:
        with run.lock():
            held.set()
            missed.wait(300)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(60)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        missed.set()

    ended: list[str] = []
    assert Runner(bench, 2, "cpu", _noting(ended), say).run(jobs) == []
    holder.join()
    assert len(said) == 1 and jobs[0].name in said[0] and "waiting" in said[0]
    assert sorted(ended) == sorted(job.name for job in jobs)


def _damage_one(bench: Bench, done: dict[Job, EvalResult]) -> None:
    """A damaged run, or a damaged result, is to be done again and hinders no other."""
    job = next(iter(done))
    run = bench.run(job)
    assert run is not None
    (result,) = (run.path / "eval").glob("val-*.json")
    for file in (run.checkpoint_path(), run.path / "config.json", result):
        content = file.read_bytes()
        if file.suffix == ".pt":
            file.unlink()
        else:
            file.write_bytes(content[: len(content) // 2])
        assert make_plan(bench).left == (job,)
        file.write_bytes(content)
    assert not make_plan(bench).left


def _sessions(space: Workspace) -> dict[str, int]:
    """How often each run was begun or gone on with."""
    runs = RunDirectory.list(space)
    return {
        run.name: len(json.loads((run.path / "environment.json").read_text())["sessions"])
        for run in runs
        if (run.path / "environment.json").exists()
    }


def _noting(ended: list[str]) -> Callable[[Job, EvalResult | Failure, float], None]:
    def note(job: Job, found: EvalResult | Failure, wall: float) -> None:
        assert not isinstance(found, Failure), found.message
        ended.append(job.name)

    return note


def _check_report(bench: Bench, done: dict[Job, EvalResult]) -> None:
    value = gains_report.figures(bench, done, [])
    json.dumps(value, allow_nan=False)
    line = next(line for line in value["cells"] if line["variant"] == "mean_teacher")
    per_seed = {(run["variant"], run["seed"]): run["miou"] for run in value["runs"]}
    expected = [per_seed["mean_teacher", seed] - per_seed["supervised", seed] for seed in (0, 1)]
    assert line["difference"]["miou"]["values"] == pytest.approx(expected)
    assert line["difference"]["miou"]["mean"] == pytest.approx(sum(expected) / 2)
    assert value["room"][0]["room"] == 0 and not value["room"][0]["enough"]
    assert any("NOT ENOUGH ROOM" in note for note in gains_report.notes(value))
    assert any("not the frozen streets" in note for note in gains_report.notes(value))
    (row,) = gains_report.results(value)
    assert row.keys() == {"name", "rival", "ours", "theirs", "ratio", "unit"}


def test_a_run_that_fails_is_reported_and_stops_no_other(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With all labels shown, mean_teacher has no unlabelled scan."""
    place = ["--streets", str(streets), "--workspace", str(tmp_path / "ws"), "--json", str(tmp_path / "gains.json")]
    words = ["--methods", "mean_teacher", "--ratios", "scan:100%", "--seeds", "1", "--steps", "2", "--jobs", "2"]
    assert app.run(["bench", "gains", *place, *words]) == 1
    said = capsys.readouterr()
    assert "failed: mean_teacher, scan 100%, seed 0" in said.err
    assert "learns from unlabelled scans" in said.err
    assert "2 runs" in said.err and "Traceback" not in said.err
    value = json.loads((tmp_path / "gains.json").read_text())
    assert [run["variant"] for run in value["gains"]["runs"]] == ["supervised"]
    assert value["gains"]["failed"][0]["run"] == "mean_teacher, scan 100%, seed 0"
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- gains: begin -->\nfrom before\n<!-- gains: end -->\nafter\n")
    report = ["--report-only", "--out", str(tmp_path / "report"), "--docs", str(page)]
    assert app.run(["bench", "gains", *place, *report]) == 0
    written = page.read_text()
    assert written.startswith("before\n") and written.endswith("after\n") and "from before" not in written
    assert "| scan 100% | supervised |" in written and "](report/gains-curves.png)" in written
    assert (tmp_path / "report" / "gains-curves.png").stat().st_size > 1000
