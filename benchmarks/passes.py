"""A training loop with nothing around it: the same batches and the same passes as the trainer's, in plain torch.

The rival of ``ssl3d bench methods``, and the clock of plans: no log, no checkpoint, no check, no display. Phases are
walked through as the trainer does: each is entered, and may predict the training set.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ssl3d.models.backbones.base import Backbone, Inputs, Levels, Segmenter
from ssl3d.models.methods.base import Batch, Method, Phase, Progress
from ssl3d.pipeline.progress import Silent
from ssl3d.pipeline.training.batches import BatchMaker
from ssl3d.pipeline.training.build import TrainingData, batch_maker, build_method
from ssl3d.pipeline.training.device import reproducible
from ssl3d.pipeline.training.distributed import Team
from ssl3d.pipeline.training.optimization import phase_modes, trainable_parameters
from ssl3d.pipeline.training.predictions import PhaseContext, kept_predictions

if TYPE_CHECKING:
    from ssl3d.pipeline.training.config import RunConfig

WARM_UP = 2
"""Steps before the clock starts: compiled kernels, and memory that is asked for once."""
PRECEDING = 2
"""Steps of each phase before the one that is measured: enough for it to leave something behind."""


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


@dataclass(frozen=True)
class Beyond:
    """What a method does in a step beyond the passes through its networks, medians over steps.

    Attributes:
        method: seconds of ``step()``, its backward passes and ``after_step``.
        passes: seconds of the same passes through the same networks, with a loss that costs nothing.
        optimizer: seconds of clipping and the optimizer.
        share: median of (method - passes) / (method + optimizer), of each step.
    """

    method: float
    passes: float
    optimizer: float
    share: float


@dataclass
class Ready:
    """A method that has entered one of its phases.

    Attributes:
        first: number of its first step among those of the run.
        budget: all steps of the run.
        last: whether no phase with steps follows.
    """

    method: Method
    maker: BatchMaker
    phase: Phase
    index: int
    first: int
    budget: int
    last: bool
    device: torch.device
    clip: float
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    done: int = field(default=0)

    def batches(self, count: int) -> Iterator[tuple[Batch, Progress, float, int]]:
        """The next ``count`` batches: groups, where training is, seconds of making it, its elements."""
        for _ in range(count):
            begun = time.perf_counter()
            step = min(self.done, self.phase.steps - 1)
            batch = self.maker(self.first + step)
            elements = sum(group.elements.num_elements for group in (batch.groups or {}).values())
            groups = batch.to(self.device)
            now = Progress(step, self.phase.steps, self.index, self.first + step, self.budget)
            self.done += 1
            if batch.groups is not None:
                yield groups, now, time.perf_counter() - begun, elements

    def clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def update(self) -> None:
        """Clips and steps."""
        nn.utils.clip_grad_norm_(self.parameters, self.clip or math.inf, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def budget_for(method: Method, steps: int, wanted: int) -> int:
    """The smallest of ``steps``, 1.25 times as many, ... whose last phase has at least ``wanted`` steps."""
    while _trained(method.phases(steps))[-1][1].steps < wanted:
        steps = math.ceil(1.25 * steps)
    return steps


def last_phase(phases: Sequence[Phase]) -> tuple[int, Phase]:
    """(number of its first step, phase) of the last phase that trains."""
    index, phase = _trained(phases)[-1]
    return sum(before.steps for before in phases[:index]), phase


def _trained(phases: Sequence[Phase]) -> list[tuple[int, Phase]]:
    return [(index, phase) for index, phase in enumerate(phases) if phase.steps]


@contextmanager
def entering(
    config: RunConfig, data: TrainingData, wanted: int, *, threads: int, device: str = "cpu"
) -> Iterator[Iterator[Ready]]:
    """The phases of a run from freshly drawn weights, one after the other: each is entered when it is asked for.

    Args:
        config: bound to ``data``; with its steps, or as many more as give the last phase ``wanted``.
        threads: of torch; batches are made in the same process, between the steps.
    """
    place = torch.device(device)
    with reproducible(threads, place), TemporaryDirectory(prefix="ssl3d-passes-") as folder:
        torch.manual_seed(config.seed)
        method, input_spec = build_method(config)
        method.to(place).train()
        budget = budget_for(method, config.train.steps, wanted)
        phases = method.phases(budget)

        def walk() -> Iterator[Ready]:
            first, kept = 0, None
            for index, phase in enumerate(phases):
                if phase.on_enter is not None:
                    now = Progress(0, phase.steps, index, first, budget)
                    context = PhaseContext(Path(folder), data, method, place, now, Silent(), Team())
                    method.train()
                    phase.on_enter(context)
                    kept = context.kept or kept
                if phase.steps:
                    extras = kept_predictions(Path(folder), kept, data.places, check=False)
                    maker = batch_maker(config, data, type(method), input_spec, extras, phases=phases)
                    parameters = trainable_parameters(phase, method)
                    optimizer = torch.optim.AdamW(parameters, config.optimizer.lr or 1e-3, fused=place.type == "cpu")
                    last = (index, phase) == _trained(phases)[-1]
                    with phase_modes(method, phase, parameters):
                        yield Ready(method, maker, phase, index, first, budget, last, place, config.train.clip,
                                    parameters, optimizer)  # fmt: skip
                first += phase.steps

        yield walk()


def time_steps(config: RunConfig, data: TrainingData, steps: int, *, threads: int, device: str = "cpu") -> Passes:
    """The mean over ``steps`` steps of the last phase of a run; see ``entering``."""
    with entering(config, data, steps + WARM_UP, threads=threads, device=device) as phases:
        for ready in phases:
            found = clock_steps(ready, steps if ready.last else PRECEDING)
    return found


def mean_step(config: RunConfig, data: TrainingData, steps: int, *, threads: int, device: str = "cpu") -> float:
    """Seconds of a step of a run, the mean over all its phases, of each of which ``steps`` are taken."""
    spent, budget = 0.0, 1
    with entering(config, data, steps + WARM_UP, threads=threads, device=device) as phases:
        for ready in phases:
            spent += clock_steps(ready, min(steps, ready.phase.steps)).step * ready.phase.steps
            budget = ready.first + ready.phase.steps
    return spent / budget


def clock_steps(ready: Ready, steps: int) -> Passes:
    """The mean over the next ``steps`` steps, after those that warm up."""
    method, spent, elements, count = ready.method, dict.fromkeys(_PARTS, 0.0), 0, 0
    for number, (groups, now, making, found) in enumerate(ready.batches(WARM_UP + steps)):
        if number == WARM_UP:
            spent, elements, count = dict.fromkeys(_PARTS, 0.0), 0, 0
        spent["data"] += making
        elements, count, begun = elements + found, count + 1, ready.clock()
        for losses in method.step(groups, now):
            total = _sum(losses)
            begun = _note(spent, "forward", begun, ready.clock())
            total.backward()
            begun = _note(spent, "backward", begun, ready.clock())
            ready.update()
            begun = _note(spent, "optimizer", begun, ready.clock())
        method.after_step(now)
        _note(spent, "after", begun, ready.clock())
    count = max(1, count)
    return Passes(**{name: value / count for name, value in spent.items()}, elements=elements / count)


_PARTS = ("data", "forward", "backward", "optimizer", "after")


def _note(spent: dict[str, float], name: str, begun: float, now: float) -> float:
    spent[name] += now - begun
    return now


def _sum(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack([loss.float().reshape(()) for loss in losses.values()]).sum()


# ---------------------------------------------------------------- beyond the passes


@dataclass(frozen=True)
class _Call:
    """A pass through a network. ``update``: how many optimizer steps of the iteration were before it."""

    network: Backbone
    inputs: Inputs
    gradient: bool
    training: bool
    update: int


def clock_beyond(ready: Ready, steps: int) -> Beyond:
    """What the method does beyond its passes, over the next ``steps`` steps.

    Every batch is trained on, then its passes are made again without the method: the same networks on the same inputs,
    in the same mode, with and without gradients as it had them, and the mean of the squared logits as loss; then it is
    trained on once more. The two trainings stand for the method, so that a machine that gets slower or faster meanwhile
    is charged to nobody. What one side has cached with its inputs (kernel maps), the others make anew.
    """
    whole, passes, optimizer, shares = list[float](), list[float](), list[float](), list[float]()
    heads = {module.backbone: module for module in ready.method.modules() if isinstance(module, Segmenter)}
    for number, (groups, now, _, _) in enumerate(ready.batches(WARM_UP + steps)):
        calls: list[_Call] = []
        first, updating = _train_once(ready, _fresh(groups), now, calls)
        bare = _pass_again(ready, heads, calls)
        second, again = _train_once(ready, _fresh(groups), now, None)
        if number >= WARM_UP:
            whole.append((first + second) / 2)
            passes.append(bare)
            optimizer.append((updating + again) / 2)
            shares.append((whole[-1] - bare) / (whole[-1] + optimizer[-1]))
    return Beyond(*map(statistics.median, (whole, passes, optimizer, shares)))


def _train_once(ready: Ready, groups: Batch, now: Progress, calls: list[_Call] | None) -> tuple[float, float]:
    """Seconds of the method and of the optimizer in one iteration; ``calls``: where passes are noted."""
    method, update, updating = ready.method, 0, 0.0

    def note(network: nn.Module, given: tuple[Any, ...]) -> None:
        if calls is not None and isinstance(network, Backbone):
            calls.append(_Call(network, given[0], torch.is_grad_enabled(), network.training, update))

    hooks = [module.register_forward_pre_hook(note) for module in method.modules() if isinstance(module, Backbone)]
    try:
        begun = ready.clock()
        for losses in method.step(groups, now):
            _sum(losses).backward()
            stopped = ready.clock()
            ready.update()
            update += 1
            updating += ready.clock() - stopped
        method.after_step(now)
        return ready.clock() - begun - updating, updating
    finally:
        for hook in hooks:
            hook.remove()


def _pass_again(ready: Ready, heads: dict[Backbone, Segmenter], calls: Sequence[_Call]) -> float:
    """Seconds of the noted passes alone, gradients that nobody uses included."""
    copies: dict[int, Inputs] = {}
    for call in calls:
        copies.setdefault(id(call.inputs), call.inputs.map(torch.clone))
    modes = {call.network: call.network.training for call in calls}
    begun = ready.clock()
    for update in sorted({call.update for call in calls}):
        losses = []
        for call in (call for call in calls if call.update == update):
            call.network.train(call.training)
            with torch.set_grad_enabled(call.gradient):
                network = heads.get(call.network, call.network)
                out = network(copies[id(call.inputs)])
                logits = out.finest if isinstance(out, Levels) else out.logits
                if logits.requires_grad:
                    losses.append(logits.float().square().mean())
        if losses:
            torch.stack(losses).sum().backward()
    spent = ready.clock() - begun
    for network, training in modes.items():
        network.train(training)
    ready.optimizer.zero_grad(set_to_none=True)
    return spent


def _fresh(groups: Batch) -> Batch:
    """A copy in which nothing is cached."""
    return {name: inputs.map(torch.clone) for name, inputs in groups.items()}


def few(data: TrainingData, scans: int) -> TrainingData:
    """The same with at most so many labelled and unlabelled scans, for a quick look at what a step costs."""
    return replace(data, labelled=data.labelled[:scans], unlabelled=data.unlabelled[:scans])


__all__ = ["Beyond", "Passes", "Ready", "budget_for", "clock_beyond", "clock_steps", "entering", "few", "last_phase",
           "mean_step", "time_steps"]  # fmt: skip
