"""The thirteen tables of nuScenes and the two of its labels, written when all samples are.

Annotations are made again from the scenes and the written instances, so that nothing has to be remembered meanwhile.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssl3d.data.synthetic.layouts.base import Unit
from ssl3d.data.synthetic.layouts.boxes import Box, box_of
from ssl3d.data.synthetic.layouts.nuscenes import (
    CATEGORIES,
    SAMPLE_SECONDS,
    Frame,
    Release,
    Thing,
    frame_of,
    label_file,
    log_name,
    panoptic_file,
    place,
    sample_stamp,
    things,
    token,
)
from ssl3d.data.synthetic.layouts.nuscenes_rig import CHANNELS, LIDAR, Mount, ego_at, make_rig
from ssl3d.data.synthetic.output import write_file
from ssl3d.data.synthetic.rng import Rng
from ssl3d.data.synthetic.world import World

TABLES = (
    "attribute",
    "calibrated_sensor",
    "category",
    "ego_pose",
    "instance",
    "log",
    "map",
    "sample",
    "sample_annotation",
    "sample_data",
    "scene",
    "sensor",
    "visibility",
    "lidarseg",
    "panoptic",
)
_MAP = "maps/generated.png"
_VISIBILITY = {"1": "v0-40", "2": "v40-60", "3": "v60-80", "4": "v80-100"}
_ATTRIBUTES = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "pedestrian.moving",
)
_MOVING = 252
"""Our raw ids from here on are those of moving objects (below 300)."""

Row = dict[str, Any]


def write_tables(out: Path, release: Release, preset: str, seed: int, units: list[Unit]) -> None:
    """All tables, unless all are there; and the picture of a map that one of them names.

    Without labels, those of labels, instances and boxes are empty, as the publisher has them.
    """
    if not (out / _MAP).exists():
        buffer = io.BytesIO()
        Image.fromarray(np.full((16, 16), 255, np.uint8)).save(buffer, format="PNG")
        write_file(out / _MAP, buffer.getvalue())
    files = {name: out / release.version / f"{name}.json" for name in TABLES}
    if all(file.exists() for file in files.values()):
        return
    tables = _Tables(out, release, preset, seed)
    for scene, members in groupby(units, key=lambda unit: unit.group):
        tables.add_scene(scene, list(members))
    for name, file in files.items():
        write_file(file, (json.dumps(tables.rows[name], indent=0) + "\n").encode())


class _Tables:
    def __init__(self, out: Path, release: Release, preset: str, seed: int) -> None:
        self.out, self.release, self.preset, self.seed = out, release, preset, seed
        self.rows: dict[str, list[Row]] = {name: [] for name in TABLES}
        for channel in CHANNELS:
            kind = "lidar" if channel == LIDAR else "camera"
            self._add("sensor", channel, channel=channel, modality=kind)
        for index, name in CATEGORIES.items():
            self._add("category", name, name=name, description=f"Generated: {name}.", index=index)
        for name in _ATTRIBUTES:
            self._add("attribute", name, name=name, description=f"Generated: {name}.")
        for level, name in _VISIBILITY.items():
            row = {"token": level, "level": name, "description": f"judged by returns of the lidar: {name}"}
            self.rows["visibility"].append(row)
        self.rows["map"].append({"category": "semantic_prior", "token": self._token("map"), "filename": _MAP})
        self.rows["map"][0]["log_tokens"] = []

    def _token(self, *parts: object) -> str:
        return token(self.preset, self.seed, *parts)

    def _add(self, table: str, *key: object, **fields: Any) -> str:
        row = {"token": self._token(table, *key), **fields}
        self.rows[table].append(row)
        return str(row["token"])

    def add_scene(self, scene: str, units: list[Unit]) -> None:
        world = place(self.release, self.preset, self.seed, scene)
        rig = make_rig(world.key, self.release.sizes[self.preset].image_scale)
        log = self._add(
            "log",
            scene,
            logfile=log_name(scene),
            vehicle="n900",
            date_captured="2018-07-24",
            location="generated",
        )
        self.rows["map"][0]["log_tokens"].append(log)
        samples = [self._token("sample", unit.group, unit.index) for unit in units]
        self._add(
            "scene",
            scene,
            log_token=log,
            nbr_samples=len(samples),
            first_sample_token=samples[0],
            last_sample_token=samples[-1],
            name=scene,
            description=f"Generated street: {', '.join(world.plan.styles)}",
        )
        for unit, (before, mine, after) in zip(units, _linked(samples), strict=True):
            stamp = sample_stamp(scene, unit.index)
            fields = {"timestamp": stamp, "prev": before, "next": after}
            self.rows["sample"].append({"token": mine, **fields, "scene_token": self._token("scene", scene)})
        for channel, mount in rig.items():
            self._add_sensor(world, scene, channel, mount, units, samples)
        if self.release.labelled:
            self._add_annotations(world, scene, units, samples)

    def _add_sensor(
        self, world: World, scene: str, channel: str, mount: Mount, units: list[Unit], samples: list[str]
    ) -> None:
        lens = mount.lens
        calibration = self._add(
            "calibrated_sensor",
            scene,
            channel,
            sensor_token=self._token("sensor", channel),
            translation=list(mount.translation),
            rotation=list(mount.rotation),
            camera_intrinsic=[[lens[0], 0.0, lens[2]], [0.0, lens[1], lens[3]], [0.0, 0.0, 1.0]] if lens else [],
        )
        frames: list[tuple[Frame, str, bool]] = []
        for k, unit in enumerate(units):
            frames.append((frame_of(self.preset, self.seed, unit, channel, mount), samples[k], True))
            if channel == LIDAR and k + 1 < len(units):  # a sweep belongs to the sample that it leads to
                sweep = frame_of(self.preset, self.seed, unit, channel, mount, sweep=True)
                frames.append((sweep, samples[k + 1], False))
        links = _linked([frame.token for frame, _, _ in frames])
        for (frame, sample, is_key), (before, _, after) in zip(frames, links, strict=True):
            ego = ego_at(world, frame.time)
            x, y = _offset(world)
            pose = self._add(
                "ego_pose",
                frame.token,
                timestamp=frame.stamp,
                rotation=list(ego.rotation),
                translation=[ego.place[0] + x, ego.place[1] + y, 0.0],
            )
            self.rows["sample_data"].append(
                {
                    "token": frame.token,
                    "sample_token": sample,
                    "ego_pose_token": pose,
                    "calibrated_sensor_token": calibration,
                    "timestamp": frame.stamp,
                    "fileformat": "pcd" if channel == LIDAR else "jpg",
                    "is_key_frame": is_key,
                    "height": mount.size[1],
                    "width": mount.size[0],
                    "filename": frame.file,
                    "prev": before,
                    "next": after,
                }
            )
            if is_key and channel == LIDAR and self.release.labelled:
                for table, file in (("lidarseg", label_file), ("panoptic", panoptic_file)):
                    name = file(self.release.version, frame.token)
                    row = {"token": frame.token, "sample_data_token": frame.token, "filename": name}
                    self.rows[table].append(row)

    def _add_annotations(self, world: World, scene: str, units: list[Unit], samples: list[str]) -> None:
        """A box around every object of which the lidar saw a point."""
        objects = things(world)
        x, y = _offset(world)
        seen: dict[int, list[Row]] = {}
        for unit, sample in zip(units, samples, strict=True):
            lidar = frame_of(self.preset, self.seed, unit, LIDAR, make_rig(world.key, 0.1)[LIDAR])
            with np.load(self.out / panoptic_file(self.release.version, lidar.token)) as archive:
                hits = np.bincount(archive["data"], minlength=32000)
            time = unit.index * SAMPLE_SECONDS
            solids, ground = world.scene(time).solids, ego_at(world, time).place[2]
            for instance, thing in objects.items():
                points = int(hits[1000 * thing.category + thing.number])
                box = box_of(solids, instance) if points and thing.number else None
                if box is not None:
                    row = self._annotation(scene, sample, instance, thing, points)
                    row |= _geometry(box, (x, y, -ground))
                    seen.setdefault(instance, []).append(row)
        for instance, rows in seen.items():
            for row, (before, _, after) in zip(rows, _linked([row["token"] for row in rows]), strict=True):
                self.rows["sample_annotation"].append({**row, "prev": before, "next": after})
            self._add(
                "instance",
                scene,
                instance,
                category_token=self._token("category", CATEGORIES[objects[instance].category]),
                nbr_annotations=len(rows),
                first_annotation_token=rows[0]["token"],
                last_annotation_token=rows[-1]["token"],
            )

    def _annotation(self, scene: str, sample: str, instance: int, thing: Thing, points: int) -> Row:
        name = _attribute(thing)
        return {
            "token": self._token("sample_annotation", sample, instance),
            "sample_token": sample,
            "instance_token": self._token("instance", scene, instance),
            "visibility_token": str(1 + sum(points >= limit for limit in (5, 20, 60))),
            "attribute_tokens": [self._token("attribute", name)] if name else [],
            "num_lidar_pts": points,
            "num_radar_pts": 0,
        }


def _attribute(thing: Thing) -> str:
    name, moves = CATEGORIES[thing.category], _MOVING <= thing.raw < 300
    if name.startswith("human."):
        return "pedestrian.moving" if moves else "pedestrian.standing"
    if name in ("vehicle.bicycle", "vehicle.motorcycle"):
        return "cycle.with_rider" if moves else "cycle.without_rider"
    if name.startswith("vehicle."):
        return "vehicle.moving" if moves else "vehicle.parked"
    return ""


def _geometry(box: Box, shift: tuple[float, float, float]) -> Row:
    """Size is width, length, height."""
    c, s = box.turn
    w = math.sqrt(max(0.0, 0.5 * (1.0 + c)))
    z = s / (2.0 * w) if w > 1e-6 else 1.0
    return {
        "translation": [a + b for a, b in zip(box.center, shift, strict=True)],
        "size": [box.size[1], box.size[0], box.size[2]],
        "rotation": [w, 0.0, 0.0, z],
    }


def _offset(world: World) -> tuple[float, float]:
    """Where the world begins on the map of the town."""
    rng = Rng(world.key, 89)
    return float(rng.integer(300, 1600)), float(rng.integer(500, 1900))


def _linked(tokens: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """(previous, this, next); empty where there is none."""
    row = ["", *tokens, ""]
    return zip(row, row[1:], row[2:], strict=False)
