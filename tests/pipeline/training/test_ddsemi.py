"""DDSEmi as it is trained: to a score, stopped anywhere, in two processes, and on a split of points."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.evaluation.evaluate import evaluate
from ssl3d.pipeline.evaluation.subject import subject_of
from ssl3d.pipeline.stages.prepare import PrepareParams, prepare
from ssl3d.pipeline.stages.split import SplitParams, split
from ssl3d.pipeline.training import checkpoint, predictions
from ssl3d.pipeline.training.config import RunConfig, resolve
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.status import TrainStatus
from ssl3d.pipeline.training.trainer import InterruptedRun, train
from ssl3d.pipeline.workspace import Workspace

Weights = dict[str, Tensor]
SETTINGS = ["train.workers=0", "train.log_every=2", "train.lr=0.05", "ddsemi.bank.size=30", "augment.drop=0.2"]
# every number that is drawn matters: which slots Eq. 1 looks at, what enters the banks, what points are compared with
SETTINGS += ["contrast.mode=point", "anchor.estimator=random", "gamma_bank=0.3", "gamma_a=0.3", "gamma_e=0.3"]
SETTINGS = [s if s.startswith(("train", "ddsemi", "augment")) else f"ddsemi.{s}" for s in SETTINGS]


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, write_layers: Callable[..., Path]) -> Workspace:
    """3 labelled scans and 7 unlabelled ones, to which the first training adds densities."""
    folder = tmp_path_factory.mktemp("ddsemi")
    space = Workspace.open(folder / "ws")
    prepare(space, "semantickitti", write_layers(folder / "layers", points=300), PrepareParams(), jobs=1)
    split(space, SplitParams(ratio="30%"))
    return space


def small(*more: str, backbone: str = "pointwise", steps: int = 8) -> RunConfig:
    return resolve("ddsemi", backbone=backbone, steps=steps, overrides=[*SETTINGS, *more])


def trained(space: Workspace, *more: str, **where: Any) -> RunDirectory:
    return train(space, small(*more), device="cpu", jobs=1, **where)


def weights(run: RunDirectory) -> Weights:
    return checkpoint.load(run.checkpoint_path())["model"]


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def expected(ready: Workspace) -> Weights:
    """Of a run that nothing disturbed: networks, projector and banks."""
    found = weights(trained(ready))
    assert {name.split(".")[0] for name in found} == {"segmenter", "projector", "banks"}
    return found


def test_trained_on_voxels_and_evaluated(ready: Workspace) -> None:
    quick = ["backbone.voxel_size=1.5", "train.workers=0", "train.log_every=1", "train.lr=0.02", "train.batch=3"]
    config = resolve("ddsemi", backbone="minkunet-micro", steps=12, overrides=quick)
    run = train(ready, config, device="cpu", jobs=1)
    lines = run.metrics()
    assert [set(line["losses"]) for line in lines] == 6 * [{"ce"}] + 6 * [{"ce", "inter", "intra"}]
    assert [max(line["lr"] for line in part) for part in (lines[:6], lines[6:])] == pytest.approx(
        [0.02, 0.002], rel=0.2
    )
    assert all(line["losses"]["intra"] > 0 and line["pseudo_labels"]["share"] > 0 for line in lines[8:])
    assert evaluate(PreparedDataset(ready.dataset()), subject_of(run)).confusion.points == 600


@pytest.mark.parametrize("step", [2, 4, 6])  # in pre-training, between the phases, in the joint phase
def test_stopped_and_resumed_is_the_same_run(ready: Workspace, expected: Weights, step: int) -> None:
    with pytest.raises(InterruptedRun):
        trained(ready, overwrite=True, display=StopAfter(step))
    assert same(expected, weights(trained(ready)))


class StopAfter:
    """Ctrl-C after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def update(self, status: TrainStatus) -> None:
        if status.step == self.step:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("where", ["write", "remember"])
def test_dying_while_the_banks_are_filled(
    ready: Workspace, expected: Weights, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one unit on disk, and with all of them before the banks have them."""
    owner: Any = predictions.KeptScans if where == "write" else predictions.PhaseContext
    name = "write" if where == "write" else "predict_train"
    real = getattr(owner, name)

    def die(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        raise RuntimeError("killed")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(owner, name, die)
        trained(ready, overwrite=True)
    assert same(expected, weights(trained(ready)))


def test_hidden_labels_change_nothing(ready: Workspace, expected: Weights, tmp_path: Path) -> None:
    blind = tmp_path / "blind"
    shutil.copytree(ready.root, blind, ignore=shutil.ignore_patterns("runs", "*.labels.h5"))
    assert same(expected, weights(trained(Workspace.open(blind))))


SCRIPT = """
import sys
from ssl3d.pipeline.training.config import resolve
from ssl3d.pipeline.training.trainer import train
from ssl3d.pipeline.workspace import Workspace
if __name__ == "__main__":
    train(Workspace.open(sys.argv[1]), resolve("ddsemi", backbone="pointwise", overrides=sys.argv[2:]), device="cpu")
"""
# SGD: AdamW would blow the rounding of gradients that are zero up to full steps
ALIKE = ["train.steps=8", "train.batch=2", "train.log_every=1", "train.workers=0", "backbone.dropout=0"]
ALIKE += ["optimizer.name=sgd", "optimizer.lr=0.2", "ddsemi.bank.size=20", "ddsemi.gamma_bank=0.2"]
ALIKE += ["ddsemi.gamma_a=0.2", "ddsemi.gamma_e=0.25"]


@pytest.mark.skipif(os.name != "posix", reason="torchrun on POSIX")
def test_two_processes_train_as_one_does(ready: Workspace, expected: Weights, tmp_path: Path) -> None:
    """More candidates than slots: both draw the same ones as one process does."""
    alone = train(ready, resolve("ddsemi", backbone="pointwise", overrides=ALIKE), device="cpu", jobs=1)
    shutil.copytree(ready.root, tmp_path / "two", ignore=shutil.ignore_patterns("runs"))
    (tmp_path / "training.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(tmp_path / "training.py"), str(tmp_path / "two"), *ALIKE],
        capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert alone.metrics()[-1]["measures"]["means"]["hardness deviation"] > 0
    both = RunDirectory.open(Workspace.open(tmp_path / "two"), alone.name)
    assert both.finished, done.stdout + done.stderr
    found = weights(both)
    for name, value in weights(alone).items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    for line, reference in zip(both.metrics(), alone.metrics(), strict=True):
        assert line["losses"] == pytest.approx(reference["losses"], rel=1e-3)
        assert line.get("measures", {}) == near(reference.get("measures", {}))


def near(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: near(each) for key, each in value.items()}
    if isinstance(value, list):
        return [near(each) for each in value]
    return value if value is None else pytest.approx(value, rel=1e-2, abs=1e-3)


def test_a_split_of_points(ready: Workspace, tmp_path: Path) -> None:
    """No unlabelled scan: the streams are those of the labelled ones."""
    shutil.copytree(ready.root, tmp_path / "points", ignore=shutil.ignore_patterns("runs"))
    space = Workspace.open(tmp_path / "points")
    split(space, SplitParams(regime="points", ratio="10%"))
    run = trained(space)
    line = run.metrics()[-1]
    assert line["losses"]["intra"] > 0 and 0 < line["pseudo_labels"]["share"] <= 1
    assert bool(weights(run)["banks.0.local_part.count"].any())
