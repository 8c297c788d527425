"""Published numbers, as tables of this package: one file for each method, with what is known of how they were made.

What a paper does not say is None here, and "not known" wherever people read it: a number whose list of scans, network
or unit of evaluation is not stated cannot be called comparable with anything.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FULL = "full"
"""The variant of a method that is the method itself."""
Elements = Literal["points", "voxels", "range pixels"]


@dataclass(frozen=True)
class Published:
    """One number: mIoU in percent of a method at one ratio of labels.

    Attributes:
        method: as after ``ssl3d train`` (also of methods that are not here).
        variant: ``full``, or an ablation; see ``benchmarks.recipes``.
        label: what it is called where it was published.
        dataset: name of its specification; ``scribblekitti``: SemanticKITTI with scribbles.
        ratio: percent of the labelled units.
        miou: percent.
        table, file: where it stands here.
        source: where it was published.
        protocol: the arithmetic that the numbers of the dataset have, see ``pipeline.evaluation.protocols``.
        subset, held: what it was evaluated on.
        split: which units are labelled, in words.
        list: family of published lists (``data.official``), or ``all``; None: not known.
        backbone: in words; None: not known.
        same_backbone: names of ours that are this network.
        elements: of what predictions were counted; None: not known.
        selection: the ``last`` checkpoint, or the ``best`` on what is evaluated; None: not known.
        tta: test-time augmentation in words, "" for none; None: not known.
        steps: optimizer steps of the whole training; None: not known.
        note: what has to be known to compare with it.
    """

    method: str
    dataset: str
    ratio: float
    miou: float
    table: str
    file: str
    source: str
    protocol: str
    variant: str = FULL
    label: str = ""
    subset: str = "val"
    held: tuple[str, ...] = ()
    split: str | None = None
    list: str | None = None
    backbone: str | None = None
    same_backbone: tuple[str, ...] = ()
    elements: Elements | None = None
    selection: Literal["last", "best"] | None = None
    tta: str | None = None
    steps: int | None = None
    note: str = ""

    @property
    def name(self) -> str:
        """Method and variant, for people."""
        return self.method if self.variant == FULL else f"{self.method} {self.variant}"


_FACTS = {item.name for item in fields(Published)} - {"ratio", "miou", "table", "file", "steps"}
_TUPLES = ("held", "same_backbone")


def published_files() -> list[str]:
    """Names of the methods that have a file, sorted."""
    names = (entry.name for entry in resources.files(__package__).iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


@lru_cache(maxsize=1)
def published() -> tuple[Published, ...]:
    """Every number, file by file, in the order of the tables. Cells that a paper leaves empty are left out.

    Raises:
        ValueError: a table is wrong (unknown key, as many numbers as ratios are missing); names it.
    """
    return tuple(number for name in published_files() for number in read_numbers(_text(name), name))


def facts(method: str) -> dict[str, float]:
    """What a paper publishes besides mIoU (``[facts]`` of its file), e.g. ``{"parameter_reduction": 2.3}``."""
    return {str(name): float(value) for name, value in tomllib.loads(_text(method)).get("facts", {}).items()}


def numbers_of(method: str) -> list[Published]:
    """The numbers of a method, those of its own file first. What several papers quote alike is one number, with all
    its sources and with whatever any of them says about it."""
    found: dict[tuple[object, ...], Published] = {}
    own_first = sorted(published(), key=lambda number: number.file != method)
    for number in own_first:
        if number.method != method:
            continue
        same = (number.variant, number.dataset, number.ratio, number.miou)
        known = found.get(same)
        found[same] = number if known is None else _joined(known, number)
    return list(found.values())


def read_numbers(text: str, file: str) -> list[Published]:
    """The numbers of one TOML file: ``[[table]]`` with facts and ``ratios``, below it ``[[table.row]]`` with further
    facts, which count more, and ``miou``. ``ValueError`` names a table that is wrong."""
    found: list[Published] = []
    for table in tomllib.loads(text).get("table", ()):
        where = f"{file}.toml, table {table.get('name', '?')}"
        for row in table.get("row", ()):
            found += _row(table, row, file, where)
    return found


def _row(table: Mapping[str, Any], row: Mapping[str, Any], file: str, where: str) -> Iterable[Published]:
    plain = {key: value for key, value in {**table, **row}.items() if key not in ("name", "row", "ratios")}
    values, ratios, steps = plain.pop("miou", ()), table.get("ratios", ()), plain.pop("steps", None)
    if unknown := sorted(plain.keys() - _FACTS):
        raise ValueError(f"{where}: unknown keys {', '.join(unknown)}")
    if not values or len(values) != len(ratios) or (steps is not None and len(steps) != len(ratios)):
        raise ValueError(f"{where}: {len(ratios)} ratios and {len(values)} numbers of {row.get('method')}")
    plain |= {key: tuple(plain[key]) for key in _TUPLES if key in plain}
    for index, (ratio, miou) in enumerate(zip(ratios, values, strict=True)):
        if not math.isnan(miou):
            count = None if steps is None else int(steps[index])
            yield Published(ratio=float(ratio), miou=float(miou), table=table["name"], file=file, steps=count, **plain)


def _joined(first: Published, second: Published) -> Published:
    """One number from two places; where both say something, the first counts."""
    sources = dict.fromkeys([*first.source.split("; "), *second.source.split("; ")])
    missing = {
        item.name: getattr(second, item.name)
        for item in fields(Published)
        if getattr(first, item.name) in (None, "", ())
    }
    return replace(first, **{**missing, "source": "; ".join(sources)})


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8")


__all__ = ["FULL", "Published", "facts", "numbers_of", "published", "published_files", "read_numbers"]
