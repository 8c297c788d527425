"""Instance norm: normalization over the sites of each batch item."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssl3d.models.sparse import reduce
from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.global_pooling import batch_rows
from ssl3d.models.sparse.precision import wider
from ssl3d.models.sparse.tensor import SparseTensor


class InstanceNorm(nn.Module):
    """out = weight * (in - mean_b) / sqrt(var_b + eps) + bias, statistics over the sites of batch item b per channel
    (MinkowskiInstanceNorm).

    The variance is divided by the number of sites, so that a batch item of one site gives the bias. There are no
    running statistics: training and evaluation are alike. Half types are normalized in float32.

    Args:
        eps: 1e-8, as MinkowskiInstanceNorm has it.
    """

    def __init__(self, num_features: int, eps: float = 1e-8) -> None:
        super().__init__()
        self.num_features, self.eps = num_features, eps
        self.weight = nn.Parameter(torch.ones(1, num_features))
        self.bias = nn.Parameter(torch.zeros(1, num_features))

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}"

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(n, C) -> (n, C) of the same type."""
        if x.features.shape[1] != self.num_features:
            raise SparseTensorError(
                "the layer was made for another number of channels",
                where={"layer": self.num_features, "input": x.features.shape[1]},
            )
        dtype = x.features.dtype
        out = self._normalized(x.features.to(wider(dtype)), x) * self.weight + self.bias
        return x.with_features(out.to(dtype))

    def _normalized(self, features: Tensor, x: SparseTensor) -> Tensor:
        rows = batch_rows(x)
        back = rows.swapped()
        centered = features - reduce.sum_rows(reduce.mean_rows(features, rows), back)
        variance = reduce.mean_rows(centered.square(), rows)
        return centered * reduce.sum_rows((variance + self.eps).rsqrt(), back)


class StableInstanceNorm(InstanceNorm):
    """Instance norm with the larger eps of MinkowskiStableInstanceNorm, 1e-6."""

    def __init__(self, num_features: int, eps: float = 1e-6) -> None:
        super().__init__(num_features, eps)
