"""What a dataset is in numbers: classes, maps, colors, splits, sensor. Data (a .toml per dataset), not code."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.official import ListFamily, list_families, list_family
from ssl3d.data.scan import IGNORE
from ssl3d.data.text import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SUBSETS = ("train", "val", "test")
_RAW_IDS = 1 << 16  # a semantic id is the low half of a 32-bit label word


@dataclass(frozen=True)
class SensorSpec:
    """A spinning LiDAR as range-view networks see it.

    Attributes:
        fov_up_deg, fov_down_deg: vertical field of view, degrees, down is negative.
        height, width: beams and columns of the range image.
        channels, mean, std: statistics used to normalize range images, in channel order.
        max_points: largest number of points that code of the field allows in a scan.
    """

    name: str
    fov_up_deg: float
    fov_down_deg: float
    height: int
    width: int
    channels: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    max_points: int


@dataclass(frozen=True, eq=False)
class DatasetSpec:
    """Classes are 0..C-1 everywhere, 255 is ignored.

    Attributes:
        name: name of the reader, e.g. ``semantickitti``.
        variant: which class list (``single`` or ``multiscan``).
        classes: C names, index = train id.
        colors: (C, 3) uint8 RGB.
        learning_map: raw id -> train id or 255.
        learning_map_inv: train id -> the raw id that predictions are written as.
        raw_names: raw id -> name.
        moving: raw ids of moving objects.
        content: (C,) float64, share of all points of the train scans; zeros where nobody published it.
        splits: ``train``, ``val``, ``test`` -> groups (sequences, scenes, rooms, areas).
        scans_per_sequence: how many scans the complete dataset holds, by group; empty where only its lists tell.
        sensor: of a spinning LiDAR; None for other recordings, which have no range images.
        tail: names of classes with a content below ``tail_below`` (the others are head classes).
        official: name -> published lists of labelled scans by ratio in percent ("1", "10"); see ``data.official``.
        defaults: ``key=value`` that training begins with on this dataset; keys that a method or backbone does not have
            are left out.
        submission: group -> what the file of its predictions is called where its server wants it otherwise.
        regimes: word after ``ssl3d split --regime`` -> ``scan`` (each scan by itself) or ``group`` (the sequence, scene
            or area that a scan belongs to).
        paired: between which shares of the points of a scan its images show, usually; None: nobody can say.
        label_sets: words after ``ssl3d prepare --labels``: ``labels``, and where there are any, ``scribbles``.
    """

    name: str
    title: str
    variant: str
    classes: tuple[str, ...]
    colors: npt.NDArray[np.uint8]
    learning_map: Mapping[int, int]
    learning_map_inv: Mapping[int, int]
    raw_names: Mapping[int, str]
    moving: frozenset[int]
    content: npt.NDArray[np.float64]
    splits: Mapping[str, tuple[str, ...]]
    scans_per_sequence: Mapping[str, int]
    sensor: SensorSpec | None
    tail: tuple[str, ...]
    official: Mapping[str, ListFamily]
    regimes: Mapping[str, str]
    defaults: tuple[str, ...] = ()
    paired: tuple[float, float] | None = None
    label_sets: tuple[str, ...] = ("labels",)
    submission: Mapping[str, str] = field(default_factory=dict)
    ignore: int = IGNORE

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def head(self) -> tuple[str, ...]:
        return tuple(name for name in self.classes if name not in self.tail)

    def subset_of(self, sequence: str) -> str | None:
        """``train``, ``val``, ``test``, or None for a sequence that the dataset does not have."""
        return next((subset for subset, members in self.splits.items() if sequence in members), None)

    def lut(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Tables over the 65536 semantic ids: train id (uint8, 255 where ignored or unknown), whether it is known."""
        return self._tables

    @cached_property
    def _tables(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        table = np.full(_RAW_IDS, self.ignore, np.uint8)
        known = np.zeros(_RAW_IDS, np.bool_)
        for raw, train in self.learning_map.items():
            table[raw], known[raw] = train, True
        table.flags.writeable = known.flags.writeable = False
        return table, known

    def to_raw(self, label: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
        """Train ids (n,) uint8 -> raw ids (n,) uint32; ignored becomes raw 0 (unlabeled).

        Raises:
            ValueError: a label is neither a class nor 255.
        """
        table = np.full(256, _RAW_IDS, np.uint32)
        table[self.ignore] = 0
        for train, raw in self.learning_map_inv.items():
            table[train] = raw
        raw_ids = table[label]
        if raw_ids.size and int(raw_ids.max()) == _RAW_IDS:
            raise ValueError(f"labels must be 0..{self.num_classes - 1} or {self.ignore}, got {np.unique(label)}")
        return raw_ids

    def official_list(self, name: str, percent: str) -> tuple[str, ...]:
        """The scans ``SS/FFFFFF`` of a published list, in the published order.

        Raises:
            UsageError: no such list, or not at this ratio (the message names what there is).
        """
        if name not in self.official:
            near = nearest(name, self.official)
            hint = f"did you mean {near}?" if near else f"published lists: {', '.join(self.official) or 'none'}"
            raise UsageError(f"{self.title} has no published list named {name!r}", hint=hint)
        family = self.official[name]
        if percent not in family.lists:
            choices = ", ".join(f"{ratio}%" for ratio in family.lists)
            raise UsageError(f"{name} published no list of {percent}% for {self.title}", hint=f"there are {choices}")
        return family.ids(percent)


@lru_cache(maxsize=16)
def load_spec(name: str, classes: str = "single") -> DatasetSpec:
    """The specification that comes with the package.

    Args:
        name: e.g. ``semantickitti``.
        classes: ``single`` (moving classes merged into static ones) or ``multiscan`` (kept apart).
    """
    file = resources.files("ssl3d.data.datasets").joinpath(f"{name}.toml")
    if not file.is_file():
        raise UsageError(f"there is no dataset specification {name!r}")
    return parse_spec(tomllib.loads(file.read_text(encoding="utf-8")), classes)


def parse_spec(table: Mapping[str, Any], classes: str = "single") -> DatasetSpec:
    """A specification from its parsed .toml (the form of ``data/datasets/semantickitti.toml``)."""
    try:
        variants = table["classes"]
        if classes not in variants:
            raise UsageError(f"unknown class list {classes!r}", hint=f"there are {', '.join(variants)}")
        return _build(table, classes, variants[classes])
    except KeyError as missing:
        raise DataError("a dataset specification lacks a key", where={"field": missing.args[0]}) from None


def _build(table: Mapping[str, Any], variant: str, chosen: Mapping[str, Any]) -> DatasetSpec:
    names = tuple(chosen["names"])
    learning_map = {int(raw): int(train) for raw, train in chosen["learning_map"].items()}
    raw_ids = [int(raw) for raw in chosen["raw_ids"]]
    ignore = int(table["ignore"])
    if ignore != IGNORE or not set(learning_map.values()) <= {*range(len(names)), IGNORE} or len(raw_ids) != len(names):
        raise DataError(
            "a dataset specification has inconsistent classes",
            where={"dataset": table["name"], "classes": variant},
            hint=f"train ids are 0..{len(names) - 1} and {IGNORE} (ignored), with one entry of raw_ids per name",
        )
    raw_content = {int(raw): float(share) for raw, share in table.get("raw_content", {}).items()}
    content = np.zeros(len(names))
    for raw, train in learning_map.items():
        if train != IGNORE:
            content[train] += raw_content.get(raw, 0.0)
    return DatasetSpec(
        name=table["name"],
        title=table["title"],
        variant=variant,
        classes=names,
        colors=np.array([table["raw_colors"][str(raw)] for raw in raw_ids], np.uint8),
        learning_map=learning_map,
        learning_map_inv=dict(enumerate(raw_ids)),
        raw_names={int(raw): name for raw, name in table["raw_names"].items()},
        moving=frozenset(table.get("moving_raw", ())),
        content=content,
        splits=_splits(table),
        scans_per_sequence={name: int(count) for name, count in table.get("scans_per_sequence", {}).items()},
        sensor=_sensor(table.get("sensor")),
        tail=tuple(name for name, share in zip(names, content, strict=True) if share < table.get("tail_below", 0)),
        official={family.name: family for family in list_families(table["name"]) if family.kind == "labels"},
        regimes=table.get("regimes", {"scan": "scan"}),
        defaults=tuple(table.get("defaults", ())),
        paired=(float(table["paired"][0]), float(table["paired"][1])) if "paired" in table else None,
        label_sets=tuple(table.get("label_sets", ("labels",))),
        submission=table.get("submission", {}),
    )


def _splits(table: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The groups of each subset: written out, or (``lists = "scenes"``) those of published lists of that name."""
    splits = table["splits"]
    if "lists" not in splits:
        return {subset: tuple(splits.get(subset, ())) for subset in SUBSETS}
    family = list_family(table["name"], splits["lists"])
    return {subset: family.ids(subset) if subset in family.lists else () for subset in SUBSETS}


def _sensor(table: Mapping[str, Any] | None) -> SensorSpec | None:
    if table is None:
        return None
    return SensorSpec(**{**table, **{key: tuple(table[key]) for key in ("channels", "mean", "std")}})
