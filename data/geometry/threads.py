"""Sharing compiled loops among threads, with the same result for any number of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
R = TypeVar("R")


def in_threads(function: Callable[[T], R], items: Iterable[T], threads: int) -> list[R]:
    """``[function(item) for item in items]`` by so many threads; only what releases the GIL gains from it."""
    if threads <= 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:  # after an error or Ctrl-C nothing is begun any more
            pool.shutdown(wait=False, cancel_futures=True)


def equal_shares(work: npt.NDArray[np.int64], parts: int) -> list[tuple[int, int]]:
    """Consecutive ranges of rows with about the same sum of ``work`` (n,) each; at most ``parts``, none empty."""
    total = np.cumsum(work, dtype=np.float64)
    if not len(total):
        return []
    cuts = np.searchsorted(total, total[-1] * np.arange(1, parts) / parts, side="left") + 1
    edges = np.unique(np.concatenate([[0], cuts.clip(max=len(total)), [len(total)]]))
    return [(int(begin), int(end)) for begin, end in pairwise(edges)]
