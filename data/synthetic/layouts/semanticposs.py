"""Streets in the layout of SemanticPOSS: scans of a 40-beam sensor, labels with instances, and tags.

A scan is an image of 40 x 1800 cells of which the tag says what cells hold a point. Thinner presets leave columns
empty, so that every tag file has its 72000 bytes. Of the documented ids these never occur: 11, hanging traffic signs.
The undocumented ones do, as in the recordings: 1 (stray returns), 18 (shelters and noise barriers), 20 (trailers).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssl3d.data.synthetic.layouts.base import Counts, StreetLayout, Unit, make_world, mapping, named_counts
from ssl3d.data.synthetic.layouts.roadworks import BARRIER, CONE, add_roadworks
from ssl3d.data.synthetic.output import write_file
from ssl3d.data.synthetic.presets import PRESETS
from ssl3d.data.synthetic.rays import shoot, unit_vectors
from ssl3d.data.synthetic.rng import Rng
from ssl3d.data.synthetic.world import World

ROWS, COLUMNS = 40, 1800
FRAME_SECONDS = 0.8

LABELS = {
    0: "unlabeled",
    1: "undefined-1",
    4: "1 person",
    5: "2+ person",
    6: "rider",
    7: "car",
    8: "trunk",
    9: "plants",
    10: "traffic sign 1 (standing)",
    11: "traffic sign 2 (hanging)",
    12: "traffic sign 3 (high/big hanging)",
    13: "pole",
    14: "trashcan",
    15: "building",
    16: "cone/stone",
    17: "fence",
    18: "undefined-18",
    20: "undefined-20",
    21: "bike",
    22: "ground",
}
_RAW = mapping(
    {
        **{1: 1, 10: 7, 13: 7, 18: 7, 252: 7, 257: 7, 258: 7, 20: 20, 259: 20, 11: 21, 15: 21},
        **{30: 4, 254: 4, 31: 6, 32: 6, 253: 6, 255: 6},
        **{40: 22, 44: 22, 48: 22, 49: 22, 60: 22, 72: 22},
        **{50: 15, 51: 17, 52: 18, 70: 9, 71: 8, 80: 13, 81: 10, 99: 14, CONE: 16, BARRIER: 16},
    }
)
_HIGH = 0.8
"""Meters above the sensor from which on a sign counts as high."""
_GROUP = 5
"""Every so many persons are a group."""


@dataclass(frozen=True)
class Size:
    """``scans`` a sequence, the last sequence has fewer; every ``apart``-th column of the image is measured."""

    scans: int
    last: int
    apart: int


SIZES = {"tiny": Size(3, 2, 8), "small": Size(10, 8, 2), "bench": Size(60, 48, 1)}
_STYLES: dict[str, str | None] = {
    "00": "campus",
    "01": "terrace",
    "02": "campus",
    "03": None,
    "04": "inner city",
    "05": "suburb",
}
_VALIDATION = ("02",)


@lru_cache(maxsize=1)
def place(preset: str, seed: int, sequence: str) -> World:
    """The world of a sequence; its name is a scene seed of its own."""
    seconds, number = SIZES[preset].scans * FRAME_SECONDS, int(sequence)
    drive = (seconds, 5.0 + 0.5 * (number % 4), PRESETS[preset].ground_cell, _STYLES[sequence])
    world = make_world("semanticposs", preset, seed, number, drive)
    add_roadworks(world)
    return world


@lru_cache(maxsize=1)
def beams() -> npt.NDArray[np.float64]:
    """(40,) elevations in radians, from above: a degree apart, a third of one between +2 and -6."""
    degrees = [7.0 - k for k in range(5)] + [2.0 - k / 3.0 for k in range(25)] + [-7.0 - k for k in range(10)]
    return np.array(degrees) * (math.pi / 180.0)


class SemanticPossLayout(StreetLayout):
    name = "semanticposs"
    version = 1
    owned: tuple[str, ...] = tuple(
        f"sequences/[0-9][0-9]/{pattern}" for pattern in ("velodyne/*.bin", "labels/*.label", "tag/*.tag")
    )
    foreign = "sequences/*"
    block = 10

    def units(self, preset: str) -> list[Unit]:
        size = SIZES[preset]
        return [Unit(name, k) for name in _STYLES for k in range(size.last if name == max(_STYLES) else size.scans)]

    def subsets(self, preset: str) -> dict[str, list[str]]:
        return {"train": [name for name in _STYLES if name not in _VALIDATION], "val": list(_VALIDATION)}

    def _files(self, out: Path, unit: Unit) -> tuple[Path, Path, Path]:
        folder, name = out / "sequences" / unit.group, f"{unit.index:06d}"
        return folder / "velodyne" / f"{name}.bin", folder / "labels" / f"{name}.label", folder / "tag" / f"{name}.tag"

    def finished(self, out: Path, preset: str, seed: int, unit: Unit) -> bool:
        files = self._files(out, unit)
        if not all(file.exists() for file in files):
            return False
        points, labels, tags = (file.stat().st_size for file in files)
        return 0 < points == 4 * labels and tags == ROWS * COLUMNS

    def write(self, out: Path, preset: str, seed: int, unit: Unit) -> None:
        world = place(preset, seed, unit.group)
        points, labels, tag = _turn(world, unit.index, SIZES[preset].apart)
        files = self._files(out, unit)
        write_file(files[2], tag.tobytes())
        write_file(files[1], labels.tobytes())
        write_file(files[0], points.tobytes())

    def count(self, out: Path, preset: str, seed: int, unit: Unit) -> Counts:
        return named_counts(np.fromfile(self._files(out, unit)[1], "<u4").astype(np.int64) & 0xFFFF, LABELS)

    def payload(self, out: Path, preset: str, seed: int) -> Iterator[Path]:
        for unit in self.units(preset):
            yield from self._files(out, unit)


def _turn(
    world: World, index: int, apart: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint32], npt.NDArray[np.bool_]]:
    """One turn: (n, 4) x, y, z, intensity 0..255; (n,) instance << 16 | id; (40, 1800) which cells hold a point.

    Rows from above, columns from behind over the left, as range images are unrolled.
    """
    time = index * FRAME_SECONDS
    column = np.arange(0, COLUMNS, apart)
    cells = (np.arange(ROWS)[:, None] * COLUMNS + column).ravel()
    elevation = np.repeat(beams(), len(column))
    azimuth = math.pi - np.tile(column + 0.5, ROWS) * (2.0 * math.pi / COLUMNS)
    directions = unit_vectors(elevation, azimuth)
    back = shoot(world.scene(time), world.pose(time), directions, cells, Rng(world.key, 54, index).key)
    met = back.distance > 0.0
    tag = np.zeros(ROWS * COLUMNS, np.bool_)
    tag[cells[met]] = True
    points = np.empty((int(met.sum()), 4), np.float32)
    points[:, :3] = directions[met] * back.distance[met, None]
    value = np.minimum(back.value[met], 1.0)
    points[:, 3] = np.floor(255.0 * value * value * value)
    label = _RAW[back.label[met]].astype(np.uint32)
    instance = back.instance[met].astype(np.uint32)
    label[(label == 4) & (instance % _GROUP == 0)] = 5
    label[(label == 10) & (points[:, 2] > _HIGH)] = 12
    instance[label == 0] = 0
    return points, instance << np.uint32(16) | label, tag.reshape(ROWS, COLUMNS)


LAYOUT: StreetLayout = SemanticPossLayout()
