"""Runs a function over units of work: in this process, in threads of it, or in a pool of processes
(``ssl3d.data.workers``)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Generic, TypeVar

from ssl3d.data.errors import Ssl3dError
from ssl3d.data.workers import worker_pool

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T, R]):
    """A unit with what its function returned, or with the error (an ``Ssl3dError``) that stopped it."""

    unit: T
    value: R | None = None
    error: Ssl3dError | None = None


def run_units(
    function: Callable[[T], R],
    units: Sequence[T],
    *,
    jobs: int = 1,
    threads: int = 1,
    name: Callable[[T], str] = str,
) -> Generator[Outcome[T, R], None, None]:
    """Yields an outcome per unit, as they finish. Close the iterator to stop early.

    Args:
        function: picklable; called once per unit. At most ``jobs`` units are under way, so memory is bounded by the
            largest unit per worker.
        units: picklable.
        jobs: processes; 1 runs in this process, in order.
        threads: with one process: so many units at a time, in its threads. Units under way are finished when it stops.
        name: how a unit is called in messages.

    Raises:
        Ssl3dError: a worker was killed; it names the units that were under way.
        Exception: whatever ``function`` raised, unless it is an ``Ssl3dError`` (that is an outcome).
    """
    if len(units) > 1 and jobs > 1:
        yield from _run_pool(function, units, min(jobs, len(units)), name)
    elif len(units) > 1 and threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            yield from _run_in(pool, function, units, threads, {})
    else:
        for unit in units:
            yield _outcome(function, unit)


def _outcome(function: Callable[[T], R], unit: T) -> Outcome[T, R]:
    try:
        return Outcome(unit, value=function(unit))
    except Ssl3dError as error:
        return Outcome(unit, error=error)


def _run_pool(
    function: Callable[[T], R], units: Sequence[T], jobs: int, name: Callable[[T], str]
) -> Generator[Outcome[T, R], None, None]:
    running: dict[Future[Outcome[T, R]], T] = {}
    try:
        with worker_pool(jobs) as pool:
            yield from _run_in(pool, function, units, jobs, running)
    except BrokenProcessPool as error:
        names = ", ".join(sorted(name(unit) for unit in running.values()))
        raise Ssl3dError(
            "a worker process ended unexpectedly (most often the system killed it for lack of memory)",
            where={"under way": names},
            hint="run the same command again with fewer --jobs: finished work is kept",
        ) from error


def _run_in(
    pool: Executor,
    function: Callable[[T], R],
    units: Sequence[T],
    at_once: int,
    running: dict[Future[Outcome[T, R]], T],
) -> Generator[Outcome[T, R], None, None]:
    """``running``: what is under way, for those who want to know when it fails."""
    for unit in units:
        running[pool.submit(_outcome, function, unit)] = unit
        if len(running) == at_once:
            yield _next_outcome(running)
    while running:
        yield _next_outcome(running)


def _next_outcome(running: dict[Future[Outcome[T, R]], T]) -> Outcome[T, R]:
    future = next(iter(wait(running, return_when=FIRST_COMPLETED).done))
    outcome = future.result()
    del running[future]
    return outcome
