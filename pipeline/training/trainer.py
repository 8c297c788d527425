"""``train``: a run from its beginning or from where it stopped."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from ssl3d.data.errors import Ssl3dError, UsageError
from ssl3d.models.distributed import synchronize_batch_norm
from ssl3d.models.methods.registry import OF_STAGES, get_method
from ssl3d.models.sparse.backends import check_backend, use_backend
from ssl3d.pipeline.files import read_json, temporary_files, write_json, writing
from ssl3d.pipeline.launch import command_words, finish_sentence, launched
from ssl3d.pipeline.machine import usable_cores
from ssl3d.pipeline.needed import make_missing
from ssl3d.pipeline.progress import Progress, Silent
from ssl3d.pipeline.training import checkpoint
from ssl3d.pipeline.training.batches import StepBatch
from ssl3d.pipeline.training.build import (
    TrainingData,
    batch_maker,
    build_method,
    check_method,
    check_share,
    find_again,
    find_weights,
    init_weights,
    load_predictor,
    open_data,
)
from ssl3d.pipeline.training.config import RunConfig
from ssl3d.pipeline.training.device import Compute, describe_environment, plan_threads, reproducible, select_device
from ssl3d.pipeline.training.distributed import Team, lost_process, place, team_of
from ssl3d.pipeline.training.extras import ExtraSource
from ssl3d.pipeline.training.generators import own_generators
from ssl3d.pipeline.training.loop import StopTraining, TrainingLoop, open_batches
from ssl3d.pipeline.training.run import Onlooker, RunDirectory, State
from ssl3d.pipeline.training.status import SECTIONS, NullDisplay, TrainDisplay
from ssl3d.pipeline.workspace import Workspace, ensure_numba_cache

ECHO_SECONDS = 3.0
"""``torchrun`` passes a signal on that the terminal has sent to all: so soon, it is the same request."""


class InterruptedRun(Ssl3dError):  # noqa: N818 - the user asked for it
    """Stopped by Ctrl-C or a signal, with a checkpoint of the last step."""

    exit_code = 130


def train(
    workspace: Workspace,
    config: RunConfig | None = None,
    *,
    resume: str | None = None,
    overwrite: bool = False,
    init_from: str | Path | None = None,
    dataset: str | None = None,
    split: str | None = None,
    device: str | torch.device = "auto",
    jobs: int = 0,
    progress: Progress | None = None,
    display: TrainDisplay | None = None,
    command: str | None = None,
) -> RunDirectory:
    """Trains a run; the same config on the same data finds the same folder, and goes on where it stopped.

    Started several times by ``torchrun``, the processes share every batch, and the first of them owns the folder.

    Args:
        config: from ``resolve``; may be None with ``resume``.
        resume: name of a run to go on with; with a ``config`` that differs it is refused.
        overwrite: begin the run again, whatever is there.
        init_from: begin a new run from the weights of another (its name, folder or checkpoint).
        dataset, split: by name; default: the current ones.
        jobs: threads in all on this machine, loader processes included; 0 = as many as this process may use.
        command: for ``command.txt``; default: the arguments of this process.

    Returns:
        The finished run.

    Raises:
        UsageError: nothing prepared or split, unknown run, ``resume`` with other parameters, a batch that the processes
            cannot share, a sparse backend that is not installed or has no gradients on the device.
        InterruptedRun: Ctrl-C or SIGTERM; the checkpoint is written.
        Ssl3dError: diverged, damaged data, full disk, another process trains this run, ...
    """
    if config is not None and config.method in OF_STAGES:
        raise UsageError(f"{config.method} is no method to train with", hint=f"type: ssl3d {config.method}")
    compute_device = place(select_device(str(device)), launched())
    if config is not None:  # a command that is wrong leaves no folder
        Compute.choose(compute_device, config.train.precision)
        check_backend(config.train.sparse_backend, compute_device, training=True)
    ensure_numba_cache(workspace)
    with team_of(compute_device) as team:
        if not team.first:
            progress, display = None, None
        return _train(
            team, workspace, config, resume, overwrite, init_from, dataset, split, compute_device, jobs,
            progress or Silent(), display or NullDisplay(), command,
        )  # fmt: skip


def _train(
    team: Team,
    workspace: Workspace,
    config: RunConfig | None,
    resume: str | None,
    overwrite: bool,
    init_from: str | Path | None,
    dataset: str | None,
    split: str | None,
    device: torch.device,
    jobs: int,
    progress: Progress,
    display: TrainDisplay,
    command: str | None,
) -> RunDirectory:
    weights: Path | None = None
    if resume is not None:  # a run that is resumed names its own data
        run = RunDirectory.open(workspace, resume)
        stored = run.config
        name, split = stored.data.name, stored.split.hash if stored.split else None
        data = open_data(workspace, name, split, get_method(stored.method).needs)
        _check_same(run, config, data)
        check_share(stored, data, team.size)
        if stored.init_from is not None and (overwrite or not checkpoint.exists(run.checkpoints)):
            weights = find_again(workspace, stored.init_from)
    else:
        if config is None:
            raise UsageError("nothing to train: neither a configuration nor a run to resume")
        needs = get_method(config.method).needs
        if team.size == 1:  # others would wait at a barrier for longer than it lets them: there it is typed beforehand
            make_missing(workspace, dataset, needs, jobs=jobs or usable_cores(), progress=progress)
        data = open_data(workspace, dataset, split, needs)
        check_method(config, data)
        check_share(config, data, team.size)
        weights, init = find_weights(workspace, init_from) if init_from is not None else (None, None)
        config = config.bound(data.dataset, data.split, init)
        if team.first:
            workspace.ensure()
            RunDirectory.create(workspace, config)
        team.barrier()
        run = RunDirectory(workspace.runs_dir / config.run_name)
        if run.config.hash != config.hash:
            raise Ssl3dError("the folder of this run holds another", where={"folder": run.path}, hint="remove it")
    if not team.first:
        run = Onlooker(run.path)
    with run.lock():
        if overwrite:
            run.clear()
        elif team.told(run.finished):
            progress.say(f"{run.name} is finished: nothing to do (--overwrite trains it again)")
            return run
        live = _with_session_keys(run.config, config)
        return _session(run, live, data, weights, Compute.choose(device, live.train.precision), jobs,
                        progress, display, command, team, f"ssl3d train --resume {run.name}")  # fmt: skip


def train_at(
    path: Path,
    config: RunConfig,
    data: TrainingData,
    *,
    device: str | torch.device = "auto",
    jobs: int = 0,
    progress: Progress | None = None,
    display: TrainDisplay | None = None,
    again: str,
) -> RunDirectory:
    """Trains the network of a stage in the folder ``path``, or goes on with it; one process does.

    Args:
        config: bound to ``data``. A folder with a finished run of another configuration is refused.
        jobs: threads in all, loader processes included; 0 = as many as this process may use.
        again: the command that goes on.

    Returns:
        The finished run.

    Raises:
        as ``train``.
    """
    if launched().size > 1:
        raise UsageError(
            f"{config.method} is trained by one process, and {launched().size} were started", hint=f"type: {again}"
        )
    chosen = select_device(str(device))
    compute = Compute.choose(chosen, config.train.precision)
    check_backend(config.train.sparse_backend, chosen, training=True)
    run = RunDirectory.create_at(path, config)
    if run.config.hash != config.hash:
        raise Ssl3dError("the folder of this run holds another", where={"folder": run.path}, hint="remove it")
    with run.lock(), team_of(chosen) as team:
        if run.finished:
            return run
        return _session(run, config, data, None, compute, jobs, progress or Silent(), display or NullDisplay(),
                        again, team, again)  # fmt: skip


def _session(
    run: RunDirectory,
    config: RunConfig,
    data: TrainingData,
    weights: Path | None,
    compute: Compute,
    jobs: int,
    progress: Progress,
    display: TrainDisplay,
    command: str | None,
    team: Team,
    again: str,
) -> RunDirectory:
    jobs = (jobs or usable_cores()) // team.launch.local_size
    workers, threads = plan_threads(jobs, config.train.workers, compute.device)
    with (
        use_backend(config.train.sparse_backend) as backend,
        reproducible(threads, compute.device),
        stop_on_signal(ECHO_SECONDS if team.size > 1 else 0) as stop,
    ):
        backend.check(compute.device, training=True)
        try:
            saved = team.told(_last(run, progress) if team.first else None)
            run.truncate_metrics(saved["step"] if saved else 0)
            torch.manual_seed(config.seed)
            method, input_spec = build_method(config)
            if weights is not None and saved is None and (taken := init_weights(method, weights, config)):
                progress.say(taken)
            own_generators(config.seed, team.rank)
            synchronize_batch_norm(method)

            def feed(first: int, last: int, extras: Sequence[ExtraSource]) -> Iterator[StepBatch]:
                maker = batch_maker(config, data, type(method), input_spec, extras, team.rank, team.size, loop.phases)
                return open_batches(maker, first, last, workers, compute.device)

            loop = TrainingLoop(run, config, method, data, feed, compute, progress, display, stop.requested, team)
            if team.first:
                environment = describe_environment(compute, threads, workers, team.size)
                _record_session(run, environment, saved["step"] if saved else 0, command)
            if saved is not None:
                loop.restore(saved)
                progress.say(f"{run.name} goes on after step {loop.step} of {loop.steps}")
            with lost_process():
                summary = loop.train()
        except StopTraining:
            run.write_status("interrupted", message="stopped by the user")
            raise InterruptedRun(
                f"stopped after step {loop.step} of {loop.steps}; the checkpoint is written",
                where={"run": run.name},
                hint=f"go on with: {again}",
            ) from None
        except BaseException as error:
            with suppress(Exception):  # what went wrong matters more than that it cannot be noted
                state: State = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                run.write_status(state, message=str(error) or type(error).__name__)
            raise
    run.write_status("finished", message=None, **summary)
    (run.checkpoints / checkpoint.PREVIOUS).unlink(missing_ok=True)
    progress.say(time_split_line(summary))
    return run


def time_split_line(summary: dict[str, Any]) -> str:
    """``time of a step: forward 40%, ...``: where the wall time of all sessions went."""
    split = summary["time_split"]
    whole = sum(split.values()) or 1.0
    parts = ", ".join(f"{name.replace('_', ' ')} {100 * split[name] / whole:.1f}%" for name in SECTIONS)
    inside = sum(split[name] for name in ("forward", "backward", "optimizer"))
    return f"time of a step: {parts}; {100 * inside / whole:.1f}% inside forward, backward and optimizer"


def _check_same(run: RunDirectory, config: RunConfig | None, data: TrainingData) -> None:
    """``--resume`` goes on with the same run or not at all."""
    stored = run.config
    asked = (config or stored).bound(data.dataset, data.split, stored.init_from)
    changed = stored.difference(asked)
    if changed:
        shown = {key: f"{here} in the run, {there} now" for key, (here, there) in list(changed.items())[:8]}
        raise UsageError(
            "a run cannot be resumed with other parameters or data",
            where={"run": run.name, **shown},
            hint="leave out what differs, or start a new run without --resume (from its weights: --init-from)",
        )


def _with_session_keys(stored: RunConfig, asked: RunConfig | None) -> RunConfig:
    """The stored config with the keys that change no weight (workers, logging) as they were asked for now."""
    if asked is None:
        return stored
    return stored.model_copy(update={"train": asked.train})


def _last(run: RunDirectory, progress: Progress) -> dict[str, Any] | None:
    """The last checkpoint. Removes what killed sessions left half written: a checkpoint each. (Call it with the lock of
    the run held.)"""
    found = checkpoint.load_last(run.checkpoints, progress.say)
    for file in (*temporary_files(run.checkpoints), *temporary_files(run.path)):
        file.unlink(missing_ok=True)
    return found


def _record_session(run: RunDirectory, environment: dict[str, Any], step: int, command: str | None) -> None:
    before = (read_json(run.path / "environment.json") or {}).get("sessions", [])
    session = {"from_step": step, "started": time.time(), **environment}
    own = command_words() if launched().size > 1 else [Path(sys.argv[0]).name]
    with writing(run.path):
        write_json(run.path / "environment.json", {"sessions": [*before, session]})
        with (run.path / "command.txt").open("a", encoding="utf-8") as file:
            file.write((command or shlex.join([*own, *sys.argv[1:]])) + "\n")


class _Stop:
    def __init__(self) -> None:
        self.signal: int | None = None
        self.since = 0.0

    def requested(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_on_signal(echo: float = 0.0) -> Iterator[_Stop]:
    """The first Ctrl-C (or SIGTERM) asks for a stop after the step; the second one stops at once.

    Outside the main thread signals cannot be handled: nothing happens then.

    Args:
        echo: seconds within which a second signal is the first one again, passed on by ``torchrun``.
    """
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, _: FrameType | None) -> None:
        if stop.signal is None:
            stop.signal, stop.since = number, time.monotonic()
        elif time.monotonic() - stop.since >= echo:
            raise KeyboardInterrupt

    numbers = [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    except BaseException:
        if echo:
            finish_sentence()
            before = {}
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = ["InterruptedRun", "load_predictor", "stop_on_signal", "time_split_line", "train", "train_at"]
