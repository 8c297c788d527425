from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssl3d.data.errors import Ssl3dError, UsageError
from ssl3d.pipeline.training.config import DatasetRef, RunConfig, SplitRef, resolve

DATA = DatasetRef(name="kitti", key="abc", classes=("car", "road"), protocol="semantickitti")
SPLIT = SplitRef(name="scan-1pct", hash="f00", labelled=1, unlabelled=9)


def small(*overrides: str, seed: int = 0) -> RunConfig:
    return resolve("supervised", backbone="pointwise", seed=seed, overrides=overrides)


def test_keys_answer_to_their_names() -> None:
    config = small("train.lr=0.01", "supervised.lambda_lov=1", "pointwise.width=8", "clip=0", "augment.drop=0.2")
    assert config.optimizer.lr == 0.01
    assert config.method_params.model_dump() == {"lambda_lov": 1.0}
    assert config.backbone_params.model_dump()["width"] == 8
    assert (config.train.clip, config.augment.drop) == (0.0, 0.2)
    assert small("method.lambda_lov=2", "backbone.width=9").method_params.model_dump() == {"lambda_lov": 2.0}


def test_the_last_override_counts_and_steps_is_one() -> None:
    assert small("lr=0.1", "optimizer.lr=0.2").optimizer.lr == 0.2
    assert resolve("supervised", backbone="pointwise", steps=7).train.steps == 7


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("train.stepz", "train.steps"),
        ("optimizer.weightdecay", "optimizer.weight_decay"),
        ("supervised.lambda_lovasz", "supervised.lambda_lov"),
        ("agument.rotate", "augment.rotate"),
        ("widht", "backbone.width"),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean ({nearest})") as caught:
        small(f"{key}=1")
    assert key in caught.value.what


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.lr=abc", "number.*greater than 0"),
        ("train.lr=-1", "greater than 0"),
        ("train.lr=nan", "number"),
        ("train.lr=inf", "number"),
        ("train.steps=1.5", "whole number, at least 1"),
        ("optimizer.name=adam", "one of adamw, sgd"),
        ("augment.drop=1", "less than 1"),
        ("augment.scale_min=2", "must not exceed"),
        ("train.steps", "key=value"),
    ],
)
def test_a_wrong_value_says_what_is_expected(setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        small(setting)


def test_an_ambiguous_short_key_is_refused() -> None:
    with pytest.raises(UsageError, match=r"optimizer.name or schedule.name"):
        small("name=sgd")


def test_none_and_lists() -> None:
    assert small("train.max_points=none").train.max_points is None
    config = resolve("supervised", backbone="minkunet-micro", overrides=["backbone.features=xyz"])
    assert config.backbone_params.model_dump()["features"] == ("xyz",)
    config = resolve("supervised", backbone="minkunet-micro", overrides=["backbone.blocks=1,1,1,1,1,1,1,2"])
    assert config.backbone_params.model_dump()["blocks"] == (1, 1, 1, 1, 1, 1, 1, 2)


def test_what_is_left_open_is_resolved_by_the_optimizer() -> None:
    usual = small().optimizer
    assert (usual.name, usual.lr, usual.weight_decay) == ("adamw", 0.005, 0.01)
    published = small("optimizer.name=sgd", "schedule.name=cosine")
    assert (published.optimizer.lr, published.optimizer.weight_decay) == (0.24, 1e-4)
    assert (published.optimizer.momentum, published.optimizer.nesterov) == (0.9, True)
    schedule = published.schedule
    assert (schedule.warmup_steps, schedule.warmup_factor, schedule.min_lr) == (125, 0.008, 1e-5)
    assert small("schedule.name=poly", "train.steps=50").schedule.warmup_steps == 5


def test_unknown_method_and_backbone() -> None:
    with pytest.raises(UsageError, match="did you mean supervised"):
        resolve("supervise", backbone="pointwise")
    with pytest.raises(UsageError, match="pointwise"):
        resolve("supervised", backbone="pointwse")


def test_round_trip(tmp_path: Path) -> None:
    config = small("train.lr=0.02", seed=3).bound(DATA, SPLIT)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    loaded = RunConfig.load(tmp_path / "config.json")
    assert loaded == config
    assert loaded.hash == config.hash
    assert loaded.run_name == f"supervised-pointwise-scan-1pct-s3-{config.hash[:6]}"


def test_what_changes_no_weight_is_not_in_the_hash() -> None:
    config = small().bound(DATA, SPLIT)
    same = small("train.workers=3", "train.log_every=1", "train.checkpoint_every=9", "checkpoint_minutes=1")
    assert same.bound(DATA, SPLIT).hash == config.hash
    others = [
        small("train.lr=0.02").bound(DATA, SPLIT),
        small(seed=1).bound(DATA, SPLIT),
        config.bound(DATA, SPLIT.model_copy(update={"hash": "f01"})),
        config.bound(DATA.model_copy(update={"key": "abd"}), SPLIT),
    ]
    assert len({config.hash, *(other.hash for other in others)}) == 5


def test_runs_of_one_recipe_differ_in_seed_and_split_only() -> None:
    dataset = DatasetRef(name="d", key="k", classes=("a", "b"), protocol="nanmean")
    first, second = (
        small(seed=seed).bound(dataset, SplitRef(name=f"s{seed}", hash=f"h{seed}", labelled=1, unlabelled=0))
        for seed in (0, 1)
    )
    assert first.recipe == second.recipe
    assert first.recipe != small("train.batch=3").bound(dataset, first.split).recipe
    assert first.recipe == small("train.workers=3").bound(dataset, first.split).recipe


def test_difference_names_keys() -> None:
    here = small().bound(DATA, SPLIT)
    there = small("train.lr=0.02").bound(DATA, SPLIT)
    assert here.difference(there) == {"optimizer.lr": (0.005, 0.02)}
    assert here.difference(here) == {}


def test_describe_lists_every_key_with_its_default() -> None:
    rows = {row.key: row for row in small("train.lr=0.02", "pointwise.width=8").describe()}
    assert (rows["optimizer.lr"].value, rows["optimizer.lr"].default) == (0.02, False)
    assert (rows["backbone.width"].value, rows["backbone.width"].default) == (8, False)
    assert rows["train.steps"].default
    assert rows["supervised.lambda_lov"].expects == "a number, at least 0"
    assert all(row.doc for row in rows.values())


def test_files_of_other_versions() -> None:
    value = small().bound(DATA, SPLIT).to_dict()
    with pytest.raises(Ssl3dError, match=r"schema 99.*upgrade"):
        RunConfig.from_dict({**value, "schema": 99})
    with pytest.raises(Ssl3dError, match="does not fit this version"):
        RunConfig.from_dict({**value, "novelty": 1})
    with pytest.raises(UsageError, match="no method"):
        RunConfig.from_dict({**value, "method": "gone"})


def test_what_a_dataset_begins_with_gives_way_to_what_is_typed() -> None:
    defaults = ("backbone.voxel_size=0.02", "backbone.clip=null", "backbone.no_such_key=1")
    shown = {row.key: row.value for row in resolve("supervised", backbone="minkunet18", defaults=defaults).describe()}
    assert (shown["backbone.voxel_size"], shown["backbone.clip"]) == (0.02, None)
    typed = resolve("supervised", backbone="minkunet18", defaults=defaults, overrides=["backbone.voxel_size=0.1"])
    assert {row.key: row.value for row in typed.describe()}["backbone.voxel_size"] == 0.1
