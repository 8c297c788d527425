"""The training loop: batches in, steps through the phases of a method, log lines and checkpoints out.

Everything that decides the weights is a pure function of (config, step) or lies in the checkpoint, so that a run killed
at any instant and resumed ends, on the CPU, with the same bits as one that was not.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ssl3d.data.errors import DataError, Ssl3dError
from ssl3d.data.loader import batches
from ssl3d.models.ema import ema_update, freeze, keep_rate
from ssl3d.models.methods.base import Method, Phase
from ssl3d.models.methods.base import Progress as StepProgress
from ssl3d.pipeline.progress import Progress
from ssl3d.pipeline.training import checkpoint
from ssl3d.pipeline.training.batches import BatchMaker, StepBatch, plain
from ssl3d.pipeline.training.build import TrainingData
from ssl3d.pipeline.training.clock import Memory, StepClock
from ssl3d.pipeline.training.config import RunConfig
from ssl3d.pipeline.training.device import Compute
from ssl3d.pipeline.training.distributed import Team
from ssl3d.pipeline.training.extras import ExtraSource
from ssl3d.pipeline.training.generators import generator_states, own_generators, set_generators
from ssl3d.pipeline.training.metrics import MetricsLog, NoLog, Window, pseudo_label_warning
from ssl3d.pipeline.training.optimization import NonFiniteError, PhaseOptimizer, phase_modes, sum_losses
from ssl3d.pipeline.training.predictions import FOLDER, PhaseContext, kept_predictions, remove_others
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.status import TrainDisplay, TrainStatus

SKIPPED_AT_MOST = 20
"""This many batches in a row with nothing to train on, and the data are to blame."""

Feed = Callable[[int, int, Sequence[ExtraSource]], Iterator[StepBatch]]
"""(first step, step after the last, what ``predict_train`` has kept) -> their batches."""


class StopTraining(Exception):  # noqa: N818 - a request, not an error
    """Somebody asked to stop; the checkpoint is written."""


class TrainingLoop:
    """One session of a run.

    Args:
        data: what ``Phase.on_enter`` may predict.
        feed: makes the batches.
        stop: asked after every step whether to stop.
        team: the processes that train together; all of them make the same calls.
    """

    def __init__(
        self,
        run: RunDirectory,
        config: RunConfig,
        method: Method,
        data: TrainingData,
        feed: Feed,
        compute: Compute,
        progress: Progress,
        display: TrainDisplay,
        stop: Callable[[], bool],
        team: Team,
    ) -> None:
        self.team = team
        self.run, self.config, self.method, self.compute = run, config, method, compute
        self.data, self.feed = data, feed
        self.progress, self.display, self.stop = progress, display, stop
        self.phases = method.phases(config.train.steps)
        self.steps = sum(phase.steps for phase in self.phases)
        if not 1 <= self.steps <= config.train.steps:
            raise Ssl3dError(f"{config.method} plans {self.steps} steps of the {config.train.steps} that it has")
        self.step = self.phase_index = self.phase_step = self.skipped = 0
        self.entered = False
        self.kept: str | None = None
        self.average = None if config.train.ema is None else copy.deepcopy(method.student())
        if self.average is not None:
            freeze(self.average)
        self.window = Window(config.num_classes)
        self.clock = StepClock(compute.device)
        self.memory = Memory(compute.device)
        self.optimizer: PhaseOptimizer | None = None
        self._resumed: dict[str, Any] | None = None
        self._status: dict[str, Any] = {"visible_miou": None, "scans_per_s": 0.0, "share": {}}
        self._pace: float | None = None
        self._started = False
        self._warnings = 0

    # ------------------------------------------------------------ resuming

    def restore(self, saved: dict[str, Any]) -> None:
        """Goes back to where a checkpoint was written."""
        path = self.run.checkpoints / checkpoint.LAST
        checkpoint.load_weights(self.method, saved, self.config.num_classes, path)
        self.step, self.phase_index, self.phase_step = saved["step"], saved["phase"], saved["phase_step"]
        self.skipped, self.entered, self.kept = saved["skipped"], saved["entered"], saved["kept"]
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        self.window.load_state_dict(saved["window"])
        self.clock = StepClock(self.compute.device, saved["seconds"])
        self.memory = Memory(self.compute.device, saved["peak_memory_mb"])
        self._resumed = saved["optimizer"]
        self._status["visible_miou"] = saved["visible_miou"]
        if self.team.rank < len(saved["rng"]):
            set_generators(saved["rng"][self.team.rank], self.compute.device)
        else:
            own_generators(self.config.seed, self.team.rank, self.step)

    def state(self) -> dict[str, Any]:
        """All that ``restore`` needs: tensors and plain containers. (A call that all processes make.)"""
        self.window.take(self.method, self.team)
        return {
            "schema": checkpoint.SCHEMA,
            "method": self.config.method,
            "backbone": self.config.backbone,
            "num_classes": self.config.num_classes,
            "classes": list(self.config.data.classes),
            "model": self.method.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict() if self.optimizer else self._resumed,
            "step": self.step,
            "phase": self.phase_index,
            "phase_step": self.phase_step,
            "entered": self.entered,
            "kept": self.kept,
            "skipped": self.skipped,
            "rng": self._generators(),
            "window": self.window.state_dict(),
            "visible_miou": self._status["visible_miou"],
            "seconds": self.clock.read(),
            "peak_memory_mb": self.memory.peak,
        }

    def _generators(self) -> list[dict[str, Tensor]]:
        """The states of the random generators of each process."""
        states = {name: self.team.gather(state) for name, state in generator_states(self.compute.device).items()}
        return [dict(zip(states, each, strict=True)) for each in zip(*states.values(), strict=True)]

    def save(self) -> None:
        """A checkpoint of this instant."""
        state = self.state()  # of all processes
        if self.team.first:
            checkpoint.save_last(self.run.checkpoints, state)
        self._saved_at = time.monotonic()
        self.run.write_status("running", **self._summary())

    def _summary(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "steps": self.steps,
            "seconds": self.clock.total_seconds,
            "time_split": self.clock.read(),
            "time_share": self.clock.share(),
            "peak_memory_mb": self.memory.peak,
            "peak_gpu_memory_mb": self.memory.gpu_peak(),
            "visible_miou": self._status["visible_miou"],
            "skipped_steps": self.skipped,
        }

    # ------------------------------------------------------------ running

    def train(self) -> dict[str, Any]:
        """Trains to the end and returns the summary.

        Raises:
            StopTraining: asked to; the checkpoint is written.
            Ssl3dError: a loss that is not finite (the batch is saved), data that cannot be read, a full disk.
        """
        self.method.to(self.compute.device)
        if self.average is not None:
            self.average.to(self.compute.device)
        self.log = MetricsLog(self.run.path, self.step) if self.team.first else NoLog()
        self._saved_at, self._logged_step = time.monotonic(), self.step
        self.run.write_status("running", step=self.step, steps=self.steps, message=None)
        try:
            self._logged_at = time.monotonic()
            source: Iterator[StepBatch] | None = None
            for index in range(self.phase_index, len(self.phases)):
                if index != self.phase_index:
                    self.phase_index, self.phase_step, self.entered = index, 0, False
                if self.phases[index].on_enter is not None and not self.entered:
                    source = None  # its batches may depend on what happens now
                    self._enter(self.phases[index])
                if self.team.first:  # also what a killed session has left
                    remove_others(self.run.path / FOLDER, self.kept)
                if self.phase_step < self.phases[index].steps:
                    source = source or self._open()
                    self._run_phase(self.phases[index], source)
            self.save()
        finally:
            with suppress(Ssl3dError):  # a full disk is reported by what met it first
                self.log.close()
        return self._summary()

    def _enter(self, phase: Phase) -> None:
        """Calls ``on_enter`` between two checkpoints: a run killed in it begins it again, from the same state."""
        self.save()
        now = StepProgress(0, phase.steps, self.phase_index, self.step, self.steps)
        folder, device = self.run.path / FOLDER, self.compute.device
        context = PhaseContext(folder, self.data, self.method, device, now, self.progress, self.team)
        assert phase.on_enter is not None
        self.method.train()  # whatever the phase before has left: a resumed session does not know it
        phase.on_enter(context)
        self.team.align(self.method)  # what it drew at random
        self.kept = context.kept or self.kept
        self.entered = True
        self.save()

    def _open(self) -> Iterator[StepBatch]:
        """The batches up to the next phase that may change what they hold. The start of workers belongs to no step."""
        ends = self.step - self.phase_step
        for phase in self.phases[self.phase_index :]:
            if phase.on_enter is not None and phase is not self.phases[self.phase_index]:
                break
            ends += phase.steps
        kept = kept_predictions(self.run.path / FOLDER, self.kept, self.data.places, check=self.team.first)
        source = self.feed(self.step, ends, kept)
        if not self._started:
            first = next(source)
            source = itertools.chain([first], source)
            self.clock.start()
            self._started = True
        return source

    def _run_phase(self, phase: Phase, source: Iterator[StepBatch]) -> None:
        self.optimizer = PhaseOptimizer(self.config, phase, self.method, self.compute, self.team)
        if self._resumed is not None and 0 < self.phase_step < phase.steps:
            self.optimizer.load_state_dict(self._resumed)
        self._resumed = None
        with phase_modes(self.method, phase, self.optimizer.parameters):
            while self.phase_step < phase.steps:
                begun = time.perf_counter()
                with self.clock.section("data"):
                    batch = next(source)
                rate = self._one_step(phase, batch, self.optimizer)
                self.phase_step += 1
                self.step += 1
                self._after_step(phase, rate, batch, time.perf_counter() - begun)

    def _one_step(self, phase: Phase, batch: StepBatch, optimizer: PhaseOptimizer) -> float:
        rate = optimizer.set_rate(self.phase_step)
        if any(self.team.any(batch.groups is None)):
            self._skip(batch)
            return rate
        with self.clock.section("to_device"):
            groups = batch.to(self.compute.device)
        now = StepProgress(self.phase_step, phase.steps, self.phase_index, self.step, self.steps)
        rng = generator_states(self.compute.device)
        sums: dict[str, float] = {}
        losses_of = self.method.step(groups, now)
        try:
            while True:
                with self.clock.section("forward"), self.compute.autocast():
                    losses = next(losses_of, None)
                    total, own = (None, None) if losses is None else sum_losses(losses)
                values = self.team.losses(own)
                if total is None or values is None:
                    break
                for name, value in values.items():
                    if not math.isfinite(value):
                        raise NonFiniteError(name, value)
                    sums[name] = sums.get(name, 0.0) + value
                optimizer.apply(total, self.clock)
            self.method.after_step(now)
            if self.average is not None:
                keep = keep_rate(self.config.train.ema or 0.0, self.step - self._average_begins())
                ema_update(self.average, self.method.student(), keep)
        except NonFiniteError as error:
            raise self._not_finite(error, batch, rng, rate) from error
        except torch.cuda.OutOfMemoryError as error:
            raise Ssl3dError(
                "the GPU has not enough memory for a step",
                where={"step": self.step, "scans": ", ".join(batch.scans)},
                hint="make smaller batches (--set train.batch=1), or thin large scans (--set train.max_points=80000)",
            ) from error
        self.window.add(sums)
        return rate

    def _average_begins(self) -> int:
        """The step that the average of the student's weights goes back to."""
        starts = list(itertools.accumulate((phase.steps for phase in self.phases), initial=0))
        return max((starts[i] for i in range(1, self.phase_index + 1) if self.phases[i].restarts), default=0)

    def _skip(self, batch: StepBatch) -> None:
        """A batch that batch norm cannot train on, in one process or another: the step counts, no weight moves."""
        self.skipped += 1
        batch = next(other for other in self.team.everybody(replace(batch, groups=None)) if other.why)
        if self.skipped <= 3:
            self.progress.say(f"step {self.step} is skipped: {batch.why} (scans {', '.join(batch.scans)})")
        if self.skipped >= SKIPPED_AT_MOST and self.skipped > self.step // 2:
            raise DataError(
                f"{self.skipped} of {self.step + 1} batches hold nothing to train on: {batch.why}",
                where={"scans": ", ".join(batch.scans)},
                hint="check the scans, the clip range of the backbone and train.max_points",
            )

    # ------------------------------------------------------------ after a step

    def _after_step(self, phase: Phase, rate: float, batch: StepBatch, seconds: float) -> None:
        self._pace = seconds if self._pace is None else 0.9 * self._pace + 0.1 * seconds
        resident = self.memory.resident()
        shown, scans = self.window.means(), len(batch.scans) * self.team.size
        if self.step % self.config.train.log_every == 0 or self.step == self.steps:
            self._write_line(rate, resident, scans)
        self.display.update(
            TrainStatus(
                run=self.run.name,
                phase=phase.name,
                step=self.step,
                steps=self.steps,
                lr=rate,
                losses=shown,
                visible_miou=self._status["visible_miou"],
                scans_per_s=self._status["scans_per_s"] or scans / seconds,
                eta_s=(self.steps - self.step) * self._pace,
                memory_mb=resident,
                gpu_memory_mb=self.memory.gpu_peak(),
                time_share=self._status["share"],
            )
        )
        due = self.step % self.config.train.checkpoint_every == 0
        late = time.monotonic() - self._saved_at > 60 * self.config.train.checkpoint_minutes
        stopping, due = self.team.any(self.stop(), due or late)  # clocks and signals differ between processes
        if self.step == self.steps:
            return
        if stopping or due:
            self.save()
        if stopping:
            self.team.barrier()  # nobody leaves before the checkpoint is written
            raise StopTraining

    def _write_line(self, rate: float, resident: float, scans: int) -> None:
        self.window.take(self.method, self.team)
        now = time.monotonic()
        speed = (self.step - self._logged_step) * scans / max(now - self._logged_at, 1e-9)
        self._status = {
            "visible_miou": self.window.visible_miou(),
            "scans_per_s": speed,
            "share": self.clock.share(),
        }
        pseudo, measured = self.window.pseudo_labels(), self.window.measured
        self.log.write(
            {
                "step": self.step,
                "losses": self.window.means(),
                "lr": rate,
                "visible_miou": self._status["visible_miou"],
                "scans_per_s": round(speed, 3),
                "seconds": round(self.clock.total_seconds, 3),
                "memory_mb": round(resident, 1),
                "gpu_memory_mb": self.memory.gpu_peak(),
                "time_share": {name: round(value, 4) for name, value in self._status["share"].items()},
                **({"pseudo_labels": pseudo} if pseudo else {}),
                **({} if measured is None else {"measures": self.method.measures.describe(measured)}),
            }
        )
        if pseudo and (warning := pseudo_label_warning(pseudo, self.config.data.classes)) and self._warnings < 3:
            self._warnings += 1
            self.progress.say(f"step {self.step}: {warning}")
        self.window.clear()
        self._logged_at, self._logged_step = now, self.step

    def _not_finite(self, error: NonFiniteError, batch: StepBatch, rng: dict[str, Tensor], rate: float) -> Ssl3dError:
        path = self.run.path / "nonfinite.pt"
        saved = {
            **self.state(),
            "rng": [rng],
            "lr": rate,
            "name": error.name,
            "value": error.value,
            "scans": batch.scans,
            "batch": {name: plain(inputs) for name, inputs in (batch.groups or {}).items()},
        }
        scans = ", ".join(itertools.chain(*self.team.everybody(batch.scans)))
        where: dict[str, object] = {"step": self.step, "loss": error.name, "scans": scans}
        try:
            if self.team.first:
                checkpoint.save(path, saved)
            where["saved"] = path
        except Ssl3dError as problem:
            where["not saved"] = problem.what
        lower = f"--set optimizer.lr={(self.config.optimizer.lr or 0) / 4:.2g}"
        clip = "" if 0 < self.config.train.clip <= 1 else " or --set train.clip=1"
        return Ssl3dError(
            f"training diverged: {error} at step {self.step} (learning rate {rate:.2g})",
            where=where,
            hint=f"train with a smaller learning rate: {lower}{clip}",
        )


def open_batches(maker: BatchMaker, first: int, last: int, workers: int, device: torch.device) -> Iterator[StepBatch]:
    """The batches of steps ``first`` .. ``last - 1``; workers start at once."""
    return batches(maker, first, last, workers=workers, pin_memory=device.type == "cuda")


__all__ = ["StopTraining", "TrainingLoop", "open_batches"]
