"""Pooling over all sites of each batch item, and giving such a result back to the sites.

A *global tensor* has one site [b, 0, ...] for each batch item b, in the order of b, on a key that all global tensors of
one manager and batch size share. Batch items without sites are rows of it, too: 0, without a gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ssl3d.models.sparse import reduce
from ssl3d.models.sparse.derived import derived
from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.keys import check_batch_size
from ssl3d.models.sparse.manager import CoordinateMapKey
from ssl3d.models.sparse.reduce import RowMap
from ssl3d.models.sparse.tensor import SparseTensor


class _GlobalPoolingBase(nn.Module):
    reduction: Callable[[Tensor, RowMap], Tensor]

    def forward(self, x: SparseTensor, batch_size: int | None = None) -> SparseTensor:
        """(n, C) -> (batch_size, C) on the sites [b, 0, ...].

        Args:
            batch_size: rows of the result; by default ``x.batch_size``.

        Raises:
            SparseTensorError: a batch index is not under ``batch_size``.
        """
        rows = batch_rows(x, batch_size)
        return x.with_features(type(self).reduction(x.features, rows), global_key(x, rows.num_out))


class GlobalSumPooling(_GlobalPoolingBase):
    """Sum over the sites of each batch item (MinkowskiGlobalSumPooling)."""

    reduction = staticmethod(reduce.sum_rows)


class GlobalAvgPooling(_GlobalPoolingBase):
    """Mean over the sites of each batch item (MinkowskiGlobalAvgPooling, MinkowskiGlobalPooling)."""

    reduction = staticmethod(reduce.mean_rows)


class GlobalMaxPooling(_GlobalPoolingBase):
    """Maximum over the sites of each batch item and channel; of equal ones the first row gets the gradient
    (MinkowskiGlobalMaxPooling)."""

    @staticmethod
    def reduction(features: Tensor, rows: RowMap) -> Tensor:
        return reduce.max_rows(features, rows)[0]


class _BroadcastBase(nn.Module):
    def forward(self, x: SparseTensor, global_tensor: SparseTensor) -> SparseTensor:
        """
        Args:
            x: (n, C).
            global_tensor: (B, G), one site for each batch item; G = C where the two are added or multiplied.

        Raises:
            SparseTensorError: different managers, unequal channels, or a batch item of ``x`` without its row.
        """
        if not self.any_channels and x.features.shape[1] != global_tensor.features.shape[1]:
            raise SparseTensorError(
                "broadcast: the tensors have different numbers of channels",
                where={"sites": x.features.shape[1], "global": global_tensor.features.shape[1]},
            )
        return x.with_features(self.combine(x.features, rows_at_sites(global_tensor, x)))

    any_channels = False

    def combine(self, features: Tensor, at_sites: Tensor) -> Tensor:
        raise NotImplementedError


class Broadcast(_BroadcastBase):
    """out(x) = global(b) (MinkowskiBroadcast)."""

    any_channels = True

    def combine(self, features: Tensor, at_sites: Tensor) -> Tensor:
        return at_sites


class BroadcastAddition(_BroadcastBase):
    """out(x) = in(x) + global(b) (MinkowskiBroadcastAddition)."""

    def combine(self, features: Tensor, at_sites: Tensor) -> Tensor:
        return features + at_sites


class BroadcastMultiplication(_BroadcastBase):
    """out(x) = in(x) * global(b) (MinkowskiBroadcastMultiplication)."""

    def combine(self, features: Tensor, at_sites: Tensor) -> Tensor:
        return features * at_sites


class BroadcastConcatenation(_BroadcastBase):
    """out(x) = [in(x), global(b)], C + G channels (MinkowskiBroadcastConcatenation)."""

    any_channels = True

    def combine(self, features: Tensor, at_sites: Tensor) -> Tensor:
        return torch.cat([features, at_sites], 1)


def batch_rows(x: SparseTensor, batch_size: int | None = None) -> RowMap:
    """The rows of each batch item. Raises for a batch index that is not under ``batch_size``, or too large a one."""
    if batch_size is not None:
        check_batch_size(batch_size, x.D)
    if batch_size is not None and batch_size < x.batch_size and bool((x.coordinates[:, 0] >= batch_size).any()):
        raise SparseTensorError(
            "the tensor has more batch items than batch_size",
            where={"batch items": x.batch_size, "batch_size": batch_size},
        )
    count = x.batch_size if batch_size is None else batch_size
    return RowMap.of_groups(x.coordinates[:, 0], count, x.coordinate_manager.engine_for(x.device))


def global_key(x: SparseTensor, batch_size: int) -> CoordinateMapKey:
    """The key of the sites [b, 0, ...], b < ``batch_size``, in the manager of ``x``."""
    manager = x.coordinate_manager

    def build() -> CoordinateMapKey:
        sites = torch.zeros(batch_size, 1 + x.D, dtype=torch.int32, device=x.device)
        sites[:, 0] = torch.arange(batch_size)
        return manager.insert(sites, batch_size=batch_size)

    return derived(manager, ("global", batch_size), build)


def rows_at_sites(global_tensor: SparseTensor, x: SparseTensor) -> Tensor:
    """(B, G) of a global tensor -> (n, G), its row of each site's batch item."""
    if global_tensor.coordinate_manager is not x.coordinate_manager:
        raise SparseTensorError(
            "broadcast: the tensors belong to different coordinate managers",
            hint="pool the global tensor from a tensor of the same manager",
        )
    batch, items = x.coordinates[:, 0].long(), global_tensor.coordinates[:, 0].long()
    count = int(torch.cat([batch, items]).max()) + 1 if len(batch) + len(items) else 0
    places = torch.full((count,), -1, dtype=torch.int64, device=x.device)
    places[items] = torch.arange(len(items), device=x.device)
    if int((places >= 0).sum()) < len(items):
        raise SparseTensorError("broadcast: the global tensor has several sites in a batch item")
    wanted = places[batch]
    if bool((wanted < 0).any()):
        raise SparseTensorError(
            "broadcast: the global tensor has no row for a batch item",
            where={"batch item": int(batch[wanted < 0][0]), "rows": len(items)},
            hint="pool the global tensor with batch_size=...",
        )
    engine = x.coordinate_manager.engine_for(x.device)
    return reduce.sum_rows(global_tensor.features, RowMap.of_groups(wanted, len(items), engine).swapped())
