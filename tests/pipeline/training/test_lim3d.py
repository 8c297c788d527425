"""LiM3D's three stages in whole trainings: what is learnt from, resumed, hidden, and shared by two processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl3d.data.errors import DataError
from ssl3d.data.reflectivity import reflectivity, reflectivity_histogram
from ssl3d.models.backbones.base import Segmenter
from ssl3d.models.backbones.minkunet import MinkUNetMicroParams
from ssl3d.models.backbones.registry import make_backbone
from ssl3d.models.ema import ema_update, keep_rate
from ssl3d.models.methods.lim3d import LiM3D
from ssl3d.models.methods.supervised import Supervised
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.evaluation.evaluate import evaluate
from ssl3d.pipeline.evaluation.passes import Passes
from ssl3d.pipeline.evaluation.predictor import Predictor
from ssl3d.pipeline.evaluation.subject import subject_of
from ssl3d.pipeline.stages.split import SplitParams, split
from ssl3d.pipeline.training import checkpoint
from ssl3d.pipeline.training.build import batch_maker, build_method, open_data
from ssl3d.pipeline.training.config import RunConfig, resolve
from ssl3d.pipeline.training.predictions import KeptScans
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.status import TrainStatus
from ssl3d.pipeline.training.trainer import InterruptedRun, train
from ssl3d.pipeline.workspace import Workspace

SETTINGS = [
    "train.workers=0",
    "train.log_every=1",
    "train.lr=0.05",
    "train.ema=0.9",
    "lim3d.bank=20",
    "lim3d.low_rank=2",
    "lim3d.alpha=0.5",
]
EXACT = [*SETTINGS, "optimizer.name=sgd", "pointwise.dropout=0", "train.batch=2", "lim3d.push=9", "lim3d.anchors=3"]
# SGD: AdamW would blow the rounding of gradients that are zero up to full steps
SCRIPT = f"""
import sys
from ssl3d.pipeline.training.config import resolve
from ssl3d.pipeline.training.trainer import train
from ssl3d.pipeline.workspace import Workspace
if __name__ == "__main__":
    config = resolve("lim3d", backbone="pointwise", steps=6, overrides={EXACT!r})
    train(Workspace.open(sys.argv[1]), config, device="cpu", jobs=2)
