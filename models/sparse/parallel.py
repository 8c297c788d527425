"""Runs a compiled loop over tasks in several threads: those of torch where its OpenMP library can be asked, so that
nobody's idle threads stand in the way; otherwise threads of Python's."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")
_LIBRARIES = ("libgomp", "libiomp5", "libomp")


def run(function: Any, arguments: Any, tasks: int) -> None:
    """Calls a compiled ``function(address of arguments)`` in as many threads as torch uses, at most one for each task.

    Args:
        function: a ``numba.cfunc``, which takes tasks from a counter in its arguments until there are no more.
        arguments: C-contiguous numpy array.
    """
    threads = min(torch.get_num_threads(), tasks)
    address = ctypes.c_void_p(arguments.ctypes.data)
    if threads <= 1:
        function.ctypes(ctypes.cast(address, ctypes.POINTER(ctypes.c_int64)))
        return
    _team()(function, address, threads)


@cache
def _team() -> Callable[[Any, ctypes.c_void_p, int], None]:
    """What calls a function in several threads at once."""
    parallel = _openmp()
    if parallel is None:
        return _in_python_threads

    def in_openmp_threads(function: Any, address: ctypes.c_void_p, threads: int) -> None:
        parallel(ctypes.c_void_p(function.address), address, threads, 0)

    return in_openmp_threads


def _openmp() -> Any:
    """``GOMP_parallel`` of the OpenMP library that torch has loaded; None where that library has no such entry."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:  # not Linux
        return None
    found = list(dict.fromkeys(path for line in lines if (path := line.split(maxsplit=5)[-1]).startswith("/")))
    found = [path for path in found if Path(path).name.startswith(_LIBRARIES)]
    of_torch = str(Path(torch.__file__).parents[1])
    for path in sorted(found, key=lambda path: not path.startswith(of_torch)):
        try:
            parallel = ctypes.CDLL(path).GOMP_parallel
        except (OSError, AttributeError):
            continue
        parallel.restype = None
        parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        return parallel
    return None


def _in_python_threads(function: Any, address: ctypes.c_void_p, threads: int) -> None:
    pointer = ctypes.cast(address, ctypes.POINTER(ctypes.c_int64))
    in_threads(lambda _: function.ctypes(pointer), threads)


_pool: tuple[int, ThreadPoolExecutor] | None = None


def in_threads(function: Callable[[int], T], count: int) -> list[T]:
    """``[function(0), ..., function(count - 1)]``, each in a thread of its own; they are kept for the next call."""
    global _pool
    if count <= 1:
        return [function(i) for i in range(count)]
    if _pool is None or _pool[0] < count:
        _pool = count, ThreadPoolExecutor(count - 1, thread_name_prefix="sparse")
    others = [_pool[1].submit(function, i) for i in range(1, count)]
    return [function(0), *(other.result() for other in others)]


def _forget_threads() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)  # threads do not follow into a new process
