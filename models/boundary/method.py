"""How the boundary network learns: a method like any other, but one that the stage ``boundary`` trains."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field
from torch import Tensor

from ssl3d.models.backbones.base import Segmenter
from ssl3d.models.boundary.network import BoundaryNetwork
from ssl3d.models.config import Params
from ssl3d.models.losses.boundary import boundary_focal, edge_map_loss
from ssl3d.models.losses.cross_entropy import cross_entropy
from ssl3d.models.methods.base import Batch, MakeSegmenter, Method, Progress

TARGET = "boundary_target"
"""The per-point extra of views that holds what ``boundary_points`` finds on the visible labels."""


class NetworkParams(Params):
    """What decides the weights of the boundary network, besides optimizer, batches and backbone."""

    radius: float = Field(
        0.2, gt=0, description="meters (r_b): a point of another class so near makes a boundary; indoors 0.04"
    )
    focus: float = Field(2.0, ge=0, description="exponent a of the focal loss, Eq. 1 (WS3D: 2)")
    holdout: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="share of the labelled scans kept out, to measure on; of a single one: a part",
    )
    refine: bool = Field(True, description="boundary and region branch correct each other once")


class Boundary(Method):
    """Focal loss on every boundary output, cross-entropy on every semantic one, all weights 1.

    L = sum of Eq. 1 over the side heads 0 to 2, the edge, and the refined edge
      + sum of cross-entropy over the side heads 3 and 4, the region branch, and the refined one
      + with refinement, the mean difference between the edges of the region branch and of the labels.
    """

    name = "boundary"
    Params = NetworkParams
    uses_unlabelled = False
    params: NetworkParams

    def __init__(self, params: NetworkParams, make_segmenter: MakeSegmenter, num_classes: int) -> None:
        super().__init__(params, make_segmenter, num_classes)
        self.network = BoundaryNetwork(make_segmenter().backbone, num_classes, params.refine)

    def step(self, batch: Batch, progress: Progress) -> Iterator[dict[str, Tensor]]:
        inputs, backbone = batch["labelled"], self.network.backbone
        found = self.network.branches(inputs)
        target = backbone.labels(inputs, inputs.label)
        boundary = backbone.labels(inputs, inputs.extras[TARGET].long())
        self.live.add(found.semantic[-1], target)
        focal = [boundary_focal(logits, boundary, self.params.focus) for logits in found.boundary]
        semantic = [cross_entropy(logits, target) for logits in found.semantic]
        losses = {"boundary": sum(focal[1:], focal[0]), "semantic": sum(semantic[1:], semantic[0])}
        if self.params.refine:
            losses["edges"] = edge_map_loss(found.region.softmax(1), target, found.sites)
        yield losses

    def predictor(self) -> Segmenter:
        return self.network


__all__ = ["TARGET", "Boundary", "NetworkParams"]
