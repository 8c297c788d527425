"""Training in several processes, for whoever writes a loss or a layer: sums, means and batch norm over all of them.

One rule makes n processes equal to one process with the same global batch: **the losses of the processes sum to the
loss of the global batch** (the trainer sums the gradients, it does not average them). So

- a mean divides by the number of rows of *all* processes: ``global_mean``, or ``values.sum() / total(count)``;
- what is no mean (Lovász, a contrast against all rows, prototypes) gathers the rows that it needs by ``gather_rows``,
  so that each process computes the loss of the global batch, and takes ``1 / world_size()`` of it;
- a term that looks at the weights only, not at data, likewise takes ``1 / world_size()``.

Collectives: every process has to call the same ones in the same order, also for a batch without a label: no early
return before one. Outside a distributed session, and with one process, all of this costs nothing and changes no bit.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_HALF = (torch.float16, torch.bfloat16)


def world_size() -> int:
    """Number of processes that train together; 1 outside a distributed session."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process, 0 .. world_size() - 1."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def exchange_device() -> torch.device:
    """Where tensors have to lie that the processes exchange: this process's GPU with NCCL, else the CPU."""
    if world_size() > 1 and dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


# ---------------------------------------------------------------- sums and rows


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum of ``values`` (same shape and dtype everywhere) over the processes; half precision is added in float32.

    Differentiable: the gradient is summed over the processes too, as the loss is the sum of theirs.
    """
    return values if world_size() == 1 else _AllReduceSum.apply(values)


def total(count: Tensor | float) -> Tensor:
    """The sum of a count over the processes, without gradient: for denominators. int64 for an int, float64 for a float.

    A tensor keeps its dtype and device (with NCCL it has to be on the GPU).
    """
    value = count.detach() if isinstance(count, Tensor) else torch.tensor(count, dtype=_dtype_of(count))
    if world_size() == 1:
        return value
    return _summed(value if isinstance(count, Tensor) else value.to(exchange_device()))


def global_mean(values: Tensor, mask: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """This process's share of the mean over the elements of all processes: sum w v / (sum w of all processes).

    Without any element, or with weights that are all zero, it is an exact zero attached to the graph.

    Args:
        values: (...) float, e.g. one loss a row; differs in shape between processes.
        mask: bool, of leading dimensions of ``values``: the rows that count. The others may hold NaN.
        weights: float, as ``values``, not negative; no gradient flows into them through the denominator.

    Returns:
        scalar. Its sum over the processes is the mean.
    """
    if mask is not None:
        values, weights = values[mask], None if weights is None else weights[mask]
    if weights is None:
        return values.sum() / total(values.numel()).clamp(min=1)
    # all weights zero: 0 / tiny = 0, not NaN
    return (weights * values).sum() / total(weights.sum()).clamp(min=torch.finfo(values.dtype).tiny)


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks.

    Differentiable: each process gets the gradient of its own rows, summed over the losses of all processes.

    Args:
        rows: (m, ...) of any dtype; m may differ between processes, also be 0.

    Returns:
        (sum of m, ...) of the same dtype.
    """
    return rows if world_size() == 1 else _GatherRows.apply(rows)


def _dtype_of(count: float) -> torch.dtype:
    return torch.int64 if isinstance(count, int) else torch.float64


def _summed(values: Tensor) -> Tensor:
    out = values.float() if values.dtype in _HALF else values.clone(memory_format=torch.contiguous_format)
    if out.numel():
        dist.all_reduce(out)
    return out.to(values.dtype)


def _gathered(rows: Tensor) -> tuple[Tensor, list[int]]:
    """All rows, and how many each process has. As bytes: backends differ in the dtypes that they know."""
    counts = torch.zeros(world_size(), dtype=torch.int64, device=rows.device)
    counts[rank()] = len(rows)
    dist.all_reduce(counts)
    sizes: list[int] = counts.tolist()
    width = rows[:1].numel() if len(rows) else rows.new_empty((1, *rows.shape[1:])).numel()
    most = max(sizes)
    if not most * width:
        return rows.new_empty((sum(sizes), *rows.shape[1:])), sizes
    mine = rows.new_zeros((most, width))
    mine[: len(rows)] = rows.reshape(len(rows), width)
    data = mine.view(torch.uint8)
    parts = [torch.empty_like(data) for _ in sizes]
    dist.all_gather(parts, data)
    whole = torch.cat([part.view(rows.dtype)[:size] for part, size in zip(parts, sizes, strict=True)])
    return whole.reshape(-1, *rows.shape[1:]), sizes


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        whole, sizes = _gathered(rows)
        first = sum(sizes[: rank()])
        ctx.own = slice(first, first + len(rows))
        if not rows.dtype.is_floating_point:
            ctx.mark_non_differentiable(whole)
        return whole

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)[ctx.own]


# ---------------------------------------------------------------- batch norm


