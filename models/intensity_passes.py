"""Test-time augmentation by intensity: a segmenter that asks another one several times, with brighter and darker scans.

LiM3D (CVPR 2023) calls it Reflec-TTA; what exactly its paper does is not public (the factors are a reconstruction).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl3d.data.scan import View
from ssl3d.models.backbones.base import Backbone, Inputs, Levels, Output, Segmenter
from ssl3d.models.prediction import Instances, Votes

FACTORS = (0.9, 1.0, 1.1)


class IntensityPasses(Segmenter):
    """Predicts as ``segmenter`` does, but each pass over a scan is made once for each factor on its intensities.

    Whoever predicts whole scans (``Backbone.chunks``, ``Backbone.votes``) gets the mean of the probabilities. It is no
    part of a method: its modules are those of ``segmenter``.
    """

    def __init__(self, segmenter: Segmenter, factors: Sequence[float] = FACTORS) -> None:
        nn.Module.__init__(self)
        self.backbone = _Passes(segmenter.backbone, factors)
        self.segmenter, self.head, self.num_classes = segmenter, segmenter.head, segmenter.num_classes

    def forward(self, inputs: Inputs) -> Output:
        output: Output = self.segmenter(inputs)
        return output

    def instances(self, inputs: Inputs, output: Output) -> Instances | None:
        return self.segmenter.instances(inputs, output)


class _Passes(Backbone):
    """A backbone whose passes are repeated with other intensities."""

    def __init__(self, backbone: Backbone, factors: Sequence[float]) -> None:
        super().__init__()
        self.backbone, self.factors = backbone, tuple(factors)
        self.out_channels, self.input_spec = backbone.out_channels, backbone.input_spec

    def forward(self, inputs: Any) -> Levels:
        levels: Levels = self.backbone(inputs)
        return levels

    def head(self, num_classes: int) -> nn.Module:
        return self.backbone.head(num_classes)

    def classify(self, head: nn.Module, features: Tensor, inputs: Any) -> Tensor:
        return self.backbone.classify(head, features, inputs)

    def chunks(self, view: View) -> Iterator[View]:
        for chunk in self.backbone.chunks(view):
            if "intensity" not in chunk.features:
                yield chunk
                continue
            for factor in self.factors:
                brightness = chunk.features["intensity"] * np.float32(factor)
                yield replace(chunk, features={**chunk.features, "intensity": brightness})

    def votes(self, num_points: int, num_classes: int, device: torch.device | str) -> Votes:
        return self.backbone.votes(num_points, num_classes, device)


__all__ = ["FACTORS", "IntensityPasses"]
