"""How long-running work tells what it is doing. The command line draws it; libraries and tests pass ``Silent()``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol


class Task(Protocol):
    def advance(self, amount: float = 1) -> None: ...
    def note(self, text: str) -> None: ...


class Progress(Protocol):
    """``with progress.task("prepare", total=44, unit="unit") as task: task.advance()``"""

    def task(self, name: str, total: float | None, unit: str = "") -> AbstractContextManager[Task]: ...
    def say(self, text: str) -> None:
        """One line that stays (a warning, a rebuilt file), above the bars."""


class _SilentTask:
    def advance(self, amount: float = 1) -> None: ...
    def note(self, text: str) -> None: ...


class Silent:
    """Draws nothing."""

    @contextmanager
    def task(self, name: str, total: float | None, unit: str = "") -> Iterator[Task]:
        yield _SilentTask()

    def say(self, text: str) -> None: ...


_inside: ContextVar[Callable[[float], None] | None] = ContextVar("inside", default=None)


@contextmanager
def listening(advance: Callable[[float], None]) -> Iterator[None]:
    """In the block, ``advance`` hears of work inside of units (``step_inside``) that run in this very process."""
    token = _inside.set(advance)
    try:
        yield
    finally:
        _inside.reset(token)


def step_inside(amount: float = 1) -> None:
    """Called by a long unit for each of its parts; nobody need listen."""
    if (advance := _inside.get()) is not None:
        advance(amount)
