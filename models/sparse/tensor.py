"""A sparse tensor: features on the sites of a coordinate map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.kernel_map import Triple
from ssl3d.models.sparse.manager import CoordinateManager, CoordinateMapKey


class SparseTensor:
    """Features (n, C) on n unique integer coordinates.

    Args:
        features: (n, C) float.
        coordinates: (n, 4) integers [batch, x, y, z]; or instead of them the next two.
        coordinate_map_key, coordinate_manager: sites that a manager already knows.
        tensor_stride: of new coordinates, which are multiples of it.

    Raises:
        SparseTensorError: see ``CoordinateManager.insert``; or features that do not match the sites.
    """

    __slots__ = ("coordinate_manager", "coordinate_map_key", "features")

    def __init__(
        self,
        features: Tensor,
        coordinates: Tensor | None = None,
        *,
        coordinate_map_key: CoordinateMapKey | None = None,
        coordinate_manager: CoordinateManager | None = None,
        tensor_stride: int | Triple = 1,
    ) -> None:
        if coordinates is not None:
            if coordinate_map_key is not None:
                raise SparseTensorError("give either coordinates or a coordinate_map_key, not both")
            coordinate_manager = coordinate_manager or CoordinateManager()
            coordinate_map_key = coordinate_manager.insert(coordinates, tensor_stride)
        if coordinate_map_key is None or coordinate_manager is None:
            raise SparseTensorError("a sparse tensor needs coordinates, or a key together with its manager")
        sites = coordinate_manager.map(coordinate_map_key)
        if features.dim() != 2 or len(features) != len(sites) or not features.is_floating_point():
            raise SparseTensorError(
                "features have to be floating point numbers (n, C), one row for each coordinate",
                where={"features": f"{tuple(features.shape)} {features.dtype}", "coordinates": len(sites)},
            )
        if features.device != sites.keys.device:
            raise SparseTensorError(
                "features and coordinates are on different devices",
                where={"features": features.device, "coordinates": sites.keys.device},
            )
        self.features = features
        self.coordinate_manager = coordinate_manager
        self.coordinate_map_key = coordinate_map_key

    @property
    def F(self) -> Tensor:  # noqa: N802 - MinkowskiEngine's name
        """(n, C) features."""
        return self.features

    @property
    def C(self) -> Tensor:  # noqa: N802 - MinkowskiEngine's name
        """(n, 4) int32 coordinates."""
        return self.coordinates

    @property
    def coordinates(self) -> Tensor:
        """(n, 4) int32 [batch, x, y, z]."""
        return self.coordinate_manager.coordinates(self.coordinate_map_key)

    @property
    def tensor_stride(self) -> Triple:
        return self.coordinate_map_key.stride

    @property
    def device(self) -> torch.device:
        return self.features.device

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

    def __add__(self, other: SparseTensor) -> SparseTensor:
        _check_same_sites((self, other), "+")
        return self.with_features(self.features + other.features)


def cat(tensors: Sequence[SparseTensor]) -> SparseTensor:
    """Channels side by side; all on the same sites of the same manager."""
    _check_same_sites(tensors, "cat")
    return tensors[0].with_features(torch.cat([t.features for t in tensors], 1))


def _check_same_sites(tensors: Sequence[SparseTensor], what: str) -> None:
    first = tensors[0]
    for other in tensors[1:]:
        if other.coordinate_manager is not first.coordinate_manager:
            raise SparseTensorError(
                f"{what}: the tensors belong to different coordinate managers",
                hint="make both from one manager, so that their rows mean the same sites",
            )
        if other.coordinate_map_key != first.coordinate_map_key:
            raise SparseTensorError(
                f"{what}: the tensors have different sites",
                where={"strides": [t.tensor_stride for t in tensors]},
            )
