"""Where imported captions come from: our own JSON Lines, or a file of another tool."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import xxhash

from ssl3d.data.captions.files import CaptionFiles
from ssl3d.data.captions.foreign import Converted, Size, mask_folders, read_coco, read_csv, read_grounded_sam
from ssl3d.data.captions.parse import parse_line, read_lines
from ssl3d.data.captions.records import AnyRecord, EntityCaption, ImageCaption
from ssl3d.data.errors import DataError, Ssl3dError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Form = Literal["jsonl", "csv", "coco", "grounded-sam"]
IMAGE_FILE, ENTITY_FILE, MANIFEST_FILE = "image.jsonl", "entity.jsonl", "manifest.toml"
FORMS = (
    "a folder with image.jsonl, entity.jsonl, or both; one of these files; a .csv with the columns image_id and text; "
    "a COCO .json; or a folder with <image id>/mask.json and mask.png as GroundedSAM's demo makes them"
)


@dataclass(frozen=True)
class Found:
    """A record of a source and where it stands, or what is wrong there."""

    where: Mapping[str, object]
    record: AnyRecord | None = None
    error: Ssl3dError | None = None


@dataclass
class CaptionSource:
    """Captions made elsewhere. Use ``open_source``.

    Attributes:
        files: of the form jsonl: (image file or None, entity file or None).
        sizes: id -> size of the images of the dataset, which forms without sizes need.
    """

    path: Path
    form: Form
    files: tuple[Path | None, Path | None]
    sizes: Mapping[str, Size]

    @cached_property
    def _lines(self) -> CaptionFiles:
        return CaptionFiles(*self.files)

    @cached_property
    def _converted(self) -> Converted:
        read = {"csv": read_csv, "coco": read_coco, "grounded-sam": read_grounded_sam}[self.form]
        return read(self.path, self.sizes)

    def images(self, image_id: str) -> list[ImageCaption]:
        """DataError when the source is damaged, here and below."""
        return self._lines.images(image_id) if self.form == "jsonl" else self._converted.images.get(image_id, [])

    def entities(self, image_id: str) -> list[EntityCaption]:
        return self._lines.entities(image_id) if self.form == "jsonl" else self._converted.entities.get(image_id, [])

    def unknown(self) -> Mapping[str, int]:
        """Images that ``sizes`` does not have -> records, as far as records were converted."""
        return self._converted.unknown if "_converted" in self.__dict__ else {}

    def records(self) -> Iterator[Found]:
        """Every record in its order; a bad line is told and passed over."""
        if self.form != "jsonl":
            try:
                every = self._converted
            except Ssl3dError as error:
                yield Found(error.where, error=error)
                return
            for group in (every.images, every.entities):
                yield from (Found({"file": self.path}, record) for records in group.values() for record in records)
            return
        for kind, path in zip(("image", "entity"), self.files, strict=True):
            if path is not None:
                yield from _read(path, kind)

    def digest(self) -> str:
        """Of the bytes of all its files, hexadecimal."""
        state = xxhash.xxh3_128()
        for path in self._every_file():
            state.update(path.name.encode())
            with path.open("rb", buffering=0) as file:
                while block := file.read(1 << 20):
                    state.update(block)
        return state.hexdigest()

    def _every_file(self) -> list[Path]:
        if self.form == "jsonl":
            return [path for path in self.files if path is not None]
        if self.form == "grounded-sam":
            return sorted(path for _, place in mask_folders(self.path) for path in place.iterdir() if path.is_file())
        return [self.path]

    def manifest(self) -> dict[str, Any]:
        """What ``manifest.toml`` beside the files says; empty where there is none."""
        path = (self.path if self.path.is_dir() else self.path.parent) / MANIFEST_FILE
        if not path.is_file():
            return {}
        try:
            return tomllib.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise DataError(f"the manifest of captions cannot be read: {error}", where={"file": path}) from None


def _read(path: Path, kind: str) -> Iterator[Found]:
    for number, _, line in read_lines(path):
        where = {"file": path, "line": number}
        try:
            yield Found(where, parse_line(path, kind, number, line))
        except DataError as error:
            yield Found(where, error=error)


def open_source(path: Path, sizes: Mapping[str, Size]) -> CaptionSource:
    """The captions at ``path``, whatever their form; nothing is read but the first line of a single ``.jsonl``.

    Raises:
        UsageError: there is nothing that could be captions.
    """
    path = path.expanduser().absolute()
    none = (None, None)
    if path.is_dir():
        image, entity = (path / name if (path / name).is_file() else None for name in (IMAGE_FILE, ENTITY_FILE))
        if image or entity:
            return CaptionSource(path, "jsonl", (image, entity), sizes)
        if next(mask_folders(path), None) is not None:
            return CaptionSource(path, "grounded-sam", none, sizes)
        raise UsageError("this folder holds no captions", where={"folder": path}, hint=f"--from takes {FORMS}")
    if not path.is_file():
        raise UsageError("there is no such file", where={"file": path}, hint=f"--from takes {FORMS}")
    if path.suffix == ".jsonl":
        with path.open("rb") as file:
            entity_first = b"entity_caption" in file.readline()
        return CaptionSource(path, "jsonl", (None, path) if entity_first else (path, None), sizes)
    forms: dict[str, Form] = {".csv": "csv", ".json": "coco"}
    if path.suffix.lower() not in forms:
        raise UsageError("captions in files of this kind are not read", where={"file": path}, hint=f"take {FORMS}")
    return CaptionSource(path, forms[path.suffix.lower()], none, sizes)
