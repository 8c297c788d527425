"""Lines of caption files read and checked: every error names the file, the line and the key."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from ssl3d.data.captions.ids import problem_of_id
from ssl3d.data.captions.records import MAJOR, Box, EntityCaption, ImageCaption, Phrase, clean_phrase
from ssl3d.data.captions.rle import Counts, from_compressed
from ssl3d.data.errors import DataError

Record = TypeVar("Record", ImageCaption, EntityCaption)
LARGEST_SIDE = 32_767
"""Pixels: pairs of points and pixels are stored in 16 bits."""


class BadRecord(ValueError):  # noqa: N818  caught by who knows the file and line
    """What is wrong with a record. ``key``: of it; ``hint``: what to do."""

    def __init__(self, what: str, key: str = "", hint: str | None = None) -> None:
        super().__init__(what)
        self.what, self.key, self.hint = what, key, hint


class _Fields:
    """Takes typed values out of a JSON object."""

    def __init__(self, value: Mapping[str, Any]) -> None:
        self.value = value

    def text(self, key: str, *, required: bool = False) -> str:
        found = self.value.get(key)
        if found is None and not required:
            return ""
        if found is None:
            raise BadRecord(f"'{key}' is missing", key)
        if not isinstance(found, str):
            raise BadRecord(f"'{key}' has to be text, not {_shown(found)}", key)
        return found

    def whole(self, key: str, low: int, high: int) -> int:
        found = self.value.get(key)
        if found is None:
            raise BadRecord(f"'{key}' is missing", key)
        if isinstance(found, bool) or not isinstance(found, int):
            raise BadRecord(f"'{key}' has to be a whole number, not {_shown(found)}", key)
        if not low <= found <= high:
            raise BadRecord(f"'{key}' is {found}, not within {low} and {high}", key)
        return found

    def share(self, key: str, *, required: bool = False) -> float | None:
        found = self.value.get(key)
        if found is None:
            if required:
                raise BadRecord(f"'{key}' is missing", key, hint="1.0 where the score is not known")
            return None
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found <= 1:
            raise BadRecord(f"'{key}' has to be a number from 0 to 1, not {_shown(found)}", key)
        return float(found)

    def box(self, key: str, width: int, height: int) -> Box | None:
        found = self.value.get(key)
        return None if found is None else parse_box(found, width, height, key)


def parse_box(found: Any, width: int, height: int, key: str) -> Box:
    """x1, y1, x2, y2 with a part inside the image. Raises ``BadRecord``."""
    numbers = isinstance(found, (list, tuple)) and all(
        isinstance(item, (int, float)) and not isinstance(item, bool) and math.isfinite(item) for item in found
    )
    if not numbers or len(found) != 4:
        raise BadRecord(f"'{key}' has to be four numbers x1, y1, x2, y2, not {_shown(found)}", key)
    x1, y1, x2, y2 = (float(item) for item in found)
    if not (x1 < x2 and y1 < y2):
        raise BadRecord(f"'{key}' is empty: {_shown(found)}", key, hint="boxes are x1, y1, x2, y2 with x1 < x2")
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        raise BadRecord(f"'{key}' lies outside of the image of {width} x {height}: {_shown(found)}", key)
    return x1, y1, x2, y2


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def parse_mask(found: Any, width: int, height: int) -> Counts:
    """Run lengths of a mask as JSON has it: ``rle_f``, or COCO's compressed text. Raises ``BadRecord``."""
    if not isinstance(found, dict):
        raise BadRecord(f"'mask' has to be an object, not {_shown(found)}", "mask")
    form, counts = found.get("format", "coco"), found.get("counts")
    if form not in ("rle_f", "coco"):
        raise BadRecord(f"masks in the format {_shown(form)} are not read", "mask.format", hint="use rle_f or coco")
    if found.get("size") != [height, width]:
        raise BadRecord(
            f"the mask has the size {_shown(found.get('size'))}, the image {height} x {width} (height x width)",
            "mask.size",
            hint="masks have exactly the size of their image",
        )
    values = _counts(counts)
    if len(values) and int(values.min()) < 0:
        raise BadRecord("a run of the mask has a negative length", "mask.counts")
    if int(values.sum()) != width * height:
        raise BadRecord(
            f"the runs of the mask add up to {int(values.sum())} pixels, the image has {width * height}", "mask.counts"
        )
    return values


def _counts(found: Any) -> Counts:
    if isinstance(found, str):
        try:
            return from_compressed(found)
        except ValueError as error:
            raise BadRecord(f"the compressed counts of the mask are damaged: {error}", "mask.counts") from None
    try:
        values = np.array(found)
    except (ValueError, OverflowError):  # lists of several lengths
        values = np.zeros(0)
    if values.ndim != 1 or not len(values) or values.dtype.kind not in "iu":
        raise BadRecord(f"the counts of the mask are no list of whole numbers: {_shown(found)}", "mask.counts")
    return values.astype(np.int64)


_SCHEMA = re.compile(r"ssl3d\.(image|entity)_caption/(\d+)(\.\d+)*")


def _check_schema(fields: _Fields, kind: str) -> None:
    name = fields.text("schema", required=True)
    parts = _SCHEMA.fullmatch(name)
    if parts is None:
        raise BadRecord(f"'{name}' is no schema of captions", "schema", hint=f"write ssl3d.{kind}_caption/{MAJOR}")
    if parts[1] != kind:
        raise BadRecord(
            f"this is an {parts[1]} record in a file of {kind} records",
            "schema",
            hint="image captions belong into image.jsonl, entities into entity.jsonl",
        )
    if int(parts[2]) != MAJOR:
        raise BadRecord(
            f"the record has schema version {parts[2]}, this ssl3d reads {MAJOR}",
            "schema",
            hint="it was written by a newer ssl3d: pip install -U ssl3d",
        )


