"""Where the time and the memory of training go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from ssl3d.pipeline.training.status import SECTIONS


class StepClock:
    """Cuts the wall time into sections.

    On CUDA the cuts are events on the stream, read later: the host runs ahead of the GPU, so its own clock would
    charge all work to whichever line waits. What no section covers is ``other``.

    Args:
        device: where the work runs.
        before: seconds per section of earlier sessions of the run.
    """

    def __init__(self, device: torch.device, before: dict[str, float] | None = None) -> None:
        self.device, self.cuda = device, device.type == "cuda"
        self.seconds = dict.fromkeys(SECTIONS, 0.0) | (before or {})
        self._earlier = dict(self.seconds)
        self._pending: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self.start()

    def start(self) -> None:
        """This session begins now."""
        self._start = time.perf_counter()

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        if self.cuda:
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            stream = torch.cuda.current_stream(self.device)  # not that of the current device: it may be another GPU
            first.record(stream)
            yield
            last.record(stream)
            self._pending.append((name, first, last))
            return
        begun = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - begun

    @property
    def session_seconds(self) -> float:
        """Wall time since this session began."""
        return time.perf_counter() - self._start

    @property
    def total_seconds(self) -> float:
        """Wall time of all sessions."""
        return sum(self._earlier.values()) + self.session_seconds

    def read(self) -> dict[str, float]:
        """Seconds per section over all sessions; they sum to ``total_seconds``."""
        if self._pending:
            torch.cuda.synchronize(self.device)
            for name, first, last in self._pending:
                self.seconds[name] += first.elapsed_time(last) / 1000
            self._pending.clear()
        measured = sum(value for name, value in self.seconds.items() if name != "other")
        self.seconds["other"] = max(0.0, self.total_seconds - measured)
        return dict(self.seconds)

    def share(self) -> dict[str, float]:
        """Section -> share of the wall time of this session."""
        spent = {name: value - self._earlier[name] for name, value in self.read().items()}
        whole = sum(spent.values()) or 1.0
        return {name: value / whole for name, value in spent.items()}


class Memory:
    """Resident memory of this process and its peak, and the peak on the GPU; in MB (10^6 bytes)."""

    def __init__(self, device: torch.device, peak: float = 0.0) -> None:
        self.device = device
        self.peak = peak
        self._process = psutil.Process()

    def resident(self) -> float:
        now = self._process.memory_info().rss / 1e6
        self.peak = max(self.peak, now)
        return now

    def gpu_peak(self) -> float | None:
        return torch.cuda.max_memory_allocated(self.device) / 1e6 if self.device.type == "cuda" else None


__all__ = ["Memory", "StepClock"]
