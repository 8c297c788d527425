"""``ssl3d import-checkpoint`` as it is typed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssl3d.models.backbones.base import Segmenter
from ssl3d.models.backbones.registry import make_backbone


@pytest.fixture
def weights(here: Path) -> Path:
    network = Segmenter(make_backbone("minkunet-micro", {"stem": "conv5", "features": ["color"]}), 20)
    names = ((name.replace("backbone.", "").replace("head.", "final."), v) for name, v in network.state_dict().items())
    torch.save({"state_dict": dict(names) | {"extra.weight": torch.zeros(2, 3)}}, here / "weights.pth")
    return here / "weights.pth"


def test_writes_what_train_reads_and_says_what_it_did(ssl3d, weights: Path, here: Path) -> None:
    answer = ssl3d("import-checkpoint", weights)
    assert answer.code == 0 and answer.out == ""
    for text in (
        "imported weights.pth",
        "minkunet-micro, in state_dict",
        "20 classes",
        "3 channels",
        "left out: extra.weight (2, 3)",
        "taken for color (--features)",
        "ssl3d train supervised --backbone minkunet-micro --set backbone.features=color --set backbone.stem=conv5 "
        "--init-from weights.ssl3d.pt",
    ):
        assert text in answer.err
    written = here / "weights.ssl3d.pt"
    assert torch.load(written, weights_only=True)["num_classes"] == 20
    before = written.read_bytes()
    again = ssl3d("import-checkpoint", weights, "--drop-head")
    assert again.code == 2 and "exists already" in again.err and written.read_bytes() == before
    assert ssl3d("import-checkpoint", weights, "--drop-head", "--overwrite").code == 0
    assert torch.load(written, weights_only=True)["num_classes"] is None


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--backbone", "minkunet34"), 2, "not of minkunet34"),
        (("--features", "xyz,intensity"), 2, "3 input channels"),
        (("--part", "teacher"), 2, "no network of the file lies in 'teacher'"),
        (("--out", "weights.pth", "--overwrite"), 2, "exists already"),
    ],
)
def test_what_it_refuses(ssl3d, weights: Path, words: tuple[str, ...], code: int, says: str) -> None:
    before = weights.read_bytes()
    answer = ssl3d("import-checkpoint", "weights.pth", *words)
    assert answer.code == code and says in answer.err and answer.err.count("╭") == 1
    assert weights.read_bytes() == before and [path.name for path in weights.parent.iterdir()] == ["weights.pth"]


def test_a_file_that_is_none(ssl3d, here: Path) -> None:
    assert ssl3d("import-checkpoint", "nothing.pth").code == 2
    (here / "page.pth").write_text("<html>")
    answer = ssl3d("import-checkpoint", "page.pth")
    assert answer.code == 1 and "torch did not write it" in answer.err and "page.pth" in answer.err
