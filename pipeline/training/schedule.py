"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from ssl3d.pipeline.training.config import ScheduleParams


def learning_rate(params: ScheduleParams, peak: float, step: int, steps: int) -> float:
    """The rate of step ``step`` (0-based) of ``steps``.

    ``onecycle`` is torch's OneCycleLR with cosine annealing and no cycling of the momentum (Smith and Topin, 2019);
    ``cosine`` and ``poly`` fall from ``peak`` to ``min_lr`` over the steps after the linear warm-up.
    """
    if params.name == "onecycle":
        return _one_cycle(params, peak, step, steps)
    warmup = min(params.warmup_steps or 0, steps)
    if step < warmup:
        return peak * (params.warmup_factor + (1 - params.warmup_factor) * step / warmup)
    done = (step - warmup) / max(1, steps - warmup)
    floor = min(params.min_lr, peak)
    if params.name == "cosine":
        return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * done))
    if params.name == "poly":
        return floor + (peak - floor) * (1 - done) ** params.power
    return peak


def _one_cycle(params: ScheduleParams, peak: float, step: int, steps: int) -> float:
    start = peak / params.cycle_start
    top, last = max(0.0, params.cycle_up * steps - 1), steps - 1
    if step <= top:
        return _anneal(start, peak, step / top if top > 0 else 1.0)
    return _anneal(peak, start / params.cycle_end, (step - top) / (last - top))


def _anneal(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))


__all__ = ["learning_rate"]
