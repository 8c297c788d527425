"""The one place that draws: consoles, tables, panels, sizes and times, and the progress of long work.

Results go to stdout, everything about the work (progress, warnings, summaries, errors) to stderr. Colors follow
NO_COLOR and the terminal; a stream that is not a terminal gets plain lines without control characters.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console, RenderableType
from rich.markup import escape

from ssl3d.data.text import size_text as size_text

if TYPE_CHECKING:
    from ssl3d.data.datasets.source import Problem

PLAIN_WIDTH = 120
"""Columns of output that is not a terminal (unless COLUMNS says otherwise): logs and pipes are wider than 80."""

QUIET_SECONDS = 2.0
"""Work quicker than this draws nothing."""

PLAIN_INTERVAL = 10.0
"""Seconds between two progress lines when stderr is not a terminal."""


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    terminal = stream.isatty()
    width = None if terminal or "COLUMNS" in os.environ else PLAIN_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, emoji=False, soft_wrap=False)


def out() -> Console:
    """Where results go (stdout)."""
    return _console(stderr=False)


def err() -> Console:
    """Where progress, warnings and errors go (stderr)."""
    return _console(stderr=True)


# ---------------------------------------------------------------- words


def time_text(seconds: float) -> str:
    """``0.31 -> '0.3 s'``, ``75 -> '1:15'``, ``3725 -> '1:02:05'``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def count_text(value: float) -> str:
    """``1234567 -> '1.23 M'``; below ten thousand in full."""
    if value < 10_000:
        return f"{value:,.0f}"
    for unit, scale in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
        if value < 999.5 * scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e12:.3g} T"


def percent_text(share: float) -> str:
    """``0.0123 -> '1.23%'``; never rounds something to nothing."""
    percent = 100 * share
    if 0 < percent < 0.01:
        return "<0.01%"
    return f"{percent:.3g}%" if percent < 99.95 else f"{percent:.4g}%"


# ---------------------------------------------------------------- tables and panels


Justify = Literal["left", "center", "right"]
_LEFT: Justify = "left"
Column = str | tuple[str, Justify]


def table(columns: Sequence[Column], rows: Sequence[Sequence[object]], *, title: str | None = None) -> RenderableType:
    """A table whose columns are names, or (name, ``left|right|center``). Cells: str (markup allowed) or renderables."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, header_style="bold")
    for place, column in enumerate(columns):
        name, justify = column if isinstance(column, tuple) else (column, _LEFT)
        # where it is narrow, headings and sentences are wrapped, but no figure and no name of a row is broken
        cells = [Text.from_markup(cell).cell_len for row in rows if isinstance(cell := row[place], str)]
        whole = max(cells, default=0) if justify == "right" or place == 0 else 0
        drawn.add_column(name, justify=justify, overflow="fold", min_width=min(whole, 20))
    for row in rows:
        drawn.add_row(*[cell if hasattr(cell, "__rich_console__") else str(cell) for cell in row])
    return drawn


def say(text: str) -> None:
    """One plain line on stderr."""
    err().print(text, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """One warning line on stderr."""
    err().print(f"[yellow]warning[/] {escape(text)}")


def problem(found: Problem) -> None:
    """What is wrong with the user's files, where, and what to do about it."""
    from rich.padding import Padding
    from rich.text import Text

    color = "red" if found.severity == "error" else "yellow"
    paper = out()
    paper.print(Text.assemble((f"{found.severity:8}", color), found.what))
    lines = [f"{name}: {value}" for name, value in found.where.items()]
    if lines:
        paper.print(Padding(Text("\n".join(lines), style="dim", overflow="fold"), (0, 0, 0, 8)))
    if found.hint:
        paper.print(Padding(Text(found.hint, style="cyan"), (0, 0, 0, 8)))


