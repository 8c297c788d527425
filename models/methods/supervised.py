"""Supervised-only: the backbone on the labelled scans alone; the lower reference of every other method.

Losses: mean cross-entropy over the visible labels, and optionally Lovász-softmax (Berman et al., CVPR 2018),
with the weights that the LaserMix code uses (Cylinder3D: 3 on SemanticKITTI, 2 on nuScenes; MinkUNet: 0).
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field
from torch import Tensor

from ssl3d.models.backbones.base import Segmenter
from ssl3d.models.config import Params
from ssl3d.models.losses.segmentation import segmentation_losses
from ssl3d.models.methods.base import Batch, MakeSegmenter, Method, Progress


class SupervisedParams(Params):
    """Parameters of ``supervised``."""

    lambda_lov: float = Field(0.0, ge=0, description="weight of Lovász-softmax (0 for MinkUNet, LaserMix code)")


class Supervised(Method):
    """Cross-entropy on labelled scans."""

    name = "supervised"
    Params = SupervisedParams
    uses_unlabelled = False

    def __init__(self, params: SupervisedParams, make_segmenter: MakeSegmenter, num_classes: int) -> None:
        super().__init__(params, make_segmenter, num_classes)
        self.lambda_lov = params.lambda_lov
        self.segmenter = make_segmenter()

    def step(self, batch: Batch, progress: Progress) -> Iterator[dict[str, Tensor]]:
        inputs = batch["labelled"]
        logits = self.segmenter(inputs).logits
        target = self.segmenter.backbone.labels(inputs, inputs.label)
        self.live.add(logits, target)
        yield segmentation_losses(logits, target, self.lambda_lov)

    def predictor(self) -> Segmenter:
        return self.segmenter
