"""Local pooling and its transposes.

Windows are MinkowskiEngine 0.5.4's: offsets of a kernel as in ``kernel_map`` (centered along axes of odd size), except
that a kernel as large as its stride divides the sites into blocks, floor(x / stride), also when its size is odd; the
dilation then has no meaning. A window holds the sites that exist, never padding. It can only be empty where the kernel
leaves gaps between strides (such as 1 with stride 2): the result there is 0, without a gradient.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Literal

import torch
from torch import Tensor, nn

from ssl3d.models.sparse import reduce
from ssl3d.models.sparse.derived import derived
from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.kernel_map import Ints, ints
from ssl3d.models.sparse.manager import CoordinateMapKey
from ssl3d.models.sparse.reduce import RowMap
from ssl3d.models.sparse.tensor import SparseTensor, check_strides, given_sites

Sites = CoordinateMapKey | SparseTensor | None


class _PoolingBase(nn.Module):
    """Args:
    kernel_size, stride, dilation: one number, or one for each axis.
    dimension: number of axes; by default any that the numbers allow.
    """

    def __init__(
        self, kernel_size: int | Ints, stride: int | Ints = 1, dilation: int | Ints = 1, dimension: int | None = None
    ) -> None:
        super().__init__()
        for value in (kernel_size, stride, dilation):
            ints(value, dimension or (len(value) if isinstance(value, Sized) else 1))
        self.kernel_size, self.stride, self.dilation, self.dimension = kernel_size, stride, dilation, dimension

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, dilation={self.dilation}"

    def windows(self, x: SparseTensor, coordinates: Sites = None) -> tuple[CoordinateMapKey, RowMap]:
        """The output's key, and which rows of the input meet in each of its rows."""
        key = x.coordinate_map_key
        if coordinates is None:
            out_key = x.coordinate_manager.strided(key, self.stride)
        else:
            out_key = given_sites(x, coordinates)
            check_strides(out_key.stride, key.stride, ints(self.stride, x.D))
        return out_key, self._rows(x, key, out_key)

    def _rows(self, x: SparseTensor, fine: CoordinateMapKey, coarse: CoordinateMapKey) -> RowMap:
        if self.dimension not in (None, x.D):
            raise SparseTensorError(
                "the layer was made for another number of axes", where={"layer": self.dimension, "input": x.D}
            )
        manager, device = x.coordinate_manager, x.device
        engine = manager.engine_for(device)
        if self._blocks(x.D):
            return RowMap.of_groups(manager.parents(fine, coarse), len(manager.map(coarse)), engine)
        size, dilation = ints(self.kernel_size, x.D), ints(self.dilation, x.D)

        def build() -> RowMap:
            return RowMap.of_kernel(manager.kernel_map(fine, coarse, size, dilation), engine, device)

        return derived(manager, ("windows", fine, coarse, size, dilation), build)

    def _blocks(self, axes: int) -> bool:
        """Whether windows are blocks, each site in just one."""
        return ints(self.kernel_size, axes) == ints(self.stride, axes)


class SumPooling(_PoolingBase):
    """out(y) = sum of in(y + o) over the sites of the window (MinkowskiSumPooling)."""

    def forward(self, x: SparseTensor, coordinates: Sites = None) -> SparseTensor:
        """(n, C) -> (m, C) on the sites floor(x / stride), or on those of ``coordinates`` (a tensor or a key)."""
        key, rows = self.windows(x, coordinates)
        return x.with_features(reduce.sum_rows(x.features, rows), key)


class AvgPooling(_PoolingBase):
    """The sum divided by the number of sites in the window, not by the kernel's volume (MinkowskiAvgPooling)."""

    def forward(self, x: SparseTensor, coordinates: Sites = None) -> SparseTensor:
        """As ``SumPooling.forward``."""
        key, rows = self.windows(x, coordinates)
        return x.with_features(reduce.mean_rows(x.features, rows), key)