def error_panel(
    what: str,
    *,
    title: str = "error",
    where: Mapping[str, object] | None = None,
    hint: str | None = None,
    then: str | None = None,
) -> None:
    """The one form of an error: what is wrong, where, what to do, and the command that continues."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [Text(what, style="bold")]
    rows = [(name, Text(str(value))) for name, value in (where or {}).items()]
    if hint:
        rows.append(("what to do", Text(hint)))
    if then:
        rows.append(("to continue", Text(then, style="cyan", overflow="fold")))
    if rows:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, value in rows:
            grid.add_row(name, value)
        parts += [Text(), grid]
    console = err()
    console.print(
        Panel(
            Group(*parts),
            title=f"[bold red]{escape(title)}[/]",
            title_align="left",
            border_style="red",
            width=min(console.width, 110),
        )
    )


_show_next = True


@contextmanager
def inside_demo() -> Iterator[None]:
    """While the block lasts, summaries do not say what to type next: the demo types it itself."""
    global _show_next
    _show_next = False
    try:
        yield
    finally:
        _show_next = True


def done(title: str, facts: Mapping[str, object], *, then: Sequence[str] = ()) -> None:
    """The summary after a command: what was made, where, how long, cached or fresh, and what to type next."""
    from rich.text import Text

    console = err()
    console.print(Text.assemble(("done  ", "bold green"), (title, "bold")), soft_wrap=True)
    rows = [(name, line, "") for name, value in facts.items() for line in str(value).splitlines()]
    rows += [("next", command, "cyan") for command in (then if _show_next else ())]
    width = max((len(name) for name, _, _ in rows), default=0)
    before = ""
    for name, line, style in rows:  # whole lines, never folded: paths and commands are there to be copied
        label = "" if name == before else name
        before = name
        console.print(Text.assemble((f"  {label:{width}}  ", "dim"), (line, style)), soft_wrap=True)


# ---------------------------------------------------------------- progress


class _Task:
    """One bar (terminal) or a line every ``PLAIN_INTERVAL`` seconds (elsewhere)."""

    def __init__(self, owner: ConsoleProgress, name: str, total: float | None, unit: str) -> None:
        self.owner, self.name, self.total, self.unit = owner, name, total, unit
        self.done = 0.0
        self.text = ""
        self.started = time.monotonic()
        self.bar: Any = None

    def advance(self, amount: float = 1) -> None:
        self.done += amount
        self.owner.refresh(self)

    def note(self, text: str) -> None:
        self.text = text
        self.owner.refresh(self)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def amount(self) -> str:
        """``12/44 units`` or ``12 units``."""
        plural = "" if self.unit.endswith("s") or (self.done == 1 and not self.total) else "s"
        unit = f" {self.unit}{plural}" if self.unit else ""
        return f"{count_text(self.done)}{f'/{count_text(self.total)}' if self.total else ''}{unit}"

    def remaining(self) -> str:
        """``about 0:53 left``, or nothing while unknown."""
        if not self.total or not 0 < self.done < self.total:
            return ""
        return f"about {time_text(self.elapsed * (self.total - self.done) / self.done)} left"


class ConsoleProgress:
    """Implements ``ssl3d.pipeline.progress.Progress`` on stderr; draws only what takes over ``QUIET_SECONDS``."""

    def __init__(self) -> None:
        self.console = err()
        self._tasks: list[_Task] = []
        self._bars: Any = None
        self._lock = threading.RLock()
        self._stop = threading.Event()

    @contextmanager
    def task(self, name: str, total: float | None, unit: str = "") -> Iterator[_Task]:
        task = _Task(self, name, total, unit)
        with self._lock:
            self._tasks.append(task)
            if len(self._tasks) == 1:
                self._stop = threading.Event()
                watch = threading.Thread(target=self._watch, args=(self._stop,), name="progress", daemon=True)
                watch.start()
        finished = False
        try:
            yield task
            finished = True
        finally:
            with self._lock:
                self._close(task, finished)

    def say(self, text: str) -> None:
        with self._lock:
            self.console.print(text, markup=False, soft_wrap=True)

    def refresh(self, task: _Task) -> None:
        with self._lock:
            if task.bar is not None and self._bars is not None:
                self._bars.update(task.bar, completed=task.done, note=task.text, amount=task.amount())

    def _watch(self, stop: threading.Event) -> None:
        """Draws the tasks that have become long, from a thread, so that one slow unit does not look like a hang."""
        last: dict[int, float] = {}
        while not stop.wait(0.2):
            with self._lock:
                for task in self._tasks if not stop.is_set() else ():
                    if task.elapsed < QUIET_SECONDS:
                        continue
                    if self.console.is_terminal:
                        self._show_bar(task)
                    elif time.monotonic() - last.get(id(task), -PLAIN_INTERVAL) >= PLAIN_INTERVAL:
                        last[id(task)] = time.monotonic()
                        parts = [task.amount(), f"{time_text(task.elapsed)} so far", task.remaining(), task.text]
                        self.console.print(
                            f"{task.name}: {', '.join(filter(None, parts))}", markup=False, soft_wrap=True
                        )

    def _show_bar(self, task: _Task) -> None:
        if task.bar is not None:
            return
        if self._bars is None:
            from rich import progress

            self._bars = progress.Progress(
                progress.TextColumn("{task.description}", markup=False),
                progress.BarColumn(bar_width=24),
                progress.TextColumn("{task.fields[amount]}"),
                progress.TimeElapsedColumn(),
                progress.TextColumn("[dim]left"),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.fields[note]}", style="dim", markup=False),
                console=self.console,
                transient=True,
                refresh_per_second=5,
            )
            self._bars.start()
        shown = task.name if len(task.name) <= 36 else f"{task.name[:16]}...{task.name[-17:]}"
        task.bar = self._bars.add_task(
            shown, total=task.total, completed=task.done, amount=task.amount(), note=task.text
        )
        for drawn in self._bars.tasks:
            if drawn.id == task.bar:  # the bar appears late: its clock starts with the work
                drawn.start_time -= task.elapsed

    def _close(self, task: _Task, finished: bool) -> None:
        self._tasks.remove(task)
        if task.bar is not None:
            self._bars.remove_task(task.bar)
        if not self._tasks:
            self._stop.set()
            if self._bars is not None:
                self._bars.stop()
                self._bars = None
        if task.elapsed >= QUIET_SECONDS:
            state = "" if finished else " (stopped)"
            self.console.print(
                f"{task.name}: {task.amount()} in {time_text(task.elapsed)}{state}", markup=False, soft_wrap=True
            )
