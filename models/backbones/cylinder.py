"""The front end of Cylinder3D: a grid in cylindrical coordinates, and one feature for each of its occupied cells.

Cells grow with the distance from the sensor, as the spacing of its points does. Conventions follow the public code of
Cylinder3D (Zhu et al., CVPR 2021) where mmdetection3d, LaserMix, ScribbleKITTI and LiM3D agree with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ssl3d.data.reflectivity import with_derived
from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.base import Inputs, InputSpec, NoElementsError, collate_points
from ssl3d.models.backbones.voxels import SiteInputs, point_feature
from ssl3d.models.distributed import world_size
from ssl3d.models.elements import ElementMap
from ssl3d.models.sparse import SparseTensorError, region_max, unique_voxels

Floats = npt.NDArray[np.float64]
Cells = tuple[int, int, int]
IgnoredVote = Literal["none", "first", "last"]

GEOMETRY_CHANNELS = 8
"""Per point: offset to the center of its cell (rho, phi, z), rho, phi, z, and x, y."""


@dataclass(frozen=True, slots=True)
class CylinderGrid:
    """Cells in (rho, phi, z): meters, radians, meters.

    ``step = (high - low) / (cells - 1)``, as all public codes have it: the last cell of an axis begins exactly at
    ``high`` and takes in everything beyond. In azimuth that is phi = +pi alone, and nothing wraps around.

    Attributes:
        cells: number of cells in rho, phi, z, at least 2 each.
        rho, z: range in meters; azimuth is -pi .. pi.
    """

    cells: Cells
    rho: tuple[float, float] = (0.0, 50.0)
    z: tuple[float, float] = (-4.0, 2.0)

    @property
    def low(self) -> Floats:
        return np.array([self.rho[0], -math.pi, self.z[0]])

    @property
    def high(self) -> Floats:
        return np.array([self.rho[1], math.pi, self.z[1]])

    @property
    def step(self) -> Floats:
        """(3,) size of a cell."""
        return (self.high - self.low) / (np.array(self.cells) - 1)

    def index(self, position: Floats) -> npt.NDArray[np.int64]:
        """(n, 3) cells of (n, 3) cylindrical positions, finite. Beyond the range: the cell at the border."""
        inside = np.clip(position, self.low, self.high)
        index = np.floor((inside - self.low) / self.step).astype(np.int64)
        last = np.array(self.cells) - 1
        return np.where(inside == self.high, last, np.minimum(index, last))  # whichever way the division rounds

    def centers(self, index: npt.NDArray[np.int64]) -> Floats:
        """(n, 3) centers of cells."""
        return self.low + (index + 0.5) * self.step


def cylindrical(points: npt.NDArray[np.floating]) -> Floats:
    """(n, 3) x, y, z -> (n, 3) float64 rho, phi in -pi .. pi, z.

    In float64, as in float32 points behind the sensor come to lie in another cell.
    """
    x, y, z = points.astype(np.float64).T
    return np.stack([np.hypot(x, y), np.arctan2(y, x), z], 1)


@dataclass(slots=True, kw_only=True)
class CylinderInputs(SiteInputs):
    """Elements are occupied cells, ``coordinates`` their [view, rho, phi, z] indices.

    Attributes:
        features: (P, 8 + F) float32 per *point*: offset to the center of its cell, rho, phi, z, x, y, and F channels
            of the sensor. Zero where a point has no cell.
    """

    features: Tensor


@dataclass(frozen=True, slots=True)
class CylinderInputSpec(InputSpec):
    """Views to cylindrical cells. Picklable; runs in loader workers.

    Points out of range are kept, in the cells at the border; only points that are not finite belong to no cell.

    Attributes:
        grid: the one description of cells, for indices and for offsets.
        features: channels of the sensor, names of ``View.features``.
        ignored_vote: whether points without a label vote for the label of a cell. ``none``: they do not. For published
            numbers: ``first``, as the lowest class (Cylinder3D), ``last``, as the highest (mmdetection3d, LaserMix);
            ties go to the lower one.
    """

    grid: CylinderGrid
    features: tuple[str, ...] = ("intensity",)
    ignored_vote: IgnoredVote = "none"

    def derive(self, view: View) -> View:
        return with_derived(view, self.features)

    def prepare(self, views: Sequence[View]) -> CylinderInputs:
        """Collates V views. Raises ``NoElementsError`` when no view has a finite point, ``DataError`` when a view lacks
        a feature."""
        shared = collate_points(views)
        points = np.concatenate([view.points for view in views])
        batch = np.repeat(np.arange(len(views)), np.diff(shared["view_offsets"].numpy()))
        finite = np.isfinite(points).all(1)
        if not finite.any():
            raise NoElementsError("no view of this batch has a point with finite coordinates")
        position = cylindrical(points[finite])
        index = self.grid.index(position)
        coordinates, inverse = unique_voxels(torch.from_numpy(np.column_stack([batch[finite], index])))
        columns = [position - self.grid.centers(index), position, points[finite, :2]]
        columns += [point_feature(views, name)[finite] for name in self.features]
        features = np.concatenate(columns, 1, dtype=np.float32, casting="same_kind")
        point_to_cell = _spread(inverse.numpy(), finite, -1)
        return CylinderInputs(
            elements=ElementMap(torch.from_numpy(point_to_cell), len(coordinates)),
            coordinates=coordinates,
            features=torch.from_numpy(_spread(features, finite, 0)),
            **shared,
        )

    def labels(self, inputs: Inputs, y: Tensor) -> Tensor:
        """Majority of the labels of a cell's points; ``ignored_vote`` says whether hidden ones vote."""
        if self.ignored_vote == "none":
            return inputs.elements.reduce(y, "majority", ignore=IGNORE)
        if self.ignored_vote == "last":
            return inputs.elements.reduce(y, "majority")  # IGNORE is above every class
        winner = inputs.elements.reduce(torch.where(y == IGNORE, 0, y + 1), "majority")
        return torch.where(winner == 0, IGNORE, winner - 1)


