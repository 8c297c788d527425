"""The processes that ``ssl3d bench sparse`` compares, and how: in turns, so that both meet the same machine."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ssl3d.data.errors import Ssl3dError

WORKER = Path(__file__).with_name("rivals") / "worker.py"
TOLERANCE = 1e-3
"""Relative: both sides compute the same numbers, or their times say nothing."""
LEAST_TURNS, MOST_TURNS = 3, 15


class SideError(Ssl3dError):
    """A side could not do its work."""


@dataclass(frozen=True)
class Library:
    """An engine, the Python that has it, and the environment variables that suit it best."""

    engine: str
    python: str
    settings: Mapping[str, str] = field(default_factory=dict)


def thread_settings(threads: int, **others: str) -> dict[str, str]:
    """The same number of threads for every library that has any."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    return {**dict.fromkeys(names, str(threads)), **others}


class Side:
    """A running worker. Use as a context."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [library.python, "-I", str(WORKER), library.engine],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            env={**os.environ, **library.settings},
        )

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process; one that does not end by itself is killed."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._complaints.close()

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """The answer to an order.

        Raises:
            SideError: the side failed, or its process is gone (e.g. for want of memory).
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **more}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            ended = self._process.wait()
            self._complaints.seek(0)
            last = self._complaints.read().decode(errors="replace").strip().splitlines()[-3:]
            raise SideError(
                f"the process of {self.library.engine} ended ({ended}) while it was asked to {do}",
                where={"python": self.library.python, "it said": "\n".join(last) or "nothing"},
            )
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            places = [part.strip() for part in said["traceback"].splitlines() if part.strip().startswith("File ")]
            raise SideError(
                f"{self.library.engine} failed: {said['error']}",
                where={"python": self.library.python, "at": places[-1] if places else "?"},
            )
        return said


@dataclass(frozen=True)
class Compared:
    """Seconds of a turn by turn, of ours and of the rival's (empty without a rival), and what else they said."""

    ours: list[float]
    theirs: list[float]
    peak_mb: tuple[float, float | None]
    sites: int
    pairs: int | None
    difference: float | None

    @property
    def ratio(self) -> float | None:
        """The median of the ratios of neighbouring turns."""
        return float(np.median(self.ratios)) if self.theirs else None

    @property
    def ratios(self) -> list[float]:
        return [theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=False)]


def largest_difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Relative to the largest number; infinite when there are more numbers on one side, or any is not finite."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-12)) if len(a) else 0.0


def turns(seconds: float, pair: float) -> int:
    """How many fit into ``seconds`` when one of both sides takes ``pair``, within limits."""
    return int(np.clip(seconds / max(pair, 1e-6), LEAST_TURNS, MOST_TURNS))


def compare(task: Mapping[str, Any], ours: Side, theirs: Side | None, seconds: float) -> Compared:
    """Takes turns at ``task`` for about ``seconds``, and checks that both computed the same.

    Raises:
        SideError: a side failed, or their results differ.
    """
    sides = [ours] if theirs is None else [ours, theirs]
    loaded = [side.ask("load", task=dict(task)) for side in sides]
    difference = None
    if theirs is not None:
        difference = largest_difference(loaded[0]["check"], loaded[1]["check"])
        if difference > TOLERANCE:
            shown = [", ".join(f"{value:.6g}" for value in said["check"][:4]) for said in loaded]
            raise SideError(
                f"ssl3d and {theirs.library.engine} do not compute the same: their times cannot be compared",
                where={"ssl3d": shown[0], theirs.library.engine: shown[1], "difference": f"{difference:.2g}"},
            )
    pair = sum(said["seconds"] for said in loaded)
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(turns(seconds, pair)):
        for index in range(len(sides)) if turn % 2 == 0 else reversed(range(len(sides))):
            times[index].append(max(sides[index].ask("turn")["seconds"], 1e-6))
    peaks = [side.ask("memory")["peak_mb"] for side in sides]
    return Compared(
        times[0],
        times[1] if theirs is not None else [],
        (peaks[0], peaks[1] if theirs is not None else None),
        loaded[0]["sites"],
        loaded[0].get("pairs"),
        difference,
    )


def native(threads: int) -> Library:
    return Library("native", sys.executable, thread_settings(threads))


__all__ = [
    "Compared",
    "Library",
    "Side",
    "SideError",
    "compare",
    "largest_difference",
    "native",
    "thread_settings",
    "turns",
]