"""


def config_of(*overrides: str, steps: int = 8) -> RunConfig:
    return resolve("lim3d", backbone="pointwise", steps=steps, overrides=[*SETTINGS, *overrides])


def trained(space: Workspace, *overrides: str, display: Any = None) -> RunDirectory:
    return train(space, config_of(*overrides), device="cpu", jobs=1, display=display)


def state(run: RunDirectory) -> dict[str, Tensor]:
    saved = checkpoint.load(run.checkpoint_path())
    return {f"{part}.{name}": value for part in ("model", "average") for name, value in saved[part].items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


class StopAfter:
    """Ctrl-C after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def update(self, status: TrainStatus) -> None:
        if status.step == self.step:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def expected(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "ws"
    folder.mkdir()
    for name in ("workspace.json", ".gitignore"):
        (folder / name).write_bytes((prepared / name).read_bytes())
    (folder / "data").symlink_to(prepared / "data")
    return trained(Workspace.open(folder))


def test_all_stages_are_logged(expected: RunDirectory) -> None:
    lines = expected.metrics()
    first, second = {"ce", "consistency", "lovasz"}, {"ce", "consistency", "lovasz", "pseudo", "contrast"}
    assert [set(line["losses"]) for line in lines] == [first] * 4 + [second] * 4
    assert all(0.2 < line["pseudo_labels"]["share"] < 0.8 for line in lines[4:])  # a half, of each class and annulus
    assert lines[-1]["measures"]["means"]["bank"] > 0.1
    assert list((expected.path / "predictions").glob("phase1-0/*.predictions.h5"))
    found = state(expected)
    assert int((found["model.limit"] > 0).sum()) > 10
    assert not same({"": found["model.segmenter.head.weight"]}, {"": found["model.teacher.head.weight"]})


def test_what_is_learnt_is_evaluated(space: Workspace) -> None:
    run = train(space, config_of(steps=60), device="cpu", jobs=1)
    data = PreparedDataset(space.dataset())
    scores = evaluate(data, subject_of(run)).scores(data.spec.name)
    assert scores.accuracy > 0.5  # of four classes


@pytest.mark.parametrize("step", [2, 4, 6])  # in stage 1, between the stages, in stage 3
def test_stopped_and_resumed_is_the_same_run(space: Workspace, expected: RunDirectory, step: int) -> None:
    with pytest.raises(InterruptedRun):
        trained(space, display=StopAfter(step))
    assert same(state(expected), state(trained(space)))


@pytest.mark.parametrize("broken", ["a unit is predicted", "weights are new"])
def test_broken_off_in_stage_2_and_resumed(
    space: Workspace, expected: RunDirectory, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def breaking(function: Callable[..., Any]) -> Callable[..., Any]:
        def after(*args: Any) -> None:
            function(*args)
            raise RuntimeError("broken off")

        return after

    owner, name = (KeptScans, "write") if broken == "a unit is predicted" else (LiM3D, "_begin_anew")
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="broken off"):
        patch.setattr(owner, name, breaking(getattr(owner, name)))
        trained(space)
    torch.randn(9)
    assert same(state(expected), state(trained(space)))


@pytest.mark.parametrize("regime", ["scans", "points"])
def test_hidden_labels_are_not_there(own: Workspace, tmp_path: Path, regime: str) -> None:
    """The same weights in a workspace that has no file with full labels."""
    split(own, SplitParams(ratio="30%") if regime == "scans" else SplitParams(regime="points", ratio="5%"))
    blind = tmp_path / "blind"
    shutil.copytree(own.root, blind, ignore=shutil.ignore_patterns("runs", "*.labels.h5"))
    assert same(state(trained(own)), state(trained(Workspace.open(blind))))


def test_the_average_of_the_run_begins_again_with_the_student(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Tensor]] = []
    real = LiM3D.after_step

    def after(self: LiM3D, progress: Any) -> None:
        real(self, progress)
        seen.append({name: value.clone() for name, value in self.student().state_dict().items()})

    monkeypatch.setattr(LiM3D, "after_step", after)
    run = trained(space)
    method, _ = build_method(run.config)
    average, student = method.predictor(), method.student()
    for number, weights in enumerate(seen[4:]):
        student.load_state_dict(weights)
        ema_update(average, student, keep_rate(0.9, number))
    saved = checkpoint.load(run.checkpoint_path())["average"]
    for name, value in average.state_dict().items():
        torch.testing.assert_close(saved[name], value, rtol=1e-5, atol=1e-6)


def test_two_processes_train_as_one_does(prepared: Path, space: Workspace, tmp_path: Path) -> None:
    (tmp_path / "training.py").write_text(SCRIPT)
    other = tmp_path / "two"
    other.mkdir()
    for name in ("workspace.json", ".gitignore"):
        (other / name).write_bytes((prepared / name).read_bytes())
    (other / "data").symlink_to(prepared / "data")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(tmp_path / "training.py"), str(other)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    config = resolve("lim3d", backbone="pointwise", steps=6, overrides=EXACT)
    alone = train(space, config, device="cpu", jobs=1)
    both = RunDirectory.open(Workspace.open(other), alone.name)
    expected, found = state(alone), state(both)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name == "model.contrast.bank.values":  # rounding may tip the rank of a class
            other = (found[name] - value).abs().amax(2) > 1e-4
            assert float(other.double().mean()) < 0.02
            continue
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    assert int(expected["model.contrast.bank.count"].sum()) > 50
    for line, reference in zip(both.metrics(), alone.metrics(), strict=True):
        assert line["losses"] == pytest.approx(reference["losses"], rel=1e-3, abs=1e-6)
        assert line["pseudo_labels"]["share"] == reference["pseudo_labels"]["share"]


def test_without_pseudo_labels_nothing_is_predicted(space: Workspace) -> None:
    run = trained(space, "lim3d.crb=false", "lim3d.lambda_c=0")
    assert not (run.path / "predictions").exists() or not list((run.path / "predictions").iterdir())
    assert all("pseudo" not in line["losses"] and "contrast" not in line["losses"] for line in run.metrics())
    assert not any("contrast" in name or "projector" in name for name in state(run))


