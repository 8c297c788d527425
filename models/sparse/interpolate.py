"""Features of a sparse tensor at continuous points, from the sites at the 2^D corners of the cell around each point.

As MinkowskiEngine's ``MinkowskiInterpolation``: a site is a sample at its own coordinate, the weight of a corner is the
product over the axes of 1 - |x - corner| / tensor stride, and a corner without a site contributes 0. The weights of
the others are then not scaled up, so that features fade out at the border; ``renormalize`` scales them.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ssl3d.models.sparse import maps_torch
from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.kernel_map import kernel_offsets
from ssl3d.models.sparse.keys import BATCH_LIMIT, COORDINATE_LIMIT, offset_key, pack
from ssl3d.models.sparse.precision import wider
from ssl3d.models.sparse.tensor import SparseTensor, check_tensors

Mode = Literal["linear", "nearest"]


def interpolate(x: SparseTensor, points: Tensor, mode: Mode = "linear", *, renormalize: bool = False) -> Tensor:
    """Features at continuous points.

    Args:
        x: n sites with C features, D = 2, 3 or 4 axes.
        points: (P, 1 + D) float [batch, x, ...] in the units of the coordinates (meters / voxel size; the center of a
            voxel of stride 1 lies at + 0.5, its site at + 0). Batch indices are whole numbers.
        mode: ``linear``; or ``nearest``: the corner with the largest weight alone, of equal ones that with the
            smaller coordinates (x first).
        renormalize: corners without a site are left out and the weights of the others scaled to a sum of 1
            (``nearest``: the nearest of the corners that have a site).

    Returns:
        (P, C) of the type of ``x.features``; 0 where no corner has a site. Gradients go to the features, and in mode
        ``linear`` to the points.

    Raises:
        SparseTensorError: wrong shape, type or device; points that are not finite; a batch index that no tensor has.
    """
    if mode not in ("linear", "nearest"):
        raise SparseTensorError(f"unknown mode {mode!r}", hint="choose linear or nearest")
    rows, weights = corners(x, points)
    if mode == "nearest":
        weights = _nearest(weights.detach(), rows, renormalize)
    elif renormalize:
        weights = weights * (rows >= 0)
        total = weights.sum(1, keepdim=True)
        weights = weights / torch.where(total > 0, total, 1.0)
    wide = wider(x.features.dtype)
    engine = x.coordinate_manager.engine_for(x.device)
    out: Tensor = _WeightedRows.apply(x.features.to(wide), weights.to(wide), rows, engine)
    return out.to(x.features.dtype)


def corners(x: SparseTensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """The sites around points, and their linear weights.

    Returns:
        rows (P, 2^D) int32 of ``x``, -1 where a corner has no site; weights (P, 2^D) float64, of sum 1, with gradient
        to ``points``. Corners in the order of ``kernel_offsets``: the first axis runs fastest.

    Raises:
        SparseTensorError: see ``interpolate``.
    """
    stride, axes = x.tensor_stride, x.D
    _check_points(x, points)
    steps = torch.tensor(stride, dtype=torch.float64, device=points.device)
    place = points[:, 1:].double() / steps
    base = place.detach().floor()
    beyond = place - base  # 0 <= beyond < 1, from the lower corner
    weights = torch.ones(len(points), 1, dtype=torch.float64, device=points.device)
    for axis in reversed(range(axes)):
        t = beyond[:, axis]
        weights = (weights[:, :, None] * torch.stack([1 - t, t], 1)[:, None]).flatten(1)
    sites = x.coordinate_manager.map(x.coordinate_map_key)
    cells = base * steps
    limit = COORDINATE_LIMIT[axes]  # a key has room for one step beyond it
    inside = ((cells >= -limit - steps) & (cells < limit)).all(1)
    cells = torch.where(inside[:, None], cells, 0.0).long()
    keys = pack(torch.cat([points[:, :1].detach().long(), cells], 1))
    deltas = [offset_key(offset) for offset in kernel_offsets((2,) * axes, stride)]
    if x.coordinate_manager.engine_for(x.device) == "numba":
        from ssl3d.models.sparse import interpolate_numba

        array, wanted = keys.numpy(), np.array(deltas, np.int64)
        found = interpolate_numba.corner_rows(sites.keys.numpy(), sites.rows.numpy(), array, np.argsort(array), wanted)
        rows = torch.from_numpy(found)
    else:
        rows = torch.stack([maps_torch.lookup(sites.keys, sites.rows, keys + delta) for delta in deltas], 1)
    return rows.to(torch.int32).masked_fill(~inside[:, None], -1), weights


class Interpolation(nn.Module):
    """``interpolate`` as a layer (``MinkowskiInterpolation``): ``layer(x, points)`` -> (P, C)."""

    def __init__(self, mode: Mode = "linear", renormalize: bool = False) -> None:
        super().__init__()
        self.mode, self.renormalize = mode, renormalize

    def extra_repr(self) -> str:
        return f"mode={self.mode}, renormalize={self.renormalize}"

    def forward(self, x: SparseTensor, points: Tensor) -> Tensor:
        return interpolate(x, points, self.mode, renormalize=self.renormalize)


def _nearest(weights: Tensor, rows: Tensor, existing: bool) -> Tensor:
    """1 for the first of the largest weights of each point, else 0."""
    if existing:
        weights = weights.masked_fill(rows < 0, -1.0)
    corner = torch.arange(weights.shape[1], device=weights.device)
    largest = weights == weights.amax(1, keepdim=True)
    first = torch.where(largest, corner, weights.shape[1]).amin(1, keepdim=True)
    return (corner == first).to(weights.dtype)


class _WeightedRows(torch.autograd.Function):
    """out[p] = sum over corners k of weights[p, k] * features[rows[p, k]], in the order of the corners."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weights: Tensor, rows: Tensor, engine: str) -> Tensor:
        ctx.save_for_backward(features, weights, rows)
        ctx.engine = engine
        out = features.new_zeros(len(rows), features.shape[1])
        if engine == "numba":
            from ssl3d.models.sparse import interpolate_numba

            interpolate_numba.gather(_array(features), _array(weights), rows.numpy(), out.numpy())
            return out
        for k in range(rows.shape[1]):
            some = ((rows[:, k] >= 0) & (weights[:, k] != 0)).nonzero()[:, 0]
            out.index_add_(0, some, features[rows[some, k].long()] * weights[some, k, None])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        features, weights, rows = ctx.saved_tensors
        to_features, to_weights = ctx.needs_input_grad[:2]
        grad_features, grad_weights = torch.zeros_like(features), torch.zeros_like(weights)
        if ctx.engine == "numba" and not torch.is_grad_enabled():  # create_graph: torch knows the gradients of these
            from ssl3d.models.sparse import interpolate_numba

            arrays = _array(features), _array(weights), rows.numpy(), _array(grad)
            if to_features:
                interpolate_numba.scatter(*arrays[1:], grad_features.numpy())
            if to_weights:
                interpolate_numba.dots(arrays[0], *arrays[2:], grad_weights.numpy())
        else:
            for k in range(rows.shape[1]):
                some = (rows[:, k] >= 0).nonzero()[:, 0]
                row = rows[some, k].long()
                if to_features:
                    grad_features.index_put_((row,), grad[some] * weights[some, k, None], accumulate=True)
                if to_weights:
                    grad_weights[some, k] = (grad[some] * features[row]).sum(1)
        return grad_features if to_features else None, grad_weights if to_weights else None, None, None


