"""A run that is killed, wherever, and started again ends with the same bits as one that was not."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl3d.pipeline.training import checkpoint
from ssl3d.pipeline.training.config import resolve
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.trainer import train
from ssl3d.pipeline.workspace import Workspace

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
SESSION_ONLY = ("seconds", "peak_memory_mb")  # what may differ in a checkpoint
LOGGED = ("step", "losses", "lr", "visible_miou", "pseudo_labels")
OWN = "mean_teacher.bn_buffers=own"
AVERAGE = "train.ema=0.9"
FAST = "train.lr=0.05"


@pytest.fixture(scope="module")
def server() -> Any:
    """Processes that are forked from one that has imported the product: quick to start, and to kill."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ssl3d.pipeline.training.trainer", "torch.utils.tensorboard"])
    return context


def overrides_of(steps: int, *more: str) -> list[str]:
    return [f"train.steps={steps}", "train.log_every=2", "train.batch=1", FAST, *more]


def resumed(space: Workspace, server: Any, method: str, overrides: list[str], where: str, count: int) -> RunDirectory:
    """The run, killed at the ``count``-th ``where``, and started again in this process."""
    kills = importlib.import_module("ssl3d_test_kills")
    child = server.Process(target=kills.train_and_die, args=(str(space.root), method, overrides, where, count))
    child.start()
    try:
        child.join(1800)
        assert child.exitcode == -signal.SIGKILL, "the run was over before"
    finally:
        child.kill()
    (run,) = RunDirectory.list(space)
    assert run.state == "unfinished"
    config = resolve(method, backbone="pointwise", overrides=overrides)
    return train(space, config, device="cpu", jobs=1)


def uninterrupted(prepared: Path, folder: Path, method: str, overrides: list[str]) -> RunDirectory:
    folder.mkdir()
    for name in ("workspace.json", ".gitignore"):
        (folder / name).write_bytes((prepared / name).read_bytes())
    (folder / "data").symlink_to(prepared / "data")
    config = resolve(method, backbone="pointwise", overrides=[*overrides, "train.workers=0"])
    return train(Workspace.open(folder), config, device="cpu", jobs=1)


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Paths of everything in which two checkpoints differ by a single bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        names = [*a, *(name for name in b if name not in a)]
        return [item for name in names for item in differences(a.get(name), b.get(name), f"{where}.{name}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [item for i, pair in enumerate(zip(a, b, strict=True)) for item in differences(*pair, f"{where}.{i}")]
    same = torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b
    return [] if same else [where]


def check(run: RunDirectory, whole: RunDirectory) -> None:
    assert run.name == whole.name
    assert run.state == "finished"
    expected, found = (checkpoint.load(item.checkpoint_path()) for item in (whole, run))
    for name in SESSION_ONLY:
        del expected[name], found[name]
    assert differences(expected, found) == []
    lines = [[{key: line.get(key) for key in LOGGED} for line in item.metrics()] for item in (whole, run)]
    assert lines[0] == lines[1]
    folders = [sorted(path.name for path in item.path.glob("predictions/*")) for item in (whole, run)]
    assert folders[0] == folders[1]


CASES = [
    # where the process kills itself, which time, checkpoint every so many steps
    pytest.param("mean_teacher", [OWN], "step", 6, 4, id="mean teacher, in a step after a checkpoint"),
    pytest.param("mean_teacher", [OWN, AVERAGE], "saved", 2, 3, id="mean teacher and an average, after a checkpoint"),
    pytest.param("mean_teacher", [OWN], "step", 2, 4, id="mean teacher, before any checkpoint"),
    pytest.param("twophase", [AVERAGE], "yield", 7, 2, id="two steps an iteration, between them"),
    pytest.param("twophase", [AVERAGE], "saved", 2, 3, id="at the end of a phase, after its checkpoint"),
    pytest.param("twophase", [], "yield", 20, 4, id="in the middle of the second phase"),
    pytest.param("twophase", [AVERAGE], "saved", 4, 3, id="after the last checkpoint"),
    pytest.param("rounds", [AVERAGE], "unit", 1, 2, id="rounds, one unit predicted"),
    pytest.param("rounds", ["rounds.still=true"], "saved", 2, 3, id="rounds, at a boundary, before entering"),
    pytest.param("rounds", ["rounds.still=true"], "predicted", 1, 50, id="rounds, predicted but not read"),
    pytest.param("rounds", [], "unit", 3, 50, id="rounds, in the second round's predictions"),
    pytest.param("rounds", [], "entered", 2, 50, id="rounds, entered but the first predictions still there"),
    pytest.param("rounds", [], "step", 7, 5, id="rounds, in the middle of the first round"),
    pytest.param("rounds", [], "yield", 11, 2, id="rounds, in the middle of the last round"),
    pytest.param("cbst", [AVERAGE], "unit", 1, 50, id="cbst, some confidences counted"),
    pytest.param("cbst", [], "predicted", 1, 50, id="cbst, all confidences counted, no label made"),
    pytest.param("cbst", [], "unit", 3, 50, id="cbst, some labels made"),
    pytest.param("cbst", [], "unit", 5, 50, id="cbst, in the second round's confidences"),
    pytest.param("cbst", [], "step", 8, 5, id="cbst, in the middle of the first round"),
    pytest.param("staged", [], "step", 5, 50, id="phases, in one that froze statistics"),
    pytest.param("staged", [], "saved", 4, 50, id="phases, entered the last"),
]


@pytest.mark.parametrize(("method", "settings", "where", "count", "every"), CASES)
def test_killed_and_started_again_is_bit_identical(
    space: Workspace,
    prepared: Path,
    tmp_path: Path,
    server: Any,
    method: str,
    settings: list[str],
    where: str,
    count: int,
    every: int,
) -> None:
    overrides = overrides_of(12, f"train.checkpoint_every={every}", *settings)
    run = resumed(space, server, method, [*overrides, "train.workers=0"], where, count)
    check(run, uninterrupted(prepared, tmp_path / "whole", method, overrides))


@pytest.mark.parametrize(
    ("method", "settings", "where", "count"),
    [("mean_teacher", [OWN, AVERAGE], "step", 6), ("rounds", ["rounds.rounds=1"], "unit", 1)],
)
def test_with_loader_processes_it_is_the_same(
    space: Workspace,
    prepared: Path,
    tmp_path: Path,
    server: Any,
    method: str,
    settings: list[str],
    where: str,
    count: int,
) -> None:
    overrides = overrides_of(8, "train.checkpoint_every=3", *settings)
    run = resumed(space, server, method, [*overrides, "train.workers=2"], where, count)
    check(run, uninterrupted(prepared, tmp_path / "whole", method, overrides))
