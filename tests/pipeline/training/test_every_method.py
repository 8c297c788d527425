"""What ``ssl3d train --list`` promises: every method with every kind of backbone outdoors, and in rooms.

Two steps each, on generated data of a few small scans. A method or a family of backbones that is added is tested
without a further line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ssl3d.data.errors import UsageError
from ssl3d.data.synthetic.presets import PRESETS, SequencePreset
from ssl3d.data.synthetic.rooms.generate import generate_rooms
from ssl3d.data.synthetic.rooms.presets import PRESETS as ROOMS
from ssl3d.data.synthetic.street import generate_street
from ssl3d.models.backbones.registry import get_backbone, list_backbones
from ssl3d.models.methods.registry import get_method, list_methods
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.evaluation.predictor import Predictor
from ssl3d.pipeline.stages.prepare import PrepareParams, prepare
from ssl3d.pipeline.stages.split import SplitParams, split
from ssl3d.pipeline.training.build import build_method, load_predictor
from ssl3d.pipeline.training.config import RunConfig, resolve
from ssl3d.pipeline.training.trainer import train
from ssl3d.pipeline.workspace import Workspace

METHODS = list_methods()
FAMILIES = [name for name in list_backbones() if name.endswith("-micro")]
QUICK = ["train.max_points=1500", "train.batch=1", "train.workers=0", "train.log_every=1"]


@pytest.fixture(scope="module")
def presets() -> Iterator[None]:
    """``few``: as tiny, with three scans (rooms) to train on and one to validate."""
    with pytest.MonkeyPatch.context() as patch:
        drives = (SequencePreset("00", "train", 3, 8, 8.0, "suburb"), SequencePreset("08", "val", 1, 8, 8.0, "suburb"))
        patch.setitem(PRESETS, "few", replace(PRESETS["tiny"], name="few", sequences=drives))
        rooms = replace(ROOMS["tiny"], name="few", scans=(3, 0, 1, 0), frames=6, images=1)
        patch.setitem(ROOMS, "few", rooms)
        yield


@pytest.fixture(scope="module")
def streets(presets: None, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("streets")
    generate_street(folder / "data", "few", 0, jobs=1)
    return split_in_half(folder, "semantickitti")


@pytest.fixture(scope="module")
def rooms(presets: None, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("rooms")
    generate_rooms(folder / "data", "few", 0, jobs=1)
    return split_in_half(folder, "scannet")


def split_in_half(folder: Path, reader: str) -> Workspace:
    space = Workspace.open(folder / "ws")
    prepare(space, reader, folder / "data", PrepareParams(), jobs=1)
    split(space, SplitParams(ratio="50%"))
    return space


def check(space: Workspace, method: str, backbone: str) -> None:
    """Trains two steps: what is learnt is finite, is not what was drawn, and predicts a scan."""
    data = PreparedDataset(space.dataset())
    config = resolve(method, backbone=backbone, steps=2, overrides=QUICK, defaults=data.spec.defaults)
    run = train(space, config, device="cpu", jobs=1)
    assert run.finished
    lines = run.metrics()
    assert [line["step"] for line in lines] == [1, 2]
    assert all(math.isfinite(value) for line in lines for value in line["losses"].values())
    predictor, config = load_predictor(run)
    before, after = drawn(config), dict(predictor.named_parameters())
    assert all(torch.isfinite(value).all() for value in after.values())
    assert any(not torch.equal(value, before[name]) for name, value in after.items())
    label = Predictor(predictor, "cpu").label(data.source().view(0))
    assert len(label) == data.scans[0].num_points and label.max() < data.spec.num_classes


def drawn(config: RunConfig) -> dict[str, torch.Tensor]:
    """The weights that the run began with."""
    torch.manual_seed(config.seed)
    return {name: value.detach() for name, value in build_method(config)[0].predictor().named_parameters()}


def works_on(method: str, backbone: str) -> bool:
    return not get_method(method).elements or get_backbone(backbone).elements in get_method(method).elements


@pytest.mark.parametrize("backbone", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_outdoors(streets: Workspace, method: str, backbone: str) -> None:
    if works_on(method, backbone):
        check(streets, method, backbone)
    else:
        with pytest.raises(UsageError, match=f"{backbone} computes on"):
            check(streets, method, backbone)


@pytest.mark.parametrize("method", METHODS)
def test_rooms(rooms: Workspace, method: str) -> None:
    backbone = next(name for name in ("minkunet-micro", *FAMILIES) if works_on(method, name))
    if get_method(method).needs_sensor:
        with pytest.raises(UsageError, match="needs scans of a spinning sensor"):
            check(rooms, method, backbone)
    else:
        check(rooms, method, backbone)


def test_every_family_has_a_kind() -> None:
    assert len(FAMILIES) >= 3
    assert {get_backbone(name).elements for name in FAMILIES} >= {"voxels", "cylinder cells"}


def test_a_method_that_needs_other_elements_says_which_backbones_have_them(
    streets: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get_method("supervised"), "elements", ("cylinder cells",))
    with pytest.raises(
        UsageError, match="supervised works on cylinder cells, and spunet-micro computes on voxels"
    ) as e:
        check(streets, "supervised", "spunet-micro")
    assert e.value.hint is not None and "cylinder3d-micro" in e.value.hint and "spunet" not in e.value.hint
