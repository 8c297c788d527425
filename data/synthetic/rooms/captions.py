"""What a captioner would have said about generated images: right in part, and wrong in known proportions.

Of the things in an image half are found (``RECALL``); of what is said to be found, 70% is there (``PRECISION``). Masks
are eroded and shifted. Of the phrases of things that were found, 15% are of another class and 15% another word for the
right one: 30% differ from the class's usual name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ssl3d.data.captions.rle import encode
from ssl3d.data.synthetic.output import write_file
from ssl3d.data.synthetic.rng import Rng
from ssl3d.data.synthetic.rooms.categories import CATEGORIES, INDEX
from ssl3d.data.synthetic.rooms.room import Room

RECALL, PRECISION, WRONG, SYNONYM = 0.5, 0.7, 0.15, 0.15
SMALLEST = 0.002
"""Share of the image below which a thing goes unseen."""
_ERODED, _SHIFTED = 0.008, 0.015
"""Of the image's width: how much masks lose at their border, and by how much they are off at most."""
FOLDER = "captions"
MODEL = "generated"


class Frame(NamedTuple):
    """``who`` (height, width) int32: instance in each pixel; ``key``: of the draws for this image."""

    image_id: str
    who: npt.NDArray[np.int32]
    key: int


def part_files(out: Path, scan: str) -> tuple[Path, Path]:
    """Where the captions of one scan wait for those of the others."""
    folder = out / FOLDER / "parts"
    return folder / f"{scan}.image.jsonl", folder / f"{scan}.entity.jsonl"


def written(out: Path) -> bool:
    return all((out / FOLDER / name).exists() for name in ("image.jsonl", "entity.jsonl", "manifest.toml"))


def write_part(out: Path, scan: str, room: Room, frames: list[Frame]) -> None:
    images: list[dict[str, Any]] = []
    entities: list[dict[str, Any]] = []
    for frame in frames:
        found = _entities(room, frame)
        entities += found
        images += _sentences(room, frame, [str(entity["phrase"]) for entity in found])
    for path, records in zip(part_files(out, scan), (images, entities), strict=True):
        lines = [json.dumps(record, separators=(",", ":")) + "\n" for record in records]
        write_file(path, "".join(lines).encode())


def join_parts(out: Path, scans: list[str]) -> None:
    """``image.jsonl``, ``entity.jsonl`` and ``manifest.toml`` from the parts of all scans, which are then removed."""
    if not written(out):
        _write_joined(out, sorted(scans))
    for scan in scans:
        for path in part_files(out, scan):
            path.unlink(missing_ok=True)
    folder = out / FOLDER / "parts"
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _write_joined(out: Path, scans: list[str]) -> None:
    counts = []
    for k, name in enumerate(("image.jsonl", "entity.jsonl")):
        content = b"".join(part_files(out, scan)[k].read_bytes() for scan in scans)
        counts.append(content.count(b"\n"))
        write_file(out / FOLDER / name, content)
    lines = [
        "schema = 1",
        'dataset = "scannet"',
        f'model = "{MODEL}"',
        'membership = "mask"',
        f"images = {counts[0]}",
        f"entities = {counts[1]}",
        "",
        "[noise]",
        f"entity_recall = {RECALL}",
        f"entity_precision = {PRECISION}",
        f"wrong_phrases = {WRONG}",
        f"synonymous_phrases = {SYNONYM}",
        f"smallest_share_of_image = {SMALLEST}",
        f"eroded_share_of_width = {_ERODED}",
        f"shifted_share_of_width = {_SHIFTED}",
    ]
    write_file(out / FOLDER / "manifest.toml", ("\n".join(lines) + "\n").encode())


