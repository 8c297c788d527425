"""What is logged: JSON Lines for programs, TensorBoard for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from ssl3d.pipeline.files import writing

if TYPE_CHECKING:
    from ssl3d.models.methods.base import Method
    from ssl3d.pipeline.training.distributed import Team

FEW, MOST = 0.01, 0.9
"""Less of the unlabelled points, or more of one class, is worth a warning."""


class Window:
    """Sums since the last line of the log. Part of the checkpoint, so that a resumed run logs the same numbers."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.clear()

    def clear(self) -> None:
        self.losses: dict[str, tuple[float, int]] = {}
        self.confusion = np.zeros((self.num_classes, self.num_classes), np.int64)
        self.pseudo = np.zeros(self.num_classes + 1, np.int64)
        self.measured: npt.NDArray[np.float64] | None = None
        """(2, K) sums and counts, see ``Measures.take``; None: the method measures nothing."""

    def take(self, method: Method, team: Team) -> None:
        """Adds what the method has counted, in all processes, since it was asked last."""
        self.confusion += team.sum(method.live.take())
        self.pseudo += team.sum(method.pseudo.take())
        if method.class_measures or method.mean_measures:
            taken = team.sum(method.measures.take())
            self.measured = taken if self.measured is None else self.measured + taken

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
            "pseudo": torch.from_numpy(self.pseudo.copy()),
            "measured": None if self.measured is None else torch.from_numpy(self.measured.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses = {name: (float(total), int(count)) for name, (total, count) in state["losses"].items()}
        self.confusion = state["confusion"].numpy().copy()
        self.pseudo = state["pseudo"].numpy().copy()
        measured = state.get("measured")
        self.measured = None if measured is None else measured.numpy().copy()

    def pseudo_labels(self) -> dict[str, Any] | None:
        """Of the unlabelled elements of the window: the share that was used (``share``), and the shares of the classes
        among those (``classes``), beside the shares of the classes among visible labels (``visible``). None when the
        method counts none."""
        if not self.pseudo[-1]:
            return None
        used, visible = self.pseudo[:-1], self.confusion.sum(1)
        return {
            "share": float(used.sum() / self.pseudo[-1]),
            "classes": [round(float(value), 5) for value in used / max(1, used.sum())],
            "visible": [round(float(value), 5) for value in visible / max(1, visible.sum())],
        }


def visible_miou(confusion: npt.NDArray[np.int64]) -> float | None:
    """Mean IoU in percent over the classes with a visible label in ``confusion`` (C, C), rows = target."""
    truth, found, hits = confusion.sum(1), confusion.sum(0), np.diag(confusion)
    present = truth > 0
    if not present.any():
        return None
    return float(100 * np.mean(hits[present] / (truth + found - hits)[present]))


def pseudo_label_warning(pseudo: dict[str, Any], classes: Sequence[str]) -> str:
    """What is suspicious about ``Window.pseudo_labels``; empty when nothing is."""
    if pseudo["share"] < FEW:
        return f"only {100 * pseudo['share']:.2g}% of the unlabelled points are used: are thresholds too high?"
    most = max(pseudo["classes"])
    if most > MOST:
        name = classes[pseudo["classes"].index(most)]
        return f"{100 * most:.0f}% of the pseudo labels are '{name}': the method may be collapsing onto one class"
    return ""


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
            if pseudo := line.get("pseudo_labels"):
                self._scalar("pseudo labels/share used", pseudo["share"], line["step"])
            for name, value in line.get("measures", {}).get("means", {}).items():
                if value is not None:
                    self._scalar(f"measures/{name}", value, line["step"])

    def _scalar(self, tag: str, value: float, step: int) -> None:
        self.board.add_scalar(tag, value, step)

    def close(self) -> None:
        with writing(self.folder):
            self.file.close()
            self.board.close()


class NoLog:
    """Of the processes that train together, one writes the log."""

    def write(self, line: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


__all__ = ["MetricsLog", "NoLog", "Window", "pseudo_label_warning", "visible_miou"]
