"""One backward pass and one optimizer step: which parameters, at which rate, clipped and scaled how."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ssl3d.models.methods.base import Method, Phase
from ssl3d.pipeline.training.clock import StepClock
from ssl3d.pipeline.training.config import (
    OptimizerParams,
    RunConfig,
    ScheduleParams,
    settled_optimizer,
    settled_schedule,
)
from ssl3d.pipeline.training.device import Compute
from ssl3d.pipeline.training.distributed import Team
from ssl3d.pipeline.training.schedule import learning_rate


class NonFiniteError(Exception):
    """``name`` (a loss, or ``gradient``) is not a finite number."""

    def __init__(self, name: str, value: float) -> None:
        super().__init__(f"{name} is {value}")
        self.name, self.value = name, value


class PhaseOptimizer:
    """The optimizer of one phase: fresh, over the phase's trainable parameters, with its own schedule."""

    def __init__(self, config: RunConfig, phase: Phase, method: Method, compute: Compute, team: Team) -> None:
        self.config, self.phase, self.team = config, phase, team
        self.params, self.schedule = phase_params(config, phase)
        self.parameters = trainable_parameters(phase, method)
        self.optimizer = make_optimizer(self.params, self.parameters, compute.device)
        self.scaler = compute.scaler()

    def set_rate(self, step: int) -> float:
        """The learning rate of step ``step`` of the phase."""
        peak = self.params.lr or 0.0
        rate = learning_rate(self.schedule, peak, step, self.phase.steps) * self.phase.lr_scale
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def apply(self, total: Tensor, clock: StepClock) -> None:
        """Backward, sum over processes, clipping, step. ``NonFiniteError`` before any weight moves when the gradient is
        not finite."""
        with clock.section("backward"):
            self.scaler.scale(total).backward()
        with clock.section("optimizer"):
            self.team.sum_gradients(self.parameters)
            self.scaler.unscale_(self.optimizer)
            limit = self.config.train.clip or math.inf  # the norm is looked at also when nothing is clipped
            norm = nn.utils.clip_grad_norm_(self.parameters, limit, foreach=True)
            # With fp16 an overflow is the scaler's ordinary business: it skips the step and scales less.
            if not self.scaler.is_enabled() and not bool(torch.isfinite(norm)):
                raise NonFiniteError("gradient", float(norm))
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])


def sum_losses(losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """The loss that is minimized, and each named loss as a number."""
    if not losses:
        raise ValueError("step() yielded no loss")
    stacked = torch.stack([loss.float().reshape(()) for loss in losses.values()])
    return stacked.sum(), dict(zip(losses, stacked.detach().tolist(), strict=True))


def phase_params(config: RunConfig, phase: Phase) -> tuple[OptimizerParams, ScheduleParams]:
    """The run's optimizer and schedule with what differs in ``phase``. ``ValueError`` names a key that is wrong."""
    optimizer, schedule = config.optimizer, config.schedule
    try:
        if phase.optimizer:
            # another kind of optimizer needs another rate, unless the phase says which
            unset = (
                {"lr": None, "weight_decay": None}
                if phase.optimizer.get("name", optimizer.name) != optimizer.name
                else {}
            )
            optimizer = OptimizerParams.model_validate({**optimizer.model_dump(), **unset, **phase.optimizer})
        if phase.schedule:
            schedule = ScheduleParams.model_validate({**schedule.model_dump(), "warmup_steps": None, **phase.schedule})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"the phase '{phase.name}' asks for {key}: {first['msg']}") from error
    return settled_optimizer(optimizer), settled_schedule(schedule, phase.steps)


def trainable_parameters(phase: Phase, method: Method) -> list[nn.Parameter]:
    """Each parameter once, in the order of the modules. ``ValueError`` when the phase trains nothing."""
    modules = [method] if phase.trainable is None else phase.trainable
    unique = dict.fromkeys(p for module in modules for p in module.parameters() if p.requires_grad)
    if not unique:
        raise ValueError(f"the phase '{phase.name}' has no parameter to train")
    return list(unique)


def make_optimizer(
    params: OptimizerParams, parameters: list[nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    fused = device.type == "cpu"  # one pass over memory; on CUDA torch picks its multi-tensor form by itself
    rate, decay = params.lr or 0.0, params.weight_decay or 0.0
    if params.name == "sgd":
        nesterov = params.nesterov and params.momentum > 0
        return torch.optim.SGD(
            parameters, rate, params.momentum, weight_decay=decay, nesterov=nesterov, fused=fused or None
        )
    return torch.optim.AdamW(parameters, rate, (params.momentum, 0.999), weight_decay=decay, fused=fused or None)


@contextmanager
def phase_modes(method: Method, phase: Phase, parameters: list[nn.Parameter]) -> Iterator[None]:
    """Training mode with the phase's frozen parts: no gradients for what it does not train, eval mode where it says."""
    chosen = set(parameters)
    frozen = [p for p in method.parameters() if p.requires_grad and p not in chosen]
    method.train()
    for module in phase.eval_modules:
        module.eval()
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


__all__ = ["NonFiniteError", "PhaseOptimizer", "make_optimizer", "phase_modes", "sum_losses", "trainable_parameters"]
