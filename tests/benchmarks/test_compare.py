"""Published numbers beside ours: which ones, and what is said of every difference."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from ssl3d.benchmarks.compare import Line, Ours, _variant, csv_text, lines_of, markdown, table, with_json
from ssl3d.benchmarks.published import FULL, Published, numbers_of
from ssl3d.benchmarks.recipes import RECIPES
from ssl3d.models.methods.registry import list_methods
from ssl3d.pipeline.training.config import resolve

THEIRS = Published(
    method="supervised", dataset="semantickitti", ratio=10.0, miou=56.1, table="t", file="f", source="Paper, Table 1",
    protocol="semantickitti", held=("08",), split="lasermix's list of scans", list="lasermix",
    backbone="Cylinder3D", same_backbone=("cylinder3d-lasermix",), elements="points", selection="last", tta="",
    steps=45_000,
)  # fmt: skip
OURS = Ours(
    method="supervised", variant=FULL, dataset="semantickitti", subset="val", held=("08",), ratio=10.0, list="lasermix",
    split="lasermix-10pct", backbone="cylinder3d-lasermix", protocol="semantickitti", steps=45_000, tta="", miou=57.25,
    std=0.5, runs=("a", "b"), seeds=(0, 1), generated=False,
)  # fmt: skip


def test_comparable_only_where_all_is_known_and_equal() -> None:
    (line,) = lines_of(OURS, [THEIRS])
    assert line.comparable and line.verdict == "comparable"
    assert line.difference == pytest.approx(1.15)
    assert line.cells()["difference"] == "+1.1" or line.cells()["difference"] == "+1.2"
    assert line.cells()["ours"] == "57.2 ± 0.5"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"generated": True}, "generated data"),
        ({"backbone": "minkunet18"}, "backbone Cylinder3D"),
        ({"list": None}, "split lasermix's list"),
        ({"list": "lim3d"}, "split lasermix's list"),
        ({"protocol": "nanmean"}, "protocol semantickitti"),
        ({"held": ("09",)}, "evaluated on 08"),
        ({"tta": "flip"}, "test-time augmentation"),
        ({"steps": 150}, "45,000 steps against 150"),
        ({"why": ("averaged weights",)}, "averaged weights"),
        ({"settings": tuple("abcdef")}, "not the settings of the recipe (a, b, c, d and 2 more)"),
        ({"variant": None}, "an ablation that no paper has"),
    ],
)
def test_a_difference_is_named(change: dict[str, Any], said: str) -> None:
    (line,) = lines_of(replace(OURS, **change), [THEIRS])
    assert not line.comparable
    assert line.verdict.startswith("not comparable: ") and said in line.verdict
    assert len(line.differs) == 1 and not line.unknown


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"backbone": None, "same_backbone": ()}, "their backbone"),
        ({"list": None}, "their list of scans"),
        ({"elements": None}, "whether they count points"),
        ({"selection": None}, "their checkpoint"),
        ({"tta": None}, "their test-time augmentation"),
        ({"steps": None}, "their steps"),
    ],
)
def test_what_a_paper_does_not_say_is_not_known(change: dict[str, Any], what: str) -> None:
    (line,) = lines_of(OURS, [replace(THEIRS, **change)])
    assert not line.comparable
    assert (line.verdict, line.differs) == (f"not known: {what}", ())


def test_what_is_not_known_of_ours() -> None:
    (line,) = lines_of(replace(OURS, generated=None, held=()), [THEIRS])
    assert line.unknown == ("whether our data are recorded", "what ours was evaluated on")


def test_theirs_counted_or_selected_otherwise() -> None:
    (line,) = lines_of(OURS, [replace(THEIRS, elements="voxels", selection="best")])
    assert line.differs == ("they count voxels, not points", "their checkpoint is the best on what is evaluated")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"ratio": 5.0, "split": "scan-5pct"}, "no number is published at scan-5pct"),
        ({"ratio": None, "split": "points-1pct"}, "no number is published at points-1pct"),
        ({"dataset": "semanticposs"}, "no number is published on semanticposs"),
        ({"subset": "train"}, "no number is published on semantickitti train"),
        ({"variant": "ce"}, "no number is published of supervised ce"),
    ],
)
def test_runs_without_a_published_number_say_so(change: dict[str, Any], why: str) -> None:
    (line,) = lines_of(replace(OURS, **change), [THEIRS])
    assert (line.published, line.difference, line.verdict) == (None, None, f"not comparable: {why}")
    assert line.cells()["published"] == "-"
    (nothing,) = lines_of(OURS, [])
    assert nothing.verdict == "not comparable: no number of supervised is published here"


def test_every_network_of_a_benchmark_has_its_own_line() -> None:
    lines = lines_of(OURS, numbers_of("supervised"))
    assert sorted(line.published.miou for line in lines if line.published) == [42.68, 43.9, 52.2, 56.0, 56.1, 57.5]
    assert not any(line.comparable for line in lines)


def test_formats_hold_the_same_lines() -> None:
    lines = [*lines_of(OURS, [THEIRS]), *lines_of(replace(OURS, ratio=5.0, std=None, seeds=(3,)), [THEIRS])]
    first, second = csv.DictReader(io.StringIO(csv_text(lines)))
    assert (first["published"], first["seeds"], first["comparable"]) == ("56.1", "0 1", "True")
    assert float(first["difference"]) == 57.25 - 56.1
    assert (second["published"], second["difference"]) == ("", "")
    value = json.loads(with_json('{"runs": []}', lines))
    assert value["runs"] == []
    assert [row["published"] for row in value["published"]] == [56.1, None]
    assert value["published"][0]["backbone"] == {"theirs": "Cylinder3D", "ours": "cylinder3d-lasermix"}
    assert value["published"][0]["paper"]["steps"] == 45_000
    text = markdown(lines)
    rows = [row for row in text.splitlines() if row.startswith("| supervised")]
    assert len(rows) == 2 and "Cylinder3D / cylinder3d-lasermix" in rows[0] and "| 56.1 |" in rows[0]
    assert len({row.count("|") for row in text.splitlines() if row.startswith("|")}) == 1
    for width in (80, 160):
        console = Console(file=io.StringIO(), width=width)
        console.print(table(lines, width))
        drawn = console.file.getvalue()  # type: ignore[attr-defined]
        assert "57.2 ± 0.5" in drawn and "comparable" in drawn and "no number is published" in " ".join(drawn.split())
        assert max(map(len, drawn.splitlines())) <= width


def test_nan_is_no_json() -> None:
    line = Line(replace(OURS, miou=math.nan), THEIRS, (), ())
    assert json.loads(with_json('{"runs": []}', [line]))["published"][0]["ours"] is None


@pytest.mark.parametrize("method", sorted(set(RECIPES) & set(list_methods())))
def test_a_run_is_recognized_as_the_ablation_that_it_is(method: str) -> None:
    recipe = RECIPES[method]
    for dataset, setting in recipe.settings.items():
        for variant in (FULL, *(recipe.variants if dataset == recipe.datasets[0] else ())):
            keys = [*setting.keys, *setting.own, *recipe.keys_of(variant)]
            config = resolve(method, backbone=setting.backbone, steps=300, overrides=keys)
            assert _variant(config, dataset, ()) == (variant, ())
        other = resolve(method, backbone="minkunet-micro", steps=300, overrides=[*setting.own, "optimizer.lr=0.5"])
        found, differing = _variant(other, dataset, ())
        assert found == FULL and "optimizer.lr" in differing
        assert not any(key.startswith("backbone.") for key in differing)


def test_a_parameter_of_ones_own_is_told_apart_from_an_ablation() -> None:
    setting = RECIPES["mean_teacher"].settings["semantickitti"]
    keys = [*setting.keys, *setting.own, "mean_teacher.w=7"]
    config = resolve("mean_teacher", backbone=setting.backbone, steps=300, overrides=keys)
    assert _variant(config, "semantickitti", ()) == (FULL, ("mean_teacher.w",))
