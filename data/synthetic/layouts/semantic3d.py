"""Streets in the layout of Semantic3D: colored clouds of a scanner on a tripod, as text; test clouds have no labels.

A scan takes a while: what moves meanwhile is cut into slices and becomes "scanning artefacts", as standing people do.
Every class occurs. Clouds of one place see the same street, each from a station of its own, which is its origin.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssl3d.data.atomic import replacing
from ssl3d.data.synthetic.ground import Ground
from ssl3d.data.synthetic.layouts.base import Counts, StreetLayout, Unit, make_world, mapping, named_counts
from ssl3d.data.synthetic.layouts.roadworks import BARRIER, CONE, add_roadworks
from ssl3d.data.synthetic.layouts.text import text_lines
from ssl3d.data.synthetic.presets import PRESETS
from ssl3d.data.synthetic.rays import shoot, unit_vectors
from ssl3d.data.synthetic.rng import Rng
from ssl3d.data.synthetic.world import World

LABELS = {
    0: "unlabeled",
    1: "man-made terrain",
    2: "natural terrain",
    3: "high vegetation",
    4: "low vegetation",
    5: "buildings",
    6: "hard scape",
    7: "scanning artefacts",
    8: "cars",
}
_LOW_PLANTS, _HIGH_PLANTS, _ARTEFACTS = 4, 3, 7
_RAW = mapping(
    {
        **{40: 1, 44: 1, 48: 1, 49: 1, 60: 1, 72: 2, 70: 3, 71: 3, 50: 5},
        **{51: 6, 52: 6, 80: 6, 81: 6, 99: 6, CONE: 6, BARRIER: 6},
        **{10: 8, 13: 8, 18: 8, 20: 8, 30: 7},
        **dict.fromkeys(range(252, 260), _ARTEFACTS),
    }
)
_TALL = 2.0
"""Meters above the ground from which on plants are high vegetation."""
_SECTORS, _SECTOR_SECONDS = 24, 0.15
_STATION_SECONDS = 2.5
"""Of driving from one station of a place to the next."""
_NOISE = 0.2
_TRIPOD = 0.1
"""Meters by which the scanner stands above the sensor of the car."""

_PLACES: dict[str, tuple[int, str | None]] = {
    "bildstein": (1, "terrace"),
    "domfountain": (2, "inner city"),
    "neugasse": (3, "inner city"),
    "sg27": (4, None),
    "sg28": (5, "industrial"),
    "untermaederbrunnen": (6, "terrace"),
    "marketplacefeldkirch": (7, "inner city"),
    "stgallencathedral": (8, "campus"),
}
TRAIN = (
    "bildstein_station1_xyz_intensity_rgb",
    "bildstein_station3_xyz_intensity_rgb",
    "bildstein_station5_xyz_intensity_rgb",
    "domfountain_station1_xyz_intensity_rgb",
    "domfountain_station2_xyz_intensity_rgb",
    "domfountain_station3_xyz_intensity_rgb",
    "neugasse_station1_xyz_intensity_rgb",
    "sg27_station1_intensity_rgb",
    "sg27_station2_intensity_rgb",
    "sg27_station4_intensity_rgb",
    "sg27_station5_intensity_rgb",
    "sg27_station9_intensity_rgb",
    "sg28_station4_intensity_rgb",
    "untermaederbrunnen_station1_xyz_intensity_rgb",
    "untermaederbrunnen_station3_xyz_intensity_rgb",
)
TEST = (
    "sg27_station10_rgb_intensity-reduced",
    "sg28_Station2_rgb_intensity-reduced",
    "MarketplaceFeldkirch_Station4_rgb_intensity-reduced",
    "StGallenCathedral_station6_rgb_intensity-reduced",
)
_VALIDATION = ("bildstein_station3_xyz_intensity_rgb", "sg27_station2_intensity_rgb")
_FEW = (TRAIN[0], TRAIN[1], TRAIN[3], TRAIN[8], *TEST)


@dataclass(frozen=True)
class Size:
    """``rows`` x ``columns`` rays a train cloud, about two thirds of which return; half as many each way for a test
    cloud."""

    clouds: tuple[str, ...]
    rows: int
    columns: int


SIZES = {
    "tiny": Size(_FEW, 130, 360),
    "small": Size((*TRAIN, *TEST), 400, 1296),
    "bench": Size((*TRAIN, *TEST), 1100, 3600),
}


def place_of(cloud: str) -> str:
    return cloud.lower().partition("_")[0]


def station_of(cloud: str) -> int:
    """0, 1, ...: the how manieth station of its place."""
    return [name for name in (*TRAIN, *TEST) if place_of(name) == place_of(cloud)].index(cloud)


@lru_cache(maxsize=1)
def place(preset: str, seed: int, name: str) -> World:
    """The world around the stations of a place."""
    number, style = _PLACES[name]
    drive = (6 * _STATION_SECONDS, 6.0, PRESETS[preset].ground_cell, style)
    world = make_world("semantic3d", preset, seed, number, drive)
    add_roadworks(world)
    return world


class Semantic3DLayout(StreetLayout):
    name = "semantic3d"
    version = 1
    owned: tuple[str, ...] = (*(f"{cloud}.txt" for cloud in (*TRAIN, *TEST)), *(f"{cloud}.labels" for cloud in TRAIN))
    foreign = "*.txt"
    block = 1

    def units(self, preset: str) -> list[Unit]:
        clouds = sorted(SIZES[preset].clouds, key=lambda cloud: (place_of(cloud), station_of(cloud)))
        return [Unit(cloud, 0) for cloud in clouds]

    def subsets(self, preset: str) -> dict[str, list[str]]:
        clouds = SIZES[preset].clouds
        return {
            "train": [cloud for cloud in TRAIN if cloud in clouds and cloud not in _VALIDATION],
            "val": [cloud for cloud in _VALIDATION if cloud in clouds],
            "test": [cloud for cloud in TEST if cloud in clouds],
        }

    def finished(self, out: Path, preset: str, seed: int, unit: Unit) -> bool:
        cloud, labels = _files(out, unit.group)
        return cloud.exists() and cloud.stat().st_size > 0 and (unit.group in TEST or labels.exists())

    def write(self, out: Path, preset: str, seed: int, unit: Unit) -> None:
        cloud, labels = _files(out, unit.group)
        size, thin = SIZES[preset], 2 if unit.group in TEST else 1
        world = place(preset, seed, place_of(unit.group))
        out.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            points = stack.enter_context(stack.enter_context(replacing(cloud)).open("wb"))
            classes = None
            if unit.group in TRAIN:
                classes = stack.enter_context(stack.enter_context(replacing(labels)).open("wb"))
            for values, label in scan(world, station_of(unit.group), size.rows // thin, size.columns // thin):
                points.write(text_lines(values, (3, 3, 3, 0, 0, 0, 0)))
                if classes is not None:
                    classes.write(text_lines(label.astype(np.int64)[:, None], (0,)))

    def count(self, out: Path, preset: str, seed: int, unit: Unit) -> Counts:
        if unit.group in TEST:
            return dict.fromkeys(LABELS.values(), 0)
        text = np.fromfile(_files(out, unit.group)[1], np.uint8)
        return named_counts(text[::2] - np.uint8(ord("0")), LABELS)  # a digit and a line end

    def payload(self, out: Path, preset: str, seed: int) -> Iterator[Path]:
        for unit in self.units(preset):
            cloud, labels = _files(out, unit.group)
            yield cloud
            if unit.group in TRAIN:
                yield labels


def _files(out: Path, cloud: str) -> tuple[Path, Path]:
    return out / f"{cloud}.txt", out / f"{cloud}.labels"


def scan(
    world: World, station: int, rows: int, columns: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]]:
    """The cloud of a station, sector by sector.

    Returns:
        (n, 7) int64: x, y, z in millimeters from the scanner, intensity -2048..2047, r, g, b; (n,) uint8 class.
    """
    start = station * _STATION_SECONDS
    pose = np.eye(4)
    pose[:3, 3] = world.pose(start)[:3, 3] + (0.0, 0.0, _TRIPOD)
    key = Rng(world.key, 55, station).key
    elevation = np.linspace(-62.0, 48.0, rows) * (math.pi / 180.0)
    edges = [columns * k // _SECTORS for k in range(_SECTORS + 1)]
    for sector in range(_SECTORS):
        column = np.arange(edges[sector], edges[sector + 1])
        numbers = (column[:, None] * rows + np.arange(rows)).ravel()
        azimuth = np.repeat(column * (2.0 * math.pi / columns), rows)
        directions = unit_vectors(np.tile(elevation, len(column)), azimuth)
        scene = world.scene(start + sector * _SECTOR_SECONDS)
        back = shoot(scene, pose, directions, numbers, key, nearest=1.0, noise=_NOISE, sun=world.sun)
        met = back.distance > 0.0
        points = directions[met] * back.distance[met, None]
        values = np.empty((len(points), 7), np.int64)
        values[:, :3] = np.floor(points * 1000.0 + 0.5)
        values[:, 3] = np.clip(np.floor(-1980.0 + 2600.0 * back.value[met]), -2048, 2047)
        values[:, 4:] = back.rgb[met]
        yield values, _labels(world.plan.ground, points + pose[:3, 3], back.label[met])


def _labels(ground: Ground, points: npt.NDArray[np.float64], raw: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """(n,) classes of points in the world with our raw ids; plants are high or low by their height above the ground."""
    label = _RAW[raw]
    cell = ((points[:, :2] - ground.origin[:2]) / ground.origin[2] + 0.5).astype(np.int64)
    rows, columns = ground.height.shape
    height = ground.height[np.clip(cell[:, 1], 0, rows - 1), np.clip(cell[:, 0], 0, columns - 1)]
    label[(label == _HIGH_PLANTS) & (points[:, 2] - height < _TALL) & (raw == 70)] = _LOW_PLANTS
    return label


LAYOUT: StreetLayout = Semantic3DLayout()
