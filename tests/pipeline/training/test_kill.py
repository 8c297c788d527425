"""Real processes, really killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ssl3d.pipeline.training import checkpoint
from ssl3d.pipeline.training.config import resolve
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.trainer import train
from ssl3d.pipeline.workspace import Workspace

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
STEPS = 400
SETTINGS = ["train.checkpoint_every=40", "train.log_every=7", "train.batch=1"]
SCRIPT = """
import sys
from ssl3d.data.errors import Ssl3dError
from ssl3d.pipeline.training.config import resolve
from ssl3d.pipeline.training.trainer import train
from ssl3d.pipeline.workspace import Workspace
if __name__ == "__main__":
    root, *overrides = sys.argv[1:]
    config = resolve("twophase", backbone="pointwise", overrides=overrides)
    try:
        train(Workspace.open(root), config, device="cpu", jobs=1)
    except Ssl3dError as error:
        print(error)
        sys.exit(error.exit_code)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "run_training.py"
    path.write_text(SCRIPT)
    return path


def start(script: Path, space: Workspace, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(script), str(space.root), f"train.steps={STEPS}", *SETTINGS, *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def wait_for_a_new_line(process: subprocess.Popen[str], space: Workspace) -> bool:
    """Until the session logs (or ends); False when it ended."""
    path = space.runs_dir
    before = time.time()
    while process.poll() is None:
        if any(file.stat().st_mtime > before and file.stat().st_size for file in path.glob("*/metrics.jsonl")):
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("attempts", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_started_again_is_bit_identical(
    space: Workspace, script: Path, tmp_path: Path, attempts: int
) -> None:
    rng = random.Random(attempts)
    kills = 0
    for attempt in range(attempts + 1):
        process = start(script, space, "train.workers=0")
        if attempt < attempts and wait_for_a_new_line(process, space):
            time.sleep(rng.uniform(0, 0.4))
            os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=300)
        kills += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, output
    assert kills >= 1
    (run,) = RunDirectory.list(space)
    assert run.state == "finished"
    (tmp_path / "other").mkdir()
    for name in ("workspace.json", ".gitignore"):
        (tmp_path / "other" / name).write_bytes((space.root / name).read_bytes())
    (tmp_path / "other" / "data").symlink_to(space.root / "data")
    config = resolve("twophase", backbone="pointwise", overrides=[f"train.steps={STEPS}", *SETTINGS, "train.workers=0"])
    whole = train(Workspace.open(tmp_path / "other"), config, device="cpu", jobs=1)
    assert whole.name == run.name
    expected, found = (checkpoint.load(item.checkpoint_path()) for item in (whole, run))
    assert all(torch.equal(value, found["model"][name]) for name, value in expected["model"].items())
    keep = ("step", "losses", "lr", "visible_miou")
    logged, uninterrupted = ([{key: line[key] for key in keep} for line in item.metrics()] for item in (run, whole))
    assert logged == uninterrupted


def test_ctrl_c_of_a_terminal_reaches_the_workers_too(space: Workspace, script: Path) -> None:
    process = start(script, space, "train.workers=1")
    assert wait_for_a_new_line(process, space), process.communicate()[0]
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130, output
    assert "the checkpoint is written" in output
    assert "ssl3d train --resume" in output
    assert "Traceback" not in output
    (run,) = RunDirectory.list(space)
    assert run.state == "interrupted"
    assert run.checkpoint_step() == run.status()["step"] > 0


def test_a_second_process_is_told_who_trains(space: Workspace, script: Path) -> None:
    process = start(script, space, "train.workers=0")
    try:
        assert wait_for_a_new_line(process, space)
        process.send_signal(signal.SIGSTOP)
        second = start(script, space, "train.workers=0")
        output, _ = second.communicate(timeout=300)
        assert second.returncode == 1
        assert f"process {process.pid} on" in output
        assert RunDirectory.list(space)[0].state == "running"
    finally:
        process.kill()
        process.communicate()
    assert RunDirectory.list(space)[0].state == "unfinished"
