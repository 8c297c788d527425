"""A sparse tensor: features on the sites of a coordinate map."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.kernel_map import Ints, times
from ssl3d.models.sparse.manager import CoordinateManager, CoordinateMapKey

if TYPE_CHECKING:
    from ssl3d.models.sparse.field import TensorField

_LARGEST_GRID = 1 << 32
"""Numbers in a dense grid that ``dense`` agrees to make (16 GiB of float32)."""


class SparseTensor:
    """Features (n, C) on n unique integer coordinates.

    Args:
        features: (n, C) float.
        coordinates: (n, 1 + D) integers [batch, x, ...] with D = 2, 3 or 4 axes; or instead of them the next two.
        coordinate_map_key, coordinate_manager: sites that a manager already knows.
        tensor_stride: of new coordinates, which are multiples of it.
        batch_size: number of clouds of new coordinates; by default the largest batch index + 1.

    Raises:
        SparseTensorError: see ``CoordinateManager.insert``; or features that do not match the sites.
    """

    __slots__ = ("__weakref__", "_features", "coordinate_manager", "coordinate_map_key")

    def __init__(
        self,
        features: Tensor,
        coordinates: Tensor | None = None,
        *,
        coordinate_map_key: CoordinateMapKey | None = None,
        coordinate_manager: CoordinateManager | None = None,
        tensor_stride: int | Ints = 1,
        batch_size: int | None = None,
    ) -> None:
        if coordinates is not None:
            check_tensors(features=features, coordinates=coordinates)
            if coordinate_map_key is not None:
                raise SparseTensorError("give either coordinates or a coordinate_map_key, not both")
            coordinate_manager = coordinate_manager or CoordinateManager()
            coordinate_map_key = coordinate_manager.insert(coordinates, tensor_stride, batch_size)
        if coordinate_map_key is None or coordinate_manager is None:
            raise SparseTensorError("a sparse tensor needs coordinates, or a key together with its manager")
        self.coordinate_manager = coordinate_manager
        self.coordinate_map_key = coordinate_map_key
        self.features = features

    @property
    def features(self) -> Tensor:
        """(n, C) features. Others are checked as those of a new tensor."""
        return self._features

    @features.setter
    def features(self, features: Tensor) -> None:
        sites = self.coordinate_manager.map(self.coordinate_map_key)
        check_features(features, len(sites), sites.keys.device, "coordinate")
        self._features = features

    @property
    def F(self) -> Tensor:  # noqa: N802 - MinkowskiEngine's name
        """(n, C) features."""
        return self.features

    @property
    def C(self) -> Tensor:  # noqa: N802 - MinkowskiEngine's name
        """(n, 1 + D) int32 coordinates."""
        return self.coordinates

    @property
    def D(self) -> int:  # noqa: N802 - MinkowskiEngine's name
        """Number of spatial axes."""
        return len(self.tensor_stride)

    @property
    def coordinates(self) -> Tensor:
        """(n, 1 + D) int32 [batch, x, ...]."""
        return self.coordinate_manager.coordinates(self.coordinate_map_key)

    @property
    def tensor_stride(self) -> Ints:
        return self.coordinate_map_key.stride

    @property
    def batch_size(self) -> int:
        """Number of clouds; see ``CoordinateManager.batch_size``."""
        return self.coordinate_manager.batch_size(self.coordinate_map_key)

    @property
    def device(self) -> torch.device:
        return self.features.device

    @property
    def decomposed_coordinates(self) -> list[Tensor]:
        """(n_b, D) int32 of each cloud, in the order of the rows."""
        return [self.coordinates[rows, 1:] for rows in self._rows_by_cloud()]

    @property
    def decomposed_features(self) -> list[Tensor]:
        """(n_b, C) of each cloud, in the order of the rows."""
        return [self.features[rows] for rows in self._rows_by_cloud()]

    @property
    def decomposed_coordinates_and_features(self) -> tuple[list[Tensor], list[Tensor]]:
        """Both, in the same order."""
        return self.decomposed_coordinates, self.decomposed_features

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        return f"SparseTensor({tuple(self.features.shape)}, stride {self.tensor_stride}, {self.features.dtype})"

    def with_features(self, features: Tensor, key: CoordinateMapKey | None = None) -> SparseTensor:
        """Other features on the same sites, or on those of ``key``."""
        return SparseTensor(
            features,
            coordinate_map_key=key or self.coordinate_map_key,
            coordinate_manager=self.coordinate_manager,
        )

    def slice(self, field: TensorField) -> Tensor:
        """(P, C): for every point of ``field`` the features of its voxel; see ``TensorField.slice``."""
        return field.slice(self)

    def dense(
        self,
        shape: Sequence[int] | None = None,
        min_coordinate: Sequence[int] | None = None,
        contract_stride: bool = True,
    ) -> tuple[Tensor, Ints, Ints]:
        """The features on a dense grid, zero where there is no site.

        Args:
            shape: (B, C, X, ...) of the grid; by default just large enough.
            min_coordinate: of the first cell, one number for each axis; by default 0. The grid begins at it.
            contract_stride: one cell for each multiple of the tensor stride, instead of one for each finest voxel.

        Returns:
            (B, C, X, ...) features, the coordinate of the first cell, and the tensor stride.

        Raises:
            SparseTensorError: a site lies outside the grid, or the grid is absurdly large.
        """
        axes, coordinates = self.D, self.coordinates.long()
        origin = (0,) * axes if min_coordinate is None else tuple(int(x) for x in min_coordinate)
        if len(origin) != axes:
            raise SparseTensorError(f"min_coordinate has one number for each of {axes} axes", where={"given": origin})
        step = self.tensor_stride if contract_stride else (1,) * axes
        cells = coordinates[:, 1:] - torch.tensor(origin, device=self.device)
        cells = torch.div(cells, torch.tensor(step, device=self.device), rounding_mode="floor")
        lowest, largest = (cells.amin(0).tolist(), cells.amax(0).tolist()) if len(self) else ([0] * axes, [-1] * axes)
        if shape is None:
            shape = (self.batch_size, self.features.shape[1], *(x + 1 for x in largest))
        fits = len(shape) == axes + 2 and shape[1] == self.features.shape[1] and self.batch_size <= shape[0]
        if not fits or min(lowest) < 0 or any(x >= size for x, size in zip(largest, shape[2:], strict=True)):
            raise SparseTensorError(
                "the sites do not fit the dense grid",
                where={
                    "grid": tuple(shape),
                    "first cell": origin,
                    "cells of the sites": f"{tuple(lowest)}..{tuple(largest)}",
                    "batch size and channels": (self.batch_size, self.features.shape[1]),
                },
                hint="give min_coordinate=... when coordinates are negative, or a larger shape",
            )
        if math.prod(shape) > _LARGEST_GRID:
            raise SparseTensorError(
                "the dense grid would be too large",
                where={"grid": tuple(shape)},
                hint="give min_coordinate=... near the sites, or keep the tensor sparse",
            )
        grid = self.features.new_zeros(shape[0], *shape[2:], shape[1])
        grid = grid.index_put((coordinates[:, 0], *cells.unbind(1)), self.features)
        return grid.movedim(-1, 1), origin, self.tensor_stride

    def __add__(self, other: SparseTensor | float | Tensor) -> SparseTensor:
        return self._with(other, "+", torch.add)

    def __sub__(self, other: SparseTensor | float | Tensor) -> SparseTensor:
        return self._with(other, "-", torch.sub)

    def __mul__(self, other: SparseTensor | float | Tensor) -> SparseTensor:
        return self._with(other, "*", torch.mul)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: float | Tensor) -> SparseTensor:
        return self * -1 + other

    def __neg__(self) -> SparseTensor:
        return self.with_features(-self.features)

    def _with(
        self, other: SparseTensor | float | Tensor, what: str, operation: Callable[[Tensor, Tensor | float], Tensor]
    ) -> SparseTensor:
        """Same-site tensors, numbers, and dense tensors that spread over the rows without changing their number."""
        if isinstance(other, SparseTensor):
            _check_same_sites(self, other, what)
            channels = self.features.shape[1], other.features.shape[1]
            if channels[0] != channels[1] and 1 not in channels:
                raise SparseTensorError(
                    f"{what}: the tensors have different numbers of channels", where={"channels": channels}
                )
            other = other.features
        elif not isinstance(other, (int, float, Tensor)):
            return NotImplemented
        return self.with_features(operation(self.features, other))

    def _rows_by_cloud(self) -> tuple[Tensor, ...]:
        batch = self.coordinates[:, 0].long()
        sizes = torch.bincount(batch, minlength=self.batch_size).tolist()
        return batch.argsort(stable=True).split(sizes)


def check_tensors(**values: object) -> None:
    """Raises ``SparseTensorError`` unless all are tensors of torch that lie in memory row after row."""
    for name, value in values.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            kind = value.layout if isinstance(value, Tensor) else type(value).__name__
            raise SparseTensorError(
                f"{name} have to be a dense torch.Tensor", where={"given": kind}, hint="torch.as_tensor(...)"
            )


def check_features(features: Tensor, count: int, device: torch.device, unit: str) -> None:
    """Raises ``SparseTensorError`` unless these are floats (count, C) on the device. ``unit``: what has a row."""
    check_tensors(features=features)
    if features.dim() != 2 or len(features) != count or not features.is_floating_point():
        raise SparseTensorError(
            f"features have to be floating point numbers (n, C), one row for each {unit}",
            where={"features": f"{tuple(features.shape)} {features.dtype}", f"{unit}s": count},
        )
    if features.device != device:
        raise SparseTensorError(
            "features and coordinates are on different devices",
            where={"features": features.device, "coordinates": device},
        )


def _check_same_sites(a: SparseTensor, b: SparseTensor, what: str) -> None:
    if a.coordinate_manager is not b.coordinate_manager:
        raise SparseTensorError(
            f"{what}: the tensors belong to different coordinate managers",
            hint="make both from one manager, so that their rows mean the same sites",
        )
    if a.coordinate_map_key != b.coordinate_map_key:
        raise SparseTensorError(
            f"{what}: the tensors have different sites",
            where={"strides": [a.tensor_stride, b.tensor_stride]},
            hint="union brings tensors of one stride onto the sites of all",
        )


def given_sites(x: SparseTensor, given: CoordinateMapKey | SparseTensor) -> CoordinateMapKey:
    """The key of the sites that a layer is given for its output: that of a tensor on the manager of ``x``, or a key."""
    key = given.coordinate_map_key if isinstance(given, SparseTensor) else given
    if not isinstance(key, CoordinateMapKey):
        raise SparseTensorError(
            "the output's sites are a sparse tensor or a key", where={"given": type(given).__name__}
        )
    if isinstance(given, SparseTensor) and given.coordinate_manager is not x.coordinate_manager:
        raise SparseTensorError("the output's sites belong to a different coordinate manager than the input")
    return key


def check_strides(coarse: Ints, fine: Ints, stride: Ints) -> None:
    """Raises ``SparseTensorError`` unless a layer of this stride connects sites of these tensor strides."""
    if coarse != times(fine, stride):
        raise SparseTensorError(
            "the output's sites have another tensor stride than the layer gives",
            where={"coarse": coarse, "fine": fine, "stride of the layer": stride},
        )
