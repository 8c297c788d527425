"""A small network and small scans for ``test_gpc.py``; and what two processes compute there, against one.

``python gpc_cases.py RANK FOLDER`` is one of the two.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssl3d.data.scan import IGNORE, View
from ssl3d.models import distributed as d
from ssl3d.models.backbones.base import Backbone, Inputs, InputSpec, Levels, Segmenter, collate_points
from ssl3d.models.elements import ElementMap
from ssl3d.models.methods.base import Progress
from ssl3d.models.methods.gpc import GPC, GUIDED, BankParams, GPCParams, hard_targets

CLASSES = 3
NOW = Progress(10, 20, phase=GUIDED)


@dataclass(slots=True, kw_only=True)
class CellInputs(Inputs):
    features: Tensor


class CellSpec(InputSpec):
    """Elements are cells of edge 1 with the mean of their coordinates; above a height of 2 there are none."""

    def prepare(self, views: Sequence[View]) -> CellInputs:
        shared = collate_points(views)
        xyz = np.concatenate([view.points for view in views]).astype(np.float64)
        batch = np.repeat(np.arange(len(views)), [len(view) for view in views])
        cells = np.concatenate([batch[:, None], np.floor(xyz)], 1)
        kept = xyz[:, 2] <= 2
        unique, inverse = np.unique(cells[kept], axis=0, return_inverse=True)
        index = np.full(len(xyz), -1)
        index[kept] = inverse.reshape(-1)
        elements = ElementMap(torch.from_numpy(index), len(unique))
        return CellInputs(elements=elements, features=elements.reduce(torch.from_numpy(xyz), "mean"), **shared)

    def labels(self, inputs: Inputs, y: Tensor) -> Tensor:
        return inputs.elements.reduce(y, "majority", ignore=IGNORE)


class Coordinates(Backbone):
    """Features are the coordinates of the elements, and so are the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = 3
        self.input_spec = CellSpec()

    def forward(self, inputs: Any) -> Levels:
        return Levels(inputs.features, {})

    def head(self, num_classes: int) -> nn.Module:
        layer = nn.Linear(3, num_classes, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.eye(num_classes, 3))
        return layer


def method(num_classes: int = CLASSES, bank: dict[str, Any] | None = None, **params: Any) -> GPC:
    torch.manual_seed(0)
    made = GPC(
        GPCParams(**{"embedding": 4, "conf_thresh": 0.6, **params}, bank=BankParams(**{"slots": 6, **(bank or {})})),
        lambda: Segmenter(Coordinates(), num_classes),
        num_classes,
    )
    return made.double()


def scan(count: int, number: int, seed: int = 0, spread: float = 2.5) -> View:
    rng = np.random.default_rng([number, seed])
    rows = np.stack([np.full(count, number), rng.permutation(count)], 1)
    points = rng.normal(0, spread, (count, 3)).astype(np.float32)
    return View(points, {}, rows, np.full(count, IGNORE, np.uint8))


