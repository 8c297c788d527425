"""Runs a function over units of work: in this process, or in a pool of spawned processes.

Spawned, not forked: forked OpenMP and HDF5 state deadlocks. Workers compute with one thread each, ignore Ctrl-C (the
parent decides) and end themselves when the parent is gone, so that a killed command leaves no process behind.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, connection, get_context, parent_process
from typing import Generic, TypeVar

from ssl3d.data.errors import Ssl3dError

T = TypeVar("T")
R = TypeVar("R")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T, R]):
    """A unit with what its function returned, or with the error (an ``Ssl3dError``) that stopped it."""

    unit: T
    value: R | None = None
    error: Ssl3dError | None = None


def run_units(
    function: Callable[[T], R], units: Sequence[T], *, jobs: int = 1, name: Callable[[T], str] = str
) -> Generator[Outcome[T, R], None, None]:
    """Yields an outcome per unit, as they finish. Close the iterator to stop early.

    Args:
        function: picklable; called once per unit. At most ``jobs`` units are under way, so memory is bounded by the
            largest unit per worker.
        units: picklable.
        jobs: processes; 1 runs in this process, in order.
        name: how a unit is called in messages.

    Raises:
        Ssl3dError: a worker was killed; it names the units that were under way.
        Exception: whatever ``function`` raised, unless it is an ``Ssl3dError`` (that is an outcome).
    """
    if jobs <= 1 or len(units) <= 1:
        for unit in units:
            yield _outcome(function, unit)
        return
    yield from _run_pool(function, units, min(jobs, len(units)), name)


def _outcome(function: Callable[[T], R], unit: T) -> Outcome[T, R]:
    try:
        return Outcome(unit, value=function(unit))
    except Ssl3dError as error:
        return Outcome(unit, error=error)


def _run_pool(
    function: Callable[[T], R], units: Sequence[T], jobs: int, name: Callable[[T], str]
) -> Generator[Outcome[T, R], None, None]:
    others = set(active_children())
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_start_worker)
    running: dict[Future[Outcome[T, R]], T] = {}
    finished = False
    try:
        for unit in units:
            running[pool.submit(_outcome, function, unit)] = unit
            if len(running) == jobs:
                yield _next_outcome(running)
        while running:
            yield _next_outcome(running)
        finished = True
    except BrokenProcessPool as error:
        names = ", ".join(sorted(name(unit) for unit in running.values()))
        raise Ssl3dError(
            "a worker process ended unexpectedly (most often the system killed it for lack of memory)",
            where={"under way": names},
            hint="run the same command again with fewer --jobs: finished work is kept",
        ) from error
    finally:
        if not finished:
            for process in set(active_children()) - others:
                process.kill()
        pool.shutdown(wait=True, cancel_futures=True)


def _next_outcome(running: dict[Future[Outcome[T, R]], T]) -> Outcome[T, R]:
    future = next(iter(wait(running, return_when=FIRST_COMPLETED).done))
    outcome = future.result()
    del running[future]
    return outcome


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = "1"
    for module in ("torch", "numba"):
        if module in sys.modules:
            sys.modules[module].set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
