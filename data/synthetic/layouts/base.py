"""What a layout of the streets has to say about itself, for ``street.py`` to generate it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ssl3d.data.synthetic.rng import Rng
from ssl3d.data.synthetic.world import World

Counts = Mapping[str, int]
"""Labelled points by the name of their class."""


@dataclass(frozen=True)
class Unit:
    """What is written in one go: number ``index`` of a sequence, scene or place."""

    group: str
    index: int


class StreetLayout(Protocol):
    """One published layout. Everything is a function of (version, preset, seed, unit); no unit knows of others.

    Layouts derive from it: one without files of groups or tables says nothing about them.
    """

    name: str
    version: int
    """Raised whenever the same preset and seed give other bytes than before."""
    owned: tuple[str, ...]
    """Patterns of the files it consists of."""
    foreign: str
    """A pattern that recordings of this layout would match."""
    block: int
    """Units a worker takes at a time (it builds their world once)."""

    def units(self, preset: str) -> list[Unit]: ...

    def subsets(self, preset: str) -> dict[str, list[str]]:
        """Groups by subset."""

    def finished(self, out: Path, preset: str, seed: int, unit: Unit) -> bool:
        """Whether every file of the unit is there. Files appear by renaming, so one that exists is whole."""

    def write(self, out: Path, preset: str, seed: int, unit: Unit) -> None: ...

    def count(self, out: Path, preset: str, seed: int, unit: Unit) -> Counts:
        """Of a written unit."""

    def write_group(self, out: Path, preset: str, seed: int, group: str) -> None:
        """Files that belong to a whole group, where missing."""
        return

    def write_tables(self, out: Path, preset: str, seed: int) -> None:
        """Files that speak of all units, where missing; called when all units are written."""
        return

    def payload(self, out: Path, preset: str, seed: int) -> Iterator[Path]:
        """The files whose bytes the manifest vouches for."""


def make_world(
    layout: str, preset: str, seed: int, number: int, drive: tuple[float, float, float, str | None]
) -> World:
    """The place of one group, empty of what only this layout knows."""
    seconds, speed, cell, style = drive
    return World(Rng(0x57A2, seed, *f"{layout}/{preset}".encode()).key, number, seconds, speed, cell, style)


def mapping(ids: Mapping[int, int], size: int = 512) -> npt.NDArray[np.uint8]:
    """(size,) uint8: the layout's class of each of our raw ids, 0 where none is given."""
    table = np.zeros(size, np.uint8)
    table[list(ids)] = list(ids.values())
    return table


def named_counts(labels: npt.NDArray[np.integer], names: Mapping[int, str]) -> dict[str, int]:
    """Labels (n,) counted by class name; classes that do not occur included."""
    found = np.bincount(labels, minlength=max(names) + 1)
    return {name: int(found[k]) for k, name in names.items()}
