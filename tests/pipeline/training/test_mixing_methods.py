"""``lasermix`` and ``cps`` in the trainer: whole runs, splits of points, stopped and resumed, shared batches."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssl3d.data.errors import UsageError
from ssl3d.models.methods.cps import CPS, CPSParams
from ssl3d.models.methods.lasermix import LaserMix, LaserMixParams
from ssl3d.models.methods.supervised import Supervised, SupervisedParams
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.evaluation.evaluate import evaluate
from ssl3d.pipeline.evaluation.subject import subject_of
from ssl3d.pipeline.stages.split import SplitParams, split
from ssl3d.pipeline.training import checkpoint
from ssl3d.pipeline.training.batches import batch_items
from ssl3d.pipeline.training.build import check_share, open_data
from ssl3d.pipeline.training.config import RunConfig, resolve
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.status import TrainStatus
from ssl3d.pipeline.training.trainer import InterruptedRun, train
from ssl3d.pipeline.workspace import Workspace

BANDS = ["fov_up=60", "fov_down=0"]  # where the points of these scans are
MIXED = {"lasermix": ["lasermix.threshold=0.5", "lasermix.w_mt=20"], "cps": ["cps.mix=lasermix"]}
SHORT = ["train.workers=0", "train.log_every=1", "train.lr=0.05", "augment.rotate=10", *BANDS]
METHODS = [("lasermix", MIXED["lasermix"]), ("cps", []), ("cps", MIXED["cps"])]
IDS = ["lasermix", "cps", "cps, mixed"]


def config_of(method: str, *overrides: str, backbone: str = "pointwise", steps: int = 6) -> RunConfig:
    return resolve(method, backbone=backbone, steps=steps, overrides=[*SHORT, *overrides])


def trained(
    space: Workspace, method: str, *overrides: str, backbone: str = "pointwise", steps: int = 6
) -> RunDirectory:
    return train(space, config_of(method, *overrides, backbone=backbone, steps=steps), device="cpu", jobs=1)


def model(run: RunDirectory) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = checkpoint.load(run.checkpoint_path())["model"]
    return weights


@pytest.mark.parametrize(("method", "overrides"), METHODS, ids=IDS)
def test_trained_and_evaluated(space: Workspace, method: str, overrides: list[str]) -> None:
    run = trained(space, method, *overrides, "backbone.dropout=0", steps=60)
    first, last = run.metrics()[0], run.metrics()[-1]
    mixed = {"lasermix": ["mixed_ce"], "cps": ["cps_a", "cps_b"]}[method]
    ce = "ce" if method == "lasermix" else "ce_a"
    assert last["losses"][ce] < first["losses"][ce] / 3
    assert all(0 < last["losses"][name] < 1 for name in mixed)
    assert last["pseudo_labels"]["share"] > 0.8
    data = PreparedDataset(space.dataset())
    scores = evaluate(data, subject_of(run)).scores(data.spec.name)
    assert scores.overall_accuracy > 0.8  # a guess is right for a quarter of the points


@pytest.mark.parametrize(("method", "overrides"), METHODS, ids=IDS)
@pytest.mark.parametrize("batch", [1, 2])
def test_a_split_of_points_has_no_unlabelled_scan_to_mix(
    own: Workspace, method: str, overrides: list[str], batch: int
) -> None:
    split(own, SplitParams(regime="points", ratio="5%"))
    run = trained(own, method, *overrides, f"train.batch={batch}", steps=30)
    last = run.metrics()[-1]
    assert last["losses"]["mixed_ce" if method == "lasermix" else "cps_a"] > 0
    assert last["pseudo_labels"]["share"] > 0.3


@pytest.mark.parametrize(
    ("method", "overrides"),
    [METHODS[0], ("cps", ["lambda_cps=0.3"]), ("cps", [*MIXED["cps"], "lambda_cps=0.3"])],
    ids=IDS,
)
def test_on_pixels_the_mixed_points_are_projected(space: Workspace, method: str, overrides: list[str]) -> None:
    learn = ["backbone.width=64", "backbone.height=16", "augment.translate=0", "train.lr=0.1"]
    run = trained(space, method, *overrides, *learn, backbone="test-pixels", steps=60)
    data = PreparedDataset(space.dataset())
    assert evaluate(data, subject_of(run)).scores(data.spec.name).overall_accuracy > 0.35


class StopAfter:
    """Ctrl-C after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def update(self, status: TrainStatus) -> None:
        if status.step == self.step:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("method", "overrides"), METHODS, ids=IDS)
