"""The inputs of voxel backbones: coordinates and mean features of the voxels of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ssl3d.data.errors import DataError
from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.base import Inputs, InputSpec, NoElementsError, collate_points
from ssl3d.models.elements import ElementMap
from ssl3d.models.sparse import CoordinateManager, CoordinateMapKey, voxel_mean, voxelize

FEATURE_WIDTHS = {"xyz": 3, "intensity": 1, "color": 3, "normal": 3, "ring": 1}
"""Channels of the per-point features that a voxel backbone can read."""

ClipRange = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]


@dataclass(slots=True, kw_only=True)
class VoxelInputs(Inputs):
    """Elements are voxels.

    Attributes:
        coordinates: (M, 4) int32 [view, x, y, z], unique, sorted.
        features: (M, F) float32, mean over the voxel's points.
    """

    coordinates: Tensor
    features: Tensor
    _sites: tuple[CoordinateManager, CoordinateMapKey] | None = field(default=None, repr=False, compare=False)

    def sites(self) -> tuple[CoordinateManager, CoordinateMapKey]:
        """The coordinate manager of this batch and the key of its voxels; made once, so that two networks (or two
        passes) over the same batch share their kernel maps."""
        if self._sites is None:
            manager = CoordinateManager()
            self._sites = manager, manager.insert(self.coordinates)
        return self._sites

    def map(self, change: Callable[[Tensor], Tensor]) -> VoxelInputs:
        changed = Inputs.map(self, change)
        if changed.coordinates is not self.coordinates:
            changed._sites = None  # maps belong to these very coordinates
        return changed


@dataclass(frozen=True, slots=True)
class VoxelInputSpec(InputSpec):
    """Views to voxels. Picklable; runs in loader workers.

    Attributes:
        voxel_size: meters; coordinate = floor(xyz / voxel_size) per view, after augmentation.
        features: names, in the order of the network's input channels: ``xyz`` (meters) or ones of ``View.features``.
        clip: kept range in meters per axis; points outside belong to no voxel.
    """

    voxel_size: float
    features: tuple[str, ...] = ("xyz", "intensity")
    clip: ClipRange | None = None

    def prepare(self, views: Sequence[View]) -> VoxelInputs:
        """Collates V views. Raises ``NoElementsError`` when no view has a point within the range, ``DataError`` when a
        view lacks a feature."""
        shared = collate_points(views)
        points = torch.from_numpy(np.concatenate([view.points for view in views]))
        sizes = torch.from_numpy(np.diff(shared["view_offsets"].numpy()))
        batch = torch.repeat_interleave(torch.arange(len(views), dtype=torch.int32), sizes)
        coordinates, inverse = voxelize(points, self.voxel_size, batch=batch, clip=self.clip)
        if not len(coordinates):
            raise NoElementsError("no view of this batch has a point within the range of the voxel grid")
        columns = [self._feature(views, name) for name in self.features]
        features = voxel_mean(torch.from_numpy(np.concatenate(columns, 1)), inverse, len(coordinates))
        elements = ElementMap(inverse, len(coordinates))
        return VoxelInputs(elements=elements, coordinates=coordinates, features=features, **shared)

    def labels(self, inputs: Inputs, y: Tensor) -> Tensor:
        """Majority of the visible labels of a voxel's points (hidden ones do not vote; ties: the smaller label)."""
        return inputs.elements.reduce(y, "majority", ignore=IGNORE)

    @staticmethod
    def _feature(views: Sequence[View], name: str) -> np.ndarray:
        if name == "xyz":
            return np.concatenate([view.points for view in views])
        for view in views:
            if name not in view.features:
                raise DataError(
                    f"the backbone reads {name!r}, which this dataset does not have",
                    where={"scan": view.scan.get("scan_id", "?"), "features": ", ".join(view.features) or "none"},
                    hint="choose the input features with --set backbone.features=...",
                )
        return np.concatenate([view.features[name] for view in views])