def _array(values: Tensor) -> Any:
    return values.detach().contiguous().numpy()


def _check_points(x: SparseTensor, points: Tensor) -> None:
    axes = x.D
    check_tensors(points=points)
    if points.dim() != 2 or points.shape[1] != 1 + axes or not points.is_floating_point():
        raise SparseTensorError(
            f"points have to be floating point numbers (P, {1 + axes}): batch index, then {axes} axes",
            where={"points": f"{tuple(points.shape)} {points.dtype}"},
        )
    if points.device != x.device:
        raise SparseTensorError(
            "points and tensor are on different devices", where={"points": points.device, "tensor": x.device}
        )
    if not bool(points.isfinite().all()):
        bad = (~points.isfinite().all(1)).nonzero()[:, 0]
        raise SparseTensorError("points have to be finite", where={"points": len(bad), "first": f"row {int(bad[0])}"})
    batch = points[:, 0].detach()
    if len(batch) and (bool((batch != batch.floor()).any()) or not 0 <= batch.min() <= batch.max() < BATCH_LIMIT[axes]):
        raise SparseTensorError(
            f"batch indices have to be whole numbers in 0..{BATCH_LIMIT[axes] - 1}",
            where={"found": f"{float(batch.min())}..{float(batch.max())}"},
        )
