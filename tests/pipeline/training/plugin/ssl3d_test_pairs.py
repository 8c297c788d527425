"""Methods in miniature that bring the points of several views together, and one of two networks."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from ssl3d_test_trace import note
from torch import Tensor, nn
from torch.nn import functional as F

from ssl3d.data.augment import Augmentation
from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.base import Segmenter
from ssl3d.models.config import Params
from ssl3d.models.ema import freeze, keep_rate
from ssl3d.models.losses.consistency import consistency
from ssl3d.models.losses.cross_entropy import cross_entropy
from ssl3d.models.methods.base import Batch, Method, Progress
from ssl3d.models.rows import lookup_rows, match_points


class NoParams(Params):
    """None."""


class OneNetwork(Method):
    """The parts that the methods here share."""

    Params = NoParams

    def __init__(self, params: Any, make_segmenter: Any, num_classes: int) -> None:
        super().__init__(params, make_segmenter, num_classes)
        self.segmenter: Segmenter = make_segmenter()

    def supervised(self, batch: Batch) -> Tensor:
        inputs = batch["labelled"]
        logits = self.segmenter(inputs).logits
        target = self.segmenter.backbone.labels(inputs, inputs.label)
        self.live.add(logits, target)
        return cross_entropy(logits, target)

    def predictor(self) -> Segmenter:
        return self.segmenter


class MixedParams(Params):
    height: float = Field(6.0, description="meters; the labelled scan below, the unlabelled one above")


class Mixed(OneNetwork):
    """LaserMix's way: scans are mixed in a worker, their labels filled from the teacher within the step."""

    name = "mixed"
    Params = MixedParams

    def __init__(self, params: Any, make_segmenter: Any, num_classes: int) -> None:
        super().__init__(params, make_segmenter, num_classes)
        self.teacher = copy.deepcopy(self.segmenter)
        freeze(self.teacher)

    @classmethod
    def views(
        cls,
        params: Any,
        labelled: Sequence[View],
        unlabelled: Sequence[View],
        augment: Augmentation,
        rng: np.random.Generator,
        phase: int = 0,
    ) -> dict[str, list[View]]:
        mixed = [
            joined(a.select(a.points[:, 2] < params.height), b.select(b.points[:, 2] >= params.height))
            for a, b in zip(labelled, unlabelled, strict=True)
        ]
        groups = {"labelled": labelled, "unlabelled": unlabelled, "mixed": mixed}
        return {name: [augment(view, rng) for view in views] for name, views in groups.items()}

    def step(self, batch: Batch, progress: Progress) -> Iterator[dict[str, Tensor]]:
        mixed, unlabelled = batch["mixed"], batch["unlabelled"]
        with torch.no_grad():
            predicted = self.teacher(unlabelled).logits.argmax(1)
        pseudo = unlabelled.elements.gather(predicted, fill=IGNORE)
        found = lookup_rows(mixed.rows, unlabelled.rows)
        label = torch.where((mixed.label == IGNORE) & (found >= 0), pseudo[found], mixed.label)
        note(
            rows=mixed.rows,
            offsets=mixed.view_offsets,
            visible=mixed.label,
            label=label,
            teacher_rows=unlabelled.rows,
            teacher_label=pseudo,
        )
        target = self.segmenter.backbone.labels(mixed, label)
        yield {"ce": self.supervised(batch), "mixed": cross_entropy(self.segmenter(mixed).logits, target)}

    def ema_pairs(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        return [(self.teacher, self.segmenter)]

    def ema_keep(self, progress: Progress) -> float:
        return keep_rate(0.9, progress.total_step)


def joined(*views: View) -> View:
    """One view of the points of several."""
    return View(
        points=np.concatenate([view.points for view in views]),
        features={name: np.concatenate([view.features[name] for view in views]) for name in views[0].features},
        rows=np.concatenate([view.rows for view in views]),
        label=np.concatenate([view.label for view in views]),
        scan={"scan_id": "+".join(str(view.scan["scan_id"]) for view in views)},
    )


class Crops(OneNetwork):
    """GPC's way: two crops of a scan that overlap. The first labelled scan is in the batch a second time."""

    name = "crops"

    @classmethod
    def views(
        cls,
        params: Any,
        labelled: Sequence[View],
        unlabelled: Sequence[View],
        augment: Augmentation,
        rng: np.random.Generator,
        phase: int = 0,
    ) -> dict[str, list[View]]:
        scans = [*labelled, *unlabelled, labelled[0]]
        left = [shuffled(view.select(view.points[:, 0] < rng.uniform(2, 8)), rng) for view in scans]
        right = [shuffled(view.select(view.points[:, 0] > rng.uniform(-8, -2)), rng) for view in scans]
        return {
            "labelled": [augment(view, rng) for view in labelled],
            "left": [augment(view, rng) for view in left],
            "right": [augment(view, rng) for view in right],
        }

    def step(self, batch: Batch, progress: Progress) -> Iterator[dict[str, Tensor]]:
        left, right = batch["left"], batch["right"]
        mine, theirs = match_points(left, right)
        note(
            left=left.rows,
            right=right.rows,
            left_offsets=left.view_offsets,
            right_offsets=right.view_offsets,
            mine=mine,
            theirs=theirs,
        )
        one = left.elements.gather(self.segmenter(left).logits)[mine]
        two = right.elements.gather(self.segmenter(right).logits)[theirs]
        yield {"ce": self.supervised(batch), "agree": consistency(one, two.softmax(1))}


def shuffled(view: View, rng: np.random.Generator) -> View:
    return view.select(rng.permutation(len(view)))


class Regions(OneNetwork):
    """WS3D's way: two augmentations of one crop, compared region by region; a stage has made the regions."""

    name = "regional"
    needs = ("regions",)

    @classmethod
    def views(
        cls,
        params: Any,
        labelled: Sequence[View],
        unlabelled: Sequence[View],
        augment: Augmentation,
        rng: np.random.Generator,
        phase: int = 0,
    ) -> dict[str, list[View]]:
        crops = [view.select(view.points[:, 0] > 0) for view in (*labelled, *unlabelled)]
        groups = {name: [augment(view, rng) for view in crops] for name in ("one", "two")}
        return {"labelled": [augment(view, rng) for view in labelled], **groups}

    def step(self, batch: Batch, progress: Progress) -> Iterator[dict[str, Tensor]]:
        means = []
        for name in ("one", "two"):
            inputs = batch[name]
            region = inputs.extras["region"].long()
            note(name=name, rows=inputs.rows, region=region)
            logits = inputs.elements.gather(self.segmenter(inputs).logits)
            chosen = F.one_hot(region, int(region.max()) + 1).to(logits.dtype)
            means.append(chosen.T @ logits / chosen.sum(0).clamp(min=1)[:, None])
        yield {"ce": self.supervised(batch), "regions": (means[0] - means[1]).square().mean()}


class Two(OneNetwork):
    """CPS's way: two networks that begin apart, each with the other's predictions as its labels."""

    name = "two"

    def __init__(self, params: Any, make_segmenter: Any, num_classes: int) -> None:
        super().__init__(params, make_segmenter, num_classes)
        self.other: Segmenter = make_segmenter()

    def step(self, batch: Batch, progress: Progress) -> Iterator[dict[str, Tensor]]:
        labelled, unlabelled = batch["labelled"], batch["unlabelled"]
        target = self.other.backbone.labels(labelled, labelled.label)
        one, two = self.segmenter(unlabelled).logits, self.other(unlabelled).logits
        yield {
            "first": self.supervised(batch),
            "second": cross_entropy(self.other(labelled).logits, target),
            "cross": 0.1 * (cross_entropy(one, two.argmax(1)) + cross_entropy(two, one.argmax(1))),
        }
