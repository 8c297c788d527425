"""Networks of every kind in miniature, for tests to import: on pixels, on points in crops, and one with instances.

Small enough to know their answer by hand; all of them can be trained."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ssl3d.data.range_image import RangeProjection
from ssl3d.data.scan import IGNORE, View
from ssl3d.data.spec import load_spec
from ssl3d.models.backbones.base import (
    Backbone,
    Inputs,
    InputSpec,
    Levels,
    NoElementsError,
    Output,
    Segmenter,
    collate_points,
)
from ssl3d.models.backbones.voxels import VoxelInputSpec
from ssl3d.models.config import Params
from ssl3d.models.elements import ElementMap
from ssl3d.models.prediction import Instances, SmoothedVotes, Votes

# ---------------------------------------------------------------- pixels


@dataclass(slots=True, kw_only=True)
class PixelInputs(Inputs):
    """Elements are the pixels of all images, row after row, the empty ones too.

    Attributes:
        image: (V, 5, H, W) float32: range, x, y, z in units of 10 m, intensity; 0 where empty.
        pixel_point: (V * H * W,) int64 nearest point of the batch in each pixel, -1 where empty.
    """

    image: Tensor
    pixel_point: Tensor


@dataclass(frozen=True)
class PixelSpec(InputSpec):
    """Farther points of a pixel map to that pixel, too. A point in the origin has no direction: it maps to none, and so
    does one beyond ``reach``."""

    height: int
    width: int
    reach: float

    def prepare(self, views: Sequence[View]) -> PixelInputs:
        sensor = load_spec("semantickitti").sensor
        pixels, starts = self.height * self.width, np.cumsum([0, *map(len, views)])
        element = np.full(starts[-1], -1, np.int64)
        images, pixel_points = [], []
        for number, view in enumerate(views):
            distance = np.linalg.norm(view.points, axis=1)
            kept = np.flatnonzero((distance > 0) & (distance <= self.reach))
            found = RangeProjection.of(view.points[kept], sensor, height=self.height, width=self.width)
            flat = found.row.astype(np.int64) * self.width + found.col
            element[starts[number] + kept] = number * pixels + flat
            channels = np.c_[found.distance / 10, view.points[kept] / 10, view.features["intensity"][kept]]
            images.append(found.image(channels.astype(np.float32)).transpose(2, 0, 1))
            nearest = found.pixel_point.ravel()
            pixel_points.append(np.where(nearest >= 0, starts[number] + kept[nearest] if len(kept) else -1, -1))
        if not (element >= 0).any():
            raise NoElementsError("no point of this batch is in an image")
        return PixelInputs(
            elements=ElementMap(torch.from_numpy(element), len(views) * pixels),
            image=torch.from_numpy(np.stack(images)),
            pixel_point=torch.from_numpy(np.concatenate(pixel_points)),
            **collate_points(views),
        )

    def labels(self, inputs: Inputs, y: Tensor) -> Tensor:
        """The label of the nearest point of the pixel, IGNORE where it is empty."""
        assert isinstance(inputs, PixelInputs)
        nearest = inputs.pixel_point
        return torch.where(nearest >= 0, y[nearest.clamp(min=0)], IGNORE)


class PixelParams(Params):
    height: int = Field(8, ge=1, description="rows of the image")
    width: int = Field(32, ge=1, description="columns of the image")
    reach: float = Field(1e6, gt=0, description="meters; points farther away have no pixel")


class Pixels(Backbone):
    """One 3x3 convolution over the range image."""

    name = "test-pixels"
    Params = PixelParams
    out_channels = 8

    def __init__(self, params: PixelParams) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(5, self.out_channels, 3, padding=1)
        self.input_spec = PixelSpec(params.height, params.width, params.reach)

    def forward(self, inputs: Any) -> Levels:
        return Levels(self.convolution(inputs.image).permute(0, 2, 3, 1).reshape(-1, self.out_channels), {})

    def head(self, num_classes: int) -> nn.Module:
        return nn.Linear(self.out_channels, num_classes)


# ---------------------------------------------------------------- points


@dataclass(slots=True, kw_only=True)
class CropInputs(Inputs):
    """``features``: (P, 3) float32 meters from the middle of the crop."""

    features: Tensor


class CropSpec(InputSpec):
    def prepare(self, views: Sequence[View]) -> CropInputs:
        shared = collate_points(views)
        centered = [view.points - view.points.mean(axis=0) for view in views if len(view)]
        count = len(shared["rows"])
        elements = ElementMap(torch.arange(count), count)
        return CropInputs(elements=elements, features=torch.from_numpy(np.concatenate(centered)), **shared)

    def labels(self, inputs: Inputs, y: Tensor) -> Tensor:
        return y


class CropParams(Params):
    points: int = Field(32, ge=1, description="points of every pass")
    smoothing: float | None = Field(None, ge=0, lt=1, description="of the votes; None: the mean")


class Crops(Backbone):
    """Looks at ``points`` points at a time, chosen as RandLA-Net chooses them: the nearest ones of the point that was
    seen least, until every point was well inside of a crop."""

    name = "test-crops"
    Params = CropParams
    out_channels = 3

    def __init__(self, params: CropParams) -> None:
        super().__init__()
        self.params = params
        self.scale = nn.Parameter(torch.ones(3))
        self.input_spec = CropSpec()

    def forward(self, inputs: Any) -> Levels:
        return Levels(inputs.features * self.scale, {})

    def head(self, num_classes: int) -> nn.Module:
        return nn.Linear(self.out_channels, num_classes)

    def chunks(self, view: View) -> Iterator[View]:
        rng = np.random.default_rng(zlib.crc32(str(view.scan.get("scan_id")).encode()))
        possibility = rng.uniform(0, 1e-3, len(view))
        while possibility.min() <= 0.5:
            squared = np.square(view.points - view.points[possibility.argmin()]).sum(axis=1)
            crop = np.argsort(squared, kind="stable")[: self.params.points]
            possibility[crop] += (1 - squared[crop] / max(squared[crop].max(), 1e-9)) ** 2
            padding = rng.integers(0, len(crop), self.params.points - len(crop))  # a small scan is repeated
            yield view.select(rng.permutation(np.r_[crop, crop[padding]]))

    def votes(self, num_points: int, num_classes: int, device: torch.device | str) -> Votes:
        if self.params.smoothing is None:
            return super().votes(num_points, num_classes, device)
        return SmoothedVotes(num_points, num_classes, device, smoothing=self.params.smoothing)


# ---------------------------------------------------------------- voxels, and instances of them


class MeansParams(Params):
    size: float = Field(1.0, gt=0, description="meters")


class Means(Backbone):
    """Passes the mean coordinates of the points of each voxel on; what is outside of +-50 m has no voxel."""

    name = "test-means"
    Params = MeansParams
    out_channels = 3

    def __init__(self, params: MeansParams) -> None:
        super().__init__()
        self.input_spec = VoxelInputSpec(params.size, features=("xyz",), clip=((-50, 50),) * 3)

    def forward(self, inputs: Any) -> Levels:
        return Levels(inputs.features, {})

    def head(self, num_classes: int) -> nn.Module:
        return nn.Linear(self.out_channels, num_classes)


class TwoHalves(Segmenter):
    """Predicts two instances: what is left of x = 5 m, and what is right of x = -5 m. Voxels between belong to both.

    The score of an instance is the share of the voxels that belong to it, its class that of most of its voxels."""

    def instances(self, inputs: Inputs, output: Output) -> Instances:
        x = output.levels.finest[:, 0]
        voxels = torch.stack([x < 5, x > -5])
        classes = output.logits.argmax(dim=1)
        label = [int(classes[member].mode().values) if member.any() else 0 for member in voxels]
        points = inputs.elements.gather(voxels.T, fill=False).T
        score = voxels.float().mean(dim=1)
        return Instances.from_masks(points.cpu().numpy(), np.array(label, np.uint8), score.cpu().numpy())
