"""Really killed, at moments that nobody chose: what is left is used, and the result is the same to the byte."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ssl3d.pipeline.product import read_journal
from ssl3d.pipeline.stages.prepare import prepare
from ssl3d.pipeline.stages.split import SplitParams, split
from ssl3d.pipeline.workspace import Workspace

FRAMES = {"00": 400, "01": 200, "08": 130, "11": 65}
UNITS = 7 + 4 + 3 + 2
COMMAND = """
import sys
from ssl3d.data.errors import Ssl3dError
from ssl3d.pipeline.stages.prepare import PrepareStage, prepare
from ssl3d.pipeline.workspace import Workspace
PrepareStage.worker_bytes = 0  # workers, however little there is to do
if __name__ == "__main__":
    try:
        result = prepare(Workspace.open(sys.argv[1]), "semantickitti", sys.argv[2], jobs=int(sys.argv[3]))
    except Ssl3dError as error:
        print(error)
        sys.exit(error.exit_code)
    print(result.fresh, result.cached)
"""


@pytest.fixture(scope="module")
def long_kitti(make_kitti: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_kitti(tmp_path_factory.mktemp("long"), FRAMES, points=200)


@pytest.fixture(scope="module")
def expected(
    long_kitti: Path, tmp_path_factory: pytest.TempPathFactory, digests: Callable[[Path], dict[str, str]]
) -> dict[str, str]:
    """The products of runs that nobody disturbed."""
    workspace = Workspace.open(tmp_path_factory.mktemp("expected") / "ws")
    prepare(workspace, "semantickitti", long_kitti)
    split(workspace, SplitParams(ratio="10%"))
    return digests(workspace.data_dir)


def start(script: Path, workspace: Workspace, root: Path, jobs: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, str(script), str(workspace.root), str(root), str(jobs)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "command.py"
    path.write_text(COMMAND)
    return path


def finished(workspace: Workspace) -> int:
    return sum(len(read_journal(path.parent)) for path in workspace.data_dir.glob("*/prepare/*/journal.jsonl"))


def wait_for_units(workspace: Workspace, process: subprocess.Popen[str], units: int) -> None:
    while process.poll() is None and finished(workspace) < units:
        time.sleep(0.002)


@pytest.mark.parametrize("jobs", [1, 2])
def test_prepare_killed_at_random_moments_goes_on(
    workspace: Workspace,
    long_kitti: Path,
    expected: dict[str, str],
    script: Path,
    digests: Callable[[Path], dict[str, str]],
    jobs: int,
) -> None:
    chance = random.Random(jobs)
    kills, done = 0, 0
    while kills < 4 and done < UNITS - 3:
        process = start(script, workspace, long_kitti, jobs)
        wait_for_units(workspace, process, done + chance.randrange(4))
        time.sleep(chance.uniform(0, 0.03))
        process.kill()
        process.wait()
        kills += 1
        assert finished(workspace) >= done  # nothing that was finished is lost
        done = finished(workspace)
    assert kills >= 2
    output, _ = start(script, workspace, long_kitti, jobs).communicate()
    fresh, cached = map(int, output.split())
    assert fresh + cached == UNITS and cached >= done
    split(workspace, SplitParams(ratio="10%"))
    assert digests(workspace.data_dir) == expected
    assert not [path for path in workspace.root.rglob("*") if "tmp" in path.name]


def test_a_killed_worker_is_said_and_the_command_goes_on(
    workspace: Workspace,
    long_kitti: Path,
    expected: dict[str, str],
    script: Path,
    digests: Callable[[Path], dict[str, str]],
) -> None:
    process = start(script, workspace, long_kitti, 2)
    wait_for_units(workspace, process, 1)
    workers = [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    workers[0].kill()
    output, _ = process.communicate()
    assert process.returncode == 1 and "ended unexpectedly" in output and "--jobs" in output
    prepare(workspace, "semantickitti", long_kitti)
    split(workspace, SplitParams(ratio="10%"))
    assert digests(workspace.data_dir) == expected


def test_ctrl_c_stops_at_once_and_leaves_nothing_half_done(
    workspace: Workspace, long_kitti: Path, script: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, str(script), str(workspace.root), str(long_kitti), "2"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        wait_for_units(workspace, process, 1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        assert process.stderr is not None
        errors = process.stderr.read()
    assert process.returncode != 0 and errors.count("KeyboardInterrupt") == 1
    assert not [path for path in workspace.root.rglob("*") if "tmp" in path.name]


def test_two_processes_at_once_end_with_the_work_done_once(
    workspace: Workspace,
    long_kitti: Path,
    expected: dict[str, str],
    script: Path,
    digests: Callable[[Path], dict[str, str]],
) -> None:
    both = [start(script, workspace, long_kitti, jobs) for jobs in (1, 2)]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(tuple(map(int, text.split())) for text in outputs) == [(0, UNITS), (UNITS, 0)]
    split(workspace, SplitParams(ratio="10%"))
    assert digests(workspace.data_dir) == expected
