"""Sparse convolution as gather, matrix product, scatter over a kernel map.

out = sum over offsets k of scatter_k(gather_k(in) @ W_k); the gradients run over the same map. Rows are added in a
fixed order, and the targets of one offset are unique, so results are bit-equal from run to run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssl3d.models.sparse.kernel_map import KernelMap

_NUMBA_TYPES = (torch.float32, torch.float64)
_HALF_TYPES = (torch.float16, torch.bfloat16)


def convolution(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """Convolves features over a kernel map.

    Under ``torch.autocast`` products are taken in the autocast type; sums over offsets are then in float32.

    Args:
        features: (num_in, I).
        weight: (K, I, O), in the order of ``kernel_map.kernel_offsets``.

    Returns:
        (num_out, O).
    """
    device = features.device.type
    if torch.is_autocast_enabled(device) and features.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        features, weight = features.to(dtype), weight.to(dtype)
    result: Tensor = _Convolution.apply(features, weight, kernel_map)
    return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        features, weight = features.contiguous(), weight.contiguous()
        ctx.save_for_backward(features, weight)
        ctx.kernel_map = kernel_map
        return _product(features, weight, kernel_map)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        grad, kernel_map = grad.contiguous(), ctx.kernel_map
        need_features, need_weight = ctx.needs_input_grad[:2]
        grad_weight = torch.zeros_like(weight) if need_weight else None
        grad_features = (
            _accumulator(kernel_map, kernel_map.num_in, weight.shape[1], features) if need_features else None
        )
        if kernel_map.identity is not None:
            k = kernel_map.identity
            if grad_features is not None:
                _mm(grad, weight[k].t(), grad_features)
            if grad_weight is not None:
                torch.mm(features.t(), grad, out=grad_weight[k])
        longest = max((len(p.source) for p in kernel_map.pairs), default=0)
        rows_in, rows_out = features.new_empty(longest, weight.shape[1]), grad.new_empty(longest, weight.shape[2])
        scatter = None if grad_features is None else _Scatter(rows_in, grad_features)
        for pair in kernel_map.pairs:
            n = len(pair.source)
            grad_rows = torch.index_select(grad, 0, pair.target, out=rows_out[:n])
            if grad_weight is not None:
                feature_rows = torch.index_select(features, 0, pair.source, out=rows_in[:n])
                torch.mm(feature_rows.t(), grad_rows, out=grad_weight[pair.offset])
            if scatter is not None:
                torch.mm(grad_rows, weight[pair.offset].t(), out=rows_in[:n])
                scatter(pair.source, pair.source_array)
        return None if grad_features is None else grad_features.to(features.dtype), grad_weight, None


def _product(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """sum_k scatter_k(gather_k(features) @ weight_k)."""
    out = _accumulator(kernel_map, kernel_map.num_out, weight.shape[2], features)
    if kernel_map.identity is not None:
        _mm(features, weight[kernel_map.identity], out)
    longest = max((len(p.source) for p in kernel_map.pairs), default=0)
    rows_in, rows_out = features.new_empty(longest, weight.shape[1]), features.new_empty(longest, weight.shape[2])
    scatter = _Scatter(rows_out, out)
    for pair in kernel_map.pairs:
        n = len(pair.source)
        gathered = torch.index_select(features, 0, pair.source, out=rows_in[:n])
        torch.mm(gathered, weight[pair.offset], out=rows_out[:n])
        scatter(pair.target, pair.target_array)
    return out.to(features.dtype)


def _accumulator(kernel_map: KernelMap, rows: int, channels: int, like: Tensor) -> Tensor:
    """Where sums are taken: float32 for the half types. Not cleared if the identity offset fills it first."""
    dtype = torch.float32 if like.dtype in _HALF_TYPES else like.dtype
    make = like.new_empty if kernel_map.identity is not None else like.new_zeros
    return make(rows, channels, dtype=dtype)


def _mm(a: Tensor, b: Tensor, out: Tensor) -> None:
    if out.dtype == a.dtype:
        torch.mm(a, b, out=out)
    else:
        out.copy_(torch.mm(a, b))


class _Scatter:
    """Adds rows of one work buffer to rows of ``out``: numba on the CPU (no call overhead per kernel offset beyond its
    own), ``index_add_`` elsewhere and for the half types."""

    def __init__(self, values: Tensor, out: Tensor) -> None:
        self.values, self.out = values, out
        self.arrays: Any = None
        if values.device.type == "cpu" and values.dtype in _NUMBA_TYPES:
            from ssl3d.models.sparse import maps_numba

            self.add = maps_numba.scatter_add
            self.arrays = values.numpy(), out.numpy()

    def __call__(self, rows: Tensor, rows_array: Any) -> None:
        """``out[rows[i]] += values[i]`` for the first ``len(rows)`` rows of the buffer; ``rows`` are unique."""
        if self.arrays is not None:
            self.add(self.arrays[0], rows_array, self.arrays[1])
        else:
            self.out.index_add_(0, rows, self.values[: len(rows)].to(self.out.dtype))
