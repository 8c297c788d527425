"""The loop in plain torch: it walks through phases, and tells what a method does beyond its passes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl3d.benchmarks import passes
from ssl3d.benchmarks.frames import write_frames
from ssl3d.benchmarks.methods import DATASET, prepare_scans
from ssl3d.benchmarks.passes import Ready, clock_beyond, clock_steps, entering, few, mean_step, time_steps
from ssl3d.models.losses.cross_entropy import cross_entropy
from ssl3d.models.methods import registry
from ssl3d.models.methods.base import Batch, Method, Phase, Progress, Stored, TrainContext
from ssl3d.models.methods.supervised import Supervised
from ssl3d.pipeline.training.build import TrainingData, open_data
from ssl3d.pipeline.training.config import RunConfig, resolve


class Clock:
    """Stands still unless it is moved."""

    now = 0.0

    def move(self, seconds: float) -> None:
        self.now += seconds


class Lazy(Supervised):
    """Sleeps in its step and after it, and looks at the batch twice: once with gradients, once without."""

    name = "lazy"

    def step(self, batch: Batch, progress: Progress) -> Iterator[dict[str, Tensor]]:
        inputs = batch["labelled"]
        with torch.no_grad():
            self.segmenter(inputs)
        time.sleep(3)
        yield {"ce": cross_entropy(self.segmenter(inputs).logits, self.segmenter.backbone.labels(inputs, inputs.label))}

    def after_step(self, progress: Progress) -> None:
        time.sleep(3)


class InTwo(Supervised):
    """Pre-trains, predicts the training set, then trains with what it has kept."""

    name = "in-two"
    seen: list[tuple[int, int, int, bool]]

    def phases(self, steps: int) -> list[Phase]:
        return [
            Phase("first", steps - steps // 4),
            Phase("nothing", 0, on_enter=self.look),
            Phase("second", steps // 4, trainable=[self.segmenter.head], eval_modules=[self.segmenter.backbone]),
        ]

    def look(self, ctx: TrainContext) -> None:
        def keep(view: Any, prediction: Any) -> Stored:
            return Stored({"guess": np.asarray(prediction.label)})

        self.looked = len(list(ctx.predict_train(keep)))

    def step(self, batch: Batch, progress: Progress) -> Iterator[dict[str, Tensor]]:
        self.seen = [*getattr(self, "seen", []), (progress.phase, progress.step, progress.total_step,
                                                 "guess" in batch["labelled"].extras)]  # fmt: skip
        yield from super().step(batch, progress)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    root = tmp_path_factory.mktemp("scans")
    frames = {"00": 6, "08": 1}
    write_frames(root / "streets", frames, num_points=300)
    manifest = '{"complete": true, "scans_per_sequence": {"00": 6, "08": 1}}'
    (root / "streets" / "ssl3d_synth.json").write_text(manifest)
    return open_data(prepare_scans(root, root / "streets", "tiny", jobs=1), DATASET, None)


@pytest.fixture
def config(data: TrainingData, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``config(kind, steps)``: of a method that is registered for the test."""

    def make(kind: type[Method], steps: int) -> RunConfig:
        known = registry._METHODS

        class Registered:
            def names(self) -> list[str]:
                return sorted([*known.names(), kind.name])

            def load(self, name: str) -> Any:
                return kind if name == kind.name else known.load(name)

        monkeypatch.setattr(registry, "_METHODS", Registered())
        keys = ["train.batch=1", "backbone.voxel_size=2"]
        found = resolve(kind.name, backbone="minkunet-micro", steps=steps, overrides=keys)
        return found.bound(data.dataset, data.split)

    return make


def test_what_a_method_does_beside_its_passes_is_told_apart(
    data: TrainingData, config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that only passes (1 s), naps (3 s each, two a step) and updates (2 s) move."""
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.move(3))
    monkeypatch.setattr(Ready, "update", lambda ready: clock.move(2))
    with entering(config(Lazy, 10), data, 10, threads=1) as phases:
        (ready,) = phases
        ready.method.predictor().backbone.register_forward_hook(lambda *_: clock.move(1))
        found = clock_beyond(ready, 3)
    assert (found.method, found.passes, found.optimizer) == (8, 2, 2)
    assert found.share == 6 / 10


def test_every_pass_is_made_again_in_its_mode_on_inputs_of_its_own(data: TrainingData, config: Any) -> None:
    with entering(config(Lazy, 10), data, 10, threads=1) as phases:
        (ready,) = phases
        (groups, now, _, _) = next(ready.batches(1))
        calls: list[Any] = []
        passes._train_once(ready, groups, now, calls)
        assert [(call.gradient, call.training, call.update) for call in calls] == [(False, True, 0), (True, True, 0)]
        assert all(call.inputs is groups["labelled"] for call in calls)
        seen: list[Any] = []
        network = ready.method.predictor().backbone
        hook = network.register_forward_pre_hook(lambda _, given: seen.append((given[0], torch.is_grad_enabled())))
        network.eval()
        passes._pass_again(ready, {network: ready.method.predictor()}, calls)
        hook.remove()
        assert [gradient for _, gradient in seen] == [False, True]
        assert seen[0][0] is seen[1][0] is not groups["labelled"]
        assert not network.training  # as it was found
        assert all(parameter.grad is None for parameter in ready.parameters)


def walk(phases: Iterator[Ready], steps: int) -> Iterator[tuple[Ready, passes.Passes]]:
    for ready in phases:
        yield ready, clock_steps(ready, steps)


def test_phases_are_entered_one_after_the_other_and_the_last_one_is_measured(data: TrainingData, config: Any) -> None:
    with entering(config(InTwo, 20), data, 8, threads=1) as phases:
        seen = [(ready.phase.name, ready.index, ready.first, ready.last, ready.budget) for ready, _ in walk(phases, 2)]
    assert seen == [("first", 0, 0, False, 32), ("second", 2, 24, True, 32)]  # 20 -> 25 -> 32: the last phase has 8
    with entering(config(InTwo, 20), data, 8, threads=1) as phases:
        for ready in phases:
            clock_steps(ready, 1)
        method = ready.method
    assert isinstance(method, InTwo)
    assert method.looked == len(data.labelled) + len(data.unlabelled)
    assert method.seen == [*((0, step, step, False) for step in range(3)), *((2, s, 24 + s, True) for s in range(3))]
    trained = set(method.segmenter.head.parameters())
    assert set(ready.parameters) == trained


def test_a_step_is_the_sum_of_its_parts(data: TrainingData, config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.move(3))
    monkeypatch.setattr(Ready, "update", lambda ready: clock.move(2))
    found = time_steps(config(Lazy, 4), data, 3, threads=1)
    assert (found.data, found.forward, found.backward, found.optimizer, found.after) == (0, 3, 0, 2, 3)
    assert found.step == 8 and found.elements > 0


def test_the_mean_step_weighs_phases_by_their_steps(
    data: TrainingData, config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    paces = iter([1.0, 5.0])
    monkeypatch.setattr(passes, "clock_steps", lambda ready, steps: passes.Passes(next(paces), 0.0, 0.0, 0.0, 0.0, 1.0))
    assert mean_step(config(InTwo, 20), data, 3, threads=1) == pytest.approx((15 * 1 + 5 * 5) / 20)


def test_few_scans_are_the_first_ones(data: TrainingData) -> None:
    small = few(data, 2)
    kept: Sequence[Sequence[int]] = (small.labelled, small.unlabelled)
    assert [list(part) for part in kept] == [list(data.labelled[:2]), list(data.unlabelled[:2])]
