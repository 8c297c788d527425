"""What is logged: JSON Lines for programs, TensorBoard for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ssl3d.pipeline.files import writing


class Window:
    """Sums since the last line of the log. Part of the checkpoint, so that a resumed run logs the same numbers."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.clear()

    def clear(self) -> None:
        self.losses: dict[str, tuple[float, int]] = {}
        self.confusion = np.zeros((self.num_classes, self.num_classes), np.int64)

    def add(self, losses: dict[str, float]) -> None:
        for name, value in losses.items():
            total, count = self.losses.get(name, (0.0, 0))
            self.losses[name] = (total + value, count + 1)

    def means(self) -> dict[str, float]:
        return {name: total / count for name, (total, count) in self.losses.items()}

    def visible_miou(self) -> float | None:
        return visible_miou(self.confusion)

    def state_dict(self) -> dict[str, Any]:
        return {
            "losses": {name: list(pair) for name, pair in self.losses.items()},
            "confusion": torch.from_numpy(self.confusion.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses = {name: (float(total), int(count)) for name, (total, count) in state["losses"].items()}
        self.confusion = state["confusion"].numpy().copy()


def visible_miou(confusion: npt.NDArray[np.int64]) -> float | None:
    """Mean IoU in percent over the classes with a visible label in ``confusion`` (C, C), rows = target."""
    truth, found, hits = confusion.sum(1), confusion.sum(0), np.diag(confusion)
    present = truth > 0
    if not present.any():
        return None
    return float(100 * np.mean(hits[present] / (truth + found - hits)[present]))


class MetricsLog:
    """Appends to ``metrics.jsonl`` and to TensorBoard's events in ``tb``; goes on after step ``step``."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.folder = folder
        with writing(folder):
            self.file = (folder / "metrics.jsonl").open("a", encoding="utf-8")
            # purge_step also at the beginning: a run may have been killed before its first checkpoint
            self.board = SummaryWriter(str(folder / "tb"), purge_step=step + 1, max_queue=100, flush_secs=30)

    def write(self, line: dict[str, Any]) -> None:
        with writing(self.folder):
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
            for name, value in line["losses"].items():
                self._scalar(f"loss/{name}", value, line["step"])
            for name in ("lr", "visible_miou", "scans_per_s", "memory_mb"):
                if line[name] is not None:
                    label = "mIoU on visible labels (training)" if name == "visible_miou" else name
                    self._scalar(f"training/{label}", line[name], line["step"])

    def _scalar(self, tag: str, value: float, step: int) -> None:
        self.board.add_scalar(tag, value, step)

    def close(self) -> None:
        with writing(self.folder):
            self.file.close()
            self.board.close()


__all__ = ["MetricsLog", "Window", "visible_miou"]
