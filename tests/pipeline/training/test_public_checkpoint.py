"""Published checkpoints: nested as people nest them, opened without their code, and trained from."""

from __future__ import annotations

import argparse
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl3d.data.errors import DataError, Ssl3dError, UsageError
from ssl3d.data.scan import View
from ssl3d.models.backbones.base import Segmenter
from ssl3d.models.backbones.registry import make_backbone
from ssl3d.pipeline.training import checkpoint
from ssl3d.pipeline.training.config import RunConfig, resolve
from ssl3d.pipeline.training.public_checkpoint import find_networks, open_foreign, read_public, settings, write_imported
from ssl3d.pipeline.training.trainer import train
from ssl3d.pipeline.workspace import Workspace

CONV5 = {"stem": "conv5", "stem_kernel": 3}


def segmenter(classes: int = 19, seed: int = 0) -> Segmenter:
    torch.manual_seed(seed)
    made = Segmenter(make_backbone("minkunet-micro", CONV5), classes)
    for name, value in made.state_dict().items():
        if name.endswith("running_mean"):
            value.uniform_(-0.1, 0.1)
    return made


def published(network: Segmenter, prefix: str = "") -> dict[str, Tensor]:
    """The state dict as MinkowskiEngine's example network would have it."""
    names = {name: name.replace("backbone.", "", 1).replace("head.", "final.") for name in network.state_dict()}
    return OrderedDict((prefix + names[name], value) for name, value in network.state_dict().items())


def a_view() -> View:
    rng = np.random.default_rng(0)
    points = rng.uniform(-4, 4, (800, 3)).astype(np.float32)
    intensity = rng.random((800, 1)).astype(np.float32)
    rows = np.c_[np.zeros(800, np.int64), np.arange(800)]
    return View(points=points, features={"intensity": intensity}, rows=rows, label=np.zeros(800, np.uint8), scan={})


NESTS: dict[str, Any] = {
    "(top)": lambda state: state("") | {"epoch": 3},
    "state_dict": lambda state: {
        "state_dict": state(""),
        "best_val": np.float64(0.7),
        "args": argparse.Namespace(lr=0.1),
        "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": [{"lr": 0.1}]},
    },
    "model_state_dict/module": lambda state: {"epoch": 1, "model_state_dict": state("module.")},
    "model/net/model.backbone": lambda state: {"model": {"net": state("model.backbone.")}},
}


@pytest.mark.parametrize("place", NESTS)
@pytest.mark.parametrize("legacy", [False, True])
def test_outputs_are_those_of_the_published_network(tmp_path: Path, place: str, legacy: bool) -> None:
    network = segmenter().eval()
    source, target = tmp_path / "weights.pth", tmp_path / "ours" / "weights.pt"
    torch.save(
        NESTS[place](lambda prefix: published(network, prefix)), source, _use_new_zipfile_serialization=not legacy
    )
    weights, found = read_public(source)
    assert found == place and weights.backbone == "minkunet-micro" and weights.params == CONV5
    write_imported(target, weights, source.name)
    loaded = checkpoint.load(target)
    other = Segmenter(make_backbone("minkunet-micro", loaded["imported"]["params"]), loaded["num_classes"]).eval()
    other.load_state_dict(loaded["model"])
    inputs = network.backbone.prepare([a_view()])
    assert torch.equal(other(inputs).logits, network(inputs).logits)


def test_several_networks_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "both.pth"
    student, teacher = segmenter(seed=1), segmenter(seed=2)
    torch.save({"state_dict": {**published(student, "student."), **published(teacher, "teacher.")}}, path)
    assert list(find_networks(open_foreign(path))) == ["state_dict/student", "state_dict/teacher"]
    with pytest.raises(UsageError, match=r"several networks.*state_dict/student\nstate_dict/teacher.*--part"):
        read_public(path)
    with pytest.raises(UsageError, match=r"no network of the file lies in 'ema'"):
        read_public(path, part="ema")
    weights, place = read_public(path, part="teacher")
    assert place == "state_dict/teacher"
    assert torch.equal(weights.state["head.kernel"], teacher.state_dict()["head.kernel"])


