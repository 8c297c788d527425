"""The contract of methods: optimizer steps, phases, and predictions over the training set."""

from __future__ import annotations

import importlib
import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl3d.data.errors import Ssl3dError
from ssl3d.models.backbones.base import Segmenter
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.stages.split import SplitParams, split
from ssl3d.pipeline.training import checkpoint
from ssl3d.pipeline.training.build import build_method
from ssl3d.pipeline.training.config import RunConfig, resolve
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.trainer import train
from ssl3d.pipeline.workspace import Workspace

Trace = list[SimpleNamespace]
LAYERS = "segmenter.backbone.layers"
BUFFERS = [f"{LAYERS}.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")]
PLAIN = ["optimizer.name=sgd", "optimizer.momentum=0", "optimizer.weight_decay=0", "schedule.name=constant",
         "schedule.warmup_steps=0", "train.clip=0", "train.lr=0.01"]  # fmt: skip


@pytest.fixture
def trace(plugin: str) -> Trace:
    """What methods note while they train."""
    seen: Trace = importlib.import_module("ssl3d_test_trace").TRACE
    seen.clear()
    return seen


def config_of(method: str, *overrides: str, steps: int = 6) -> RunConfig:
    return resolve(method, backbone="pointwise", steps=steps, overrides=["train.workers=0", *overrides])


def trained(space: Workspace, method: str, *overrides: str, **more: Any) -> RunDirectory:
    return train(space, config_of(method, *overrides, **more), device="cpu", jobs=1)


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """The parts (backbone weights, their running statistics, head, pull) in which two states differ."""
    names = {name for name in before if not torch.equal(before[name], after[name])}
    part = {name: "statistics" if name in BUFFERS else name.split(".")[1] for name in names if name != "entered"}
    return set(part.values())


# ---------------------------------------------------------------- steps


def test_an_iteration_may_take_a_number_of_optimizer_steps_that_varies(space: Workspace, trace: Trace) -> None:
    run = trained(space, "several", *PLAIN, "train.log_every=1", steps=8)
    value = 0.0
    pulls = [(step, number) for step in range(8) for number in range(step % 3)]
    assert [(seen.step, seen.number) for seen in trace] == pulls
    for seen in trace:  # each sees what the one before has done
        assert seen.value.item() == pytest.approx(value, rel=1e-5)
        value -= 0.01
    saved = checkpoint.load(run.checkpoint_path())
    assert saved["model"]["pull.value"].item() == pytest.approx(value, rel=1e-5)
    assert saved["step"] == 8
    assert [line["step"] for line in run.metrics()] == list(range(1, 9))
    assert ["pull" in line["losses"] for line in run.metrics()] == [step % 3 > 0 for step in range(8)]
    # step 5 has yielded twice: both values are part of its line
    first, second = (seen.value.item() for seen in trace if seen.step == 5)
    assert run.metrics()[5]["losses"]["pull"] == pytest.approx(first + second, rel=1e-5)


def test_every_optimizer_step_counts_for_the_optimizer(space: Workspace) -> None:
    run = trained(space, "twophase", "train.log_every=1", steps=5)  # two an iteration, and a fresh optimizer after two
    states = checkpoint.load(run.checkpoint_path())["optimizer"]["optimizer"]["state"]
    assert {int(state["step"]) for state in states.values()} == {6}


# ---------------------------------------------------------------- phases


