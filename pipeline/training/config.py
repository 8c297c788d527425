"""What a run is: dataset, split, method, backbone, seed, and every number that decides its weights.

Defaults train a MinkUNet well in few steps (AdamW, one-cycle). The published MinkUNet schedule of the LaserMix code
(SGD 0.24, Nesterov, weight decay 1e-4, 125 steps of warm-up from a factor of 0.008, then cosine to 1e-5) is
``--set optimizer.name=sgd --set schedule.name=cosine``: what those two leave open resolves to its values.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, SerializeAsAny, ValidationError

from ssl3d.data.augment import AugmentParams
from ssl3d.data.errors import Ssl3dError, UsageError
from ssl3d.models.config import Params
from ssl3d.pipeline.files import digest_value
from ssl3d.pipeline.training.keys import KeyTable, expected

SCHEMA = 1
PUBLISHED_WARMUP = 125


class TrainParams(Params):
    """How long, on how much, and what is written on the way."""

    steps: int = Field(2000, ge=1, description="iterations; for every method the whole budget, pre-training included")
    batch: int = Field(2, ge=1, description="labelled scans per step")
    batch_unlabelled: int | None = Field(None, ge=1, description="unlabelled scans per step; none = as labelled")
    max_points: int | None = Field(None, ge=100, description="a scan with more points is thinned to this; none = never")
    ema: float | None = Field(
        None, ge=0, lt=1, description="keep rate of averaged weights for ssl3d eval --weights ema; none = no average"
    )
    clip: float = Field(10.0, ge=0, description="largest norm of the gradient; 0 = no clipping")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: on CUDA bf16, or fp16 where bf16 is missing; on the CPU fp32"
    )
    sparse_backend: Literal["native", "minkowski", "spconv"] = Field(
        "native", description="the library that computes sparse convolutions; the results differ by rounding"
    )
    select: Literal["last"] = Field("last", description="which checkpoint counts")
    workers: int | None = Field(None, ge=0, description="loader processes; none = by device and --jobs, 0 = none")
    log_every: int = Field(10, ge=1, description="steps between two lines of metrics.jsonl")
    checkpoint_every: int = Field(500, ge=1, description="steps between two checkpoints")
    checkpoint_minutes: float = Field(3.0, gt=0, description="a checkpoint at the latest after this time")


class OptimizerParams(Params):
    """AdamW or SGD. What is left out takes the value that suits the name."""

    name: Literal["adamw", "sgd"] = Field("adamw", description="the optimizer")
    lr: float | None = Field(None, gt=0, le=100, description="peak learning rate; none = 0.005 (adamw), 0.24 (sgd)")
    weight_decay: float | None = Field(None, ge=0, description="none = 0.01 (adamw), 1e-4 (sgd)")
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd's momentum; adamw's first beta")
    nesterov: bool = Field(True, description="sgd only")


class ScheduleParams(Params):
    """The learning rate over the steps of a phase."""

    name: Literal["onecycle", "cosine", "poly", "constant"] = Field("onecycle", description="its shape")
    warmup_steps: int | None = Field(
        None, ge=0, description="linear warm-up (not onecycle); none = 125, at most a tenth of the steps"
    )
    warmup_factor: float = Field(0.008, gt=0, le=1, description="the warm-up starts at this factor of the peak")
    min_lr: float = Field(1e-5, ge=0, description="cosine and poly end here")
    power: float = Field(0.9, gt=0, description="exponent of poly")
    cycle_up: float = Field(0.3, gt=0, lt=1, description="onecycle: share of the steps that the rise takes")
    cycle_start: float = Field(25.0, ge=1, description="onecycle starts at peak / this")
    cycle_end: float = Field(1e4, ge=1, description="onecycle ends at its start / this")


SECTIONS: dict[str, type[BaseModel]] = {
    "train": TrainParams,
    "optimizer": OptimizerParams,
    "schedule": ScheduleParams,
    "augment": AugmentParams,
}
ALIASES = {
    "train.lr": "optimizer.lr",
    "learning_rate": "optimizer.lr",
    "optimizer.learning_rate": "optimizer.lr",
    "train.weight_decay": "optimizer.weight_decay",
    "train.batch_size": "train.batch",
}
NOT_IN_HASH = ("sparse_backend", "workers", "log_every", "checkpoint_every", "checkpoint_minutes")
"""Keys of ``train`` that change no weight, rounding apart: a run goes on with others."""


class DatasetRef(Params):
    """The prepared data of a run: name, key of the product, class names in the order of their ids, the protocol that
    its scores are computed by, the keys of the products of other stages that the method reads, and the ``--version`` it
    was prepared with (none: not noted)."""

    name: str
    key: str
    classes: tuple[str, ...]
    protocol: str
    stages: dict[str, str] = Field(default_factory=dict)
    version: str | None = None


class SplitRef(Params):
    """The split of a run: a short name for the run's, the hash that identifies it, how many scans it has, whether
    the labelled ones show only some of their points, and the groups for validation where they are not the dataset's."""

    name: str
    hash: str
    labelled: int
    unlabelled: int
    partial: bool = False
    val: tuple[str, ...] = ()


