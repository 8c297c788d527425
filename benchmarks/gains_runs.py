"""Runs of the gains benchmark as processes of one thread each, side by side; stopped at any time, they go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssl3d.benchmarks.gains import WEIGHTS, Job
from ssl3d.benchmarks.gains_data import DATASET, Bench
from ssl3d.data.workers import THREAD_VARIABLES
from ssl3d.pipeline.evaluation.result import EvalResult

POLL_S = 0.2
STOP_S = 120.0
"""How long a run that was asked to stop may take to write its checkpoint."""


@dataclass(frozen=True)
class Failure:
    """A run that did not end well: what it said last, and where it said the rest."""

    job: Job
    message: str
    log: Path


@dataclass
class _Child:
    """The process that trains or evaluates the run of a job."""

    job: Job
    commands: deque[list[str]]
    log: Path
    begun: float = field(default_factory=time.monotonic)
    process: subprocess.Popen[bytes] | None = None


class Runner:
    """Trains and evaluates jobs, ``slots`` at a time.

    Args:
        said: called for each job that ended: the job, its result or failure, and its wall time in seconds.
        say: one line for people.
    """

    def __init__(
        self,
        bench: Bench,
        slots: int,
        device: str,
        said: Callable[[Job, EvalResult | Failure, float], None],
        say: Callable[[str], None],
    ) -> None:
        self.bench, self.slots, self.device = bench, max(1, slots), device
        self.said, self.say = said, say
        self.logs = bench.workspace.root / "logs"
        self._waiting: set[str] = set()

    def run(self, jobs: Sequence[Job]) -> list[Failure]:
        """All of ``jobs``, in order; a failed one does not stop the others. Their splits have to be there."""
        self.logs.mkdir(parents=True, exist_ok=True)
        queue, active, failures = deque(jobs), list[_Child](), list[Failure]()
        with _terminated_as_interrupted():
            try:
                while queue or active:
                    while queue and len(active) < self.slots:
                        active.append(self._child(queue.popleft()))
                    for child in [child for child in active if self._over(child)]:
                        active.remove(child)
                        ended = self._ended(child)
                        if isinstance(ended, Failure):
                            failures.append(ended)
                        self.said(child.job, ended, time.monotonic() - child.begun)
                    time.sleep(POLL_S if active else 0)
            finally:
                _stop([child.process for child in active if child.process is not None])
        return failures

    def _child(self, job: Job) -> _Child:
        split, run = self.bench.split(job), self.bench.run(job)
        assert split is not None and run is not None
        place = ["--workspace", str(self.bench.workspace.root), "--jobs", "1", "--device", self.device]
        train = [*self.bench.recipe.train_command(job), "--split", split.key, "--dataset", DATASET, *place]
        evaluate = ["eval", run.name, "--subset", self.bench.subset, "--weights", WEIGHTS, *place]
        log = self.logs / f"{run.name}.log"
        log.unlink(missing_ok=True)
        return _Child(job, deque([train, evaluate]), log)

    def _over(self, child: _Child) -> bool:
        """Starts what is next for a job. True when nothing is left, or something failed."""
        if child.process is not None:
            code = child.process.poll()
            if code is None:
                return False
            if code != 0 or not child.commands:
                return True
        run = self.bench.run(child.job)
        if run is not None and run.is_locked():  # left running by a killed benchmark, or started by hand
            if run.name not in self._waiting:
                self._waiting.add(run.name)
                self.say(f"{child.job.name}: another process trains it; waiting for that")
            return False
        child.process = _start(child.commands.popleft(), child.log)
        return False

    def _ended(self, child: _Child) -> EvalResult | Failure:
        result = self.bench.result(child.job)
        if child.process is not None and child.process.returncode == 0 and result is not None:
            return result
        code = None if child.process is None else child.process.returncode
        return Failure(child.job, _last_words(child.log) or f"ended with exit code {code}", child.log)


def _start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """``ssl3d ARGUMENTS`` with one thread; away from the terminal's Ctrl-C, which its parent passes on once."""
    environment: dict[str, Any] = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}
    command = [sys.executable, "-m", "ssl3d.cli", *arguments]
    with log.open("ab") as file:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True
        )


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Asks the processes to stop (training writes a checkpoint), and kills those that do not."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    until = time.monotonic() + STOP_S
    for process in processes:
        try:
            process.wait(timeout=max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM stops as Ctrl-C does. Outside the main thread nothing changes: only there signals are handled."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _last_words(log: Path, lines: int = 12) -> str:
    """The end of a log, without the frames that panels are drawn with."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    plain = [line.strip(" │╭╮╰╯─") for line in text.splitlines()]
    return "\n".join([line for line in plain if line][-lines:])
