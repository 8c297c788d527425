"""Published lists of scans: official splits, and which scans label-efficient methods label.

Facts about datasets, kept in the package (``datasets/lists/index.toml`` and text files beside it), for datasets with
and without a reader.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

from ssl3d.data.errors import UsageError
from ssl3d.data.text import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class ListEntry:
    """Where the ids of one list come from: a text file of the package (one id a line), or ranges of frames.

    Attributes:
        count: how many ids it has.
        ranges: (sequence, first frame, last frame), both included; ids are then ``SS/FFFFFF``.
    """

    count: int
    file: str | None = None
    ranges: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True)
class ListFamily:
    """Lists that were published together.

    Attributes:
        dataset, name: e.g. ``semantickitti``, ``lasermix``.
        kind: ``labels``: scans that are labelled, by ratio in percent; ``split``: official subsets, by name.
        unit: what an id names: ``scan``, ``room``, ``scene`` (of many scans) or ``sample token``.
        pool: what the lists were drawn from, or are a division of.
        source: repository and, where there is one, paper.
        note: what has to be known to compare with them.
        lists: ratio ("1", "10") or subset ("train") -> list.
        prefixes: chains of lists, each the beginning of the next.
        subsets: chains of lists, each contained in the next without being its beginning.
        overlaps: (a, b, count): lists of which neither contains the other, and how many ids they share.
    """

    dataset: str
    name: str
    kind: Literal["labels", "split"]
    unit: str
    pool: str
    source: str
    note: str
    lists: Mapping[str, ListEntry]
    prefixes: tuple[tuple[str, ...], ...] = ()
    subsets: tuple[tuple[str, ...], ...] = ()
    overlaps: tuple[tuple[str, str, int], ...] = ()

    def ids(self, which: str) -> tuple[str, ...]:
        """The ids of one list, in the published order. UsageError names the lists there are."""
        entry = self.lists.get(which)
        if entry is None:
            raise UsageError(
                f"{self.name} of {self.dataset} has no list {which!r}", hint=f"there are: {', '.join(self.lists)}"
            )
        if entry.file is None:
            return tuple(
                f"{name}/{frame:06d}" for name, first, last in entry.ranges for frame in range(first, last + 1)
            )
        lines = _read(entry.file).splitlines()
        return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def listed_datasets() -> tuple[str, ...]:
    """Names of the datasets that have published lists."""
    return tuple(_index())


def list_families(dataset: str) -> tuple[ListFamily, ...]:
    """The published lists of a dataset; none for a dataset that the index does not know."""
    return _index().get(dataset, ())


def list_family(dataset: str, name: str) -> ListFamily:
    """One family, e.g. ``list_family("nuscenes", "scenes").ids("val")``. UsageError names what there is."""
    known = {family.name: family for family in list_families(dataset)}
    if name not in known:
        near = nearest(name, known)
        hint = (f"did you mean {near}? " if near else "") + f"there are: {', '.join(known) or 'none'}"
        raise UsageError(f"there are no published lists {name!r} of {dataset}", hint=hint)
    return known[name]


@lru_cache(maxsize=1)
def _index() -> dict[str, tuple[ListFamily, ...]]:
    return {
        dataset: tuple(_family(dataset, name, table) for name, table in families.items())
        for dataset, families in tomllib.loads(_read("index.toml")).items()
    }


def _read(file: str) -> str:
    return resources.files("ssl3d.data.datasets").joinpath("lists").joinpath(file).read_text(encoding="utf-8")


def _family(dataset: str, name: str, table: Mapping[str, Any]) -> ListFamily:
    lists = {
        which: ListEntry(entry["count"], entry.get("file"), _tuples(entry.get("ranges", ())))
        for which, entry in table["lists"].items()
    }
    return ListFamily(
        dataset=dataset,
        name=name,
        kind=table["kind"],
        unit=table["unit"],
        pool=table["pool"],
        source=table["source"],
        note=table.get("note", ""),
        lists=lists,
        prefixes=_tuples(table.get("prefixes", ())),
        subsets=_tuples(table.get("subsets", ())),
        overlaps=_tuples(table.get("overlaps", ())),
    )


def _tuples(rows: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    return tuple(tuple(row) for row in rows)
