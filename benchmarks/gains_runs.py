"""Runs of the gains benchmark as processes of one thread each, side by side; stopped at any time, they go on."""

from __future__ import annotations

import os
import shlex
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

from ssl3d.benchmarks.gains import Job
from ssl3d.benchmarks.gains_child import Order
from ssl3d.benchmarks.gains_data import DATASET, Bench
from ssl3d.data.workers import THREAD_VARIABLES
from ssl3d.pipeline.evaluation.result import EvalResult
from ssl3d.pipeline.training.run import RunDirectory

POLL_S = 0.2
STOP_S = 120.0
"""How long a run that was asked to stop may take to write its checkpoint."""


@dataclass(frozen=True)
class Failure:
    """A run that did not end well: what it said last (of an error the whole line), and where it said the rest."""

    job: Job
    message: str
    log: Path


@dataclass
class _Child:
    """The process of a job; None while it has to wait."""

    job: Job
    run: RunDirectory
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
        run = self.bench.run(job)
        assert run is not None
        log = self.logs / f"{run.name}.log"
        log.unlink(missing_ok=True)
        return _Child(job, run, log)

    def _over(self, child: _Child) -> bool:
        """Whether the process of a child has ended; starts it when nobody else has the run."""
        if child.process is not None:
            return child.process.poll() is not None
        if child.run.is_locked():  # left running by a benchmark that was killed, or started by hand
            if child.run.name not in self._waiting:
                self._waiting.add(child.run.name)
                self.say(f"{child.job.name}: another process trains it; waiting for that")
        else:
            child.begun = time.monotonic()
            child.process = _start(self._order(child.job), child.log)
        return False

    def _order(self, job: Job) -> Order:
        recipe, split = self.bench.recipe, self.bench.split(job)
        assert split is not None
        place = ["--split", split.key, "--dataset", DATASET, "--workspace", str(self.bench.workspace.root)]
        return Order(
            workspace=str(self.bench.workspace.root),
            dataset=DATASET,
            split=split.key,
            method=job.variant.method,
            backbone=recipe.backbone,
            steps=recipe.steps,
            seed=job.seed,
            overrides=recipe.overrides(job),
            subset=self.bench.subset,
            device=self.device,
            command=shlex.join(["ssl3d", *recipe.train_command(job), *place, "--jobs", "1"]),
        )

    def _ended(self, child: _Child) -> EvalResult | Failure:
        assert child.process is not None
        code = child.process.returncode
        result = self.bench.result(child.job) if code == 0 else None
        if result is not None:
            return result
        return Failure(child.job, _last_line(child.log) or f"ended with exit code {code}", child.log)


def _start(order: Order, log: Path) -> subprocess.Popen[bytes]:
    """A process of one thread, away from the terminal's Ctrl-C, which its parent passes on once."""
    environment: dict[str, Any] = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}
    command = [sys.executable, "-m", "ssl3d.benchmarks.gains_child", *order.words()]
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


def _last_line(log: Path) -> str:
    """The last line of a log; empty when it said nothing."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return next((line for line in reversed(lines) if line.strip()), "")