def test_phases_have_their_own_optimizers_schedules_and_frozen_parts(space: Workspace, trace: Trace) -> None:
    run = trained(space, "staged", "train.log_every=1", "train.clip=0", "train.lr=0.03", steps=12)
    entered = [seen for seen in trace if hasattr(seen, "entered")]
    assert [(e.entered.phase, e.entered.steps, e.entered.total_step, e.entered.total_steps) for e in entered] == [
        (1, 0, 4, 12),
        (3, 4, 8, 12),
    ]
    steps = [seen for seen in trace if not hasattr(seen, "entered")]
    assert [(seen.phase, seen.step) for seen in steps] == [(phase, i) for phase in (0, 2, 3) for i in range(4)]
    assert [seen.progress.total_step for seen in steps] == list(range(12))
    for before, after in itertools.pairwise(steps):
        expected = {
            0: {"backbone", "statistics", "head", "value"},
            2: {"backbone", "value"},  # batch norm learns, its statistics stay
            3: {"head"},  # momentum of earlier phases moves nothing
        }
        assert moved(before.state, after.state) == expected[after.phase]
    # what on_enter changed was there when the next phase began, and is kept
    assert run.finished
    assert checkpoint.load(run.checkpoint_path())["model"]["entered"].tolist() == [2, 12]
    # SGD with momentum on a gradient of 1: v <- 0.9 v + 1, x <- x - lr v; fresh in each phase
    value, rates = 0.0, [[0.02] * 4, [0.02 * (1 - i / 4) for i in range(4)]]
    pulls = [seen.state["pull.value"].item() for seen in steps]
    for phase, chosen in enumerate(rates):
        velocity = 0.0
        for i, rate in enumerate(chosen):
            velocity = 0.9 * velocity + 1
            value -= rate * velocity
            assert pulls[4 * phase + i] == pytest.approx(value, rel=1e-4), (phase, i)
    assert pulls[8:] == [pulls[7]] * 4
    logged = [line["lr"] for line in run.metrics()]
    assert logged[:8] == pytest.approx(rates[0] + rates[1], rel=1e-4)
    assert max(logged[8:]) == pytest.approx(0.03, rel=0.2)  # the run's own: AdamW, one cycle
    (group,) = checkpoint.load(run.checkpoint_path())["optimizer"]["optimizer"]["param_groups"]
    assert "betas" in group
    assert len(group["params"]) == 2


def test_phases_that_are_all_empty_are_refused(space: Workspace) -> None:
    with pytest.raises(Ssl3dError, match="nothing plans 0 steps of the 6 that it has"):
        trained(space, "nothing")


# ---------------------------------------------------------------- predictions of the training set


def predicted(segmenter: Segmenter, data: PreparedDataset, scan: int) -> Any:
    """Labels and their probabilities, computed without the product's predictor."""
    segmenter.eval()
    with torch.no_grad():
        scores = segmenter(segmenter.backbone.prepare([data.visible().view(scan)])).logits.softmax(1)
    return scores.argmax(1).numpy(), scores.max(1).values.numpy()


@pytest.mark.parametrize("limited", [False, True])
def test_pseudo_labels_go_through_the_disk_into_the_batches_of_the_next_phase(
    own: Workspace, trace: Trace, limited: bool
) -> None:
    space = own
    cut = split(space, SplitParams(ratio="35%", protocol="limited" if limited else None)).cut
    run = trained(space, "rounds", "train.lr=0.1", "backbone.dropout=0", "train.log_every=3", steps=18)
    data = PreparedDataset(space.dataset())
    method, _ = build_method(run.config)
    network: Segmenter = method.predictor()
    entered = {seen.entered: seen.state for seen in trace if hasattr(seen, "entered")}
    gathered = [seen for seen in trace if hasattr(seen, "scans")]
    assert list(entered) == [1, 2]
    expected: dict[int, dict[int, Any]] = {}
    for (phase, state), seen in zip(entered.items(), gathered, strict=True):
        method.load_state_dict(state)
        train_scans = data.subset("train")
        whole = [scan.scan_id for scan in train_scans if cut is None or scan.scan_id != cut.scan]
        assert seen.scans == [*whole, *(cut.parts if cut else ())]
        expected[phase] = {scan.index: predicted(network, data, scan.index) for scan in train_scans}
        label, confidence = (np.concatenate([pair[i] for pair in expected[phase].values()]) for i in (0, 1))
        count = np.bincount(label, minlength=19)
        assert np.array_equal(seen.count, count)
        mean = np.bincount(label, confidence, minlength=19) / count.clip(min=1)
        np.testing.assert_allclose(seen.thresholds, mean, rtol=1e-4)
    batches = [seen for seen in trace if hasattr(seen, "pseudo")]
    assert [seen.phase for seen in batches] == [1] * 6 + [2] * 6
    for seen in batches:
        for scan in seen.rows[:, 0].unique().tolist():
            chosen = seen.rows[:, 0] == scan
            rows = seen.rows[chosen, 1].numpy()
            label, confidence = expected[seen.phase][scan]
            assert np.array_equal(seen.pseudo[chosen].numpy(), label[rows])
            np.testing.assert_allclose(seen.confidence[chosen].numpy(), confidence[rows], rtol=1e-4)
    assert any((expected[1][scan][0] != expected[2][scan][0]).any() for scan in expected[1])
    assert [path.name for path in (run.path / "predictions").iterdir()] == ["phase2-0"]
    pseudo = [line.get("pseudo_labels") for line in run.metrics()]
    assert pseudo[:2] == [None, None]
    assert all(0 < line["share"] < 1 for line in pseudo[2:])