class PointEncoder(nn.Module):
    """Points to cells: a perceptron on every point of the batch, then the maximum over each cell's points, compressed.

    BN; three times linear, BN, ReLU; linear; maximum; linear, ReLU. Rows are points, so identical points weigh in the
    statistics of the batch, though they change no maximum.

    Args:
        in_channels: per point.
        widths: of the four linear layers (64, 128, 256, 256).
        out_channels: per cell (16).
        bn_eps, bn_momentum: of the batch norms.
    """

    def __init__(
        self,
        in_channels: int,
        widths: tuple[int, int, int, int],
        out_channels: int,
        bn_eps: float = 1e-5,
        bn_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.BatchNorm1d(in_channels, bn_eps, bn_momentum)]
        channels = in_channels
        for width in widths[:3]:
            layers += [nn.Linear(channels, width), nn.BatchNorm1d(width, bn_eps, bn_momentum), nn.ReLU(inplace=True)]
            channels = width
        self.points = nn.Sequential(*layers, nn.Linear(channels, widths[3]))
        self.compress = nn.Sequential(nn.Linear(widths[3], out_channels), nn.ReLU(inplace=True))

    def forward(self, features: Tensor, elements: ElementMap) -> Tensor:
        """(P, in_channels) per point -> (M, out_channels) per cell.

        Raises:
            SparseTensorError: a batch of one point in training, which has no statistics.
        """
        index = elements.point_to_element
        kept = index >= 0
        if not bool(kept.all()):
            features, index = features[kept], index[kept]
        if self.training and len(features) < 2 and world_size() == 1:
            raise SparseTensorError("batch norm needs more than one point in the batch when it trains")
        cells: Tensor = self.compress(region_max(self.points(features), index, elements.num_elements))
        return cells


def _spread(values: npt.NDArray[np.generic], rows: npt.NDArray[np.bool_], fill: int) -> npt.NDArray[np.generic]:
    """Rows of ``values`` at the places that are true in ``rows``, ``fill`` elsewhere."""
    if rows.all():
        return values
    out = np.full((len(rows), *values.shape[1:]), fill, values.dtype)
    out[rows] = values
    return out


__all__ = ["Cells", "CylinderGrid", "CylinderInputSpec", "CylinderInputs", "IgnoredVote", "PointEncoder", "cylindrical"]