class MaxPooling(_PoolingBase):
    """out(y) = max of in(y + o) per channel over the sites of the window (MinkowskiMaxPooling).

    Of equal values the first gets the gradient: in the order of kernel offsets, or of rows where the windows are
    blocks. NaN is greater than any number.
    """

    def forward(self, x: SparseTensor, coordinates: Sites = None) -> SparseTensor:
        """As ``SumPooling.forward``."""
        return self.with_indices(x, coordinates)[0]

    def with_indices(self, x: SparseTensor, coordinates: Sites = None) -> tuple[SparseTensor, Tensor]:
        """Also (m, C) int32: the row of ``x`` each maximum came from, -1 for an empty window. See ``MaxUnpooling``."""
        key, rows = self.windows(x, coordinates)
        out, winner = reduce.max_rows(x.features, rows)
        return x.with_features(out, key), winner


class PoolingTranspose(_PoolingBase):
    """The transpose of sum pooling (MinkowskiPoolingTranspose): out(x) = sum of in(y) over the y whose window holds x.

    Where windows are blocks each site gets a copy of its parent. As MinkowskiEngine does on the CPU, nothing is divided
    by a number of sites.

    Args:
        sites: where the output is. ``existing``: at the sites known at tensor stride / ``stride`` (those of the
            encoder). ``generated``: at every y + o (MinkowskiEngine's ``expand_coordinates``).
    """

    def __init__(
        self,
        kernel_size: int | Ints,
        stride: int | Ints = 1,
        dilation: int | Ints = 1,
        dimension: int | None = None,
        sites: Literal["existing", "generated"] = "existing",
    ) -> None:
        super().__init__(kernel_size, stride, dilation, dimension)
        if sites not in ("existing", "generated"):
            raise SparseTensorError(f"pooling transpose knows no sites {sites!r}", hint="choose existing or generated")
        self.sites = sites

    def forward(self, x: SparseTensor, coordinates: Sites = None) -> SparseTensor:
        """(m, C) -> (n, C) on the sites at tensor stride / ``stride``, or on those of ``coordinates``."""
        manager, key = x.coordinate_manager, x.coordinate_map_key
        if coordinates is not None:
            out_key = given_sites(x, coordinates)
            check_strides(key.stride, out_key.stride, ints(self.stride, x.D))
        elif self.sites == "existing":
            out_key = manager.upsampled(key, self.stride)
        else:
            if self._blocks(x.D) and any(size > 1 and size % 2 for size in ints(self.kernel_size, x.D)):
                raise SparseTensorError(
                    "pooling transpose cannot generate blocks of an odd size",
                    where={"kernel_size": self.kernel_size, "stride": self.stride},
                    hint="odd kernels are centered and blocks are not: give coordinates=, or an even size",
                )
            out_key = manager.generated(key, self.stride, self.kernel_size, self.dilation)
        rows = self._rows(x, out_key, key).swapped()
        return x.with_features(reduce.sum_rows(x.features, rows), out_key)


class MaxUnpooling(nn.Module):
    """Puts values back to the rows that ``MaxPooling.with_indices`` took them from; 0 elsewhere.

    A row that was the maximum of several windows gets the sum of their values (this is the transpose of max pooling).
    """

    def forward(self, x: SparseTensor, indices: Tensor, like: SparseTensor) -> SparseTensor:
        """
        Args:
            x: (n_out, C) on the sites of the pooled tensor.
            indices: (n_out, C) int32 from ``with_indices``.
            like: the tensor that was pooled, or any on its sites.
        """
        if like.coordinate_manager is not x.coordinate_manager:
            raise SparseTensorError("max unpooling: the tensors belong to different coordinate managers")
        if indices.shape != x.features.shape or indices.dtype != torch.int32 or indices.device != x.device:
            raise SparseTensorError(
                "max unpooling needs the int32 indices of the max pooling, one for each value",
                where={"indices": f"{tuple(indices.shape)} {indices.dtype} {indices.device}"},
                hint=f"the values are {tuple(x.features.shape)} on {x.device}",
            )
        if indices.numel() and int(indices.max()) >= len(like):
            raise SparseTensorError(
                "max unpooling: indices point past the rows of the tensor to unpool to",
                where={"largest index": int(indices.max()), "rows": len(like)},
            )
        engine = x.coordinate_manager.engine_for(x.device)
        out = reduce.add_to_winners(x.features, indices.contiguous(), len(like), engine)
        return x.with_features(out, like.coordinate_map_key)
