"""Own scans from the command line: guess, look, prepare, split."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.workspace import Workspace

Run = Callable[..., Any]


@pytest.fixture
def mine(here: Path) -> Path:
    """Six labelled text clouds with coordinates in the millions."""
    folder = here / "mine"
    folder.mkdir()
    for number in range(6):
        rng = np.random.default_rng(number)
        rows = np.column_stack([rng.uniform(0, 20, (200, 3)) + 5e6, rng.integers(0, 256, 200), rng.integers(1, 4, 200)])
        np.savetxt(folder / f"c{number}.csv", rows, "%.3f", ",", header="x,y,z,intensity,label", comments="")
    return folder


def test_from_files_to_a_split(ssl3d: Run, mine: Path, here: Path) -> None:
    assert ssl3d("prepare", "folder", "--guess", mine, "--out", "mine.toml").code == 0
    answer = ssl3d("prepare", "folder", "--config", "mine.toml", "--check")
    assert answer.code == 0 and "c5" in answer.out and "ssl3d prepare folder --config" in answer.err + answer.out
    answer = ssl3d("prepare", "folder", "--config", "mine.toml", "--jobs", "1")
    assert answer.code == 0, answer.err
    assert ssl3d("split", "--ratio", "50%").code == 0
    (here / "mine.toml").unlink()  # what was prepared needs neither the description nor the folder
    mine.rename(here / "gone")
    dataset = PreparedDataset(Workspace.open(here / "workspace").dataset())
    assert dataset.name == "mine" and dataset.spec.classes == ("class 1", "class 2", "class 3")
    assert len(dataset.spec.splits["val"]) == 1 and len(dataset.spec.splits["train"]) == 5
    assert dataset.source().view(0).features["intensity"].max() <= 1
    assert ssl3d("split", "--ratio", "20%").code == 0


def test_the_guess_goes_to_stdout(ssl3d: Run, mine: Path) -> None:
    answer = ssl3d("prepare", "folder", "--guess", mine)
    assert answer.code == 0 and answer.err == ""
    if sys.version_info >= (3, 11):
        import tomllib

        assert tomllib.loads(answer.out)["columns"]["label"] == "label"


def test_what_is_missing_is_named(ssl3d: Run, mine: Path, here: Path) -> None:
    for words, code, message in (
        (("prepare", "folder"), 2, "--guess"),
        (("prepare", "folder", "--config", "no.toml"), 1, "no.toml"),
        (("prepare", "semantickitti"), 2, "--root"),
        (("prepare", "semantickitti", "--config", "x.toml"), 2, "prepare folder"),
        (("prepare", "semantickitti", "--guess", "x"), 2, "--guess"),
        (("prepare", "folder", "--guess", "nowhere"), 2, "does not exist"),
        (("prepare", "folder", "--guess", mine, "--out", "no/x.toml"), 2, "no such folder"),
    ):
        answer = ssl3d(*words)
        assert answer.code == code and message in answer.err, answer.err
    (here / "my.toml").write_text("")
    answer = ssl3d("prepare", "folder", "--guess", mine, "--out", "my.toml")
    assert answer.code == 2 and "there already" in answer.err