class InitRef(Params):
    """The weights that a run started from."""

    run: str
    digest: str


@dataclass(frozen=True)
class KeyRow:
    """One line of ``--list-keys``."""

    key: str
    value: Any
    default: bool
    expects: str
    doc: str


class RunConfig(Params):
    """A run, resolved. ``dataset`` and ``split`` are filled when it meets a workspace (``bound``)."""

    method: str
    backbone: str
    seed: int = Field(0, ge=0)
    train: TrainParams
    optimizer: OptimizerParams
    schedule: ScheduleParams
    augment: AugmentParams
    method_params: SerializeAsAny[Params]
    backbone_params: SerializeAsAny[Params]
    dataset: DatasetRef | None = None
    split: SplitRef | None = None
    init_from: InitRef | None = None

    @property
    def num_classes(self) -> int:
        return len(self.data.classes)

    @property
    def data(self) -> DatasetRef:
        """The dataset; ``Ssl3dError`` before the config is bound to one."""
        if self.dataset is None:
            raise Ssl3dError("this configuration is not bound to a dataset")
        return self.dataset

    @property
    def batch_unlabelled(self) -> int:
        return self.train.batch_unlabelled or self.train.batch

    def bound(self, dataset: DatasetRef, split: SplitRef, init_from: InitRef | None = None) -> RunConfig:
        return self.model_copy(update={"dataset": dataset, "split": split, "init_from": init_from})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"schema": SCHEMA, **self.model_dump(mode="json")}

    def identity(self) -> dict[str, Any]:
        """What decides the weights: two runs of the same identity are the same run."""
        value = self.to_dict()
        for key in NOT_IN_HASH:
            del value["train"][key]
        value["split"] = self.split and self.split.hash
        if self.dataset:
            value["dataset"] = {"key": self.dataset.key, "classes": list(self.dataset.classes)}
            value["dataset"] |= {"stages": dict(self.dataset.stages)} if self.dataset.stages else {}
        return value

    @property
    def hash(self) -> str:
        """32 hexadecimal digits of ``identity``."""
        return digest_value(self.identity())

    @property
    def recipe(self) -> str:
        """Digest of ``identity`` without seed and split: runs of one recipe differ in what was drawn, and in nothing
        that was chosen."""
        return digest_value({key: value for key, value in self.identity().items() if key not in ("seed", "split")})

    @property
    def run_name(self) -> str:
        """``<method>-<backbone>-<split>-s<seed>-<hash6>``; dataset and draw of the split are part of the hash."""
        split = self.split.name.removesuffix("-seed0") if self.split else "all"
        return f"{self.method}-{self.backbone}-{split}-s{self.seed}-{self.hash[:6]}"

    def describe(self) -> list[KeyRow]:
        """Every settable key with its value, whether that is the default, what it expects and what it means."""
        table, values = key_table(self.method, self.backbone), self.model_dump()
        default = resolve(self.method, backbone=self.backbone, steps=self.train.steps).model_dump()
        default["train"]["steps"] = TrainParams().steps
        rows = []
        for leaf in table.leaves.values():
            section = {"backbone": "backbone_params", self.method: "method_params"}.get(leaf.section, leaf.section)
            value, usual = values[section], default[section]
            for name in leaf.path:
                value, usual = value[name], usual[name]
            rows.append(KeyRow(leaf.key, value, value == usual, expected(leaf.field), leaf.field.description or ""))
        return rows

    def difference(self, other: RunConfig) -> dict[str, tuple[Any, Any]]:
        """key -> (here, there) for everything in ``identity`` that differs."""
        return dict(_differences(self.identity(), other.identity(), ""))

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> RunConfig:
        """The inverse of ``to_dict``.

        Raises:
            Ssl3dError: written by a newer version, or not a run's configuration.
            UsageError: its method or backbone is not installed here.
        """
        value = dict(value)
        schema = value.pop("schema", None)
        if not isinstance(schema, int):
            raise Ssl3dError(
                "the run's configuration is unreadable", hint="remove the folder of the run, or restore it"
            )
        if schema > SCHEMA:
            raise Ssl3dError(
                f"the run's configuration has schema {schema}, this version knows {SCHEMA}",
                hint="upgrade ssl3d (pip install -U ssl3d)",
            )
        try:
            method, backbone = _method_params(value["method"]), _backbone_params(value["backbone"])
            value["method_params"] = method.model_validate(value["method_params"])
            value["backbone_params"] = backbone.model_validate(value["backbone_params"])
            return cls.model_validate(value)
        except (KeyError, TypeError, ValidationError) as error:
            raise Ssl3dError(
                f"the run's configuration does not fit this version of ssl3d: {error}",
                hint="use the version that wrote it (environment.json in the run's folder), or train again",
            ) from error

    @classmethod
    def load(cls, path: Path) -> RunConfig:
        """Reads ``config.json``."""
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise Ssl3dError("the run has no configuration", where={"file": path}) from error
        except ValueError as error:
            raise Ssl3dError("the run's configuration is unreadable", where={"file": path}) from error


