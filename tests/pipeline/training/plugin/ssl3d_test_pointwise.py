"""A third-party package in miniature: a backbone and methods that ssl3d finds by their entry points."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ssl3d.data.scan import View
from ssl3d.models.backbones.base import Backbone, Inputs, InputSpec, Levels, collate_points
from ssl3d.models.config import Params
from ssl3d.models.elements import ElementMap
from ssl3d.models.methods.base import Batch, Phase, Progress
from ssl3d.models.methods.supervised import Supervised


@dataclass(slots=True, kw_only=True)
class PointInputs(Inputs):
    features: Tensor


class PointSpec(InputSpec):
    def prepare(self, views: Sequence[View]) -> PointInputs:
        shared = collate_points(views)
        points = np.concatenate([np.hstack([view.points / 10, view.features["intensity"]]) for view in views])
        count = len(points)
        return PointInputs(
            elements=ElementMap(torch.arange(count), count), features=torch.from_numpy(points).float(), **shared
        )

    def labels(self, inputs: Inputs, y: Tensor) -> Tensor:
        return y


class PointwiseParams(Params):
    width: int = Field(32, ge=1, description="channels")
    dropout: float = Field(0.1, ge=0, lt=1, description="so that the generator of torch matters")


class Pointwise(Backbone):
    """A network that looks at each point alone."""

    name = "pointwise"
    Params = PointwiseParams

    def __init__(self, params: PointwiseParams) -> None:
        super().__init__()
        width = params.width
        self.layers = nn.Sequential(
            nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(params.dropout), nn.Linear(width, width)
        )
        self.out_channels = width
        self.input_spec = PointSpec()

    def forward(self, inputs: Any) -> Levels:
        return Levels(self.layers(inputs.features), {})

    def head(self, num_classes: int) -> nn.Module:
        return nn.Linear(self.out_channels, num_classes)


class TwoPhaseParams(Params):
    poison_at: int = Field(-1, description="the loss of this step is not a number")
    kill_at: int = Field(-1, description="SIGKILL after this step")
    interrupt_at: int = Field(-1, description="SIGINT during this step")


class TwoPhase(Supervised):
    """Two optimizer steps an iteration, then a phase of no steps, then the classifier alone with batch norm frozen."""

    name = "twophase"
    Params = TwoPhaseParams
    uses_unlabelled = True

    def __init__(self, params: Any, make_segmenter: Any, num_classes: int) -> None:
        super().__init__(SUPERVISED, make_segmenter, num_classes)
        self.own = params

    def phases(self, steps: int) -> list[Phase]:
        half = steps // 2
        return [
            Phase("both", half),
            Phase("nothing", 0),
            Phase("head", steps - half, [self.segmenter.head], [self.segmenter.backbone], lr_scale=0.5),
        ]

    def step(self, batch: Batch, progress: Progress) -> Iterator[dict[str, Tensor]]:
        for losses in super().step(batch, progress):
            if progress.total_step == self.own.poison_at:
                losses["bad"] = losses["ce"] * float("nan")
            yield losses
        yield {"unlabelled": self.segmenter(batch["unlabelled"]).logits.square().mean() * 1e-3}
        if progress.total_step == self.own.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)

    def after_step(self, progress: Progress) -> None:
        if progress.total_step == self.own.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


SUPERVISED = Supervised.Params()
