"""How the tables of the papers are run here: recipes as data, one for each method.

A recipe says for each dataset which network, schedule and keys a method is trained with, which tables there are
(datasets x ratios x ablations), and what an ablation sets. A recipe may be there before its method is: ``make
reproduce-METHOD`` then says so.

Where a paper leaves a setting open, ``Setting.differs`` says what was chosen; ``ssl3d eval --compare paper`` says
beside every number what keeps it from being comparable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from ssl3d.benchmarks.published import FULL
from ssl3d.data.errors import UsageError


@dataclass(frozen=True)
class Setting:
    """How a method is trained on a dataset.

    Attributes:
        backbone: name of ours.
        steps: optimizer steps of a run, pre-training included.
        keys: ``key=value`` of network, optimizer, schedule, batch and augmentation, and of the method what belongs to
            the length of the schedule; not of a run in miniature.
        own: ``key=value`` of the method, also in miniature.
        lists: family of published lists of what is labelled.
        differs: what is not as published, for people.
    """

    backbone: str
    steps: int
    keys: tuple[str, ...]
    lists: str
    own: tuple[str, ...] = ()
    differs: str = ""


@dataclass(frozen=True)
class Table:
    """A table of a paper, or the part of one about a dataset.

    Attributes:
        name: as after ``ONLY=``, e.g. ``table3``.
        ratios: in percent.
        variants: names of ablations; ``full``: the method itself.
        lists: other lists of what is labelled than the dataset's setting has.
    """

    name: str
    title: str
    dataset: str
    ratios: tuple[int, ...]
    variants: tuple[str, ...] = (FULL,)
    lists: str = ""


@dataclass(frozen=True)
class Row:
    """One run of a reproduction, and the tables that its number stands in."""

    method: str
    dataset: str
    ratio: int
    lists: str
    variant: str
    tables: tuple[str, ...]

    @property
    def official(self) -> str:
        """The published list, as after ``ssl3d split --official``."""
        return f"{self.lists}-{self.ratio}%"

    @property
    def name(self) -> str:
        variant = "" if self.variant == FULL else f" {self.variant}"
        return f"{self.method}{variant}, {self.dataset} {self.ratio}% ({self.lists})"


@dataclass(frozen=True)
class Recipe:
    """The tables of a method.

    Attributes:
        variants: ablation -> keys of the method that it sets; the method itself sets none.
    """

    method: str
    source: str
    settings: Mapping[str, Setting]
    tables: tuple[Table, ...]
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def datasets(self) -> tuple[str, ...]:
        """In the order of the tables."""
        return tuple(dict.fromkeys(table.dataset for table in self.tables))

    def keys_of(self, variant: str) -> tuple[str, ...]:
        """What an ablation sets. ``UsageError`` for one that there is not."""
        if variant == FULL:
            return ()
        if variant not in self.variants:
            raise UsageError(
                f"{self.method} has no ablation '{variant}'", hint=f"there are: {', '.join(self.variants)}"
            )
        return self.variants[variant]

    def overrides(self, row: Row) -> list[str]:
        """``key=value`` of a run at its full length; the last one of a key counts."""
        setting = self.settings[row.dataset]
        return [*setting.keys, *setting.own, *self.keys_of(row.variant)]

    def rows(self) -> list[Row]:
        """All runs, each once, dataset by dataset in the order of the tables."""
        found: dict[tuple[str, int, str, str], list[str]] = {}
        for dataset in self.datasets:
            for table in self.tables:
                if table.dataset != dataset:
                    continue
                lists = table.lists or self.settings[dataset].lists
                for variant in table.variants:
                    for ratio in table.ratios:
                        found.setdefault((dataset, ratio, lists, variant), []).append(table.name)
        return [
            Row(self.method, dataset, ratio, lists, variant, tuple(tables))
            for (dataset, ratio, lists, variant), tables in found.items()
        ]


def select(recipe: Recipe, only: str, datasets: tuple[str, ...] | None = None) -> list[Row]:
    """The rows that ``only`` leaves: words separated by commas or blanks, each a table, ratio (``10%``), list
    (``lasermix-10%``), dataset or ablation. Words of one kind widen, words of two kinds narrow each other.

    Args:
        datasets: that can be run at all; None: all.

    Raises:
        UsageError: a word is none of these; or nothing is left.
    """
    rows = [row for row in recipe.rows() if datasets is None or row.dataset in datasets]
    words = only.replace(",", " ").split()
    kinds: dict[str, set[str]] = {}
    for word in words:
        kinds.setdefault(_kind(recipe, word), set()).add(word)
    for kind, wanted in kinds.items():
        rows = [row for row in rows if wanted & _names(row, kind)]
    if not rows:
        there = ", ".join(datasets) if datasets else "no dataset of it"
        raise UsageError(
            f"no row of {recipe.method} matches {only}" if only else f"{recipe.method} has no table of {there}",
            hint=f"there are: {_words(recipe)}",
        )
    return rows


def _names(row: Row, kind: str) -> set[str]:
    return {
        "table": set(row.tables),
        "ratio": {f"{row.ratio}%"},
        "list": {row.official},
        "dataset": {row.dataset},
        "ablation": {row.variant},
    }[kind]


def _kind(recipe: Recipe, word: str) -> str:
    rows = recipe.rows()
    for kind in ("table", "ratio", "list", "dataset", "ablation"):
        if any(word in _names(row, kind) for row in rows):
            return kind
    raise UsageError(f"no row of {recipe.method} matches {word}", hint=f"there are: {_words(recipe)}")


def _words(recipe: Recipe) -> str:
    rows = recipe.rows()
    named = [word for kind in ("table", "dataset", "ratio", "ablation") for row in rows for word in _names(row, kind)]
    return ", ".join(dict.fromkeys(named))


# ---------------------------------------------------------------- settings

_SGD = (  # LaserMix's MinkUNet: lr 0.24 at 32 scans a step, here scaled to 8
    "optimizer.name=sgd", "optimizer.lr=0.06", "optimizer.weight_decay=1e-4", "schedule.name=cosine",
    "schedule.warmup_steps=125", "schedule.warmup_factor=0.008", "augment.translate=0",
)  # fmt: skip
_CYLINDER = ("optimizer.lr=0.001", "optimizer.weight_decay=0.01", "augment.rotate=45")  # AdamW, one cycle, clip 10
_INDOOR = (
    "backbone.voxel_size=0.02", "backbone.features=color,xyz_from_min", "optimizer.weight_decay=0",
    "optimizer.lr=0.02", "schedule.cycle_up=0.4", "schedule.cycle_start=10", "schedule.cycle_end=1e4",
    "augment.scale_min=1", "augment.scale_max=1", "augment.translate=0", "augment.flip_y=0",
)  # fmt: skip
_OUTDOOR_RATIOS, _INDOOR_RATIOS = (1, 10, 20, 50), (5, 10, 20, 30, 40)
_ABOUT_CYLINDER = "one process with the reference's global batch; every point evaluated, the last checkpoint"
_ABOUT_INDOOR = "AdamW without weight decay for Adam; no elastic distortion and no shift of colors"
_ABOUT_ROOMS = "whole rooms in place of crops, so fewer a step"


def _lasermix(
    steps: Mapping[str, int],
    batch: int,
    own: Mapping[str, tuple[str, ...]],
    keys: tuple[str, ...] = (),
    extra: str = "",
) -> dict[str, Setting]:
    """The benchmark of LaserMix: its Cylinder3D, its lists, AdamW with one cycle. ``batch``: labelled scans."""
    grid = {"semantickitti": (), "nuscenes": ("backbone.z=-5,3",)}
    return {
        dataset: Setting(
            backbone="cylinder3d-lasermix",
            steps=steps[dataset],
            keys=(*_CYLINDER, f"train.batch={batch}", *grid[dataset], *keys),
            lists="lasermix",
            own=own[dataset],
            differs="; ".join(filter(None, [_ABOUT_CYLINDER, extra])),
        )
        for dataset in ("semantickitti", "nuscenes")
    }


def _indoor(steps: int, own: tuple[str, ...] = (), batch: int = 2, extra: str = "") -> Setting:
    """The schedule of GPC on S3DIS. ``batch``: labelled scans; 16 where the method cuts crops."""
    return Setting(
        backbone="spunet32",
        steps=steps,
        keys=(*_INDOOR, f"train.batch={batch}"),
        lists="gpc",
        own=own,
        differs="; ".join(filter(None, [_ABOUT_INDOOR, _ABOUT_ROOMS if batch < 16 else "", extra])),
    )


def _tables(*parts: tuple[str, str, str]) -> tuple[Table, ...]:
    """(name, title, dataset) with the ratios of the field."""
    return tuple(
        Table(name, title, dataset, _OUTDOOR_RATIOS if dataset in ("semantickitti", "nuscenes") else _INDOOR_RATIOS)
        for name, title, dataset in parts
    )


_LASERMIX_STEPS = {"semantickitti": 45_000, "nuscenes": 60_000}
_BENCHMARK = _tables(
    ("kitti", "SemanticKITTI val", "semantickitti"),
    ("nuscenes", "nuScenes val", "nuscenes"),
    ("s3dis", "S3DIS area 5", "s3dis"),
)

# ---------------------------------------------------------------- recipes

_DDSEMI_OUTDOOR = Setting(
    backbone="minkunet18",
    steps=50_000,
    keys=(*_SGD, "train.batch=4"),
    lists="lasermix",
    differs="the paper states neither network nor schedule outdoors: MinkUNet-18 as in the LaserMix code, 25,000 steps "
    "of pre-training and 25,000 of joint training",
)
DDSEMI = Recipe(
    method="ddsemi",
    source="DDSEmi (CVPR 2024), Tables 1 to 6",
    settings={
        "semantickitti": _DDSEMI_OUTDOOR,
        "nuscenes": _DDSEMI_OUTDOOR,
        "s3dis": _indoor(16_000, extra="8,000 steps of pre-training and 8,000 of joint training"),
    },
    tables=(
        Table("table1", "SemanticKITTI val", "semantickitti", _OUTDOOR_RATIOS),
        Table("table1", "nuScenes val", "nuscenes", _OUTDOOR_RATIOS),
        Table("table2", "S3DIS area 5", "s3dis", _INDOOR_RATIOS),
        Table(
            "table3", "what each part adds", "semantickitti", (10,),
            ("ce", "ce_inter", "ce_inter_intra", "plus_geometric", "plus_feature", FULL),
        ),
        Table("table4", "points or anchors", "semantickitti", _OUTDOOR_RATIOS, ("point_to_point", FULL)),
        Table("table5", "update of the banks", "semantickitti", _OUTDOOR_RATIOS, ("progressive", "fifo", FULL)),
        Table("table6", "estimator of the anchors", "semantickitti", _OUTDOOR_RATIOS, ("random", "confidence", FULL)),
    ),
    variants={
        "ce": ("ddsemi.loss.inter=false", "ddsemi.loss.intra=false"),
        "ce_inter": ("ddsemi.loss.intra=false",),
        "ce_inter_intra": ("ddsemi.hardness.geometric=false", "ddsemi.hardness.feature=false"),
        "plus_geometric": ("ddsemi.hardness.feature=false",),
        "plus_feature": ("ddsemi.hardness.geometric=false",),
        "point_to_point": ("ddsemi.contrast.mode=point",),
        "progressive": ("ddsemi.bank.update=progressive",),
        "fifo": ("ddsemi.bank.update=fifo",),
        "random": ("ddsemi.anchor.estimator=random",),
        "confidence": ("ddsemi.anchor.estimator=confidence",),
    },
)  # fmt: skip

GPC = Recipe(
    method="gpc",
    source="GPC repository, and DDSEmi Table 1 for uniform scans",
    settings={
        "semantickitti": Setting(
            backbone="spunet32",
            steps=34_000,
            keys=(
                "backbone.scene=outdoor", "backbone.voxel_size=0.1",
                "backbone.clip=[[-51.2,51.2],[-51.2,51.2],[-4,2.4]]", "optimizer.weight_decay=0", "optimizer.lr=0.02",
                "schedule.cycle_up=0.4", "schedule.cycle_start=10",
                "schedule.cycle_end=1e4", "augment.rotate=45", "augment.translate=0", "train.batch=24",
            ),
            lists="gpc",
            own=(
                "gpc.crop=fan", "gpc.pretrain=0.4706", "gpc.hard_point_ce=0.9", "gpc.ce_class_weights=semantickitti",
            ),
            differs="points beyond the range are left out, theirs are moved to its border; AdamW without weight decay; "
            "pre-training with 24 scans a step, theirs with 48",
        ),
        "s3dis": _indoor(8_000, ("gpc.crop=column",), batch=16),
        "scannet": Setting(
            backbone="spunet32",
            steps=38_000,
            keys=(
                "backbone.voxel_size=0.02", "backbone.features=color,xyz_from_min", "optimizer.name=sgd",
                "optimizer.lr=0.2", "optimizer.weight_decay=1e-4", "optimizer.nesterov=false", "schedule.name=poly",
                "schedule.power=0.9", "schedule.warmup_steps=0", "augment.scale_min=1", "augment.scale_max=1",
                "augment.translate=0", "augment.flip_y=0", "train.batch=16",
            ),
            lists="gpc",
            own=("gpc.crop=column",),
            differs="no elastic distortion and no shift of colors",
        ),
    },
    tables=(
        Table("kitti", "SemanticKITTI val, sequential scans", "semantickitti", _INDOOR_RATIOS),
        Table("uniform", "SemanticKITTI val, uniform scans", "semantickitti", _OUTDOOR_RATIOS, lists="lasermix"),
        Table("s3dis", "S3DIS area 5", "s3dis", _INDOOR_RATIOS),
        Table("scannet", "ScanNet val", "scannet", _INDOOR_RATIOS),
    ),
)  # fmt: skip

LASERMIX = Recipe(
    method="lasermix",
    source="LaserMix repository, voxel track",
    settings=_lasermix(
        _LASERMIX_STEPS,
        8,
        {
            "semantickitti": (
                "lasermix.lambda_lov=3", "lasermix.w_mt=250", "lasermix.threshold=0.9", "lasermix.m=4,5,6,7,8",
                "lasermix.fov_up=3", "lasermix.fov_down=-25",
            ),
            "nuscenes": (
                "lasermix.lambda_lov=2", "lasermix.w_mt=500", "lasermix.threshold=0.95", "lasermix.m=3,4,5,6",
                "lasermix.fov_up=10", "lasermix.fov_down=-30",
            ),
        },
        ("lasermix.alpha=0.99",),
    ),
    tables=_tables(
        ("kitti", "SemanticKITTI val", "semantickitti"),
        ("nuscenes", "nuScenes val", "nuscenes"),
    ),
)  # fmt: skip

CPS = Recipe(
    method="cps",
    source="LASS3D Table 1, DDSEmi Tables 1 and 2",
    settings={
        **_lasermix(
            _LASERMIX_STEPS,
            8,
            {"semantickitti": ("cps.lambda_lov=3",), "nuscenes": ("cps.lambda_lov=2",)},
            extra="the papers state no setting",
        ),
        "s3dis": _indoor(8_000, extra="the papers state no setting"),
    },
    tables=_BENCHMARK,
)

CBST = Recipe(
    method="cbst",
    source="LASS3D Table 1, DDSEmi Tables 1 and 2",
    settings={
        **_lasermix(
            {"semantickitti": 90_000, "nuscenes": 120_000},
            8,
            {"semantickitti": ("cbst.lambda_lov=3",), "nuscenes": ("cbst.lambda_lov=2",)},
            extra="the papers state no setting; three rounds of a third of the schedule after it",
        ),
        "s3dis": _indoor(16_000, extra="the papers state no setting; three rounds after the schedule"),
    },
    tables=_BENCHMARK,
)

LIM3D = Recipe(
    method="lim3d",
    source="LiM3D as quoted by LASS3D and DDSEmi; its abstract (5%)",
    settings={
        "semantickitti": Setting(
            backbone="cylinder3d",
            steps=90_000,
            keys=(
                "optimizer.lr=0.001", "optimizer.weight_decay=0", "schedule.name=constant", "schedule.warmup_steps=0",
                "augment.rotate=45", "train.batch=2", "lim3d.stage1_steps=65455", "backbone.geometry=per_branch",
                "backbone.features=intensity,reflectivity",
            ),
            lists="lim3d",
            differs="theirs trains 200 and 75 epochs, stage 1 with a histogram of the labels as input; the last "
            "checkpoint, not the best",
        )
    },
    tables=(Table("kitti", "SemanticKITTI val, scans chosen by ST-RFD", "semantickitti", (1, 5, 10, 20, 50)),),
)  # fmt: skip

MEAN_TEACHER = Recipe(
    method="mean_teacher",
    source="LASS3D Table 1, DDSEmi Tables 1 and 2",
    settings={
        **_lasermix(
            _LASERMIX_STEPS,
            8,
            {
                "semantickitti": ("mean_teacher.lambda_lov=3", "mean_teacher.w=250"),
                "nuscenes": ("mean_teacher.lambda_lov=2", "mean_teacher.w=500"),
            },
            ("mean_teacher.alpha=0.99",),
        ),
        "s3dis": _indoor(8_000, ("mean_teacher.w=100",), extra="the papers state no setting"),
    },
    tables=_BENCHMARK,
)

SUPERVISED = Recipe(
    method="supervised",
    source="LaserMix repository (voxel track, sup-only), GPC repository",
    settings={
        **_lasermix(
            _LASERMIX_STEPS,
            16,
            {"semantickitti": ("supervised.lambda_lov=3",), "nuscenes": ("supervised.lambda_lov=2",)},
        ),
        "s3dis": _indoor(8_000, batch=4),
        "scannet": replace(
            GPC.settings["scannet"],
            keys=(*GPC.settings["scannet"].keys, "train.batch=4"),
            own=(),
            differs=f"{GPC.settings['scannet'].differs}; {_ABOUT_ROOMS}",
        ),
    },
    tables=(*_BENCHMARK, Table("scannet", "ScanNet val", "scannet", _INDOOR_RATIOS)),
)

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {recipe.method: recipe for recipe in (SUPERVISED, MEAN_TEACHER, CBST, CPS, LASERMIX, GPC, LIM3D, DDSEMI)}
)
"""By method."""


def find_recipe(method: str) -> Recipe:
    """The recipe of a method that is here.

    Raises:
        UsageError: there is no such recipe (names the nearest), or its method is not in this version.
    """
    from ssl3d.data.text import nearest
    from ssl3d.models.methods.registry import list_methods

    if method not in RECIPES:
        near = nearest(method, RECIPES)
        hint = (f"did you mean {near}? " if near else "") + f"there are: {', '.join(RECIPES)}"
        raise UsageError(f"there is no table to reproduce of '{method}'", hint=hint)
    if method not in list_methods():
        raise UsageError(
            f"the tables of {method} cannot be reproduced: this version of ssl3d does not have the method",
            where={"methods": ", ".join(list_methods())},
            hint="a package of yours may offer it by the entry-point group ssl3d.methods",
        )
    return RECIPES[method]


__all__ = ["RECIPES", "Recipe", "Row", "Setting", "Table", "find_recipe", "select"]
