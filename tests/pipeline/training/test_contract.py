"""The contract of methods, each odd thing shown by a small method that does it (views, networks, averages)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import Tensor

from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.scan import IGNORE
from ssl3d.data.store import write_shard
from ssl3d.models.config import Params
from ssl3d.pipeline import graph
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.evaluation.evaluate import evaluate
from ssl3d.pipeline.evaluation.subject import subject_of
from ssl3d.pipeline.needed import make_missing
from ssl3d.pipeline.progress import Silent
from ssl3d.pipeline.stage import Stage, Unit, UnitInputs, Upstream
from ssl3d.pipeline.stage_run import run_stage
from ssl3d.pipeline.stages.split import SplitParams, split
from ssl3d.pipeline.training import checkpoint
from ssl3d.pipeline.training.build import build_method, load_predictor
from ssl3d.pipeline.training.config import RunConfig, resolve
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.trainer import train
from ssl3d.pipeline.workspace import Workspace

Trace = list[SimpleNamespace]


@pytest.fixture
def trace(plugin: str) -> Trace:
    """What methods note while they train."""
    seen: Trace = importlib.import_module("ssl3d_test_trace").TRACE
    seen.clear()
    return seen


def config_of(method: str, *overrides: str, backbone: str = "pointwise", steps: int = 6) -> RunConfig:
    return resolve(method, backbone=backbone, steps=steps, overrides=["train.workers=0", *overrides])


def trained(space: Workspace, method: str, *overrides: str, **more: Any) -> RunDirectory:
    return train(space, config_of(method, *overrides, **more), device="cpu", jobs=1)


def model(run: RunDirectory) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = checkpoint.load(run.checkpoint_path())["model"]
    return weights


def fresh(run: RunDirectory) -> dict[str, Tensor]:
    """The weights that the run began with."""
    torch.manual_seed(run.config.seed)
    return build_method(run.config)[0].state_dict()


def pairs(rows: Tensor) -> list[tuple[int, int]]:
    return [(scan, row) for scan, row in rows.tolist()]


# ---------------------------------------------------------------- mixed scans, overlapping crops


def test_labels_of_a_mixed_scan_are_filled_from_the_teacher_of_its_other_half(space: Workspace, trace: Trace) -> None:
    run = trained(space, "mixed", "augment.drop=0.3", "train.batch=2")
    data = PreparedDataset(space.dataset())
    truth = {scan: data.truth().label(scan).tolist() for scan in data.visible().labelled.tolist()}
    assert len(trace) == 6
    filled = left_out = 0
    for seen in trace:
        teacher: dict[tuple[int, int], int] = {}
        for point, label in zip(pairs(seen.teacher_rows), seen.teacher_label.tolist(), strict=True):
            teacher.setdefault(point, label)  # of a scan that is twice in the batch the first counts
        for view in range(len(seen.offsets) - 1):
            scans = set(seen.rows[seen.offsets[view] : seen.offsets[view + 1], 0].tolist())
            assert len(scans) == 2
            assert len(scans & truth.keys()) == 1
        for (scan, row), visible, label in zip(
            pairs(seen.rows), seen.visible.tolist(), seen.label.tolist(), strict=True
        ):
            if scan in truth:
                assert label == visible == truth[scan][row]
            else:
                assert visible == IGNORE
                assert label == teacher.get((scan, row), IGNORE)
                filled += label != IGNORE
                left_out += label == IGNORE
    assert filled > left_out > 0  # some points were dropped from the teacher's view
    assert run.finished


def test_crops_of_a_scan_are_matched_by_rows_also_when_it_is_twice_in_the_batch(space: Workspace, trace: Trace) -> None:
    trained(space, "crops", "augment.drop=0.2", steps=3)
    for seen in trace:
        found = set(zip(seen.mine.tolist(), seen.theirs.tolist(), strict=True))
        expected = set()
        scans = []
        for view in range(len(seen.left_offsets) - 1):
            begin, first = int(seen.left_offsets[view]), int(seen.right_offsets[view])
            left = pairs(seen.left[begin : seen.left_offsets[view + 1]])
            right = pairs(seen.right[first : seen.right_offsets[view + 1]])
            scans.append(left[0][0])
            place = {point: first + i for i, point in enumerate(right)}
            expected |= {(begin + i, place[point]) for i, point in enumerate(left) if point in place}
        assert len(scans) == 6  # two items of a labelled, an unlabelled and once more the labelled scan
        assert len(set(scans)) == 4
        assert found == expected
        assert len(found) > 200
        assert torch.equal(seen.left[seen.mine], seen.right[seen.theirs])


# ---------------------------------------------------------------- products of stages


class RegionParams(Params):
    size: float = Field(3.0, gt=0, description="meters")


class RegionStage(Stage):
    """Layers of height: the region of a point is ``floor(z / size)``."""

    name = "regions"
    version = 1
    needs = ("prepare",)
    command = "ssl3d regions --size 3"
    extras = ("region",)
    params: RegionParams

    def __init__(self, params: RegionParams) -> None:
        super().__init__(params)
        self.reads = {"prepare": ("points",)}

    def units(self, upstream: Upstream) -> Sequence[Unit]:
        return [Unit(id=unit) for unit in sorted(upstream["prepare"].done)]

    @staticmethod
    def run(unit: Unit, params: Any, inputs: UnitInputs, out: Path) -> Mapping[str, Any]:
        points = inputs.shard("prepare", "points")
        region = np.floor(points.array("points")[:, 2] / params.size).astype(np.int32)
        write_shard(out / f"{unit.id}.region.h5", {"offsets": points.array("offsets"), "region": region})
        return {}


@pytest.fixture
def regions(own: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace in which the stage exists, and has not been run."""
    monkeypatch.setitem(graph.STAGES, "regions", RegionStage)
    return own


