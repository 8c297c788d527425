"""What voxel backbones share: the sites of a batch, its inputs with mean features, and the taps of their levels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, field_validator
from torch import Tensor

from ssl3d.data.errors import DataError
from ssl3d.data.reflectivity import DERIVED_WIDTHS, with_derived
from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.base import Inputs, InputSpec, Level, NoElementsError, collate_points
from ssl3d.models.config import Params
from ssl3d.models.elements import ElementMap
from ssl3d.models.sparse import CoordinateManager, CoordinateMapKey, SparseTensor, voxel_mean, voxelize

FEATURE_WIDTHS = {
    "xyz": 3,
    "xyz_from_min": 3,
    "xyz_from_mean": 3,
    "intensity": 1,
    "color": 3,
    "normal": 3,
    "ring": 1,
    **DERIVED_WIDTHS,
}
"""Channels of the per-point features that a voxel backbone can read.

``xyz``: meters after augmentation, as the scan has them. ``xyz_from_min``: shifted so that the view's least x, y and z
are 0 (GPC code, indoors). ``xyz_from_mean``: shifted by the view's mean (PointGroup code). ``color``: the view's 0..1
as -1..1. ``reflectivity`` and ``reflectivity_histogram`` are made of intensities and distances (``data.reflectivity``).
The others are as in ``View.features``.
"""

SomeSites = TypeVar("SomeSites", bound="SiteInputs")
ClipRange = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
LIDAR_CLIP: ClipRange = ((-100.0, 100.0), (-100.0, 100.0), (-20.0, 20.0))
"""Kept range of LiDAR scans in meters (LaserMix code)."""


@dataclass(slots=True, kw_only=True)
class SiteInputs(Inputs):
    """Elements are the cells of a grid.

    Attributes:
        coordinates: (M, 4) int32 [view, i, j, k], unique, sorted.
    """

    coordinates: Tensor
    _sites: tuple[CoordinateManager, CoordinateMapKey] | None = field(default=None, repr=False, compare=False)

    def sites(self) -> tuple[CoordinateManager, CoordinateMapKey]:
        """The coordinate manager of this batch and the key of its voxels; made once, so that two networks (or two
        passes) over the same batch share their kernel maps."""
        if self._sites is None:
            manager = CoordinateManager()
            views = len(self.view_offsets) - 1  # also those without a cell
            self._sites = manager, manager.insert(self.coordinates, batch_size=views)
        return self._sites

    def map(self: SomeSites, change: Callable[[Tensor], Tensor]) -> SomeSites:
        changed = Inputs.map(self, change)
        if changed.coordinates is not self.coordinates:
            changed._sites = None  # maps belong to these very coordinates
        return changed


@dataclass(slots=True, kw_only=True)
class VoxelInputs(SiteInputs):
    """Elements are voxels of edges along x, y, z.

    Attributes:
        features: (M, F) float32, mean over the voxel's points.
    """

    features: Tensor


class Taps(Mapping[str, Level]):
    """Levels by name; which point belongs to which coarse row is looked up only for the levels that are read."""

    def __init__(self, tensors: dict[str, SparseTensor], inputs: SiteInputs) -> None:
        self._tensors, self._inputs = tensors, inputs
        self._levels: dict[str, Level] = {}

    def __getitem__(self, name: str) -> Level:
        if name not in self._levels:
            tensor = self._tensors[name]
            point_to_row = self._inputs.elements.gather(self.finest_to_row(name), fill=-1)
            self._levels[name] = Level(tensor.features, point_to_row, tensor.tensor_stride[0])
        return self._levels[name]

    def tensor(self, name: str) -> SparseTensor:
        """A level as the sparse tensor that it is, for layers that go on from there."""
        return self._tensors[name]

    def finest_to_row(self, name: str) -> Tensor:
        """(M,) int64: the row of a level for each element of the batch."""
        manager, finest = self._inputs.sites()
        return manager.parents(finest, self._tensors[name].coordinate_map_key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class VoxelParams(Params):
    """What every backbone on cubic voxels asks for. Defaults: outdoor LiDAR."""

    voxel_size: float = Field(0.05, gt=0, description="voxel edge in meters")
    features: tuple[str, ...] = Field(("xyz", "intensity"), description="input channels, in this order")
    clip: ClipRange | None = Field(LIDAR_CLIP, description="kept range in meters, or null (LaserMix code)")

    @field_validator("features")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if name not in FEATURE_WIDTHS]
        if unknown or not names:
            raise ValueError(f"unknown input features {unknown}; choose from {', '.join(FEATURE_WIDTHS)}")
        return names

    @property
    def in_channels(self) -> int:
        return sum(FEATURE_WIDTHS[name] for name in self.features)

    @property
    def input_spec(self) -> VoxelInputSpec:
        return VoxelInputSpec(self.voxel_size, self.features, self.clip)


@dataclass(frozen=True, slots=True)
class VoxelInputSpec(InputSpec):
    """Views to voxels. Picklable; runs in loader workers.

    Attributes:
        voxel_size: meters; coordinate = floor(xyz / voxel_size) per view, after augmentation.
        features: names of ``FEATURE_WIDTHS``, in the order of the network's input channels.
        clip: kept range in meters per axis; points outside belong to no voxel.
    """

    voxel_size: float
    features: tuple[str, ...] = ("xyz", "intensity")
    clip: ClipRange | None = None

    def derive(self, view: View) -> View:
        return with_derived(view, self.features)

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
        columns = [point_feature(views, name) for name in self.features]
        features = voxel_mean(torch.from_numpy(np.concatenate(columns, 1)), inverse, len(coordinates))
        elements = ElementMap(inverse, len(coordinates))
        return VoxelInputs(elements=elements, coordinates=coordinates, features=features, **shared)

    def labels(self, inputs: Inputs, y: Tensor) -> Tensor:
        """Majority of the visible labels of a voxel's points (hidden ones do not vote; ties: the smaller label)."""
        return inputs.elements.reduce(y, "majority", ignore=IGNORE)


def point_feature(views: Sequence[View], name: str) -> npt.NDArray[np.float32]:
    """(P, k) values of one input feature (a name of ``FEATURE_WIDTHS``) over the points of all views.

    Raises:
        DataError: a view lacks it.
    """
    if name.startswith("xyz"):
        return np.concatenate([_shifted(view.points, name) for view in views])
    for view in views:
        if name not in view.features:
            present = ",".join(known for known in FEATURE_WIDTHS if known == "xyz" or known in view.features)
            raise DataError(
                f"the backbone reads {name!r}, which this dataset does not have",
                where={"scan": view.scan.get("scan_id", "?"), "features": ", ".join(view.features) or "none"},
                hint=f"choose the input features with --set backbone.features={present}"
                + (" (spunet on LiDAR scans: --set backbone.scene=outdoor)" if name == "color" else ""),
            )
    values = np.concatenate([view.features[name] for view in views])
    return values * np.float32(2) - np.float32(1) if name == "color" else values


def _shifted(points: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float32]:
    """Coordinates of a view (n, 3) as the feature ``name``; points that are not finite shift nothing."""
    finite = points if name == "xyz" else points[np.isfinite(points).all(1)]
    if name == "xyz" or not len(finite):
        return points
    return points - (finite.min(0) if name == "xyz_from_min" else finite.mean(0, dtype=np.float64).astype(np.float32))
