"""Streets in the layout of nuScenes-lidarseg: v1.0-mini with a 32-beam lidar, six cameras, labels and instances; and
v1.0-test, which has neither labels nor instances nor boxes (``nuscenes_test``).

Of its 32 classes these never occur: animal; child, construction worker, personal mobility, police officer, stroller
and wheelchair; debris and bicycle rack; bendy bus, ambulance and police car; static.other. Every evaluated class does.
As in the recordings every ray is in the file: one that nothing came back of lies within half a meter of the sensor and
counts as part of the car; ``ego_pose`` has no height.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from ssl3d.data.captions.ids import image_id
from ssl3d.data.synthetic import captions
from ssl3d.data.synthetic.camera import picture
from ssl3d.data.synthetic.captions_street import NOISE, speaker, things_seen
from ssl3d.data.synthetic.layouts.base import Counts, StreetLayout, Unit, make_world, mapping, named_counts
from ssl3d.data.synthetic.layouts.nuscenes_rig import CAMERAS, LIDAR, OWN_CAR, Mount, ego_at, make_rig, own_car
from ssl3d.data.synthetic.layouts.nuscenes_rig import sensor_pose as pose_of
from ssl3d.data.synthetic.layouts.roadworks import BARRIER, CONE, DIGGER, add_roadworks
from ssl3d.data.synthetic.output import write_file
from ssl3d.data.synthetic.presets import PRESETS
from ssl3d.data.synthetic.primitives import joined
from ssl3d.data.synthetic.raycast import make_scene
from ssl3d.data.synthetic.rays import shoot, unit_vectors
from ssl3d.data.synthetic.rng import Rng
from ssl3d.data.synthetic.traffic import MOVING, WALKING
from ssl3d.data.synthetic.world import World

RINGS = 32
SAMPLE_SECONDS = 0.5
SWEEP_SECONDS = 0.25
"""From a key frame to the sweep after it; of the recordings' nine sweeps there is one."""

CATEGORIES = {
    0: "noise",
    1: "animal",
    2: "human.pedestrian.adult",
    3: "human.pedestrian.child",
    4: "human.pedestrian.construction_worker",
    5: "human.pedestrian.personal_mobility",
    6: "human.pedestrian.police_officer",
    7: "human.pedestrian.stroller",
    8: "human.pedestrian.wheelchair",
    9: "movable_object.barrier",
    10: "movable_object.debris",
    11: "movable_object.pushable_pullable",
    12: "movable_object.trafficcone",
    13: "static_object.bicycle_rack",
    14: "vehicle.bicycle",
    15: "vehicle.bus.bendy",
    16: "vehicle.bus.rigid",
    17: "vehicle.car",
    18: "vehicle.construction",
    19: "vehicle.emergency.ambulance",
    20: "vehicle.emergency.police",
    21: "vehicle.motorcycle",
    22: "vehicle.trailer",
    23: "vehicle.truck",
    24: "flat.driveable_surface",
    25: "flat.other",
    26: "flat.sidewalk",
    27: "flat.terrain",
    28: "static.manmade",
    29: "static.other",
    30: "static.vegetation",
    31: "vehicle.ego",
}
_EGO = 31
_RAW = mapping(
    {
        **{10: 17, 11: 14, 13: 16, 15: 21, 18: 23, 20: 22, 30: 2, 31: 14, 32: 21},
        **{252: 17, 253: 14, 254: 2, 255: 21, 257: 16, 258: 23, 259: 22},
        **{40: 24, 44: 24, 60: 24, 48: 26, 49: 25, 72: 27},
        **{50: 28, 51: 28, 52: 28, 80: 28, 81: 28, 70: 30, 71: 30, 99: 11},
        **{OWN_CAR: _EGO, CONE: 12, BARRIER: 9, DIGGER: 18},
    }
)


@dataclass(frozen=True)
class Size:
    """``scenes``: name and style, in the order of the tables; ``steps``: columns of 32 rays a scan; ``image_scale``: of
    1600 x 900."""

    scenes: tuple[tuple[str, str | None], ...]
    samples: int
    steps: int
    image_scale: float


