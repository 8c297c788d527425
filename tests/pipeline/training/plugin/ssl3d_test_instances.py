"""A method of a third party that predicts instances: points of a class left of the sensor, and right of it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ssl3d.models.backbones.base import Inputs, Output, Segmenter
from ssl3d.models.methods.supervised import Supervised
from ssl3d.models.prediction import Instances


class Sides(Segmenter):
    """Shares its layers with the network that was trained. Confidence is the mean probability of the class."""

    def __init__(self, trained: Segmenter) -> None:
        nn.Module.__init__(self)
        self.backbone, self.head, self.num_classes = trained.backbone, trained.head, trained.num_classes

    def instances(self, inputs: Inputs, output: Output) -> Instances:
        probability, label = inputs.elements.gather(output.logits.softmax(dim=1)).max(dim=1)
        right = inputs.features[:, 0] > 0  # type: ignore[attr-defined]
        key = 2 * label + right
        found = torch.unique(key)
        masks = key[None] == found[:, None]
        score = [float(probability[mask].mean()) for mask in masks]
        return Instances.from_masks(
            masks.cpu().numpy(), (found // 2).cpu().numpy().astype(np.uint8), np.array(score, np.float32)
        )


class Grouped(Supervised):
    name = "grouped"

    def predictor(self) -> Segmenter:
        return Sides(self.segmenter)
