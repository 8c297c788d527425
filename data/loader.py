"""Batches by step number: the batch of step s is a pure function of (seed, s), however many workers make it.

There is no sampler state to save: a run that resumes at step s asks for step s. Workers are spawned (never forked:
threads and open HDF5 files do not survive a fork), single-threaded, and deaf to Ctrl-C: the trainer handles it.
"""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from ssl3d.data.errors import Ssl3dError
from ssl3d.data.workers import THREAD_VARIABLES, end_with_parent

T = TypeVar("T")


@lru_cache(maxsize=8)
def epoch_order(seed: int, epoch: int, stream: int, count: int) -> npt.NDArray[np.int64]:
    """(count,) permutation of one epoch of one stream (labelled scans, unlabelled scans, ...)."""
    return np.random.default_rng([seed, epoch, stream]).permutation(count)


def step_items(seed: int, step: int, stream: int, count: int, batch: int) -> list[int]:
    """The ``batch`` positions in 0..count-1 of one step.

    The stream is one epoch's permutation after another, cut into batches; a batch may span two epochs, so that no scan
    is seen less often than another and no incomplete batch exists.
    """
    if count < 1:
        raise ValueError("a stream needs at least one item")
    order = (divmod(step * batch + i, count) for i in range(batch))
    return [int(epoch_order(seed, epoch, stream, count)[position]) for epoch, position in order]


def step_rng(seed: int, step: int, stream: int, item: int = 0) -> np.random.Generator:
    """The generator of all that is random in the making of one item of one step's batch."""
    return np.random.default_rng([seed, step, stream, item, 0x57E9])


@dataclass(slots=True)
class _Failure:
    error: Ssl3dError
    trace: str


class WorkerTracebackError(Exception):
    """The traceback of a worker process, as text: the cause of the error that the trainer raises."""

    def __init__(self, text: str) -> None:
        super().__init__("\n" + text)


class _Steps(Dataset[Any], Generic[T]):
    """Map-style: item i is the batch of step ``first + i``. Errors travel as values, with their fields intact."""

    def __init__(self, make: Callable[[int], T], first: int, last: int) -> None:
        self.make, self.first, self.last = make, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> T | _Failure:
        try:
            return self.make(self.first + index)
        except Ssl3dError as error:
            return _Failure(error, traceback.format_exc())
        except Exception as error:
            what = f"making the batch of step {self.first + index} failed: {type(error).__name__}: {error}"
            return _Failure(Ssl3dError(what), traceback.format_exc())


def batches(
    make: Callable[[int], T], first: int, last: int, *, workers: int = 0, prefetch: int = 3, pin_memory: bool = False
) -> Iterator[T]:
    """``make(first) .. make(last - 1)`` in order. Workers start at once, before the first batch is asked for.

    Args:
        make: picklable when ``workers`` > 0. Errors that it raises reach the caller as they are, with the worker's
            traceback as their cause.
        workers: processes that make batches ahead; 0 makes each one here when it is asked for.
        prefetch: batches that each worker keeps ready.
        pin_memory: for copies to CUDA; a batch takes part by having a method ``pin_memory()``.

    Raises:
        Ssl3dError: what ``make`` raised, or a worker that died (out of memory, out of shared memory).
    """
    if last <= first:
        return iter(())
    steps = _Steps(make, first, last)
    loader: DataLoader[T] = DataLoader(
        steps,
        batch_size=None,  # a step is a batch already
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=prefetch if workers else None,
        worker_init_fn=_quiet_worker if workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # its own: loading must not move the global one, which the model draws from
    )
    with _worker_environment() if workers else nullcontext():
        source = iter(loader)
    return _checked(source)


def _checked(source: Iterator[Any]) -> Iterator[Any]:
    while True:
        try:
            item = next(source)
        except StopIteration:
            return
        except RuntimeError as error:
            raise _worker_died(error) from error
        if isinstance(item, _Failure):
            raise item.error from WorkerTracebackError(item.trace)
        yield item


def _worker_died(error: RuntimeError) -> Exception:
    text = str(error)
    if "DataLoader worker" not in text:
        return error
    if "Bus error" in text or "shared memory" in text:
        hint = "give more shared memory (docker run --shm-size 2g), or load in the main process: --set train.workers=0"
        return Ssl3dError("a data worker ran out of shared memory", where={"cause": text}, hint=hint)
    hint = (
        "free memory or make smaller batches (--set train.batch=1), or load in the main process: --set train.workers=0"
    )
    return Ssl3dError("a data worker died, most likely for lack of memory", where={"cause": text}, hint=hint)


def _quiet_worker(_: int) -> None:
    torch.set_num_threads(1)
    end_with_parent()  # torch's own watch misses a parent that died before it began
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun asks the workers to stop too, and the trainer finishes its step
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def _worker_environment() -> Iterator[None]:
    """What spawned children inherit: one thread for every library, and an ignored Ctrl-C from the very start."""
    saved = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, previous)
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


__all__ = ["WorkerTracebackError", "batches", "epoch_order", "step_items", "step_rng"]
