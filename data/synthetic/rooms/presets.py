"""The sizes in which rooms are generated. Scenes and rooms have names of the published lists, each in its subset."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_LISTS = Path(__file__).parents[2] / "datasets" / "lists"
SCANNET_CYCLE = (
    *("office", "bathroom", "living room", "kitchen", "bedroom", "bathroom", "conference room", "office"),
    *("hallway", "bedroom", "kitchen", "living room", "classroom", "storage", "copy room", "office"),
)
"""Which kind of room follows which."""
S3DIS_TYPES = {
    "office": ("office",),
    "living room": ("lounge", "lobby", "openspace"),
    "conference room": ("conferenceRoom",),
    "kitchen": ("pantry",),
    "hallway": ("hallway",),
    "bathroom": ("WC",),
    "storage": ("storage",),
    "copy room": ("copyRoom",),
    "classroom": ("auditorium",),
}
"""The room types of S3DIS that stand for a kind of room."""


@dataclass(frozen=True)
class RoomsPreset:
    """``scale``: of the floor's sides.

    ScanNet: ``scans`` (train, dev, val, test); ``frames`` depth maps of ``depth_width`` columns are fused on voxels of
    ``voxel`` meters; ``images`` of them are written, with color images of ``color_width`` columns.
    S3DIS: ``rooms`` per area, seen from ``stations`` places with ``rows`` rays from the nadir to the zenith, thinned to
    one point per ``spacing`` meters.
    """

    name: str
    scale: float
    scans: tuple[int, int, int, int]
    frames: int
    depth_width: int
    voxel: float
    images: int
    color_width: int
    rooms: int
    stations: int
    rows: int
    spacing: float


PRESETS = {
    preset.name: preset
    for preset in (
        RoomsPreset("tiny", 0.85, (6, 0, 2, 1), 24, 64, 0.06, 3, 81, 3, 2, 90, 0.06),
        RoomsPreset("small", 1.0, (12, 0, 4, 2), 48, 120, 0.035, 6, 324, 4, 3, 300, 0.03),
        RoomsPreset("bench", 1.0, (24, 8, 16, 0), 90, 160, 0.025, 12, 324, 6, 3, 640, 0.017),
    )
}


@dataclass(frozen=True)
class Place:
    """A room to generate. ``name``: ``scene0000_00``, or ``Area_1/office_1``; ``number``: decides its contents."""

    name: str
    subset: str  # train | dev | val | test
    kind: str
    number: int

    @property
    def labels(self) -> bool:
        return not (self.name.startswith("scene") and self.subset == "test")


@lru_cache(maxsize=4)
def _names(file: str) -> tuple[str, ...]:
    """The names of a published list, by number."""
    names = (_LISTS / file).read_text(encoding="utf-8").split()
    return tuple(sorted(names, key=lambda name: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", name)]))


def scannet_places(preset: RoomsPreset) -> list[Place]:
    """Scans of a preset. Development scans (``dev``) have names of the training list, which they do not share."""
    train, dev, val, test = preset.scans
    out: list[Place] = []
    for subset, file, skip, count, turn in (
        ("train", "scannetv2_train.txt", 0, train, 0),
        ("dev", "scannetv2_train.txt", train, dev, 1),
        ("val", "scannetv2_val.txt", 0, val, 4),
        ("test", "scannetv2_test.txt", 0, test, 3),
    ):
        names = [name for name in _names(file) if name.endswith("_00")][skip : skip + count]
        kinds = [SCANNET_CYCLE[(turn + k) % len(SCANNET_CYCLE)] for k in range(count)]
        out += [Place(n, subset, kind, len(out) + k) for k, (n, kind) in enumerate(zip(names, kinds, strict=True))]
    return out


def s3dis_places(preset: RoomsPreset) -> list[Place]:
    """Rooms of a preset: as many in every area; Area_5 is ``test``, Area_6 ``dev``, the others ``train``."""
    out: list[Place] = []
    kinds = list(S3DIS_TYPES)
    for area in range(1, 7):
        left = [name for name in _names("s3dis_rooms.txt") if name.startswith(f"Area_{area}/")]
        chosen, turn = 0, 0 if area % 2 else 4
        while chosen < preset.rooms:
            kind = kinds[turn % len(kinds)]
            turn += 1
            name = next((n for n in left if re.sub(r"_\d+$", "", n.split("/")[1]) in S3DIS_TYPES[kind]), None)
            if name is not None:
                left.remove(name)
                subset = {5: "test", 6: "dev"}.get(area, "train")
                out.append(Place(name, subset, kind, len(out)))
                chosen += 1
    return out
