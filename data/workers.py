"""Pools of worker processes. A worker has one thread, is deaf to Ctrl-C (its parent decides), and is never orphaned.

Spawned, not forked: forked OpenMP and HDF5 state deadlocks.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, connection, get_context, parent_process
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
"""What libraries read at import to learn how many threads they may start."""


class _Pool(ProcessPoolExecutor):
    """Starts workers with Ctrl-C blocked: one that is still importing would die of it with a traceback of its own."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        with _interrupts_blocked():
            return super().submit(fn, *args, **kwargs)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A Ctrl-C in the block arrives after it; processes started in it never see one (the mask is inherited)."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def worker_pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of ``jobs`` workers. When the block fails, or a generator in it is closed, they are killed at once."""
    others = set(active_children())
    pool = _Pool(jobs, mp_context=get_context("spawn"), initializer=_start_worker)
    finished = False
    try:
        yield pool
        finished = True
    finally:
        if not finished:
            for process in set(active_children()) - others:
                process.kill()
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for variable in THREAD_VARIABLES:
        os.environ[variable] = "1"
    for module in ("torch", "numba"):
        if module in sys.modules:
            sys.modules[module].set_num_threads(1)
    end_with_parent()


def end_with_parent() -> None:
    """From now on this worker process ends when the one that started it does, whatever ended that (also a kill that
    comes while the worker is still starting)."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
