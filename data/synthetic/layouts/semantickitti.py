"""Streets in SemanticKITTI's layout: the files of ``frames.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ssl3d.data.synthetic import captions
from ssl3d.data.synthetic.frames import (
    MAX_LABEL,
    FrameFiles,
    caption_part,
    drive_of,
    frame_files,
    write_captions,
    write_frame,
    write_tables,
)
from ssl3d.data.synthetic.layouts.base import Counts, StreetLayout, Unit
from ssl3d.data.synthetic.presets import PRESETS

_CLASSES: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("car", (10, 252)),
    ("bicycle", (11,)),
    ("motorcycle", (15,)),
    ("truck", (18, 258)),
    ("other-vehicle", (13, 16, 20, 256, 257, 259)),
    ("person", (30, 254)),
    ("bicyclist", (31, 253)),
    ("motorcyclist", (32, 255)),
    ("road", (40, 60)),
    ("parking", (44,)),
    ("sidewalk", (48,)),
    ("other-ground", (49,)),
    ("building", (50,)),
    ("fence", (51,)),
    ("vegetation", (70,)),
    ("trunk", (71,)),
    ("terrain", (72,)),
    ("pole", (80,)),
    ("traffic-sign", (81,)),
    ("unlabeled", (0, 1, 52, 99)),
)


class SemanticKittiLayout(StreetLayout):
    name = "semantickitti"
    version = 1
    owned: tuple[str, ...] = (
        *(
            f"sequences/[0-9][0-9]/{pattern}"
            for pattern in ("velodyne/*.bin", "labels/*.label", "image_2/*.png", "calib.txt", "poses.txt", "times.txt")
        ),
        *captions.OWNED,
    )
    foreign = "sequences/*"
    block = 10

    def units(self, preset: str) -> list[Unit]:
        return [Unit(drive.name, frame) for drive in PRESETS[preset].sequences for frame in range(drive.scans)]

    def subsets(self, preset: str) -> dict[str, list[str]]:
        subsets: dict[str, list[str]] = {}
        for drive in PRESETS[preset].sequences:
            subsets.setdefault(drive.subset, []).append(drive.name)
        return subsets

    def _files(self, out: Path, preset: str, unit: Unit) -> FrameFiles:
        return frame_files(out, PRESETS[preset], drive_of(preset, unit.group), unit.index)

    def finished(self, out: Path, preset: str, seed: int, unit: Unit) -> bool:
        files = self._files(out, preset, unit)
        said = not files.captioned or captions.part_written(out, caption_part(unit.group, unit.index))
        return said and files.finished()

    def write(self, out: Path, preset: str, seed: int, unit: Unit) -> None:
        write_frame(out, preset, seed, unit.group, unit.index)

    def count(self, out: Path, preset: str, seed: int, unit: Unit) -> Counts:
        label = self._files(out, preset, unit).label
        raw = np.zeros(0, np.uint32) if label is None else np.fromfile(label, "<u4") & 0xFFFF
        found = np.bincount(raw, minlength=MAX_LABEL)
        return {name: int(sum(found[k] for k in ids)) for name, ids in _CLASSES}

    def write_group(self, out: Path, preset: str, seed: int, group: str) -> None:
        write_tables(out, preset, seed, group)

    def write_tables(self, out: Path, preset: str, seed: int) -> None:
        write_captions(out, preset)

    def payload(self, out: Path, preset: str, seed: int) -> Iterator[Path]:
        for unit in self.units(preset):
            files = self._files(out, preset, unit)
            yield files.scan
            if files.label is not None:
                yield files.label


LAYOUT: StreetLayout = SemanticKittiLayout()
