"""The stage ``boundary`` from end to end: its network, its product, and what a kill, damage or little data do to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from ssl3d.data.errors import Ssl3dError, UsageError
from ssl3d.data.geometry.boundary import pair_labels
from ssl3d.data.scan import IGNORE
from ssl3d.data.spec import load_spec
from ssl3d.data.store import ShardReader
from ssl3d.models.boundary.method import TARGET
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.product import Product
from ssl3d.pipeline.progress import Silent
from ssl3d.pipeline.stage_run import StageRun
from ssl3d.pipeline.stages.boundary import BoundaryStage, network_params
from ssl3d.pipeline.stages.boundary_data import BoundarySource, choose_roles, held_part
from ssl3d.pipeline.stages.boundary_params import LEAST_STEPS, MOST_STEPS, choose, usual_steps
from ssl3d.pipeline.stages.boundary_summary import HELD, TRAINED, summarize_boundary
from ssl3d.pipeline.stages.per_scan import run_on
from ssl3d.pipeline.stages.split import SplitParams, split
from ssl3d.pipeline.training import checkpoint
from ssl3d.pipeline.training.config import resolve
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.trainer import train
from ssl3d.pipeline.workspace import Workspace

SMALL = ["backbone.m=4", "backbone.voxel_size=1.0", "boundary.radius=4", "train.workers=0", "train.log_every=1"]
STEPS = 6
Cubes = Callable[..., StageRun]


@pytest.fixture
def space(own: Workspace) -> Workspace:
    return own


def boundary(space: Workspace, *settings: str, progress: Any = None, jobs: int = 1, **words: Any) -> StageRun:
    words = {"backbone": "spunet-micro", "steps": STEPS, "device": "cpu", **words}

    def make(data: PreparedDataset) -> BoundaryStage:
        return BoundaryStage.of(data, [*SMALL, *settings], **words)

    return run_on(space, make, jobs=jobs, progress=progress or Silent())


def network(product: Product) -> RunDirectory:
    (path,) = product.folder.glob("boundary-*")
    return RunDirectory(path)


def weights(product: Product) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = checkpoint.load(network(product).checkpoint_path())["model"]
    return found


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, two[name]) for name, value in one.items())


def probabilities(product: Product) -> list[np.ndarray]:
    return [ShardReader(path).array("boundary_prob") for path in sorted(product.folder.glob("*.boundary.h5"))]


# ---------------------------------------------------------------- product


def test_product(space: Workspace, cubes: Cubes) -> None:
    regions = cubes(space).product
    done = boundary(space)
    product, data = done.product, PreparedDataset(space.dataset())
    assert product.complete and len(done.fresh) == len(data.product.done)
    for unit in product.done:
        points, found = data.product.folder / f"{unit}.points.h5", ShardReader(product.folder / f"{unit}.boundary.h5")
        pairs = ShardReader(product.folder / f"{unit}.boundary_pairs.h5")
        adjacency = ShardReader(regions.folder / f"{unit}.adjacency.h5")
        region = ShardReader(regions.folder / f"{unit}.regions.h5")
        np.testing.assert_array_equal(found.offsets, ShardReader(points).offsets)
        np.testing.assert_array_equal(pairs.offsets, adjacency.offsets)
        assert found.attrs["threshold"] == 0.5 and found.attrs["radius"] == 4.0
        for position in range(len(found)):
            probability, label = found.read("boundary_prob", position), pairs.read("boundary_label", position)
            assert probability.dtype == np.float16 and label.dtype == np.uint8
            assert ((probability >= 0) & (probability <= 1)).all() and probability.any()
            expected = pair_labels(
                probability > 0.5, region.read("region_id", position), adjacency.read("region_adj", position)
            )
            np.testing.assert_array_equal(label, expected)
    again = boundary(space)
    assert not again.fresh and again.product.key == product.key


def test_summary(space: Workspace, cubes: Cubes) -> None:
    """Three labelled scans: two to learn from, one to measure on."""
    cubes(space)
    product = boundary(space).product
    data = PreparedDataset(space.dataset())
    found = summarize_boundary(product, {scan.unit: scan.subset for scan in data.scans})
    assert {name: item.scans for name, item in found.subsets.items()} == {"train": 10, "val": 2}
    assert found.quality[TRAINED].scans == 2 and found.quality[HELD].scans == 1
    held = found.quality[HELD]
    assert held.points == 400 and held.share is not None and 0 < held.share <= 1
    threshold, best = found.curve.best
    assert sum(found.curve.real) + sum(found.curve.other) == 3 * 400 and 0 < threshold < 1
    again = boundary(space, f"boundary.threshold={threshold}").product
    pooled = summarize_boundary(again, dict.fromkeys(again.done, "all")).quality.values()
    hit, false, missed = (sum(getattr(c, name) for c in pooled) for name in ("hit", "false", "missed"))
    assert best == pytest.approx(2 * hit / (2 * hit + false + missed))  # what it promises is what one gets
    told = json.loads((product.folder / "boundary.json").read_text())
    assert told["quality"][HELD]["hit"] == held.hit and told["steps"] == STEPS
    assert told["network"] == network(product).name


@pytest.mark.slow
def test_two_processes_make_the_same_product(space: Workspace, cubes: Cubes) -> None:
    cubes(space)
    one = probabilities(boundary(space).product)
    for path in space.dataset().folder.glob("boundary/*/*.h5"):
        path.unlink()
    two = probabilities(boundary(space, jobs=2).product)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_methods_read_the_probabilities(space: Workspace, cubes: Cubes) -> None:
    from ssl3d.pipeline.training.extras import StageExtras

    cubes(space)
    product = boundary(space).product
    data = PreparedDataset(space.dataset())
    source = data.source()
    extras = StageExtras(product.folder, BoundaryStage.extras[0], source.places)
    assert set(extras.arrays(3)) == {"boundary_prob"} and not extras.facts(3)
    assert len(extras.arrays(3)["boundary_prob"]) == len(source.view(3))


# ---------------------------------------------------------------- the network


def test_what_needs_no_new_training_gets_none(space: Workspace, cubes: Cubes) -> None:
    cubes(space)
    first = boundary(space).product
    other = boundary(space, "boundary.rule=interface", "boundary.threshold=0.3")
    assert other.product.key != first.key and other.fresh
    assert (network(other.product).path / "command.txt").read_text() == (
        network(first).path / "command.txt"
    ).read_text()  # no session of its own
    assert same(weights(other.product), weights(first))
    cubes(space, size=5.0)
    assert same(weights(boundary(space).product), weights(first))
    third = boundary(space, "boundary.refine=false").product
    assert not any("refine" in name for name in weights(third))


def test_seed_and_split_are_part_of_the_key(space: Workspace, cubes: Cubes) -> None:
    cubes(space)
    first = boundary(space).product
    assert not same(weights(boundary(space, seed=1).product), weights(first))
    split(space, SplitParams(ratio="30%", seed=3))
    other = boundary(space).product
    assert other.key != first.key and not same(weights(other), weights(first))


class Killed(Exception):  # noqa: N818
    pass


class Deadly(Silent):
    """Dies at a step of the training, or at a unit of the prediction."""

    def __init__(self, task: str, at: int) -> None:
        self.wanted, self.at = task, at

    @contextmanager
    def task(self, name: str, total: float | None, unit: str = "") -> Any:
        outer = self

        class Bar:
            done = 0.0

            def advance(self, amount: float = 1) -> None:
                self.done += amount
                if name == outer.wanted and self.done >= outer.at:
                    raise Killed

            def note(self, text: str) -> None: ...

        yield Bar()


def test_killed_in_training_it_goes_on(space: Workspace, cubes: Cubes, heard: Any) -> None:
    cubes(space)
    whole = boundary(space, "train.checkpoint_every=2").product
    expected = weights(whole)
    shutil.rmtree(whole.folder)
    with pytest.raises(Killed):
        boundary(space, "train.checkpoint_every=2", progress=Deadly("training", 5))
    done = boundary(space, "train.checkpoint_every=2", progress=heard)
    assert "goes on after step 4 of 6" in heard.text
    assert same(weights(done.product), expected)


def test_killed_in_prediction_it_goes_on(space: Workspace, cubes: Cubes) -> None:
    cubes(space)
    with pytest.raises(Killed):
        boundary(space, progress=Deadly("boundary", 4))
    before = network(space.dataset().product("boundary")).path.joinpath("status.json").read_bytes()  # type: ignore[arg-type]
    done = boundary(space)
    assert 0 < len(done.fresh) < len(done.product.done)
    assert network(done.product).path.joinpath("status.json").read_bytes() == before


@pytest.mark.parametrize("what", ["weights", "config"])
def test_a_damaged_network_is_trained_again(space: Workspace, cubes: Cubes, heard: Any, what: str) -> None:
    cubes(space)
    product = boundary(space).product
    before, run = weights(product), network(product)
    next(product.folder.glob("*.boundary.h5")).unlink()  # else nobody needs the network
    path = run.checkpoint_path() if what == "weights" else run.path / "config.json"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again = boundary(space, progress=heard)
    assert "damaged" in heard.text and "trained again" in heard.text
    assert len(again.fresh) == 1 and same(weights(again.product), before)


# ---------------------------------------------------------------- little data


def test_one_labelled_scan_is_measured_on_a_part(space: Workspace, cubes: Cubes) -> None:
    split(space, SplitParams(ratio="10%"))
    cubes(space)
    product = boundary(space).product
    found = summarize_boundary(product, dict.fromkeys(product.done, "all"))
    assert found.quality[HELD].points == 80 and found.quality[TRAINED].points == 320
    none = summarize_boundary(boundary(space, "boundary.holdout=0").product, dict.fromkeys(product.done, "all"))
    assert HELD not in none.quality and none.quality[TRAINED].points == 400


def test_a_scan_that_the_split_has_cut(space: Workspace, cubes: Cubes) -> None:
    """Its labelled part is learned from; the whole scan is predicted, like any other."""
    found = split(space, SplitParams(ratio="6%", protocol="limited"))
    assert found.cut is not None and found.labelled == found.cut.parts[:1] and found.cut.points == 240
    cubes(space)
    product = boundary(space).product
    summary = summarize_boundary(product, dict.fromkeys(product.done, "all"))
    assert summary.quality[TRAINED].points == 192 and summary.quality[HELD].points == 48
    assert summary.subsets["all"].points == 12 * 400


def test_without_boundary_points_or_pairs(space: Workspace, cubes: Cubes) -> None:
    """Points are meters apart: no other class is within 5 cm. One cube holds all."""
    cubes(space, size=1000.0)
    product = boundary(space, "boundary.radius=0.05", "boundary.rule=interface").product
    found = summarize_boundary(product, dict.fromkeys(product.done, "all"))
    assert found.quality[HELD].share == 0 and found.quality[HELD].recall is None
    assert found.subsets["all"].pairs < 8 * 12


def test_points_labelled_here_and_there(space: Workspace, cubes: Cubes) -> None:
    split(space, SplitParams(regime="points", ratio="2%"))
    cubes(space)
    assert boundary(space).product.complete


# ---------------------------------------------------------------- parts


def test_roles() -> None:
    assert choose_roles([4], 0.2, 0).part == 0.2 and choose_roles([4], 0.2, 0).held == ()
    assert choose_roles([1, 2], 0, 0).training == (1, 2)
    for seed in range(4):
        roles = choose_roles(range(11), 0.2, seed)
        assert len(roles.held) == 2 and sorted((*roles.held, *roles.training)) == list(range(11))
        assert roles == choose_roles(list(range(11))[::-1], 0.2, seed)
    assert len({choose_roles(range(11), 0.2, seed).held for seed in range(8)}) > 1
    assert len(choose_roles([5, 6], 0.9, 0).training) == 1


def test_the_held_out_part_is_hidden_from_training(space: Workspace) -> None:
    data = PreparedDataset(space.dataset())
    visible = data.visible()
    index = int(visible.labelled[0])
    plain, view = visible.view(index), BoundarySource(visible, 4.0, 0.25).view(index)
    part = held_part(plain.points, plain.label, 0.25)
    assert part.sum() == 100 and (view.label[part] == IGNORE).all() and (view.extras[TARGET][part] == IGNORE).all()
    np.testing.assert_array_equal(view.label[~part], plain.label[~part])
    points = plain.points.copy()
    points[7] = np.nan
    assert not held_part(points, plain.label, 0.99)[7] and not held_part(points[:0], plain.label[:0], 0.5).any()


def test_steps() -> None:
    assert usual_steps(1, 2) == LEAST_STEPS and usual_steps(19130, 2) == MOST_STEPS and usual_steps(76, 2) == 3800


def test_keys(space: Workspace) -> None:
    spec = PreparedDataset(space.dataset()).spec
    found = choose(spec, ["rule=interface", "train.batch=3", "boundary.refine=false"], backbone="spunet-micro", seed=2)
    assert found.params.rule == "interface" and found.network.train.batch == 3 and found.steps is None
    assert found.network.optimizer.lr == 0.001 and found.network.schedule.name == "cosine"
    assert "--set rule=interface" in found.command and "--seed 2" in found.command
    assert choose(spec).network.backbone_params.model_dump()["scene"] == "outdoor"
    for name, radius, near in (("semantickitti", 0.2, 0.5), ("s3dis", 0.04, 0.06), ("scannet", 0.04, 0.06)):
        usual = choose(load_spec(name))
        assert network_params(usual.network).radius == radius and usual.params.interface_radius == near
    with pytest.raises(UsageError, match="no parameter") as caught:
        choose(spec, ["boundary.treshold=0.3"])
    assert "boundary.threshold" in str(caught.value.hint)
    with pytest.raises(UsageError, match="threshold cannot be"):
        choose(spec, ["boundary.threshold=2"])


def test_what_cannot_be(space: Workspace, cubes: Cubes) -> None:
    with pytest.raises(Ssl3dError, match="needs the product of 'oversegment'"):
        boundary(space)
    cubes(space)
    with pytest.raises(UsageError, match="cannot be built on the backbone 'cylinder3d-micro'"):
        run_on(space, lambda data: BoundaryStage.of(data, backbone="cylinder3d-micro", device="cpu"))
    with pytest.raises(UsageError, match="no method to train with"):
        train(space, resolve("boundary", backbone="spunet-micro", steps=2), device="cpu")
