"""The live view of a training run: a few lines that redraw on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ssl3d.cli.console import PLAIN_INTERVAL, QUIET_SECONDS, ConsoleProgress, size_text, time_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ssl3d.pipeline.training.status import TrainStatus

_BARS = "▁▂▃▄▅▆▇█"
_KEPT = 512
"""Losses kept for the curve; when there are more, every second one goes."""


def sparkline(values: Sequence[float], width: int) -> str:
    """``values`` as ``width`` block characters, from their lowest to their highest. Empty for fewer than two."""
    finite = [value for value in values if value == value and abs(value) != float("inf")]
    if len(finite) < 2 or width < 1:
        return ""
    low, high = min(finite), max(finite)
    span = (high - low) or 1.0
    columns = min(width, len(finite))
    cells = []
    for column in range(columns):
        part = finite[column * len(finite) // columns : max((column + 1) * len(finite) // columns, 1)]
        mean = sum(part) / len(part)
        cells.append(_BARS[min(len(_BARS) - 1, int((mean - low) / span * len(_BARS)))])
    return "".join(cells)


class TrainingView:
    """Implements ``ssl3d.pipeline.training.status.TrainDisplay``. Use it as a context manager around the training.

    Args:
        progress: the progress of the same command, so that both share one console.
    """

    def __init__(self, progress: ConsoleProgress) -> None:
        self.console = progress.console
        self.last: TrainStatus | None = None
        self.history: list[float] = []
        self.begun = time.monotonic()
        self._stride = 1
        self._seen = 0
        self._printed: float | None = None
        self._shown: int | None = None
        self._live: Any = None

    def __enter__(self) -> TrainingView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update(self.draw(), refresh=True)
            self._live.stop()
            self._live = None
        elif self.last is not None and self._shown not in (None, self.last.step):
            self.console.print(plain_line(self.last, self.elapsed), markup=False, soft_wrap=True)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.begun

    def update(self, status: TrainStatus) -> None:
        """Called after every step; draws at most a few times a second, from rich's own thread."""
        if self.last is None:
            self.begun = time.monotonic()
        self.last = status
        self._remember(sum(status.losses.values()) if status.losses else None)
        if self.elapsed < QUIET_SECONDS:
            return
        if self.console.is_terminal:
            if self._live is None:
                from rich.live import Live

                self._live = Live(get_renderable=self.draw, console=self.console, refresh_per_second=4)
                self._live.start()
        elif self._printed is None or time.monotonic() - self._printed >= PLAIN_INTERVAL:
            self._printed, self._shown = time.monotonic(), status.step
            self.console.print(plain_line(status, self.elapsed), markup=False, soft_wrap=True)

    def _remember(self, loss: float | None) -> None:
        if loss is None:
            return
        self._seen += 1
        if self._seen % self._stride:
            return
        self.history.append(loss)
        if len(self.history) > _KEPT:
            self.history = self.history[::2]
            self._stride *= 2

    def draw(self) -> RenderableType:
        """The live view of the last status."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        status = self.last
        if status is None:
            return Text("")
        head = Table.grid(padding=(0, 1))
        left = f"about {time_text(status.eta_s)} left" if status.eta_s else ""
        head.add_row(
            Text(status.phase, style="bold"),
            ProgressBar(total=status.steps, completed=status.step, width=32),
            f"{status.step}/{status.steps} steps",
            time_text(self.elapsed),
            Text(left, style="cyan"),
        )
        body = Table.grid(padding=(0, 2))
        body.add_column(style="dim", no_wrap=True)
        body.add_column()
        curve = sparkline(self.history, 32)
        body.add_row("loss", Text.assemble(_losses(status.losses), ("  " + curve if curve else "", "magenta")))
        miou = "-" if status.visible_miou is None else f"{status.visible_miou:.1f}%"
        body.add_row("mIoU", f"{miou} on visible labels")
        body.add_row("speed", f"{status.scans_per_s:.1f} scans/s, learning rate {status.lr:.2g}")
        body.add_row("memory", _memory(status))
        body.add_row("time", _shares(status.time_share))
        return Group(Text(status.run, style="dim", overflow="ellipsis", no_wrap=True), head, body)


def plain_line(status: TrainStatus, elapsed: float) -> str:
    """One line for a log."""
    parts = [f"step {status.step}/{status.steps}", f"loss {_losses(status.losses)}"]
    if status.visible_miou is not None:
        parts.append(f"mIoU on visible labels {status.visible_miou:.1f}%")
    parts += [f"{status.scans_per_s:.1f} scans/s", _memory(status), f"{time_text(elapsed)} so far"]
    if status.eta_s:
        parts.append(f"about {time_text(status.eta_s)} left")
    return ", ".join(parts)


def _losses(losses: Mapping[str, float]) -> str:
    if not losses:
        return "-"
    if len(losses) == 1:
        name, value = next(iter(losses.items()))
        return f"{name} {value:.3f}"
    parts = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
    return f"{sum(losses.values()):.3f} ({parts})"


def _memory(status: TrainStatus) -> str:
    gpu = "" if status.gpu_memory_mb is None else f", GPU {size_text(status.gpu_memory_mb * 1e6)}"
    return f"{size_text(status.memory_mb * 1e6)}{gpu}"


def _shares(shares: Mapping[str, float]) -> str:
    shown = [f"{name.replace('_', ' ')} {100 * share:.0f}%" for name, share in shares.items() if share >= 0.005]
    return ", ".join(shown) or "-"
