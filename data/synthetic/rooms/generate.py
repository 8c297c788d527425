"""``ssl3d synth rooms``: furnished rooms in the published layouts of ScanNet and S3DIS.

Every file is a function of (generator version, preset, seed, room) alone, as streets are. (Of the images this holds for
what is encoded; the bytes, and the least bits of JPEG's pixels, are up to the codecs at hand.)
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl3d.data.datasets.root import MANIFEST
from ssl3d.data.errors import UsageError
from ssl3d.data.spec import load_spec
from ssl3d.data.synthetic import captions
from ssl3d.data.synthetic.output import claim, finish, in_workers, write_file, writing, written_bytes
from ssl3d.data.synthetic.rooms import s3dis, scannet
from ssl3d.data.synthetic.rooms.captions import NOISE
from ssl3d.data.synthetic.rooms.categories import NYU40_NAMES, S3DIS_CLASSES, category_table
from ssl3d.data.synthetic.rooms.presets import PRESETS, Place, RoomsPreset, s3dis_places, scannet_places

GENERATOR_VERSION = 1
"""Raised whenever the same preset and seed give other bytes than before."""
LAYOUTS = ("scannet", "s3dis")

TABLE = "scannetv2-labels.combined.tsv"


@dataclass(frozen=True)
class RoomsSummary:
    """``points``: by class name, over all labelled rooms; ``bytes``: of all files; ``seconds``: this call took."""

    rooms: int
    points: dict[str, int]
    bytes: int
    seconds: float


def planned_rooms(preset: str, layout: str) -> int:
    """How often ``generate_rooms`` will call ``on_room``."""
    return len(_places(preset, layout))


def generate_rooms(
    out: Path,
    preset: str,
    seed: int,
    *,
    layout: str = LAYOUTS[0],
    jobs: int = 1,
    on_room: Callable[[], None] | None = None,
    overwrite: bool = False,
) -> RoomsSummary:
    """Writes the rooms of ``preset`` and ``seed`` under ``out``; finished rooms of an earlier call are kept.

    Args:
        out: becomes the root of a dataset in this layout.
        layout: scannet | s3dis.
        jobs: processes.
        on_room: called in this process after each room, also for those found finished.
        overwrite: replace what another preset, seed or generator version left in ``out``.

    Raises:
        UsageError: unknown preset or layout; ``out`` holds something else.
        DataError: a file cannot be written.
    """
    start = time.monotonic()
    places, out = _places(preset, layout), Path(out)
    write = scannet.write_scene if layout == "scannet" else s3dis.write_room
    owned, foreign = _OWNED[layout]
    identity = {
        "generator": "rooms",
        "generator_version": GENERATOR_VERSION,
        "layout": layout,
        "preset": preset,
        "seed": seed,
    }

    def complete() -> bool:
        return all(_finished(out, PRESETS[preset], place) for place in places)

    with writing(out, "rooms"):
        claim(out, identity, "rooms", owned=owned, foreign=foreign, complete=complete, overwrite=overwrite)
        for _ in in_workers(write, [(out, preset, seed, place.name) for place in places], jobs):
            if on_room is not None:
                on_room()
        if layout == "scannet":
            _write_lists(out, places)
            captions.join_parts(out, [place.name for place in places], "scannet", NOISE)
        if not (out / MANIFEST).exists():
            finish(out, {**identity, **_manifest(out, PRESETS[preset], places)})
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    total: Counter[str] = Counter()
    for counts in manifest["points_per_class"].values():
        total.update(counts)
    size = written_bytes(out)
    return RoomsSummary(len(places), dict(total), size, time.monotonic() - start)


_OWNED: dict[str, tuple[tuple[str, ...], str]] = {
    "scannet": (
        (
            *(f"scans*/scene*/{name}" for name in ("*.ply", "*.json", "*.txt", "*.sens", "color/*.jpg", "depth/*.png")),
            *(f"scans*/scene*/{name}" for name in ("pose/*.txt", "intrinsic/*.txt")),
            *("scannetv2_*.txt", TABLE, *captions.OWNED),
        ),
        "scans*/*",
    ),
    "s3dis": (("Area_[1-6]/*/*.txt", "Area_[1-6]/*/Annotations/*.txt"), "Area_*"),
}
"""By layout: patterns of all files, and of what says that a folder is someone's dataset."""