def test_stopped_and_resumed_is_the_same_run(
    space: Workspace, prepared: Path, tmp_path: Path, method: str, overrides: list[str]
) -> None:
    config = config_of(method, *overrides, "train.ema=0.9", steps=7)
    with pytest.raises(InterruptedRun):
        train(space, config, device="cpu", jobs=1, display=StopAfter(3))
    run = train(space, config, device="cpu", jobs=1)
    other = tmp_path / "whole"
    other.mkdir()
    for name in ("workspace.json", ".gitignore"):
        (other / name).write_bytes((prepared / name).read_bytes())
    (other / "data").symlink_to(prepared / "data")
    whole = train(Workspace.open(other), config, device="cpu", jobs=1)
    expected, found = (checkpoint.load(one.checkpoint_path()) for one in (whole, run))
    for part in ("model", "average"):
        assert all(torch.equal(value, found[part][name]) for name, value in expected[part].items())
    keep = ("step", "losses", "pseudo_labels", "measures")
    assert [{k: line.get(k) for k in keep} for line in run.metrics()] == [
        {k: line.get(k) for k in keep} for line in whole.metrics()
    ]


def test_both_networks_learn_and_the_average_is_of_the_first(space: Workspace) -> None:
    run = trained(space, "cps", "train.ema=0", steps=10)
    now, average = model(run), checkpoint.load(run.checkpoint_path())["average"]
    weight = "backbone.layers.0.weight"
    assert torch.equal(average[weight], now[f"segmenter.{weight}"])
    assert not torch.equal(now[f"segmenter.{weight}"], now[f"other.{weight}"])
    assert run.metrics()[-1]["losses"]["ce_b"] < run.metrics()[0]["losses"]["ce_b"]


@pytest.mark.parametrize(
    ("method", "params", "labelled", "unlabelled", "expected"),
    [
        (Supervised, SupervisedParams(), 6, None, 6),
        (LaserMix, LaserMixParams(), 4, 4, 4),
        (LaserMix, LaserMixParams(), 2, 4, 2),
        (LaserMix, LaserMixParams(), 4, None, 2),
        (LaserMix, LaserMixParams(), 3, None, 1),
        (LaserMix, LaserMixParams(), 1, None, 1),
        (LaserMix, LaserMixParams(w_mix=0), 4, None, 4),
        (CPS, CPSParams(), 4, 4, 4),
        (CPS, CPSParams(mix="lasermix"), 4, 4, 2),
        (CPS, CPSParams(mix="lasermix"), 2, 4, 2),
        (CPS, CPSParams(mix="lasermix"), 6, 9, 3),
        (CPS, CPSParams(mix="lasermix"), 1, 1, 1),
    ],
)
def test_scans_that_are_mixed_with_each_other_are_in_one_item(
    method: type, params: object, labelled: int, unlabelled: int | None, expected: int
) -> None:
    assert batch_items(method, params, labelled, unlabelled) == expected  # type: ignore[arg-type]


def test_what_processes_cannot_share_says_which_batch_they_could(own: Workspace) -> None:
    split(own, SplitParams(regime="points", ratio="5%"))
    data = open_data(own, None, None)
    with pytest.raises(UsageError, match="2 processes cannot share the 1 items") as caught:
        check_share(config_of("lasermix", "train.batch=2"), data, 2)
    assert "train.batch=4" in str(caught.value.hint)
    check_share(config_of("lasermix", "train.batch=4"), data, 2)
