"""Sparse convolution over a kernel map, with its gradients.

out = sum over offsets k of scatter_k(gather_k(in) @ W_k); the gradients run over the same map. Rows are added in a
fixed order, and the targets of one offset are unique, so results are bit-equal from run to run.

float32 on the CPU runs in kernels of its own (``convolution_cpu``). Everything else is gather, matrix product and
scatter in torch, on any device: the half types with sums in float32, and float64 for ``gradcheck``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.kernel_map import KernelMap
from ssl3d.models.sparse.precision import wider


def convolution(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """Convolves features over a kernel map.

    Under ``torch.autocast`` products are taken in the autocast type; sums over offsets are then in float32.

    Args:
        features: (num_in, I).
        weight: (K, I, O), in the order of ``kernel_map.kernel_offsets``.

    Returns:
        (num_out, O).

    Raises:
        SparseTensorError: features or weights that do not fit the map or each other.
    """
    device = features.device.type
    if torch.is_autocast_enabled(device) and features.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        features, weight = features.to(dtype), weight.to(dtype)
    _check(features, weight, kernel_map)
    result: Tensor = _Convolution.apply(features, weight, kernel_map)
    return result


def _check(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> None:
    if (
        weight.dim() != 3
        or features.shape != (kernel_map.num_in, weight.shape[1])
        or len(weight) != kernel_map.volume
        or features.dtype != weight.dtype
        or features.device != weight.device
        or features.device != kernel_map.source.device
    ):
        raise SparseTensorError(
            "features, weights and kernel map do not fit each other",
            where={
                "features": f"{tuple(features.shape)} {features.dtype} {features.device}",
                "weights": f"{tuple(weight.shape)} {weight.dtype} {weight.device}",
                "rows of the input, kernel offsets": (kernel_map.num_in, kernel_map.volume),
                "kernel map": kernel_map.source.device,
            },
        )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        features = features.contiguous()
        ctx.save_for_backward(features, weight)
        ctx.kernel_map = kernel_map
        return _product(features, weight, kernel_map)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        grad, kernel_map = grad.contiguous(), ctx.kernel_map
        need_features, need_weight = ctx.needs_input_grad[:2]
        grad_features = _Convolution.apply(grad, weight.transpose(1, 2), kernel_map.reverse) if need_features else None
        return grad_features, _WeightGradient.apply(features, grad, kernel_map) if need_weight else None, None


class _WeightGradient(torch.autograd.Function):
    """Linear in the features and in the gradient of the output, as the convolution is in features and weights: each is
    made of the others, so gradients have gradients (``create_graph=True``)."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, grad: Tensor, kernel_map: KernelMap) -> Tensor:
        ctx.save_for_backward(features, grad)
        ctx.kernel_map = kernel_map
        return _weight_gradient(features.contiguous(), grad, kernel_map)

    @staticmethod
    def backward(ctx: Any, grad_weight: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, grad = ctx.saved_tensors
        kernel_map, (need_features, need_grad) = ctx.kernel_map, ctx.needs_input_grad[:2]
        back = _Convolution.apply(grad, grad_weight.transpose(1, 2), kernel_map.reverse) if need_features else None
        return back, _Convolution.apply(features, grad_weight, kernel_map) if need_grad else None, None


def _product(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """sum_k scatter_k(gather_k(features) @ weight_k)."""
    if _has_kernels(features):
        from ssl3d.models.sparse import convolution_cpu

        return convolution_cpu.product(features, weight, kernel_map.blocks)
    dtype = wider(features.dtype)
    if kernel_map.identity is None:
        out = features.new_zeros(kernel_map.num_out, weight.shape[2], dtype=dtype)
    else:
        out = torch.mm(features, weight[kernel_map.identity]).to(dtype)
    for pair in kernel_map.pairs:
        out.index_add_(0, pair.target, torch.mm(features[pair.source], weight[pair.offset]).to(dtype))
    return out.to(features.dtype)


def _weight_gradient(features: Tensor, grad: Tensor, kernel_map: KernelMap) -> Tensor:
    """(K, I, O): gather_k(features)^T @ gather_k(grad)."""
    if _has_kernels(features):
        from ssl3d.models.sparse import convolution_cpu

        return convolution_cpu.gradient(features, grad, kernel_map.blocks)
    found = features.new_zeros(kernel_map.volume, features.shape[1], grad.shape[1])
    if kernel_map.identity is not None:
        torch.mm(features.t(), grad, out=found[kernel_map.identity])
    for pair in kernel_map.pairs:
        torch.mm(features[pair.source].t(), grad[pair.target], out=found[pair.offset])
    return found


def _has_kernels(features: Tensor) -> bool:
    return features.device.type == "cpu" and features.dtype == torch.float32