_SCENES = (
    ("scene-0061", "suburb"),
    ("scene-0103", None),
    ("scene-0553", "inner city"),
    ("scene-0655", "terrace"),
    ("scene-0757", None),
    ("scene-0796", "industrial"),
    ("scene-0916", None),
    ("scene-1077", "campus"),
    ("scene-1094", "country"),
    ("scene-1100", "highway"),
)
_TEST_SCENES = (
    ("scene-0077", "suburb"),
    ("scene-0080", None),
    ("scene-0111", "terrace"),
    ("scene-0114", "inner city"),
)
_VALIDATION = ("scene-0103", "scene-0916")


@dataclass(frozen=True)
class Release:
    """A version as it is published. ``subsets``: names of scenes, of all presets together."""

    version: str
    sizes: Mapping[str, Size]
    subsets: Mapping[str, tuple[str, ...]]
    labelled: bool = True


MINI = Release(
    "v1.0-mini",
    {
        "tiny": Size(_SCENES[:3], 3, 256, 0.08),
        "small": Size(_SCENES, 6, 540, 0.2),
        "bench": Size(_SCENES, 40, 1084, 0.25),
    },
    {"train": tuple(name for name, _ in _SCENES if name not in _VALIDATION), "val": _VALIDATION},
)
TEST = Release(
    "v1.0-test",
    {
        "tiny": Size(_TEST_SCENES[:2], 2, 256, 0.08),
        "small": Size(_TEST_SCENES, 6, 540, 0.2),
        "bench": Size(_TEST_SCENES, 40, 1084, 0.25),
    },
    {"test": tuple(name for name, _ in _TEST_SCENES)},
    labelled=False,
)


class Thing(NamedTuple):
    """An object of a scene: raw id of ours, category, and its number among those of the category (1..999, or 0)."""

    raw: int
    category: int
    number: int


class Frame(NamedTuple):
    """A recording of one sensor: ``time`` in seconds of its world; ``stamp`` in microseconds; ``token`` of its record;
    ``file`` below the root."""

    time: float
    stamp: int
    token: str
    file: str


def token(*parts: object) -> str:
    """The token of a record: 32 hexadecimal digits."""
    return hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=16).hexdigest()


def log_name(scene: str) -> str:
    number = int(scene[-4:])
    return f"n900-2018-07-24-10-{number // 60:02d}-{number % 60:02d}+0000"


def sample_stamp(scene: str, index: int) -> int:
    return 1_532_400_000_000_000 + int(scene[-4:]) * 1_000_000_000 + round(index * SAMPLE_SECONDS * 1e6)


def frame_of(preset: str, seed: int, unit: Unit, channel: str, mount: Mount, sweep: bool = False) -> Frame:
    """The record of a sensor for a sample, or of the sweep that follows it."""
    delay = mount.delay + (round(SWEEP_SECONDS * 1e6) if sweep else 0)
    stamp = sample_stamp(unit.group, unit.index) + delay
    ending = "pcd.bin" if channel == LIDAR else "jpg"
    folder = "sweeps" if sweep else "samples"
    file = f"{folder}/{channel}/{log_name(unit.group)}__{channel}__{stamp}.{ending}"
    time = unit.index * SAMPLE_SECONDS + delay / 1e6
    return Frame(time, stamp, token(preset, seed, "sample_data", channel, stamp), file)


def place(release: Release, preset: str, seed: int, scene: str) -> World:
    """The world of a scene; its name is a scene seed of its own."""
    return _place(release.sizes[preset], preset, seed, scene)


@lru_cache(maxsize=1)
def _place(size: Size, preset: str, seed: int, scene: str) -> World:
    number = int(scene[-4:])
    style = dict(size.scenes)[scene]
    drive = (size.samples * SAMPLE_SECONDS, 8.0 + 0.5 * (number % 5), PRESETS[preset].ground_cell, style)
    world = make_world("nuscenes", preset, seed, number, drive)
    add_roadworks(world)
    return world


def things(world: World) -> dict[int, Thing]:
    """The objects of a scene by our instance number."""
    raw_of = {int(k): int(v) for k, v in zip(world.static.instance, world.static.label, strict=True) if k}
    for actor in world.actors:
        raw_of[actor.instance] = WALKING if actor.kind == "walker" else MOVING[actor.kind][0]
    found: dict[int, Thing] = {}
    last: dict[int, int] = {}
    for instance in sorted(raw_of):
        category = int(_RAW[raw_of[instance]])
        last[category] = last.get(category, 0) + 1
        found[instance] = Thing(raw_of[instance], category, last[category] if last[category] < 1000 else 0)
    return found


