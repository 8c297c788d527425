"""What is known of the images of one unit while it is under way: a line for each finished image, on disk at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl3d.data.captions.records import AnyRecord, to_line
from ssl3d.pipeline.files import digest_value
from ssl3d.pipeline.product import JournalWriter, is_sound

Said = tuple[list[str], list[str]]
"""The lines of an image for ``image.jsonl`` and for ``entity.jsonl``."""


class ImageJournal:
    """Remembers images across kills.

    Args:
        path: its file; the folder is made.
        source: signature of what the unit is made from: with another one the journal begins anew.
    """

    def __init__(self, path: Path, source: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, Said] = {}
        lines = path.read_bytes().splitlines() if path.exists() else []
        same = bool(lines) and _read(lines[0]) == {"source": source}
        if lines and not same:
            path.unlink()
        self._writer = JournalWriter(path.parent, path.name)
        if not same:
            self._write({"source": source})
        for line in lines[1:] if same else ():
            value = _read(line)
            if value is not None:  # a line that a kill cut short is an image that is not finished
                self.done[value["image_id"]] = (value["image"], value["entity"])

    def _write(self, value: dict[str, Any]) -> None:
        text = json.dumps({**value, "check": digest_value(value)}, ensure_ascii=False, separators=(",", ":"))
        self._writer.append(text.encode() + b"\n")

    def add(self, image_id: str, images: Sequence[AnyRecord], entities: Sequence[AnyRecord]) -> None:
        """On disk when it returns."""
        said = ([to_line(record) for record in images], [to_line(record) for record in entities])
        self._write({"image_id": image_id, "image": said[0], "entity": said[1]})
        self.done[image_id] = said

    def close(self) -> None:
        self._writer.close()


def _read(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and "check" in value and is_sound(value) else None