def _entities(room: Room, frame: Frame) -> list[dict[str, Any]]:
    height, width = frame.who.shape
    out: list[dict[str, Any]] = []
    for instance, pixels in zip(*np.unique(frame.who, return_counts=True), strict=True):
        rng = Rng(frame.key, 1, int(instance))
        if instance == 0 or pixels < SMALLEST * height * width or not rng.chance(RECALL):
            continue
        mask = worn(frame.who == instance, rng)
        if mask.any():
            out.append(_record(frame, len(out), spoken(room.names[instance], rng), rng.uniform(0.35, 0.98), mask))
        if rng.chance((1.0 - PRECISION) / PRECISION):  # as many wrong ones as make the precision
            words = rng.choice(CATEGORIES).words
            out.append(_record(frame, len(out), words[0], rng.uniform(0.3, 0.6), _nothing(height, width, rng)))
    return out


def _record(frame: Frame, index: int, phrase: str, score: float, mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]
    return {
        "schema": "ssl3d.entity_caption/1",
        "image_id": frame.image_id,
        "width": width,
        "height": height,
        "index": index,
        "phrase": phrase,
        "score": round(score, 3),
        "box": box,
        "mask": {"format": "rle_f", "size": [height, width], "counts": encode(mask).tolist()},
        "detector": MODEL,
    }


def _sentences(room: Room, frame: Frame, phrases: list[str]) -> list[dict[str, Any]]:
    """Two captions of the whole image, which name what was found first."""
    height, width = frame.who.shape
    some = list(dict.fromkeys(phrases))
    short = f"A {room.kind}" + (f" with a {some[0]}" if some else "") + "."
    rest = ", ".join(f"a {phrase}" for phrase in some[:6])
    texts = [short, f"An image of a {room.kind}" + (f" in which there is {rest}" if rest else "") + "."]
    return [
        {
            "schema": "ssl3d.image_caption/1",
            "image_id": frame.image_id,
            "width": width,
            "height": height,
            "index": k,
            "text": text,
            "model": MODEL,
        }
        for k, text in enumerate(texts)
    ]


def spoken(name: str, rng: Rng) -> str:
    """What a thing of category ``name`` is called: by its usual name, by another, or by that of something else."""
    words = CATEGORIES[INDEX[name]].words
    at = rng.uniform()
    if at < WRONG:
        others = [c for c in CATEGORIES if c.nyu40 != CATEGORIES[INDEX[name]].nyu40]
        return rng.choice(others).words[0]
    return words[1] if at < WRONG + SYNONYM and len(words) > 1 else words[0]


def worn(mask: npt.NDArray[np.bool_], rng: Rng) -> npt.NDArray[np.bool_]:
    """The mask after erosion and a shift."""
    width = mask.shape[1]
    for _ in range(max(1, round(_ERODED * width))):
        mask = (
            mask
            & moved(mask, 1, 0, True)
            & moved(mask, -1, 0, True)
            & moved(mask, 0, 1, True)
            & moved(mask, 0, -1, True)
        )
    off = max(1, round(_SHIFTED * width))
    return moved(mask, rng.integer(-off, off), rng.integer(-off, off), False)


def moved(mask: npt.NDArray[np.bool_], rows: int, columns: int, fill: bool) -> npt.NDArray[np.bool_]:
    """The mask moved down and to the right; ``fill``: what comes in from outside."""
    height, width = mask.shape
    out = np.full_like(mask, fill)
    to_rows, to_columns = slice(max(0, rows), height + min(0, rows)), slice(max(0, columns), width + min(0, columns))
    of_rows, of_columns = slice(max(0, -rows), height - max(0, rows)), slice(max(0, -columns), width - max(0, columns))
    out[to_rows, to_columns] = mask[of_rows, of_columns]
    return out


def _nothing(height: int, width: int, rng: Rng) -> npt.NDArray[np.bool_]:
    """An ellipse anywhere, for something that is not there."""
    v, u = np.divmod(np.arange(height * width), width)
    x, y = rng.uniform(0.1, 0.9) * width, rng.uniform(0.1, 0.9) * height
    a, b = rng.uniform(0.05, 0.2) * width, rng.uniform(0.05, 0.25) * height
    return np.asarray(((u + 0.5 - x) / a) ** 2 + ((v + 0.5 - y) / b) ** 2 <= 1.0).reshape(height, width)
