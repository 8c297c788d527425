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


class Inside:
    """Steps inside of one unit at a time: passed on, and counted, so that the unit's own weight is not counted twice.

    Args:
        advance: of the task.
    """

    def __init__(self, advance: Callable[[float], None]) -> None:
        self._advance, self._done = advance, 0.0

    def step(self, amount: float) -> None:
        self._done += amount
        self._advance(amount)

    def rest(self, weight: float) -> float:
        """What is left of a unit that has ended; the next one begins."""
        left, self._done = max(0.0, weight - self._done), 0.0
        return left


_inside: ContextVar[Inside | None] = ContextVar("inside", default=None)


@contextmanager
def listening(inside: Inside) -> Iterator[None]:
    """In the block, ``inside`` hears ``step_inside`` of units that run in this very process (one after the other)."""
    token = _inside.set(inside)
    try:
        yield
    finally:
        _inside.reset(token)


def step_inside(amount: float = 1) -> None:
    """Called by a long unit for each of its parts; nobody need listen."""
    if (inside := _inside.get()) is not None:
        inside.step(amount)
