"""What training tells while it runs. The command line draws it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

SECTIONS = ("data", "to_device", "forward", "backward", "optimizer", "other")
"""Where the time of a step goes: waiting for the batch, copying it, the method's losses, their gradients, clipping and
the optimizer's step, and the rest (after_step, logging, checkpoints)."""


@dataclass(frozen=True, slots=True)
class TrainStatus:
    """One moment of a run.

    Attributes:
        step: steps done, of ``steps``.
        losses: mean over the steps since the last line of the log.
        visible_miou: percent, "mIoU on visible labels (training)": on augmented scans, by the network in training mode,
            over the classes that the window holds. None until the first window is full.
        eta_s: seconds left, None before the first step.
        memory_mb: resident memory of the main process; ``gpu_memory_mb`` is the peak on the GPU, None on the CPU.
        time_share: section -> share of the wall time of this session, sums to 1.
    """

    run: str
    phase: str
    step: int
    steps: int
    lr: float
    losses: dict[str, float] = field(default_factory=dict)
    visible_miou: float | None = None
    scans_per_s: float = 0.0
    eta_s: float | None = None
    memory_mb: float = 0.0
    gpu_memory_mb: float | None = None
    time_share: dict[str, float] = field(default_factory=dict)


class TrainDisplay(Protocol):
    """Called after every step, in the training process; it should return at once."""

    def update(self, status: TrainStatus) -> None: ...


class NullDisplay:
    """Draws nothing."""

    def update(self, status: TrainStatus) -> None: ...


__all__ = ["SECTIONS", "NullDisplay", "TrainDisplay", "TrainStatus"]