class NuScenesLayout(StreetLayout):
    """Writes one version; what it holds is ``release``."""

    version = 2
    foreign = "samples/*"
    block = 6

    def __init__(self, name: str, release: Release) -> None:
        self.name, self.release = name, release
        labels = (
            f"lidarseg/{release.version}/*_lidarseg.bin",
            f"panoptic/{release.version}/*_panoptic.npz",
        )
        recorded = (f"{release.version}/*.json", "samples/*/n900-*", "sweeps/*/n900-*", "maps/*.png", *captions.OWNED)
        self.owned: tuple[str, ...] = (*recorded, *labels) if release.labelled else recorded

    def units(self, preset: str) -> list[Unit]:
        size = self.release.sizes[preset]
        return [Unit(scene, k) for scene, _ in size.scenes for k in range(size.samples)]

    def subsets(self, preset: str) -> dict[str, list[str]]:
        names = [scene for scene, _ in self.release.sizes[preset].scenes]
        return {subset: [name for name in names if name in members] for subset, members in self.release.subsets.items()}

    def _labels(self, lidar: Frame) -> tuple[str, ...]:
        """The files of labels and of instances of a scan, below the root; nothing where there are none."""
        version = self.release.version
        return (label_file(version, lidar.token), panoptic_file(version, lidar.token)) * self.release.labelled

    def finished(self, out: Path, preset: str, seed: int, unit: Unit) -> bool:
        rig = make_rig(0, 0.1)
        frames = {channel: frame_of(preset, seed, unit, channel, mount) for channel, mount in rig.items()}
        lidar, size = frames[LIDAR], self.release.sizes[preset]
        labels = [out / file for file in self._labels(lidar)]
        files = [*(out / frame.file for frame in frames.values()), *labels]
        if unit.index + 1 < size.samples:
            files.append(out / frame_of(preset, seed, unit, LIDAR, rig[LIDAR], sweep=True).file)
        if not all(file.exists() for file in files) or not captions.part_written(out, caption_part(unit)):
            return False
        rays = RINGS * size.steps
        return (out / lidar.file).stat().st_size == 20 * rays and all(
            file.stat().st_size == rays for file in labels[:1]
        )

    def write(self, out: Path, preset: str, seed: int, unit: Unit) -> None:
        world, size = place(self.release, preset, seed, unit.group), self.release.sizes[preset]
        rig = make_rig(world.key, size.image_scale)
        if not captions.part_written(out, caption_part(unit)):
            seen = [
                _seen(world, frame_of(preset, seed, unit, channel, rig[channel]), rig[channel]) for channel in CAMERAS
            ]
            captions.write_part(out, caption_part(unit), speaker(), seen)
        for number, channel in enumerate(CAMERAS):
            frame = frame_of(preset, seed, unit, channel, rig[channel])
            write_file(out / frame.file, _photograph(world, frame, rig[channel], Rng(world.key, 53, number).key))
        if unit.index + 1 < size.samples:
            frame = frame_of(preset, seed, unit, LIDAR, rig[LIDAR], sweep=True)
            points, _, _ = _turn(world, frame, rig[LIDAR], size.steps)
            write_file(out / frame.file, points.tobytes())
        frame = frame_of(preset, seed, unit, LIDAR, rig[LIDAR])
        points, label, instance = _turn(world, frame, rig[LIDAR], size.steps)
        contents = (label.tobytes(), _packed(_panoptic(world, label, instance)))
        for file, content in zip(self._labels(frame), contents, strict=False):
            write_file(out / file, content)
        write_file(out / frame.file, points.tobytes())

    def count(self, out: Path, preset: str, seed: int, unit: Unit) -> Counts:
        files = self._labels(frame_of(preset, seed, unit, LIDAR, make_rig(0, 0.1)[LIDAR]))
        found = np.fromfile(out / files[0], np.uint8) if files else np.zeros(0, np.uint8)
        return named_counts(found, CATEGORIES)

    def write_tables(self, out: Path, preset: str, seed: int) -> None:
        from ssl3d.data.synthetic.layouts.nuscenes_tables import write_tables

        write_tables(out, self.release, preset, seed, self.units(preset))
        captions.join_parts(out, [caption_part(unit) for unit in self.units(preset)], "nuscenes", NOISE)

    def payload(self, out: Path, preset: str, seed: int) -> Iterator[Path]:
        rig = make_rig(0, 0.1)
        for unit in self.units(preset):
            lidar = frame_of(preset, seed, unit, LIDAR, rig[LIDAR])
            yield out / lidar.file
            yield from (out / file for file in self._labels(lidar)[:1])
        yield from sorted((out / self.release.version).glob("*.json"))


