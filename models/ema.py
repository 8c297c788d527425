"""Exponential moving averages of networks (Polyak averaging; Tarvainen and Valpola, NIPS 2017)."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import nn

BufferPolicy = Literal["own", "ema", "copy"]
"""What becomes of the average's buffers (running statistics of batch norm).

``own``: left alone; the average runs in training mode and fills them by its own forward passes.
``ema``: floating-point buffers are averaged like parameters, others copied. ``copy``: all are copied.
"""


def keep_rate(alpha: float, step: int, warm_up: bool = True) -> float:
    """``min(1 - 1 / (step + 1), alpha)``: a running mean that turns into a moving average (step counts from 0).

    Without ``warm_up``: ``alpha``.
    """
    return min(1 - 1 / (step + 1), alpha) if warm_up else alpha


def scaled_keep(alpha: float, published_steps: int, steps: int) -> float:
    """The keep rate whose half-life is the same share of ``steps`` as alpha's is of ``published_steps``.

    Never longer than published: a schedule that is not shorter keeps ``alpha``. The one rule for every momentum that a
    paper gives for its own schedule (EMA, banks, prototypes).
    """
    return float(alpha ** max(1.0, published_steps / steps))


@torch.no_grad()
def ema_update(average: nn.Module, source: nn.Module, keep: float, buffers: BufferPolicy = "ema") -> None:
    """``average <- keep * average + (1 - keep) * source``, for every parameter and (by policy) buffer.

    Args:
        average, source: modules of the same structure.
        keep: in 0..1; at 0 the average is an exact copy.
        buffers: see ``BufferPolicy``.

    Raises:
        ValueError: the modules differ in names or shapes of their parameters or buffers.
    """
    targets, values = _matching(dict(average.named_parameters()), dict(source.named_parameters()))
    if buffers != "own":
        more, news = _matching(dict(average.named_buffers()), dict(source.named_buffers()))
        for target, value in zip(more, news, strict=True):
            if buffers == "ema" and target.is_floating_point():
                targets.append(target)
                values.append(value)
            else:
                target.copy_(value)
    if not targets:
        return
    if keep == 0:  # exact, also where the average is not finite
        torch._foreach_copy_(targets, values)
    else:
        torch._foreach_mul_(targets, keep)
        torch._foreach_add_(targets, values, alpha=1 - keep)


def freeze(module: nn.Module) -> None:
    """No parameter of ``module`` takes a gradient from now on: an average is not optimized, decayed or clipped."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)


def _matching(
    average: dict[str, torch.Tensor] | dict[str, nn.Parameter],
    source: dict[str, torch.Tensor] | dict[str, nn.Parameter],
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    shapes = [{name: tuple(value.shape) for name, value in side.items()} for side in (average, source)]
    if shapes[0] != shapes[1]:
        other = next(a or b for a, b in itertools.zip_longest(*map(dict.items, shapes)) if a != b)
        raise ValueError(f"an average has to have the structure of its source; they differ in {other[0]!r}")
    return list(average.values()), [source[name] for name in average]


__all__ = ["BufferPolicy", "ema_update", "freeze", "keep_rate", "scaled_keep"]