def _parse_head(fields: _Fields, kind: str) -> tuple[str, int, int, int]:
    _check_schema(fields, kind)
    name = fields.text("image_id", required=True)
    if (problem := problem_of_id(name)) is not None:
        raise BadRecord(f"the image id '{name}' {problem}", "image_id")
    width, height = fields.whole("width", 1, LARGEST_SIDE), fields.whole("height", 1, LARGEST_SIDE)
    return name, width, height, fields.whole("index", 0, 1 << 30)


def parse_image(value: Mapping[str, Any]) -> ImageCaption:
    """A record of ``image.jsonl``. Raises ``BadRecord``."""
    fields = _Fields(value)
    name, width, height, index = _parse_head(fields, "image")
    text = " ".join(fields.text("text", required=True).split())
    if not text:
        raise BadRecord("'text' is empty", "text", hint="an image without a caption has no line")
    return ImageCaption(
        name,
        width,
        height,
        index,
        text,
        model=fields.text("model", required=True) or "unknown",
        region=fields.box("region", width, height),
        phrases=_parse_phrases(value.get("phrases"), width, height),
        prompt=fields.text("prompt"),
        revision=fields.text("revision"),
    )


def _parse_phrases(found: Any, width: int, height: int) -> tuple[Phrase, ...]:
    if found is None:
        return ()
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise BadRecord(f"'phrases' has to be a list of objects, not {_shown(found)}", "phrases")
    phrases = []
    for item in found:
        boxes = item.get("boxes", [])
        if not isinstance(item.get("text"), str) or not isinstance(boxes, list):
            raise BadRecord("an entry of 'phrases' has no text, or no list of boxes", "phrases")
        phrases.append(Phrase(item["text"], tuple(parse_box(box, width, height, "phrases.boxes") for box in boxes)))
    return tuple(phrases)


def parse_entity(value: Mapping[str, Any]) -> EntityCaption:
    """A record of ``entity.jsonl``. Raises ``BadRecord``."""
    fields = _Fields(value)
    name, width, height, index = _parse_head(fields, "entity")
    phrase = clean_phrase(fields.text("phrase", required=True))
    if not phrase:
        raise BadRecord("'phrase' is empty", "phrase")
    score = fields.share("score", required=True)
    assert score is not None
    box, mask = fields.box("box", width, height), value.get("mask")
    if box is None and mask is None:
        raise BadRecord("there is neither 'box' nor 'mask'", "mask", hint="give the pixels that the phrase covers")
    return EntityCaption(
        name,
        width,
        height,
        index,
        phrase,
        score,
        box,
        None if mask is None else parse_mask(mask, width, height),
        fields.share("mask_score"),
        fields.text("detector"),
        fields.text("segmenter"),
    )


PARSERS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {"image": parse_image, "entity": parse_entity}


@dataclass(frozen=True, slots=True)
class Line(Generic[Record]):
    """A record, the number of its line (from 1), and the byte it begins at."""

    record: Record
    number: int
    at: int


def decode_line(line: bytes) -> dict[str, Any]:
    """The JSON object of a line. Raises ``BadRecord``."""
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise BadRecord("the line is not UTF-8", hint="save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        if not line.strip():
            raise BadRecord("the line is empty", hint="one JSON object a line, and no empty lines") from None
        if line.startswith(b"\xef\xbb\xbf"):
            raise BadRecord("the file begins with a byte order mark", hint="save it as UTF-8 without one") from None
        cut = "" if line.endswith(b"\n") else "; the file was cut, or its writer was interrupted"
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise BadRecord(f"the line is not JSON ({reason}){cut}") from None
    if not isinstance(value, dict):
        raise BadRecord(f"the line is not a JSON object but {_shown(value)}")
    return value


def bad_line(path: Path, number: int, error: BadRecord, image: str = "") -> DataError:
    """The error to show for a line (from 1) of a file."""
    where: dict[str, object] = {"file": path, "line": number}
    where |= {"image": image} if image else {}
    where |= {"field": error.key} if error.key else {}
    return DataError(error.what, where=where, hint=error.hint or "correct this line, or make the file again")


def parse_line(path: Path, kind: str, number: int, line: bytes) -> Any:
    """The record of a line. DataError names the file, the line, the image and the key."""
    name = ""
    try:
        value = decode_line(line)
        name = str(value.get("image_id", ""))
        return PARSERS[kind](value)
    except BadRecord as error:
        raise bad_line(path, number, error, name) from None


def read_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number (from 1), first byte and content of each line. DataError when the file cannot be read."""
    try:
        with path.open("rb") as file:
            at = 0
            for number, line in enumerate(file, start=1):
                yield number, at, line
                at += len(line)
    except OSError as error:
        what = (
            "there is no such file of captions" if isinstance(error, FileNotFoundError) else "captions cannot be read"
        )
        raise DataError(what, where={"file": path, "reason": error.strerror}) from None


def read_images(path: Path) -> Iterator[Line[ImageCaption]]:
    """All records of an ``image.jsonl``. DataError names the line that is wrong."""
    for number, at, line in read_lines(path):
        yield Line(parse_line(path, "image", number, line), number, at)


def read_entities(path: Path) -> Iterator[Line[EntityCaption]]:
    """All records of an ``entity.jsonl``. DataError names the line that is wrong."""
    for number, at, line in read_lines(path):
        yield Line(parse_line(path, "entity", number, line), number, at)