def pair(view: View, seed: int = 0) -> list[View]:
    """Two parts that overlap, each in another order, slightly moved."""
    rng = np.random.default_rng(seed)
    count, parts = len(view), []
    for part in (np.arange(0, 3 * count // 4), np.arange(count // 4, count)):
        crop = view.select(rng.permutation(part))
        parts.append(crop.moved(crop.points + rng.normal(0, 0.3, crop.points.shape).astype(np.float32)))
    return parts


def labelled(view: View, share: float = 0.5) -> View:
    rng = np.random.default_rng(len(view))
    view.label[rng.random(len(view)) < share] = rng.integers(0, CLASSES)
    return view


def batch_of(views: Sequence[View], crops: Sequence[View]) -> dict[str, Inputs]:
    spec = CellSpec()
    return {"labelled": spec.prepare(views), "crops": spec.prepare(crops)}


# ---------------------------------------------------------------- two processes

SCANS = [(40, 0), (25, 1), (33, 2), (60, 3)]
CUT = 1
"""Unequally many scans: the first process has one of four."""
EVERYTHING = {"num_pos": 10_000, "num_neg": 10_000}
SETTINGS: dict[str, dict[str, Any]] = {
    "bank": {},
    "small and masked": {"bank": {"slots": 200, "mask_unwritten": True, "enqueue": 500}},
    "no bank": {"bank": {"enabled": False}},
    "no bank, uniform": {"bank": {"enabled": False}, "balanced_negatives": False},
    "uniform": {"balanced_negatives": False, "balanced_positives": False},
    "nothing is sure": {"conf_thresh": 1.0},
    "hard": {"hard_point_ce": 0.9, "ce_class_weights": (1.0, 2.0, 0.5)},
    "everything": {"conf_guidance": False, "pseudo_guidance": False, "stopgrad_positive": False},
}


def shared(items: Sequence[Any]) -> Sequence[Any]:
    if d.world_size() == 1:
        return items
    return items[:CUT] if d.rank() == 0 else items[CUT:]


def train(settings: dict[str, Any]) -> dict[str, Tensor]:
    """Two steps."""
    made = method(**{**EVERYTHING, "prepare_iter": 0, **settings})
    out: dict[str, Tensor] = {}
    for step in range(2):
        scans = [scan(count, number, step) for count, number in SCANS]
        crops = [crop for view in shared(scans) for crop in pair(view, step)]
        batch = batch_of([labelled(scan(count, number + 7, step)) for count, number in shared(SCANS)], crops)
        batch["crops"].features.requires_grad_()
        (losses,) = made.step(batch, NOW)
        made.zero_grad()
        sum(losses.values()).backward()  # type: ignore[union-attr]
        out |= {f"sum {name} {step}": loss.detach() for name, loss in losses.items()}
        out |= {f"rows features {step}": batch["crops"].features.grad}
        out |= {f"sum d{name} {step}": p.grad for name, p in made.named_parameters()}
        out |= {f"same {name} {step}": value.clone() for name, value in made.named_buffers()}
    return out


def hard() -> dict[str, Tensor]:
    sure, unsure = [9.0, 0.0, 0.0], [1.0, 0.0, 0.0]
    logits = [torch.tensor([sure, sure, unsure]), torch.tensor([sure, unsure, sure, sure])]
    targets = {
        "some": ([0, IGNORE, 1], [IGNORE, 2, 1, 0]),
        "none hard": ([IGNORE, 0, IGNORE], [1, IGNORE, 2, 1]),
        "none hard, none in the first": ([IGNORE, IGNORE, IGNORE], [IGNORE, IGNORE, 2, 1]),
        "no label": ([IGNORE] * 3, [IGNORE] * 4),
    }
    mine = range(2) if d.world_size() == 1 else [d.rank()]
    return {
        f"rows {name}": hard_targets(
            torch.cat([logits[i] for i in mine]), torch.cat([torch.tensor(target[i]) for i in mine]), 0.9
        )
        for name, target in targets.items()
    }


def run_all() -> dict[str, dict[str, Tensor]]:
    return {**{name: train(settings) for name, settings in SETTINGS.items()}, "hard targets": hard()}


def drawn_bank() -> dict[str, Tensor]:
    """The bank after three steps with scans and random numbers of one's own."""
    made = method(num_pos=30, num_neg=30, bank={"slots": 40, "enqueue": 5})
    torch.manual_seed(d.rank())
    for step in range(3):
        made._contrast(CellSpec().prepare(pair(scan(90, d.rank(), step)))).backward()
    return dict(made.named_buffers())


if __name__ == "__main__":
    number, folder = int(sys.argv[1]), Path(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2)
    found = run_all()
    torch.save({"found": found, "bank": drawn_bank()}, folder / f"{number}.pt")
    dist.destroy_process_group()
