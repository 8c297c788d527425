"""Commands of stages: what they print, draw and refuse. (What the stages compute is tested beside them.)"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., Any]


@pytest.fixture
def prepared(here: Path, ssl3d: Run) -> Path:
    """A little street-like dataset in ``here``, prepared."""
    rng = np.random.default_rng(0)
    folder = here / "kitti" / "sequences" / "00"
    (folder / "velodyne").mkdir(parents=True)
    (folder / "labels").mkdir()
    for frame in range(3):
        cloud = (rng.normal(size=(400, 4)) * [6, 6, 0.5, 0]).astype("<f4")
        cloud.tofile(folder / "velodyne" / f"{frame:06d}.bin")
        np.full(400, 40, "<u4").tofile(folder / "labels" / f"{frame:06d}.label")
    counts: Mapping[str, int] = {"00": 3}
    manifest = {"complete": True, "scans_per_sequence": counts}
    (here / "kitti" / "ssl3d_synth.json").write_text(json.dumps(manifest))
    assert ssl3d("prepare", "semantickitti", "--root", "kitti", "--allow-partial").code == 0
    return here


STAGES = {"density": ("--radius", "2"), "subsample": ("--grid", "1.5")}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_prints_draws_and_is_cached(prepared: Path, ssl3d: Run, stage: str) -> None:
    first = ssl3d(stage, *STAGES[stage], "--preview", "00/000001", "--out", "look.png")
    assert first.code == 0 and "train" in first.out and "cached" in first.err, first.err
    with Image.open(prepared / "look.png") as picture:
        assert picture.size[0] == 1600 and len(picture.convert("RGB").getcolors(1 << 24) or ()) > 20
    again = ssl3d(stage, *STAGES[stage])
    assert again.out == first.out and "1 of 1 units" in again.err
    assert stage in ssl3d("status").out


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_refused(prepared: Path, ssl3d: Run, stage: str) -> None:
    option = STAGES[stage][0]
    for words, message in (
        ((option, "-1"), "greater than 0"),
        (("--preview", "00/000009"), "00/00000"),
        (("--out", "x.png"), "--preview"),
        (("--dataset", "nowhere"), "nowhere"),
    ):
        answer = ssl3d(stage, *words)
        assert answer.code == 2 and message in answer.err, answer.err
    assert not list((prepared / "workspace" / "data" / "semantickitti").glob(f"{stage}/*/*.h5"))


def test_without_anything_prepared(ssl3d: Run) -> None:
    answer = ssl3d("density")
    assert answer.code == 2 and "ssl3d prepare" in answer.err


def test_oversegment_prints_draws_and_is_cached(prepared: Path, ssl3d: Run) -> None:
    words = ("oversegment", "--set", "reach=4", "--set", "oversegment.extent=none")
    first = ssl3d(*words, "--preview", "first", "--out", "look.png")
    assert first.code == 0 and "region-growing" in first.out and "no visible labels" in first.out, first.err
    with Image.open(prepared / "look.png") as picture:
        assert picture.size[0] == 1600 and len(picture.convert("RGB").getcolors(1 << 24) or ()) > 20
    assert ssl3d("split", "--ratio", "50%").code == 0
    again = ssl3d(*words)
    assert "purity 100%" in again.out and "1 of 1 units" in again.err, again.out
    other = ssl3d("oversegment", "--algorithm", "felzenszwalb")
    assert other.code == 0 and "felzenszwalb" in other.out and "oversegment" in ssl3d("status").out


def test_keys_of_oversegment(prepared: Path, ssl3d: Run) -> None:
    answer = ssl3d("oversegment", "--list-keys", "--set", "angle=3.25")
    assert answer.code == 0 and "3.25" in answer.out and "normal_neighbors" in answer.out
    for words, message in (
        (("--set", "angel=3"), "angle"),
        (("--algorithm", "shipped"), "without segments"),
        (("--algorithm", "slic"), "felzenszwalb"),
    ):
        refused = ssl3d("oversegment", *words)
        assert refused.code == 2 and message in refused.err, refused.err