def make_regions(space: Workspace, size: float) -> str:
    return run_stage(space.dataset(), RegionStage(RegionParams(size=size)), progress=Silent()).product.key


@pytest.mark.parametrize("limited", [False, True])
def test_the_product_of_a_stage_follows_the_points_of_two_augmentations(
    regions: Workspace, trace: Trace, limited: bool
) -> None:
    make_regions(regions, 3.0)
    params = SplitParams(ratio="37%", protocol="limited") if limited else SplitParams(ratio="30%")
    cut = split(regions, params).cut
    run = trained(regions, "regional", "augment.drop=0.3", "augment.translate=3")
    source = PreparedDataset(regions.dataset()).source()
    assert {seen.name for seen in trace} == {"one", "two"}
    for seen in trace:
        for scan in seen.rows[:, 0].unique().tolist():
            chosen = seen.rows[:, 0] == scan
            z = source.view(scan).points[seen.rows[chosen, 1].numpy(), 2]
            assert np.array_equal(seen.region[chosen].numpy(), np.floor(z / 3))
        assert len(seen.region.unique()) == 4
    assert run.finished
    if cut is not None:  # both parts of the scan that is cut were drawn, with the rows of the whole
        rows = torch.cat([seen.rows for seen in trace if seen.name == "one"])
        whole = PreparedDataset(regions.dataset()).by_id[cut.scan].index
        source = PreparedDataset(regions.dataset()).visible()
        parts = [set(source.view(len(source) - 2 + number).rows[:, 1].tolist()) for number in (0, 1)]
        seen_rows = set(rows[rows[:, 0] == whole, 1].tolist())
        assert all(seen_rows & part for part in parts)


def test_a_stage_that_needs_no_question_is_run_by_train(
    own: Workspace, monkeypatch: pytest.MonkeyPatch, trace: Trace
) -> None:
    class Unasked(RegionStage):
        @classmethod
        def unasked(cls, dataset: PreparedDataset) -> Stage:
            return cls(RegionParams())

    monkeypatch.setitem(graph.STAGES, "regions", Unasked)
    run = trained(own, "regional", steps=1)
    product = own.dataset().product("regions")
    assert product is not None and product.complete and run.config.data.stages == {"regions": product.key}
    assert make_missing(own, None, ["regions", "density"], jobs=1, progress=Silent()) == ["density"]


def test_a_product_of_an_earlier_version_or_of_another_split_is_refused(
    regions: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OfSplit(RegionStage):
        needs = ("prepare", "split")

    monkeypatch.setitem(graph.STAGES, "regions", OfSplit)
    mine = split(regions, SplitParams(ratio="30%", seed=5))
    run_stage(regions.dataset(), OfSplit(RegionParams()), progress=Silent())
    assert trained(regions, "regional", steps=1).finished
    split(regions, SplitParams(ratio="30%", seed=6))
    with pytest.raises(UsageError, match="'split' has other parameters"):
        trained(regions, "regional", steps=1)
    config = resolve("regional", backbone="minkunet-micro", seed=0, steps=2, overrides=[])
    assert train(regions, config, split=mine.key, device="cpu", jobs=1).finished  # the split that it belongs to
    monkeypatch.setattr(OfSplit, "version", 2)
    with pytest.raises(UsageError, match="the stage changed"):
        train(regions, config, split=mine.key, device="cpu", jobs=1, overwrite=True)


def test_a_run_names_the_product_that_it_reads(regions: Workspace) -> None:
    with pytest.raises(UsageError, match=r"product of 'regions'.*type: ssl3d regions --size 3"):
        trained(regions, "regional")
    assert RunDirectory.list(regions) == []
    key = make_regions(regions, 3.0)
    run = trained(regions, "regional", steps=1)
    assert run.config.data.stages == {"regions": key}
    other = make_regions(regions, 2.0)
    with pytest.raises(UsageError, match="other parameters or data") as caught:
        train(regions, resume=run.name, device="cpu", jobs=1)
    assert caught.value.where["dataset.stages.regions"] == f"{key} in the run, {other} now"
    assert trained(regions, "regional", steps=1).name != run.name
    (file,) = regions.dataset().folder.glob(f"regions/{other}/00*.region.h5")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match="damaged or missing"):
        trained(regions, "regional", steps=2)