def label_file(version: str, lidar_token: str) -> str:
    return f"lidarseg/{version}/{lidar_token}_lidarseg.bin"


def panoptic_file(version: str, lidar_token: str) -> str:
    return f"panoptic/{version}/{lidar_token}_panoptic.npz"


def caption_part(unit: Unit) -> str:
    return f"{unit.group}-{unit.index:06d}"


def _seen(world: World, frame: Frame, mount: Mount) -> captions.Frame:
    """What the camera has before it, where the car and everything else is at the camera's own time."""
    camera = pose_of(ego_at(world, frame.time), mount)
    who = things_seen(world.scene(frame.time), camera, np.array(mount.lens), mount.size)
    return captions.Frame(image_id(frame.file), who, Rng(world.key, 60, frame.stamp).key)


def _photograph(world: World, frame: Frame, mount: Mount, key: int) -> bytes:
    """A JPEG, taken where the car and everything else is at the camera's own time."""
    camera = pose_of(ego_at(world, frame.time), mount)
    lens = np.array(mount.lens)
    pixels = picture(world.scene(frame.time), camera, lens, mount.size, world.sun, Rng(key, frame.stamp).key)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=92)
    return buffer.getvalue()


def _turn(
    world: World, frame: Frame, mount: Mount, steps: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], npt.NDArray[np.uint16]]:
    """One turn of the lidar: (n, 5) float32 x, y, z, intensity, ring; (n,) category; (n,) our instance.

    Column after column, clockwise from behind the left side, the rings of a column from below.
    """
    ego = ego_at(world, frame.time)
    scene = world.scene(frame.time)
    scene = make_scene(joined(scene.solids, own_car(ego)), scene.ground)
    numbers = np.arange(steps * RINGS)
    ring, column = numbers % RINGS, numbers // RINGS
    elevation = (-30.67 + 4.0 / 3.0 * ring) * (math.pi / 180.0)
    azimuth = -172.0 * math.pi / 180.0 - column * (2.0 * math.pi / steps)
    directions = unit_vectors(elevation, azimuth)
    pose = pose_of(ego, mount)
    back = shoot(scene, pose, directions, numbers, Rng(world.key, 52, frame.stamp).key, nearest=0.15)
    weak = np.flatnonzero(back.distance == 0.0)  # this lidar loses less than SemanticKITTI's: a second pulse
    more = shoot(scene, pose, directions[weak], numbers[weak], Rng(world.key, 55, frame.stamp).key, nearest=0.15)
    for name in ("distance", "value", "label", "instance"):
        getattr(back, name)[weak] = getattr(more, name)
    lost = back.distance == 0.0
    distance = np.where(lost, 0.45 * np.mod(numbers * 0.6180339887498949, 1.0), back.distance)
    points = np.empty((len(numbers), 5), np.float32)
    points[:, :3] = directions * distance[:, None]
    value = np.minimum(back.value, 1.0)
    points[:, 3] = np.where(lost, np.mod(numbers, 5), np.floor(255.0 * value * value * (0.25 + 0.75 * value)))
    points[:, 4] = ring
    label = np.where(lost, np.uint8(_EGO), _RAW[back.label])
    return points, label, back.instance


def _panoptic(world: World, label: npt.NDArray[np.uint8], instance: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """(n,) uint16: category * 1000 + number of the object."""
    table = np.zeros(65536, np.uint16)
    for number, thing in things(world).items():
        table[number] = thing.number
    return label.astype(np.uint16) * np.uint16(1000) + table[instance]


def _packed(values: npt.NDArray[np.uint16]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, data=values)
    return buffer.getvalue()


LAYOUT: StreetLayout = NuScenesLayout("nuscenes", MINI)
