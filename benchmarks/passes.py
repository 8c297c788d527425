"""A training loop with nothing around it: the same batches and the same passes as the trainer's, in plain torch.

The rival of ``ssl3d bench methods``, and the clock of plans: no log, no checkpoint, no check, no display.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from ssl3d.models.methods.base import Progress
from ssl3d.pipeline.training.build import TrainingData, batch_maker, build_method
from ssl3d.pipeline.training.device import reproducible

if TYPE_CHECKING:
    from ssl3d.pipeline.training.config import RunConfig

WARM_UP = 2
"""Steps before the clock starts: compiled kernels, and memory that is asked for once."""


@dataclass(frozen=True)
class Passes:
    """Seconds of a step, and where they go; ``elements`` (voxels, pixels) in all groups of a batch, the mean."""

    data: float
    forward: float
    backward: float
    optimizer: float
    after: float
    elements: float

    @property
    def step(self) -> float:
        return self.data + self.forward + self.backward + self.optimizer + self.after


def time_steps(config: RunConfig, data: TrainingData, steps: int, *, threads: int, device: str = "cpu") -> Passes:
    """The mean over ``steps`` steps of a run, from freshly drawn weights.

    Args:
        config: bound to ``data``.
        threads: of torch; batches are made in the same process, between the steps.
    """
    place = torch.device(device)
    with reproducible(threads, place):
        torch.manual_seed(config.seed)
        method, input_spec = build_method(config)
        method.to(place).train()
        maker = batch_maker(config, data, type(method), input_spec)
        parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, config.optimizer.lr or 1e-3, fused=place.type == "cpu")
        spent = dict.fromkeys(("data", "forward", "backward", "optimizer", "after"), 0.0)
        elements = 0

        def clock(name: str, since: float) -> float:
            if place.type == "cuda":
                torch.cuda.synchronize(place)
            now = time.perf_counter()
            spent[name] += now - since
            return now

        for step in range(-WARM_UP, steps):
            if step == 0:
                spent, elements = dict.fromkeys(spent, 0.0), 0
            begun = time.perf_counter()
            batch = maker(step + WARM_UP)
            if batch.groups is None:
                continue
            elements += sum(group.elements.num_elements for group in batch.groups.values())
            groups = batch.to(place)
            begun = clock("data", begun)
            now = Progress(step + WARM_UP, steps + WARM_UP, 0, step + WARM_UP, steps + WARM_UP)
            for losses in method.step(groups, now):
                total = torch.stack([loss.float().reshape(()) for loss in losses.values()]).sum()
                begun = clock("forward", begun)
                total.backward()
                begun = clock("backward", begun)
                nn.utils.clip_grad_norm_(parameters, config.train.clip or float("inf"), foreach=True)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                begun = clock("optimizer", begun)
            method.after_step(now)
            clock("after", begun)
    return Passes(**{name: value / steps for name, value in spent.items()}, elements=elements / steps)


__all__ = ["Passes", "time_steps"]
