"""What a captioner would have said about generated images: right in part, and wrong in known proportions.

Of the things in an image half are found (``RECALL``); of what is said to be found, 70% is there (``PRECISION``). Masks
are eroded and shifted; what erosion leaves nothing of is not found. Of the phrases of things that were found, 15% are
of another class and 15% another word for the right one: 30% differ from the class's usual name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ssl3d.data.captions.records import AnyRecord, EntityCaption, ImageCaption, to_line
from ssl3d.data.captions.rle import bounds, encode
from ssl3d.data.synthetic.output import write_file
from ssl3d.data.synthetic.rng import Rng

RECALL, PRECISION, WRONG, SYNONYM = 0.5, 0.7, 0.15, 0.15
FOLDER = "captions"
OWNED = (f"{FOLDER}/*.jsonl", f"{FOLDER}/manifest.toml", f"{FOLDER}/parts/*.jsonl")
"""Patterns of the files."""
MODEL = "generated"
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Noise:
    """``smallest``: share of the image below which a thing goes unseen; ``eroded``, ``shifted``: of the image's width,
    how much masks lose at their border (at least a pixel), and by how much they are off at most."""

    smallest: float
    eroded: float
    shifted: float


class Frame(NamedTuple):
    """``who`` (height, width) int32: thing in each pixel, 0: none; ``key``: of the draws for this image."""

    image_id: str
    who: npt.NDArray[np.int32]
    key: int


@dataclass(frozen=True)
class Speaker:
    """How the things of a scene are spoken of.

    Attributes:
        place: what an image shows as a whole, "office".
        words_of: a thing's usual name, then other words for it; None: nobody would name it.
        others_than: of a thing, the words of all classes but its own.
        every: the words of all classes.
        noise: of masks.
    """

    place: str
    words_of: Callable[[int], Sequence[str] | None]
    others_than: Callable[[int], Sequence[Sequence[str]]]
    every: Sequence[Sequence[str]]
    noise: Noise

    def spoken(self, thing: int, rng: Rng) -> str:
        """What a thing is called: by its usual name, by another, or by that of something else."""
        words = self.words_of(thing)
        assert words is not None
        at = rng.uniform()
        if at < WRONG:
            return rng.choice(self.others_than(thing))[0]
        return words[1] if at < WRONG + SYNONYM and len(words) > 1 else words[0]

    def entities(self, frame: Frame) -> list[EntityCaption]:
        """What is found in an image, and what is not there."""
        height, width = frame.who.shape
        out: list[EntityCaption] = []
        for thing, pixels in zip(*np.unique(frame.who, return_counts=True), strict=True):
            rng = Rng(frame.key, 1, int(thing))
            if thing == 0 or self.words_of(int(thing)) is None or pixels < self.noise.smallest * height * width:
                continue
            if not rng.chance(RECALL):
                continue
            mask = worn(frame.who == thing, rng, self.noise)
            if not mask.any():
                continue
            out.append(_record(frame, len(out), self.spoken(int(thing), rng), rng.uniform(0.35, 0.98), mask))
            if rng.chance((1.0 - PRECISION) / PRECISION):  # as many wrong ones as make the precision
                words = rng.choice(self.every)
                out.append(_record(frame, len(out), words[0], rng.uniform(0.3, 0.6), _nothing(height, width, rng)))
        return out

    def sentences(self, frame: Frame, phrases: Sequence[str]) -> list[ImageCaption]:
        """Two captions of the whole image, which name what was found first."""
        height, width = frame.who.shape
        some = list(dict.fromkeys(phrases))
        short = f"A {self.place}" + (f" with a {some[0]}" if some else "") + "."
        rest = ", ".join(f"a {phrase}" for phrase in some[:6])
        texts = [short, f"An image of a {self.place}" + (f" in which there is {rest}" if rest else "") + "."]
        return [ImageCaption(frame.image_id, width, height, k, text, MODEL) for k, text in enumerate(texts)]


# ---------------------------------------------------------------- files


def part_files(out: Path, scan: str) -> tuple[Path, Path]:
    """Where the captions of one scan wait for those of the others."""
    folder = out / FOLDER / "parts"
    return folder / f"{scan}.image.jsonl", folder / f"{scan}.entity.jsonl"


def written(out: Path) -> bool:
    """Whether the captions of all scans are there."""
    return all((out / FOLDER / name).exists() for name in ("image.jsonl", "entity.jsonl", "manifest.toml"))


def part_written(out: Path, scan: str) -> bool:
    """Whether those of one scan are there, by themselves or among all."""
    return written(out) or all(path.exists() for path in part_files(out, scan))


def write_part(out: Path, scan: str, speaker: Speaker, frames: Sequence[Frame]) -> None:
    images: list[ImageCaption] = []
    entities: list[EntityCaption] = []
    for frame in frames:
        found = speaker.entities(frame)
        entities += found
        images += speaker.sentences(frame, [entity.phrase for entity in found])
    groups: tuple[Sequence[AnyRecord], ...] = (images, entities)
    for path, records in zip(part_files(out, scan), groups, strict=True):
        write_file(path, "".join(to_line(record) for record in records).encode())


def join_parts(out: Path, scans: Sequence[str], dataset: str, noise: Noise) -> None:
    """``image.jsonl``, ``entity.jsonl`` and ``manifest.toml`` from the parts of all scans, which are then removed."""
    if not written(out):
        _write_joined(out, sorted(scans), dataset, noise)
    for scan in scans:
        for path in part_files(out, scan):
            path.unlink(missing_ok=True)
    folder = out / FOLDER / "parts"
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _write_joined(out: Path, scans: Sequence[str], dataset: str, noise: Noise) -> None:
    counts = []
    for k, name in enumerate(("image.jsonl", "entity.jsonl")):
        lines = [line for scan in scans for line in part_files(out, scan)[k].read_bytes().splitlines(keepends=True)]
        lines.sort(key=_image_of)  # stable: the records of an image stay in order
        counts.append(len(lines))
        write_file(out / FOLDER / name, b"".join(lines))
    rows = [
        "schema = 1",
        f'dataset = "{dataset}"',
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
        f"smallest_share_of_image = {noise.smallest}",
        f"eroded_share_of_width = {noise.eroded}",
        f"shifted_share_of_width = {noise.shifted}",
    ]
    write_file(out / FOLDER / "manifest.toml", ("\n".join(rows) + "\n").encode())


def _image_of(line: bytes) -> str:
    return str(json.loads(line)["image_id"])


# ---------------------------------------------------------------- masks


def _record(frame: Frame, index: int, phrase: str, score: float, mask: Mask) -> EntityCaption:
    height, width = mask.shape
    counts = encode(mask)
    box = bounds(counts, height)
    assert box is not None
    return EntityCaption(
        frame.image_id,
        width,
        height,
        index,
        phrase,
        round(score, 3),
        box=(float(box[0]), float(box[1]), float(box[2]), float(box[3])),
        mask=counts,
        detector=MODEL,
    )


def worn(mask: Mask, rng: Rng, noise: Noise) -> Mask:
    """The mask after erosion and a shift."""
    width = mask.shape[1]
    for _ in range(max(1, round(noise.eroded * width))):
        mask = (
            mask
            & moved(mask, 1, 0, True)
            & moved(mask, -1, 0, True)
            & moved(mask, 0, 1, True)
            & moved(mask, 0, -1, True)
        )
    off = max(1, round(noise.shifted * width))
    return moved(mask, rng.integer(-off, off), rng.integer(-off, off), False)


def moved(mask: Mask, rows: int, columns: int, fill: bool) -> Mask:
    """The mask moved down and to the right; ``fill``: what comes in from outside."""
    height, width = mask.shape
    out = np.full_like(mask, fill)
    to_rows, to_columns = slice(max(0, rows), height + min(0, rows)), slice(max(0, columns), width + min(0, columns))
    of_rows, of_columns = slice(max(0, -rows), height - max(0, rows)), slice(max(0, -columns), width - max(0, columns))
    out[to_rows, to_columns] = mask[of_rows, of_columns]
    return out


def _nothing(height: int, width: int, rng: Rng) -> Mask:
    """An ellipse anywhere, for something that is not there."""
    v, u = np.divmod(np.arange(height * width), width)
    x, y = rng.uniform(0.1, 0.9) * width, rng.uniform(0.1, 0.9) * height
    a, b = rng.uniform(0.05, 0.2) * width, rng.uniform(0.05, 0.25) * height
    return np.asarray(((u + 0.5 - x) / a) ** 2 + ((v + 0.5 - y) / b) ** 2 <= 1.0).reshape(height, width)
