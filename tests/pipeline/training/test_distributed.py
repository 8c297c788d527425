"""Processes that ``torchrun`` starts, against one; and what becomes of them when one is killed or all are stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from ssl3d.pipeline.training import checkpoint
from ssl3d.pipeline.training.config import RunConfig, resolve
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.status import TrainStatus
from ssl3d.pipeline.training.trainer import InterruptedRun, train
from ssl3d.pipeline.workspace import Workspace

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

LONG = ["train.steps=80", "train.checkpoint_every=10", "train.log_every=5", "train.batch=2", "train.workers=0"]
SHORT = ["train.steps=6", "train.batch=2", "train.log_every=3", "train.workers=0", "train.ema=0.9"]
# SGD: AdamW would blow the rounding of gradients that are zero (biases before batch norm) up to full steps
SHORT += ["optimizer.name=sgd", "optimizer.lr=0.05", "pointwise.dropout=0"]
# all that can be drawn is drawn: what is left to chance differs between one process and two
EVERYTHING = ["gpc.num_pos=100000", "gpc.num_neg=100000", "gpc.bank.enqueue=100000", "gpc.bank.slots=300"]
BANDS = ["fov_up=60", "fov_down=0"]  # where the points of these scans are
BEGUN = [*SHORT, "train.checkpoint_every=1000"]
TRAININGS = {
    "supervised": [*SHORT, "supervised.lambda_lov=1"],
    "mean_teacher": [*SHORT, "mean_teacher.lambda_lov=1", "train.batch_unlabelled=4"],
    "gpc": [
        *SHORT,
        *EVERYTHING,
        "gpc.crop=fan",
        "gpc.pretrain=0.34",
        "gpc.conf_thresh=0.1",
        "train.batch_unlabelled=4",
    ],
    "lasermix": [*SHORT, *BANDS, "lasermix.lambda_lov=1", "lasermix.threshold=0.3", "train.batch_unlabelled=4"],
    "cps": [*SHORT, *BANDS, "cps.mix=lasermix", "train.batch_unlabelled=4"],
    "cbst": [*SHORT, "cbst.rounds=2", "cbst.lambda_lov=1", "train.batch_unlabelled=4"],
    "measuring": [*SHORT],
    "twophase": LONG,
}
"""Trained one after another by the same two processes; the last one is the uninterrupted run of the test with kills."""

SCRIPT = f"""
import sys
from ssl3d.pipeline.launch import leave
from ssl3d.pipeline.training.config import RunConfig, resolve
from ssl3d.pipeline.training.trainer import train
from ssl3d.pipeline.workspace import Workspace
if __name__ == "__main__":
    trainings = [*{TRAININGS!r}.items(), ("supervised", {BEGUN!r})]
    for name, settings in trainings:
        config = resolve(name, backbone="pointwise", overrides=settings)
        train(Workspace.open(sys.argv[1]), config, device="cpu", jobs=2)
    leave(0)