def _places(preset: str, layout: str) -> list[Place]:
    if preset not in PRESETS:
        raise UsageError(f"There is no rooms preset {preset!r}.", hint=f"Use one of: {', '.join(PRESETS)}.")
    if layout not in LAYOUTS:
        raise UsageError(f"There is no layout {layout!r} of rooms.", hint=f"Use one of: {', '.join(LAYOUTS)}.")
    return scannet_places(PRESETS[preset]) if layout == "scannet" else s3dis_places(PRESETS[preset])


def _finished(out: Path, preset: RoomsPreset, place: Place) -> bool:
    if place.name.startswith("scene"):
        return captions.written(out) and all(p.exists() for p in scannet.scene_files(out, preset, place).all())
    return s3dis.complete(s3dis.room_file(out, place))


def _write_lists(out: Path, places: list[Place]) -> None:
    """The category table, and which scan belongs to which subset; what is there already stays untouched."""
    files = {TABLE: category_table()}
    for subset in ("train", "dev", "val", "test"):
        names = [place.name for place in places if place.subset == subset]
        if names or subset != "dev":
            files[f"scannetv2_{subset}.txt"] = "".join(f"{name}\n" for name in names)
    for file, text in files.items():
        path = out / file
        if not path.exists() or path.read_bytes() != text.encode():
            write_file(path, text.encode())


def _manifest(out: Path, preset: RoomsPreset, places: list[Place]) -> dict[str, Any]:
    """What the dataset says of itself; ``scans_per_sequence`` counts by scan (ScanNet) or area (S3DIS)."""
    digest = hashlib.sha256()
    points, scans, subsets = {}, Counter[str](), dict[str, list[str]]()
    for place in places:
        for path in _payload(out, preset, place):
            digest.update(path.read_bytes())
        scans[place.name.split("/")[0]] += 1
        subsets.setdefault(place.subset, []).append(place.name)
        if place.labels:
            points[place.name] = _count(out, preset, place)
    return {
        "complete": True,
        "scans_per_sequence": dict(scans),
        "subsets": subsets,
        "rooms": {place.name: place.kind for place in places},
        "points_per_class": points,
        "sha256": digest.hexdigest(),
    }


def _payload(out: Path, preset: RoomsPreset, place: Place) -> list[Path]:
    """The files of a room whose bytes do not depend on a codec."""
    if not place.name.startswith("scene"):
        whole = s3dis.room_file(out, place)
        return [whole, *sorted((whole.parent / "Annotations").glob("*.txt"))]
    files = scannet.scene_files(out, preset, place)
    return [path for path in (files.mesh, files.labels, files.segments, files.aggregation, files.info) if path]


def _count(out: Path, preset: RoomsPreset, place: Place) -> dict[str, int]:
    if not place.name.startswith("scene"):
        found = dict.fromkeys(S3DIS_CLASSES, 0)
        for path in (s3dis.room_file(out, place).parent / "Annotations").glob("*.txt"):
            found[path.name.split("_")[0]] += path.read_bytes().count(b"\n")
        return found
    labels = scannet.scene_files(out, preset, place).labels
    raw = np.bincount(scannet.labels_of(labels.read_bytes()), minlength=41) if labels else np.zeros(41, np.int64)
    counts = {NYU40_NAMES[k]: int(raw[k]) for k in load_spec("scannet").learning_map_inv.values()}
    return {**counts, "ignored": int(raw.sum()) - sum(counts.values())}