# ---------------------------------------------------------------- networks and averages


def test_two_networks_begin_apart_and_both_learn(space: Workspace) -> None:
    learn = ["augment.rotate=10", "backbone.dropout=0", "train.lr=0.05", "train.ema=0.5", "train.log_every=5"]
    run = trained(space, "two", *learn, steps=60)
    begun, now = fresh(run), model(run)
    first, second = (
        {k.split(".", 1)[1]: v for k, v in begun.items() if k.startswith(name)} for name in ("segmenter.", "other.")
    )
    weight = "backbone.layers.0.weight"
    assert not torch.equal(first[weight], second[weight])
    for name in ("segmenter.", "other."):
        assert not torch.equal(now[name + weight], begun[name + weight])
    assert not torch.equal(now["segmenter." + weight], now["other." + weight])
    losses = run.metrics()[-1]["losses"]
    assert losses["first"] < run.metrics()[0]["losses"]["first"] / 3
    assert losses["second"] < run.metrics()[0]["losses"]["second"] / 3
    predictor = load_predictor(run, weights="own")[0].state_dict()
    assert torch.equal(predictor[weight], now["segmenter." + weight])
    average = checkpoint.load(run.checkpoint_path())["average"]  # of the first network
    assert (average[weight] - now["segmenter." + weight]).abs().max() < 0.05
    assert (average[weight] - now["other." + weight]).abs().max() > 0.1


@pytest.mark.parametrize("policy", ["own", "ema", "copy"])
def test_a_teacher_that_averages_some_parts(space: Workspace, trace: Trace, policy: str) -> None:
    run = trained(space, "parts", f"parts.buffers={policy}", "parts.alpha=0.8", "train.lr=0.05", steps=8)
    state = fresh(run)
    begun = {name: value.clone() for name, value in state.items()}
    names = [name.removeprefix("teacher.") for name in state if name.startswith("teacher.")]
    assert {name.split(".")[0] for name in names} == {"backbone", "head"}
    expected = {name: begun[f"teacher.{name}"].clone() for name in names}
    for seen in trace:
        keep = min(1 - 1 / (seen.step + 1), 0.8)
        for name in names:
            student = seen.state[f"segmenter.{name}"]
            if "running" in name or "num_batches" in name:
                if policy == "copy" or (policy == "ema" and not student.is_floating_point()):
                    expected[name] = student
                elif policy == "ema":
                    expected[name] = keep * expected[name] + (1 - keep) * student
                else:  # what its own passes have seen
                    expected[name] = seen.state[f"teacher.{name}"]
            else:
                expected[name] = keep * expected[name] + (1 - keep) * student
            torch.testing.assert_close(seen.state[f"teacher.{name}"], expected[name], rtol=1e-5, atol=1e-6)
        assert torch.equal(seen.state["teacher_adapter.weight"], begun["adapter.weight"])
    last = trace[-1].state
    assert not torch.equal(last["adapter.weight"], begun["adapter.weight"])
    batches = "backbone.layers.1.num_batches_tracked"
    assert last[f"teacher.{batches}"] == (8 if policy == "own" else last[f"segmenter.{batches}"])
    mean = "backbone.layers.1.running_mean"
    assert torch.equal(last[f"teacher.{mean}"], last[f"segmenter.{mean}"]) == (policy == "copy")


# ---------------------------------------------------------------- pixels, and points in crops


@pytest.mark.parametrize("method", ["supervised", "mean_teacher"])
@pytest.mark.parametrize(
    ("backbone", "overrides", "reached"),
    [
        ("test-pixels", ["backbone.width=64", "backbone.height=16"], 0.35),
        ("test-pixels", ["backbone.width=64", "backbone.height=16", "backbone.reach=18"], 0.35),
        ("test-crops", ["backbone.points=64"], 0.4),
        ("test-crops", ["backbone.points=64", "backbone.smoothing=0.5"], 0.4),
    ],
    ids=["pixels", "some points without a pixel", "points in crops", "crops with smoothed votes"],
)
def test_backbones_on_pixels_and_on_crops_of_points_train_and_are_evaluated(
    space: Workspace, method: str, backbone: str, overrides: list[str], reached: float
) -> None:
    learn = ["augment.rotate=10", "train.lr=0.1", "augment.translate=0", *overrides]
    if method == "mean_teacher":
        learn += ["mean_teacher.teacher_view=weak", "augment.drop=0.2", "mean_teacher.w=1"]
    run = trained(space, method, *learn, backbone=backbone, steps=60)
    data = PreparedDataset(space.dataset())
    result = evaluate(data, subject_of(run))
    assert result.confusion.points == sum(scan.num_points for scan in data.subset("val"))
    assert result.confusion.ignored == 0  # every point got a class
    assert result.scores(data.spec.name).overall_accuracy > reached  # a guess is right for a quarter of the points
