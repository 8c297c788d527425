"""Tensors with different sites of one manager, brought onto the sites of all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssl3d.models.sparse import reduce
from ssl3d.models.sparse.derived import derived
from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.manager import CoordinateManager, CoordinateMapKey
from ssl3d.models.sparse.reduce import RowMap
from ssl3d.models.sparse.tensor import SparseTensor


class Union(nn.Module):
    """The sum of several tensors on the union of their sites; a tensor without a site counts as 0 there
    (MinkowskiUnion)."""

    def forward(self, tensors: Sequence[SparseTensor]) -> SparseTensor:
        """
        Args:
            tensors: (n_i, C) each, of one manager and one tensor stride.

        Returns:
            (n, C), on the key of the first tensor that has all the sites, if any; else on a new key, shared by all
            unions of the same keys in this order: the first tensor's sites, then those the second one adds, and so on.

        Raises:
            SparseTensorError: no tensor, different managers, tensor strides or numbers of channels.
        """
        key, places = union(tensors)
        if len({t.features.shape[1] for t in tensors}) > 1:
            raise SparseTensorError(
                "union: the tensors have different numbers of channels",
                where={"channels": [t.features.shape[1] for t in tensors]},
                hint="cat puts them side by side",
            )
        first = tensors[0]
        rows = RowMap.of_groups(torch.cat(places), *_shape(first, key))
        return first.with_features(reduce.sum_rows(torch.cat([t.features for t in tensors]), rows), key)


def cat(tensors: Sequence[SparseTensor]) -> SparseTensor:
    """Channels side by side on the union of the sites; a tensor without a site has zeros there.

    On equal sites this is MinkowskiEngine's ``cat``. Sites and errors: see ``Union``; numbers of channels may differ.
    """
    _, keys = _company(tensors)
    first, columns = tensors[0], []
    if len(set(keys)) == 1:
        return first.with_features(torch.cat([t.features for t in tensors], 1))
    key, places = union(tensors)
    for tensor, place in zip(tensors, places, strict=True):
        rows = RowMap.of_groups(place, *_shape(first, key))
        same = tensor.coordinate_map_key == key
        columns.append(tensor.features if same else reduce.sum_rows(tensor.features, rows))
    return first.with_features(torch.cat(columns, 1), key)


def union(tensors: Sequence[SparseTensor]) -> tuple[CoordinateMapKey, list[Tensor]]:
    """The key of the union of the sites, and for each tensor (n_i,) int64, the rows of its sites there."""
    manager, keys = _company(tensors)
    unique = tuple(dict.fromkeys(keys))
    key = derived(manager, ("union", *unique), lambda: _union_key(manager, unique))
    return key, [manager.parents(k, key) for k in keys]


def _company(tensors: Sequence[SparseTensor]) -> tuple[CoordinateManager, list[CoordinateMapKey]]:
    """The manager of tensors that can meet, and their keys."""
    if not tensors:
        raise SparseTensorError("union and cat need at least one tensor")
    manager, keys = tensors[0].coordinate_manager, [t.coordinate_map_key for t in tensors]
    if any(t.coordinate_manager is not manager for t in tensors):
        raise SparseTensorError(
            "the tensors belong to different coordinate managers",
            hint="make all from one manager (coordinate_manager=)",
        )
    if len({key.stride for key in keys}) > 1:
        raise SparseTensorError(
            "the tensors have different tensor strides", where={"strides": [key.stride for key in keys]}
        )
    return manager, keys


def _union_key(manager: CoordinateManager, keys: Sequence[CoordinateMapKey]) -> CoordinateMapKey:
    """One of ``keys`` if it has all sites, else that of a new map."""
    added = []
    for i, key in enumerate(keys):
        new = torch.ones(len(manager.map(key)), dtype=torch.bool, device=manager.map(key).keys.device)
        for other in keys[:i]:
            new &= manager.parents(key, other) < 0
        added.append(manager.coordinates(key)[new])
    total = sum(map(len, added))
    for key in keys:
        if len(manager.map(key)) == total:
            return key
    return manager.insert(torch.cat(added), keys[0].stride, max(manager.batch_size(key) for key in keys))


def _shape(x: SparseTensor, key: CoordinateMapKey) -> tuple[int, reduce.Engine]:
    manager = x.coordinate_manager
    return len(manager.map(key)), manager.engine_for(x.device)