def resolve(
    method: str,
    *,
    backbone: str = "minkunet18",
    seed: int = 0,
    steps: int | None = None,
    overrides: Sequence[str] = (),
    defaults: Sequence[str] = (),
) -> RunConfig:
    """The configuration of a command: defaults, then ``overrides`` (``key=value``, the last one counts).

    Args:
        defaults: of the dataset (``DatasetSpec.defaults``); keys that this method or backbone does not have are left
            out.

    Raises:
        UsageError: unknown method, backbone or key (names the nearest), or a value that does not fit its key.
    """
    table = key_table(method, backbone)
    if steps is not None:
        overrides = [*overrides, f"train.steps={steps}"]
    if seed < 0:
        raise UsageError(f"the seed cannot be {seed}: it has to be a whole number, at least 0")
    trees = table.read([*(item for item in defaults if item.partition("=")[0] in table.leaves), *overrides])
    built = {name: _build(model, trees.get(name, {}), name) for name, model in SECTIONS.items()}
    return _settled(
        RunConfig(
            method=method,
            backbone=backbone,
            seed=seed,
            method_params=_build(_method_params(method), trees.get(method, {}), method),
            backbone_params=_build(_backbone_params(backbone), trees.get("backbone", {}), "backbone"),
            **built,
        )
    )


def key_table(method: str, backbone: str) -> KeyTable:
    """Every key of a run of this method on this backbone."""
    sections = {**SECTIONS, "backbone": _backbone_params(backbone), method: _method_params(method)}
    return KeyTable(sections, {**ALIASES, "method": method, backbone: "backbone"})


def settled_optimizer(params: OptimizerParams) -> OptimizerParams:
    """With the values that suit its name where none are given."""
    sgd, update = params.name == "sgd", {}
    if params.lr is None:
        update["lr"] = 0.24 if sgd else 0.005
    if params.weight_decay is None:
        update["weight_decay"] = 1e-4 if sgd else 0.01
    return params.model_copy(update=update)


def settled_schedule(params: ScheduleParams, steps: int) -> ScheduleParams:
    """With a warm-up that suits its name and its length where none is given."""
    if params.warmup_steps is not None:
        return params
    warmup = 0 if params.name == "onecycle" else min(PUBLISHED_WARMUP, steps // 10)
    return params.model_copy(update={"warmup_steps": warmup})


def _settled(config: RunConfig) -> RunConfig:
    """Fills what depends on other sections, so that the resolved config states it."""
    steps = config.train.steps
    update = {
        "optimizer": settled_optimizer(config.optimizer),
        "schedule": settled_schedule(config.schedule, steps),
        "method_params": config.method_params.settled(steps),
    }
    return config.model_copy(update=update)


def _build(model: type[BaseModel], tree: dict[str, Any], section: str) -> Any:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join((section, *(str(part) for part in first["loc"])))
        raise UsageError(f"{key}: {first['msg'].removeprefix('Value error, ')}", where={"field": key}) from error


def _method_params(name: str) -> type[Params]:
    from ssl3d.models.methods.registry import get_method

    return get_method(name).Params


def _backbone_params(name: str) -> type[Params]:
    from ssl3d.models.backbones.registry import get_backbone

    return get_backbone(name).Params


def _differences(here: Any, there: Any, key: str) -> list[tuple[str, tuple[Any, Any]]]:
    if isinstance(here, dict) and isinstance(there, dict):
        names = dict.fromkeys([*here, *there])
        found = (_differences(here.get(n), there.get(n), f"{key}.{n}" if key else n) for n in names)
        return [item for part in found for item in part]
    return [] if here == there else [(key, (here, there))]


__all__ = [
    "DatasetRef",
    "InitRef",
    "KeyRow",
    "RunConfig",
    "SplitRef",
    "key_table",
    "resolve",
    "settled_optimizer",
    "settled_schedule",
]
