"""The plan of a gains benchmark: what is done, what is left, and how long that takes."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ssl3d.benchmarks.gains import Job, Recipe
from ssl3d.benchmarks.gains_data import Bench
from ssl3d.data.errors import Ssl3dError
from ssl3d.pipeline.evaluation.result import EvalResult

CALIBRATION_STEPS = 8
REST_S = 20.0
"""Starting a process and evaluating, before any has been seen."""


@dataclass
class Pace:
    """Seconds of a step by method and regime, and seconds of an evaluation with the start of its processes.

    Attributes:
        source: where the figures are from, for people.
    """

    steps: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    rest: list[float] = field(default_factory=list)
    source: str = ""

    def step(self, job: Job) -> float | None:
        """Of the same method and regime, else of the method, else the slowest known; None when nothing is known."""
        method = job.variant.method
        same = self.steps.get((method, job.cell.regime), [])
        known = same or [value for (name, _), values in self.steps.items() if name == method for value in values]
        every = [value for values in self.steps.values() for value in values]
        return statistics.median(known) if known else max(every, default=None)

    def seconds(self, jobs: Sequence[Job], steps: int, trained: Collection[Job] = ()) -> float | None:
        """Of all ``jobs``, one after the other; those of ``trained`` are only evaluated."""
        paces = [0.0 if job in trained else self.step(job) for job in jobs]
        if any(pace is None for pace in paces):
            return None
        rest = statistics.median(self.rest) if self.rest else REST_S
        return sum(pace * steps + rest for pace in paces if pace is not None)

    def learn(self, bench: Bench, job: Job, wall: float | None = None) -> None:
        """From a finished run; ``wall`` is the time from the start of its first process to the end of its last one."""
        run = bench.run(job)
        status = run.status() if run is not None else {}
        if not (status.get("step") and status.get("seconds")):
            return
        self.steps[job.variant.method, job.cell.regime].append(status["seconds"] / status["step"])
        if wall is not None and wall > status["seconds"]:
            self.rest.append(wall - status["seconds"])


@dataclass(frozen=True)
class Plan:
    """What there is to do.

    Attributes:
        done: job -> its result.
        left: in order.
        trained: of those left, what only has to be evaluated.
        pace: as far as it is known.
    """

    recipe: Recipe
    done: dict[Job, EvalResult]
    left: tuple[Job, ...]
    trained: frozenset[Job]
    pace: Pace

    @property
    def jobs(self) -> tuple[Job, ...]:
        return (*self.done, *self.left)

    def remaining(self, jobs: Sequence[Job]) -> float | None:
        """Seconds of ``jobs``, one after the other; None while nothing is known."""
        return self.pace.seconds(jobs, self.recipe.steps, self.trained)

    def lines(self, slots: int) -> list[str]:
        """The plan in words, printed before anything starts."""
        recipe, jobs = self.recipe, self.recipe.jobs()
        cells = ", ".join(cell.name for cell in recipe.cells)
        words = [
            f"{len(jobs)} runs: {', '.join(variant.name for variant in recipe.variants)} at {cells}, and the reference "
            f"({recipe.reference.name}); {recipe.seeds} paired seed{'s' * (recipe.seeds != 1)}",
            f"budget: {recipe.steps:,} optimizer steps a run, {recipe.steps * len(jobs):,} in all "
            f"({recipe.backbone}, every run evaluated with the same EMA of {recipe.ema:g})",
            f"done: {len(self.done)}, left: {len(self.left)}"
            + (f" ({len(self.trained)} of them only to be evaluated)" if self.trained else ""),
        ]
        if not self.left:
            return words
        whole = self.remaining(self.left)
        if whole is None:
            return [*words, "the time of a step is not known before the first run has finished"]
        one = whole / len(self.left)
        return [
            *words,
            f"about {hours(one)} a run and {hours(whole)} of one core in all, {hours(whole / slots)} with {slots} side "
            f"by side ({self.pace.source})",
        ]


def make_plan(bench: Bench) -> Plan:
    """What is there, and the pace of the runs that have finished."""
    done, left, trained, pace = {}, list[Job](), list[Job](), Pace(source="as the finished runs went")
    for job in bench.recipe.jobs():
        result = bench.result(job)
        pace.learn(bench, job)
        if result is None:
            left.append(job)
            if (run := bench.run(job)) is not None and run.finished:
                trained.append(job)
        else:
            done[job] = result
    return Plan(bench.recipe, done, tuple(left), frozenset(trained), pace)


def calibrate(bench: Bench, plan: Plan) -> None:
    """Learns the pace of methods of which nothing has run: a few steps of each, in this process, with one thread."""
    from ssl3d.benchmarks.passes import few, mean_step

    for job in {job.variant.method: job for job in plan.left}.values():
        data = bench.data(job)
        if data is None or any(method == job.variant.method for method, _ in plan.pace.steps):
            continue
        config = bench.recipe.config(job).bound(data.dataset, data.split)
        with suppress(Ssl3dError):  # it will say so itself, and the others go on
            pace = mean_step(config, few(data, CALIBRATION_STEPS), CALIBRATION_STEPS, threads=1)
            plan.pace.steps[job.variant.method, job.cell.regime].append(pace)
            plan.pace.source = f"as {CALIBRATION_STEPS} steps of each method went"


def hours(seconds: float) -> str:
    """``95 -> '2 min'``, ``7000 -> '1.9 h'``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
