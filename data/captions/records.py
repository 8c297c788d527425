"""One line of a caption file as a value, and back (``parse`` reads and checks it).

``image.jsonl`` holds an ``ImageCaption`` a line, ``entity.jsonl`` an ``EntityCaption``: UTF-8, JSON objects, sorted by
image and then index. Keys that are not known here are passed over; a schema of a later major version is refused.
Coordinates are pixels of the image whose size the record states: column u to the right, row v down; boxes and regions
are half-open, ``x1 <= u < x2``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from ssl3d.data.captions.rle import Counts, bounds, box_counts

MAJOR = 1
Box = tuple[float, float, float, float]
"""x1, y1, x2, y2."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words of a caption and where they are seen."""

    text: str
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageCaption:
    """What a whole image is said to show, or a part of it.

    Attributes:
        width, height: of the image that coordinates refer to, pixels.
        index: number of the caption within the image, from 0.
        region: the pixels it speaks of; None: all.
        model: who wrote it: a model's name, ``human``, ``import:<name>``.
    """

    image_id: str
    width: int
    height: int
    index: int
    text: str
    model: str
    region: Box | None = None
    phrases: tuple[Phrase, ...] = ()
    prompt: str = ""
    revision: str = ""

    KIND: ClassVar[str] = "image"

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {**_head(self), "text": self.text}
        if self.region is not None:
            found["region"] = list(self.region)
        if self.phrases:
            found["phrases"] = [{"text": p.text, "boxes": [list(box) for box in p.boxes]} for p in self.phrases]
        found |= {"prompt": self.prompt} if self.prompt else {}
        found["model"] = self.model
        return found | ({"revision": self.revision} if self.revision else {})


@dataclass(frozen=True, slots=True, eq=False)
class EntityCaption:
    """A thing seen in an image: a phrase and the pixels it covers, by its mask or, without one, its box.

    Attributes:
        phrase: lower case, without a leading article and a trailing period.
        score: of the detector, 0..1; 1 where nobody knows.
        mask: run lengths, see ``rle``; where there is one it decides.
        mask_score: the overlap that the segmenter expects of its mask.
    """

    image_id: str
    width: int
    height: int
    index: int
    phrase: str
    score: float
    box: Box | None = None
    mask: Counts | None = None
    mask_score: float | None = None
    detector: str = ""
    segmenter: str = ""

    KIND: ClassVar[str] = "entity"

    def counts(self) -> Counts:
        """Run lengths of the pixels it covers: of the mask, or of the box."""
        if self.mask is not None:
            return self.mask
        assert self.box is not None
        return box_counts(self.box, self.height, self.width)

    def extent(self) -> Box | None:
        """The box around the pixels it covers; None when it covers none."""
        if self.mask is None:
            return self.box
        found = bounds(self.mask, self.height)
        return None if found is None else (float(found[0]), float(found[1]), float(found[2]), float(found[3]))

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {**_head(self), "phrase": self.phrase, "score": round(self.score, 4)}
        if self.box is not None:
            found["box"] = [round(value, 2) for value in self.box]
        if self.mask is not None:
            found["mask"] = {"format": "rle_f", "size": [self.height, self.width], "counts": self.mask.tolist()}
        if self.mask_score is not None:
            found["mask_score"] = round(self.mask_score, 4)
        found |= {"detector": self.detector} if self.detector else {}
        return found | ({"segmenter": self.segmenter} if self.segmenter else {})


AnyRecord = ImageCaption | EntityCaption


def _head(record: AnyRecord) -> dict[str, Any]:
    return {
        "schema": f"ssl3d.{record.KIND}_caption/{MAJOR}",
        "image_id": record.image_id,
        "width": record.width,
        "height": record.height,
        "index": record.index,
    }


def to_line(record: AnyRecord) -> str:
    """The record as a line of its file, with the line's end."""
    return json.dumps(record.to_json(), separators=(",", ":"), ensure_ascii=False) + "\n"


_ARTICLE = re.compile(r"^(a|an|the|some)\s+", re.IGNORECASE)


def clean_phrase(text: str) -> str:
    """Lower case, single spaces, no article before it, no period behind: ``" The  Parked car. " -> "parked car"``."""
    words = " ".join(text.split()).rstrip(". ").lower()
    return _ARTICLE.sub("", words)