"""


def torchrun(*words: str, count: int = 2) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", *words]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "110", "PYTHONFAULTHANDLER": "1"},
    )


def command_line(space: Workspace, settings: list[str], count: int = 2) -> subprocess.Popen[str]:
    words = ["train", "twophase", "--backbone", "pointwise", "--device", "cpu", "--jobs", "2"]
    words += ["--workspace", str(space.root)]
    words += [word for setting in settings for word in ("--set", setting)]
    return torchrun("-m", "ssl3d.cli", *words, count=count)


@pytest.fixture(scope="module")
def whole(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """All trainings in two processes from their beginning to their end, and one that a single process has begun."""
    folder = tmp_path_factory.mktemp("two")
    space = link(prepared, folder / "ws")
    with pytest.raises(InterruptedRun):
        train(space, begun(), device="cpu", jobs=1, display=StopAtStep(3))
    (folder / "trainings.py").write_text(SCRIPT)
    process = torchrun(str(folder / "trainings.py"), str(space.root))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return space


def begun() -> RunConfig:
    return resolve("supervised", backbone="pointwise", overrides=BEGUN)


class StopAtStep:
    def __init__(self, step: int) -> None:
        self.step = step

    def update(self, status: TrainStatus) -> None:
        if status.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def link(prepared: Path, root: Path) -> Workspace:
    root.mkdir()
    for name in ("workspace.json", ".gitignore"):
        (root / name).write_bytes((prepared / name).read_bytes())
    (root / "data").symlink_to(prepared / "data")
    return Workspace.open(root)


def find(space: Workspace, method: str) -> RunDirectory:
    (run,) = (run for run in RunDirectory.list(space) if run.config.method == method)
    return run


@pytest.mark.parametrize("method", [*(name for name in TRAININGS if name != "twophase"), "begun alone"])
def test_two_processes_train_as_one_does(method: str, whole: Workspace, space: Workspace) -> None:
    config = begun()
    if method in TRAININGS:
        config = resolve(method, backbone="pointwise", overrides=TRAININGS[method])
    alone = train(space, config, device="cpu", jobs=1)
    both = RunDirectory.open(whole, alone.name)
    assert both.finished
    expected, found = (checkpoint.load(run.checkpoint_path()) for run in (alone, both))
    for part in ("model", "average"):
        for name, value in expected[part].items():
            torch.testing.assert_close(
                found[part][name], value, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )
    assert len(expected["rng"]) == 1 and len(found["rng"]) == 2
    assert not torch.equal(*(state["cpu"] for state in found["rng"]))
    for line, reference in zip(both.metrics(), alone.metrics(), strict=True):
        assert line["losses"] == pytest.approx(reference["losses"], rel=1e-3)
        assert line["visible_miou"] == pytest.approx(reference["visible_miou"], abs=0.5)
        assert line.get("pseudo_labels", {}).get("share") == reference.get("pseudo_labels", {}).get("share")
        assert line.get("measures") == reference.get("measures")


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of the team, in the order of their ranks."""
    ranked = {}
    for child in psutil.Process(process.pid).children():
        environment = child.environ()
        if "RANK" in environment:
            ranked[int(environment["RANK"])] = child
    return [ranked[rank] for rank in sorted(ranked)]


@pytest.fixture
def training(space: Workspace) -> Iterator[subprocess.Popen[str]]:
    """A training of two processes that has written a checkpoint."""
    process = command_line(space, LONG)
    wait_for_a_checkpoint(process, space)
    yield process
    process.kill()
    process.communicate()


def wait_for_a_checkpoint(process: subprocess.Popen[str], space: Workspace) -> None:
    begun = time.time()
    while process.poll() is None:
        if any(file.stat().st_mtime > begun for file in space.runs_dir.glob("*/checkpoints/last.pt")):
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate()[0])


def test_killed_stopped_and_started_again(training: subprocess.Popen[str], space: Workspace, whole: Workspace) -> None:
    """Ends with the bits of the run that nobody disturbed: dropout draws from the generator of each process."""
    workers(training)[1].kill()
    output, _ = training.communicate(timeout=200)
    assert training.returncode != 0
    assert output.count("another process of this training died") == 1, output
    assert "--nproc-per-node=2 -m ssl3d.cli train twophase" in " ".join(output.replace("│", "").split()), output
    ours = output.split("torch.distributed.elastic.multiprocessing.errors")[0]
    assert "gloo" not in ours.lower(), output
    run = find(space, "twophase")
    assert run.state == "failed" and 0 < run.checkpoint_step() < 80

    again = command_line(space, LONG)
    wait_for_a_checkpoint(again, space)
    again.send_signal(signal.SIGTERM)
    output, _ = again.communicate(timeout=200)
    assert output.count("the checkpoint is written") == 1, output
    assert output.count("goes on after step") == 1, output
    assert output.count("Traceback") == output.count("SignalException: ") == 1, output  # torchrun's own
    assert run.state == "interrupted" and run.checkpoint_step() == run.status()["step"]

    last = command_line(space, LONG)
    output, _ = last.communicate(timeout=300)
    assert last.returncode == 0, output
    assert output.count("trained twophase") == 1, output
    expected, found = (checkpoint.load(find(place, "twophase").checkpoint_path()) for place in (whole, space))
    assert all(torch.equal(value, found["model"][name]) for name, value in expected["model"].items())
    keep = ("step", "losses", "lr", "visible_miou")
    logged, uninterrupted = (
        [{key: line[key] for key in keep} for line in find(place, "twophase").metrics()] for place in (space, whole)
    )
    assert logged == uninterrupted
    assert "torchrun" in (run.path / "command.txt").read_text()


def test_a_batch_that_cannot_be_shared_is_refused(space: Workspace) -> None:
    process = command_line(space, [*LONG, "train.batch=3"])
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert output.count("2 processes cannot share the 3 items of a batch equally") == 1, output
    assert "train.batch=4" in output and "start 1 or 3 processes" in " ".join(output.split())
    assert not list(space.runs_dir.glob("*/config.json"))