def synchronize_batch_norm(module: nn.Module) -> nn.Module:
    """Lets every ``nn.BatchNorm1d/2d/3d`` below ``module`` train on the statistics of all processes. With one process
    nothing changes.

    The layers stay the objects that they are (parameters, buffers, names, hooks, whoever refers to them); only their
    class changes. In eval mode each process is for itself. ``nn.SyncBatchNorm`` and subclasses with a ``forward`` of
    their own are refused: the first refuses the CPU, the others would silently keep their own statistics.

    Returns:
        ``module``.
    """
    if world_size() == 1:
        return module
    for layer in module.modules():
        if not isinstance(layer, nn.modules.batchnorm._BatchNorm) or isinstance(layer, _OverProcesses):
            continue
        if type(layer) not in _CLASSES:
            raise TypeError(
                f"{type(layer).__name__} cannot be synchronized over processes: use nn.BatchNorm1d, 2d or 3d"
            )
        layer.__class__ = _CLASSES[type(layer)]  # type: ignore[assignment]
    return module


class _OverProcesses(nn.modules.batchnorm._BatchNorm):
    """Batch norm whose statistics in training are those of the rows of all processes, each weighted alike.

    Computed in float32 at least; the result has the dtype of the input. ``ValueError`` on every process when all of
    them together have fewer than two values a channel.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        out, mean, variance, count = _Normalize.apply(x, self.weight, self.bias, self.eps)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            self._remember(mean, variance * (count / (count - 1)))
        return out

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        factor = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if factor is None:  # the plain average of all batches so far
                factor = 1.0 / float(self.num_batches_tracked)
        for kept, new in ((self.running_mean, mean), (self.running_var, variance)):
            if kept is not None:
                kept.lerp_(new.to(kept.dtype), factor or 0.0)


class _Normalize(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias; also returns mean, biased variance and count of all rows."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dims = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        values = x.float() if x.dtype in _HALF else x
        mean, variance, count = _moments(values, dims, shape)
        scale = invstd = torch.rsqrt(variance + eps).to(values.dtype)
        mean = mean.to(values.dtype)
        if weight is not None:
            scale = invstd * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        out = torch.addcmul(shift.view(shape), values, scale.view(shape)).to(x.dtype)
        ctx.save_for_backward(x, mean, invstd, weight, count)
        ctx.dims, ctx.shape, ctx.has_bias = dims, shape, bias is not None
        ctx.mark_non_differentiable(mean, variance, count)
        return out, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, mean, invstd, weight, count = ctx.saved_tensors
        shape, kind = ctx.shape, mean.dtype
        gradient = gradient.to(kind)
        centered = x.to(kind) - mean.view(shape)
        sums = torch.stack([gradient.sum(ctx.dims), (gradient * centered).sum(ctx.dims) * invstd])
        to_x = to_weight = to_bias = None
        if weight is not None:  # the process's own: the trainer sums the gradients of parameters over processes
            to_weight = sums[1].to(weight.dtype)
        if ctx.has_bias:
            to_bias = sums[0].to(kind if weight is None else weight.dtype)
        if ctx.needs_input_grad[0]:
            means = _summed(sums) / count
            scale = invstd if weight is None else invstd * weight
            to_x = centered.mul_((-invstd * means[1]).view(shape)).add_(gradient).sub_(means[0].view(shape))
            to_x = to_x.mul_(scale.to(kind).view(shape)).to(x.dtype)
        return to_x, to_weight, to_bias, None


def _moments(values: Tensor, dims: list[int], shape: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance (C,) float64 and count (float64) of all processes, from the moments of each (Chan, Golub,
    LeVeque: Updating formulae and a pairwise algorithm for computing sample variances, 1979): one exchange, no
    cancellation."""
    channels = values.shape[1]
    own = values.numel() // channels
    mean = values.sum(dims) / max(own, 1)
    spread = (values - mean.view(shape)).square_().sum(dims)
    mine = torch.cat([mean.double(), spread.double(), mean.new_full((1,), own, dtype=torch.float64)])
    parts = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(parts, mine)
    means, spreads, counts = torch.stack(parts).split([channels, channels, 1], 1)
    count = counts.sum()
    if own < 2 and float(count) < 2:  # then every process is here, and all stop
        raise ValueError(
            f"batch norm needs more than one value a channel when it trains: {int(count)} in all processes"
        )
    mean = (means * counts).sum(0) / count
    variance = (spreads.sum(0) + (counts * (means - mean).square()).sum(0)) / count
    return mean, variance, count


class _BatchNorm1d(_OverProcesses, nn.BatchNorm1d):
    pass


class _BatchNorm2d(_OverProcesses, nn.BatchNorm2d):
    pass


class _BatchNorm3d(_OverProcesses, nn.BatchNorm3d):
    pass


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: _BatchNorm1d,
    nn.BatchNorm2d: _BatchNorm2d,
    nn.BatchNorm3d: _BatchNorm3d,
}

__all__ = [
    "all_reduce_sum",
    "exchange_device",
    "gather_rows",
    "global_mean",
    "rank",
    "synchronize_batch_norm",
    "total",
    "world_size",
]
