"""Points with features, as a sparse tensor by a rule that says what a voxel gets of its points; and the way back."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.kernel_map import Ints, ints
from ssl3d.models.sparse.keys import AXES, COORDINATE_LIMIT
from ssl3d.models.sparse.manager import CoordinateManager, CoordinateMapKey
from ssl3d.models.sparse.sites import check_coordinates
from ssl3d.models.sparse.tensor import SparseTensor, check_features, check_tensors
from ssl3d.models.sparse.voxelize import VoxelRule, unique_voxels, voxel_reduce


class TensorField:
    """Features (P, C) on points, of which several may lie in one voxel.

    Args:
        features: (P, C) float.
        coordinates: (P, 1 + D) [batch, x, ...], D = 2, 3 or 4, in voxels: integers, or floats, of which the floor
            counts (never truncated; batch indices have to be whole). May repeat.
        tensor_stride: of the voxels, floor(x / stride) * stride.
        batch_size: number of clouds; by default the largest batch index + 1.
        coordinate_manager: where the voxels are inserted (default: a new one).

    Attributes:
        coordinate_map_key: of the voxels, sorted by coordinate.
        inverse: (P,) int64, row of each point's voxel (MinkowskiEngine's ``inverse_mapping``).

    Raises:
        SparseTensorError: shapes, types or devices do not fit; coordinates are not finite or out of range.
    """

    def __init__(
        self,
        features: Tensor,
        coordinates: Tensor,
        *,
        tensor_stride: int | Ints = 1,
        batch_size: int | None = None,
        coordinate_manager: CoordinateManager | None = None,
    ) -> None:
        check_tensors(features=features, coordinates=coordinates)
        cells = _cells(coordinates)
        check_features(features, len(cells), cells.device, "point")
        self.features = features
        self.coordinate_manager = coordinate_manager or CoordinateManager()
        engine = self.coordinate_manager.engine_for(cells.device)
        check_coordinates(cells, 1, engine)
        stride = ints(tensor_stride, cells.shape[1] - 1)
        if max(stride) > 1:
            step = torch.tensor([1, *stride], device=cells.device)
            cells = torch.div(cells.long(), step, rounding_mode="floor") * step
        unique, self.inverse = unique_voxels(cells, engine)
        self.coordinate_map_key: CoordinateMapKey = self.coordinate_manager.insert(unique, stride, batch_size)

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        voxels = len(self.coordinate_manager.map(self.coordinate_map_key))
        return f"TensorField({tuple(self.features.shape)}, {voxels} voxels, {self.features.dtype})"

    def sparse(self, how: VoxelRule, features: Tensor | None = None) -> SparseTensor:
        """The sparse tensor of the voxels; all that one field makes share their sites.

        Args:
            how: what a voxel gets of its points: ``mean``, ``sum``, ``max`` or ``first``; see ``voxel_reduce``.
            features: (P, C') of the points, instead of the field's own.
        """
        if how == "majority":
            raise SparseTensorError("features have no majority", hint='labels have: voxel_reduce(..., "majority")')
        values = self.features if features is None else features
        sites = self.coordinate_manager.map(self.coordinate_map_key)
        engine = self.coordinate_manager.engine_for(values.device)
        return SparseTensor(
            voxel_reduce(values, self.inverse, len(sites), how, engine=engine),
            coordinate_map_key=self.coordinate_map_key,
            coordinate_manager=self.coordinate_manager,
        )

    def slice(self, tensor: SparseTensor) -> Tensor:
        """(P, C) for every point the features of its voxel, or of the coarser site that its voxel lies in.

        Points whose site is missing (pruned) get 0. ``interpolate`` gives values between the sites instead.

        Raises:
            SparseTensorError: the tensor belongs to another manager.
        """
        if tensor.coordinate_manager is not self.coordinate_manager:
            raise SparseTensorError(
                "the tensor does not come from this field: it belongs to another coordinate manager",
                hint="make it with field.sparse(...), and run the network on that",
            )
        rows = self.inverse
        if tensor.coordinate_map_key != self.coordinate_map_key:
            rows = self.coordinate_manager.parents(self.coordinate_map_key, tensor.coordinate_map_key)[rows]
        missing = rows < 0
        if not bool(missing.any()):
            return tensor.features[rows]
        found = tensor.features.new_zeros(len(rows), tensor.features.shape[1])
        return found.index_put((~missing,), tensor.features[rows[~missing]])


def _cells(coordinates: Tensor) -> Tensor:
    """(P, 1 + D) integers: the floor of coordinates that are floats."""
    if not coordinates.is_floating_point():
        return coordinates
    if coordinates.dim() != 2 or coordinates.shape[1] - 1 not in AXES:
        raise SparseTensorError(
            "coordinates have to be (P, 1 + D): batch index, then D = 2, 3 or 4 axes",
            where={"shape": tuple(coordinates.shape)},
        )
    exact = coordinates.detach().double()
    finite = exact.isfinite().all(1)
    if not bool(finite.all()):
        bad = (~finite).nonzero()[:, 0]
        raise SparseTensorError(
            "coordinates have to be finite",
            where={"points": len(bad), "first": f"row {int(bad[0])}: {coordinates[bad[0]].tolist()}"},
            hint="drop such points first (voxelize gives them the row -1)",
        )
    cells = exact.floor()
    if bool((cells[:, 0] != exact[:, 0]).any()):
        raise SparseTensorError("batch indices have to be whole numbers", where={"column": 0})
    limit = 2 * COORDINATE_LIMIT[2]  # far beyond any: what does not fit a key is then named as such
    return cells.clamp_(-limit, limit).long()
