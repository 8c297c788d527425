"""Dropping sites."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssl3d.models.sparse import reduce
from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.reduce import RowMap
from ssl3d.models.sparse.tensor import SparseTensor, check_tensors


class Pruning(nn.Module):
    """Keeps the sites of a mask, in their order, under a new key (MinkowskiPruning).

    The gradient goes to the kept rows and is 0 elsewhere. Batch items may lose all their sites; they still count. The
    new key knows no finer sites: to go back to the old ones, use the old key (``coordinates=`` of a transposed layer).
    """

    def forward(self, x: SparseTensor, mask: Tensor) -> SparseTensor:
        """
        Args:
            x: (n, C).
            mask: (n,) bool on the device of ``x``, true for the sites to keep.

        Returns:
            (number kept, C).

        Raises:
            SparseTensorError: a mask of another shape, type or device.
        """
        check_tensors(mask=mask)
        if mask.shape != (len(x),) or mask.dtype != torch.bool or mask.device != x.device:
            raise SparseTensorError(
                "pruning needs one boolean for each site",
                where={"mask": f"{tuple(mask.shape)} {mask.dtype} {mask.device}", "sites": f"{len(x)} on {x.device}"},
            )
        manager, kept = x.coordinate_manager, mask.nonzero().squeeze(1)
        key = manager.insert(x.coordinates[kept], x.tensor_stride, x.batch_size)
        rows = RowMap.of_groups(kept, len(x), manager.engine_for(x.device)).swapped()
        return x.with_features(reduce.sum_rows(x.features, rows), key)
