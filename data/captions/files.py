"""Caption files read by image: what is kept in memory is where the lines of each image begin."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssl3d.data.captions.parse import BadRecord, bad_line, decode_line, parse_line, read_lines
from ssl3d.data.captions.records import EntityCaption, ImageCaption
from ssl3d.data.errors import DataError

_QUICK = re.compile(rb'\{"schema":"[^"\\]*","image_id":"([^"\\]*)"')
"""How a line that we wrote begins; of others the whole object is read."""
Place = tuple[int, int, int]
"""Number of the line (from 1), first byte, bytes."""


@dataclass
class LineIndex:
    """Where the records of each image are in one file; the file is looked through when it is first asked for.

    Attributes:
        kind: ``image`` or ``entity``.

    Raises (from every method):
        DataError: the file cannot be read, or a line of it is wrong (its number is in ``where``).
    """

    path: Path
    kind: str
    _places: dict[str, list[Place]] | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "kind": self.kind, "_places": None}

    @property
    def places(self) -> dict[str, list[Place]]:
        """Image id -> its lines, in the order of the file."""
        if self._places is None:
            found: dict[str, list[Place]] = {}
            for number, at, line in read_lines(self.path):
                found.setdefault(self._id_of(number, line), []).append((number, at, len(line)))
            self._places = found
        return self._places

    def _id_of(self, number: int, line: bytes) -> str:
        if quick := _QUICK.match(line):
            return quick[1].decode("utf-8", "replace")
        try:
            name = decode_line(line).get("image_id")
            if not isinstance(name, str):
                raise BadRecord("'image_id' is missing or no text", "image_id")
        except BadRecord as error:
            raise bad_line(self.path, number, error) from None
        return name

    def read(self, image_id: str) -> list[tuple[int, Any]]:
        """(0-based line, record) of an image by index; empty when there is none."""
        places = self.places.get(image_id, [])
        if not places:
            return []
        try:
            with self.path.open("rb") as file:
                lines = []
                for number, at, size in places:
                    file.seek(at)
                    lines.append((number, file.read(size)))
        except OSError as error:
            raise DataError("captions cannot be read", where={"file": self.path, "reason": error.strerror}) from None
        records = [(number - 1, parse_line(self.path, self.kind, number, line)) for number, line in lines]
        if any(record.image_id != image_id for _, record in records):
            raise DataError("captions changed while they were read", where={"file": self.path, "image": image_id})
        return sorted(records, key=lambda item: int(item[1].index))


class CaptionFiles:
    """The captions of some images. Small, picklable, opens its files when asked.

    Args:
        image_file, entity_file: None where there is none of the kind.
    """

    def __init__(self, image_file: Path | None, entity_file: Path | None) -> None:
        self._image = None if image_file is None else LineIndex(image_file, "image")
        self._entity = None if entity_file is None else LineIndex(entity_file, "entity")

    def ids(self) -> list[str]:
        """All images with a record, sorted."""
        found = set(self._image.places if self._image else ())
        return sorted(found.union(self._entity.places if self._entity else ()))

    def images(self, image_id: str) -> list[ImageCaption]:
        """Captions of the image, by index; with ``region``, they speak of a part of it."""
        return [record for _, record in self._image.read(image_id)] if self._image else []

    def entities(self, image_id: str) -> list[EntityCaption]:
        """Entities of the image, by index."""
        return [record for _, record in self._entity.read(image_id)] if self._entity else []

    def entities_by_line(self, image_id: str) -> list[tuple[int, EntityCaption]]:
        """Entities with the 0-based line of their record in the file, by index."""
        return self._entity.read(image_id) if self._entity else []
