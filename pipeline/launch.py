"""Whether this process is one of several that ``torchrun`` started, and which. Imports no torch."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

STAND_BY_SECONDS = 10.0
"""How long a process that has nothing to say waits for the one that speaks; ``torchrun`` stops all when one ended."""


@dataclass(frozen=True)
class Launch:
    """This process among those of its training: ``rank`` of ``size``, and ``local_rank`` of ``local_size`` on this
    machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0


def launched() -> Launch:
    """What the environment says; a process that was started alone is the first of one."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    values = [os.environ.get(name, "") for name in names]
    if "MASTER_ADDR" not in os.environ or not all(value.isdigit() for value in values):
        return Launch()
    return Launch(*map(int, values))


def command_words() -> list[str]:
    """How this program was started: ``["ssl3d"]``, or that below ``torchrun``."""
    here = launched()
    if here.size == 1:
        return ["ssl3d"]
    nodes = [f"--nnodes={here.size // here.local_size}"] if here.size > here.local_size else []
    return ["torchrun", *nodes, f"--nproc-per-node={here.local_size}", "-m", "ssl3d.cli"]


def stand_by(seconds: float = STAND_BY_SECONDS) -> None:
    """Waits a little, so that the process which speaks can finish its sentence before all are stopped."""
    _on_request_to_stop(signal.SIG_DFL)
    time.sleep(seconds)


def finish_sentence() -> None:
    """For the process that speaks, and ends then: ``torchrun`` stops it as soon as another process is gone."""
    _on_request_to_stop(signal.SIG_IGN)


def leave(code: int) -> NoReturn:
    """Ends this process. One of several does without the interpreter's teardown: a thread of the process group that
    lets go of a tensor only then finds no interpreter any more and aborts, after all the work was done."""
    if launched().size == 1:
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _on_request_to_stop(handler: signal.Handlers) -> None:
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, handler)


__all__ = ["Launch", "command_words", "finish_sentence", "launched", "leave", "stand_by"]