class Opened:
    """What a stranger may put into a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_not_run(tmp_path: Path, legacy: bool) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    value = {"state_dict": published(segmenter()), "config": Opened(trace)}
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(DataError, match=r"would run code.*(pathlib|getattr).*torch\.save"):
        read_public(path)
    path.write_bytes(pickle.dumps(value))
    with pytest.raises(DataError):
        read_public(path)
    assert not trace.exists()


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with pytest.raises(UsageError, match="no such file"):
        read_public(path)
    torch.save(published(segmenter()), path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content in (b"", b"<html>404</html>", whole[:-500], whole[: len(whole) // 2], bytes(flipped), whole[100:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="damaged, or torch did not write it"):
            read_public(path)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1, 2], "no tensors by name"),
        ({"epoch": 3, "state_dict": {}}, "no tensors by name"),
        ({"schema": 2, "model": {"w": torch.ones(1)}}, "a checkpoint of ssl3d already"),
        ({"fc.weight": torch.ones(3, 3)}, "no sparse convolution"),
        ({"conv1.kernel": torch.ones(27, 3, 8), "bn1.bn.weight": torch.ones(8)}, "another network"),
        ({"state_dict": {"module.stem.0.kernel": torch.ones(27, 4, 32)}}, "torchsparse"),
        ({"backbone.conv_input.0.0.kernel": torch.ones(27, 4, 32)}, "torchsparse"),
        ({"backbone.conv_input.0.0.weight": torch.ones(32, 3, 3, 3, 4)}, "spconv"),
    ],
)
def test_other_networks_are_refused_with_a_reason(tmp_path: Path, value: Any, reason: str) -> None:
    path = tmp_path / "weights.pth"
    torch.save(value, path)
    with pytest.raises(DataError, match="no MinkUNet that ssl3d knows") as caught:
        read_public(path)
    assert reason in str(caught.value) and caught.value.hint


# ---------------------------------------------------------------- training from it


def imported(tmp_path: Path, network: Segmenter) -> Path:
    source, target = tmp_path / "weights.pth", tmp_path / "weights.ssl3d.pt"
    torch.save(published(network), source)
    write_imported(target, read_public(source)[0], source.name)
    return target


def still(method: str = "supervised", *more: str) -> RunConfig:
    """One step that moves nothing."""
    frozen = ["train.lr=1e-12", "optimizer.weight_decay=0", "train.batch=2", "train.workers=0"]
    stem = ["backbone.stem=conv5", "backbone.stem_kernel=3"]
    return resolve(method, backbone="minkunet-micro", steps=1, overrides=[*frozen, *stem, *more])


def begun(space: Workspace, config: RunConfig, path: Path, heard: Any) -> dict[str, Tensor]:
    run = train(space, config, init_from=path, device="cpu", jobs=1, progress=heard)
    model: dict[str, Tensor] = checkpoint.load(run.checkpoint_path())["model"]
    return model


def test_a_run_begins_with_it(space: Workspace, tmp_path: Path, heard: Any) -> None:
    network = segmenter()
    path = imported(tmp_path, network)
    model = begun(space, still(), path, heard)
    assert "begins with weights.pth; its classifier is theirs too" in heard.text
    for name, value in network.state_dict().items():
        if name.endswith(("kernel", "weight", "bias")):
            torch.testing.assert_close(model[f"segmenter.{name}"], value)


def test_a_classifier_of_other_classes_stays_behind(space: Workspace, tmp_path: Path, heard: Any) -> None:
    network = segmenter(classes=13)
    path = imported(tmp_path, network)
    model = begun(space, still("mean_teacher", "mean_teacher.bn_buffers=copy"), path, heard)
    assert "its classifier is fresh (theirs has 13 classes, the run 19)" in heard.text
    for owner in ("segmenter", "teacher"):
        assert model[f"{owner}.head.kernel"].shape[1] == 19
        kernel = network.state_dict()["backbone.block3.0.conv1.kernel"]
        torch.testing.assert_close(model[f"{owner}.backbone.block3.0.conv1.kernel"], kernel)
    torch.testing.assert_close(model["segmenter.head.kernel"], model["teacher.head.kernel"])


def test_another_backbone_says_what_to_type(space: Workspace, tmp_path: Path) -> None:
    path = imported(tmp_path, segmenter())
    config = resolve("supervised", backbone="minkunet-micro", steps=1)
    with pytest.raises(Ssl3dError, match=r"do not fit the backbone.*--set backbone.stem=conv5 --set backbone.stem_k"):
        train(space, config, init_from=path, device="cpu", jobs=1)


def test_the_words_that_build_the_network_are_understood(tmp_path: Path) -> None:
    weights = read_public(imported_source(tmp_path), features=["intensity", "color"])[0]
    words = settings(weights.backbone, weights.params)
    config = resolve("supervised", backbone=words[1], steps=1, overrides=words[3::2])
    assert config.backbone_params.features == ("intensity", "color")  # type: ignore[attr-defined]
    built = make_backbone(config.backbone, config.backbone_params).state_dict()
    assert {f"backbone.{key}" for key in built} == {key for key in weights.state if key.startswith("backbone.")}


def imported_source(tmp_path: Path) -> Path:
    torch.save(published(segmenter()), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"