def test_pseudo_labels_are_those_of_the_first_teacher(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored labels are what the teacher of stage 1 predicts, without test-time augmentation."""
    kept: dict[int, Any] = {}
    teacher: dict[str, Tensor] = {}
    real = KeptScans.write

    def write(self: KeptScans, unit: str, stored: Any) -> None:
        kept.update(zip(self.units[unit], stored, strict=True))
        real(self, unit, stored)

    def begin(self: LiM3D) -> None:
        teacher.update({name: value.clone() for name, value in self.teacher.state_dict().items()})

    monkeypatch.setattr(KeptScans, "write", write)
    monkeypatch.setattr(LiM3D, "_begin_anew", begin)
    run = trained(space, "lim3d.tta=false")
    method, _ = build_method(run.config)
    network = method.predictor()
    network.load_state_dict(teacher)
    network.eval()
    data = PreparedDataset(space.dataset()).visible()
    assert len(kept) == 10
    for index, stored in kept.items():
        view = data.view(index)
        with torch.no_grad():
            p = network(network.backbone.prepare([view])).logits.softmax(1).numpy()
        assert np.array_equal(stored.points["crb_label"], p.argmax(1))
        np.testing.assert_allclose(stored.points["crb_doubt"], 1 - p.max(1), atol=1e-3)


FEATURES = "backbone.features=xyz,intensity,reflectivity,reflectivity_histogram"


def test_reflectivity_is_that_of_the_scan_as_recorded(space: Workspace) -> None:
    """Also where a batch is thinned and moved, and where a scan is predicted in turned copies."""
    settings = ["train.workers=0", FEATURES, "train.max_points=100", "backbone.voxel_size=0.001", "backbone.clip=none"]
    config = resolve("supervised", backbone="minkunet-micro", steps=2, overrides=settings)
    data = open_data(space, None, None)
    spec = config.backbone_params.input_spec
    batch = batch_maker(config, data, Supervised, spec)(0)
    assert batch.groups is not None
    inputs = batch.groups["labelled"]
    assert inputs.features.shape[1] == 3 + 1 + 1 + 30
    for index in inputs.rows[:, 0].unique().tolist():
        view = data.source.view(index)
        values = reflectivity(view.points, view.features["intensity"])
        mine = inputs.rows[:, 0] == index
        element, rows = inputs.elements.point_to_element[mine], inputs.rows[mine, 1]
        assert len(rows) == 100 < len(view)  # alone in their voxels
        np.testing.assert_allclose(inputs.features[element, 4], values[rows, 0], rtol=1e-5)
        expected = reflectivity_histogram(view.points, values)[rows]
        np.testing.assert_allclose(inputs.features[element, 5:], expected, rtol=1e-5)
    segmenter = Segmenter(make_backbone("minkunet-micro", config.backbone_params), 19)
    passes = Passes.parse("rotate,scale")
    looks = [one.inputs for _, one in Predictor(segmenter, "cpu", passes=passes)._passes([view], lambda v: v)]
    assert len(looks) == 12
    for seen in looks:
        assert seen is not None
        found = seen.features[seen.elements.point_to_element, 4]
        np.testing.assert_allclose(found, values[seen.rows[:, 1], 0], rtol=1e-5)


def test_trained_and_evaluated_with_reflectivity_and_separable_convolutions(space: Workspace) -> None:
    settings = ["train.workers=0", FEATURES, "backbone.voxel_size=2", "train.batch=1", "backbone.separable=true"]
    run = train(space, resolve("lim3d", backbone="minkunet-micro", steps=2, overrides=settings), device="cpu", jobs=1)
    data = PreparedDataset(space.dataset())
    assert evaluate(data, subject_of(run)).confusion.points == 800


def test_a_dataset_without_intensities_is_told(space: Workspace) -> None:
    view = replace(open_data(space, None, None).source.view(0), features={})
    with pytest.raises(DataError, match="reads 'reflectivity', which this dataset does not have"):
        spec = MinkUNetMicroParams(features=("reflectivity",)).input_spec
        spec.prepare([spec.derive(view)])
