"""The rows of ``ssl3d bench sparse``, and about how long each takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ssl3d.benchmarks.sparse_sides import turns

SIZES = (0.05, 0.1)
BATCHES = (1, 4)
OPERATORS = ("conv3", "down2", "up2", "conv1", "maxpool2")
CHANNELS = ((16, 1), (32, 1), (32, 2), (64, 4), (96, 1), (96, 2), (128, 4), (128, 8), (256, 8), (256, 16))
"""Channels, and a tensor stride at which a MinkUNet has so many (16: of narrow ones)."""

_PER_VOXEL = {"MinkUNet18": 1.17e-4, "MinkUNet34": 1.54e-4, "": 2.5e-5}
"""Seconds of a training step of MinkowskiEngine 0.5.4 a voxel, and of its maps, on two cores: only for telling how long
it takes."""
_OURS = 0.45
"""Our share of that."""
_INFER = 0.38
"""Of a step: a pass without gradients."""
_WARM = {"step": 2.5, "infer": 2.0, "maps": 3.0}
"""Turns of each side before those that count; the first step compiles, and asks the system for its memory."""
_START = 8.0
"""Of the processes."""


@dataclass(frozen=True)
class Measurement:
    """What both sides do in turns.

    Attributes:
        kind: ``step``, ``infer``, ``maps`` or ``operator``.
        rival: ``minkowski`` or ``spconv``.
        network: its name in rows, of a step or an inference.
        size: edge of voxels in meters.
        scans: ``real``, or empty for generated ones.
        details: of an operator.
    """

    name: str
    kind: str
    rival: str
    network: str = ""
    size: float = 0.05
    batch: int = 1
    scans: str = ""
    details: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def names(self) -> list[str]:
        """Of its rows."""
        return [self.name, "memory" + self.name.removeprefix("step")] if self.kind == "step" else [self.name]

    @property
    def group(self) -> str:
        """Measurements of one group share their processes: quick ones, whose memory is not reported."""
        return f"{self.kind} {self.size} {self.scans}" if self.kind == "operator" else self.name

    def estimate(self, voxels: int, seconds: float, rival: bool) -> float:
        """Seconds, with its start; ``seconds``: what turns may take in all."""
        if self.kind == "operator":
            return seconds + 1
        share = _INFER if self.kind == "infer" else 1.0
        both = voxels * _PER_VOXEL[self.network] * share * (_OURS + (1 if rival else 0))
        return _START + both * (_WARM[self.kind] + turns(seconds, both))


def measurements(quick: bool, real: int) -> list[Measurement]:
    """All of them, in the order of the table. ``real``: how many recordings there are (4 make a batch)."""
    if quick:
        return _quick()
    found: list[Measurement] = []
    kinds = [("", 4), *([("real", real)] if real else [])]
    for network in ("MinkUNet18", "MinkUNet34"):
        for scans, count in kinds:
            for size in SIZES:
                for batch in BATCHES:
                    if batch <= count:
                        name = _name(f"step {network}", size, batch, scans)
                        found.append(Measurement(name, "step", "minkowski", network, size, batch, scans))
    for scans, _ in kinds:
        name = _name("infer MinkUNet34", 0.05, 1, scans)
        found.append(Measurement(name, "infer", "minkowski", "MinkUNet34", 0.05, 1, scans))
        found.append(Measurement(f"{name} vs spconv", "infer", "spconv", "MinkUNet34", 0.05, 1, scans))
    for scans, count in kinds:
        for size in SIZES:
            for batch in BATCHES:
                if batch <= count:
                    name = _name("maps MinkUNet", size, batch, scans)
                    found.append(Measurement(name, "maps", "minkowski", "", size, batch, scans))
    return [*found, *_operators(0.05, OPERATORS, CHANNELS)]


def _quick() -> list[Measurement]:
    return [
        Measurement("step MinkUNet18 0.4m b1", "step", "minkowski", "MinkUNet18", 0.4),
        Measurement("maps MinkUNet 0.2m b1", "maps", "minkowski", "", 0.2),
        *_operators(0.2, ("conv3", "down2"), ((32, 1), (128, 4))),
    ]


def _name(what: str, size: float, batch: int, scans: str) -> str:
    return f"{what} {size:g}m b{batch}" + (f" {scans}" if scans else "")


def _operators(size: float, operators: tuple[str, ...], channels: tuple[tuple[int, int], ...]) -> list[Measurement]:
    return [
        Measurement(
            f"op {operator} {width}ch stride{stride} {'forward+backward' if backward else 'forward'}"
            + (f" {size:g}m" if size != SIZES[0] else ""),
            "operator",
            "minkowski",
            size=size,
            details={"operator": operator, "channels": width, "stride": stride, "backward": backward},
        )
        for operator in operators
        for width, stride in channels
        for backward in (False, True)
    ]
