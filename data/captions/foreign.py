"""Captions in the files of other tools, as our records: CSV, COCO's JSON, index masks of the GroundedSAM demo.

They lie in memory while they are converted. Images that ``sizes`` does not know are passed on by name only: who asked
decides what an unknown image means.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.captions.ids import image_id
from ssl3d.data.captions.parse import BadRecord, parse_entity, parse_image
from ssl3d.data.captions.records import MAJOR, EntityCaption, ImageCaption
from ssl3d.data.captions.rle import encode
from ssl3d.data.errors import DataError

Size = tuple[int, int]
"""Width and height in pixels."""
MASK_FILE = "mask.json"
_INDEX_IMAGES = ("mask.png", "mask.npy")


@dataclass
class Converted:
    """Records by image; ``unknown``: images that the dataset does not have, with how many records each."""

    images: dict[str, list[ImageCaption]] = field(default_factory=dict)
    entities: dict[str, list[EntityCaption]] = field(default_factory=dict)
    unknown: Counter[str] = field(default_factory=Counter)

    def add_image(self, name: str, size: Size, **rest: Any) -> None:
        """Raises ``BadRecord``."""
        found = self.images.setdefault(name, [])
        head = {"schema": f"ssl3d.image_caption/{MAJOR}", "image_id": name, "width": size[0], "height": size[1]}
        found.append(parse_image({**head, "index": len(found), **rest}))

    def add_entity(self, name: str, size: Size, **rest: Any) -> None:
        """Raises ``BadRecord``."""
        found = self.entities.setdefault(name, [])
        head = {"schema": f"ssl3d.entity_caption/{MAJOR}", "image_id": name, "width": size[0], "height": size[1]}
        found.append(parse_entity({**head, "index": len(found), **rest}))


# ---------------------------------------------------------------- CSV


def read_csv(path: Path, sizes: Mapping[str, Size]) -> Converted:
    """Columns ``image_id`` and ``text``, in a first line of names; other columns are passed over.

    Raises:
        DataError: names the line that is wrong.
    """
    out, who = Converted(), f"import:{path.stem}"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if not {"image_id", "text"} <= set(rows.fieldnames or ()):
                raise DataError(
                    "the first line does not name the columns image_id and text",
                    where={"file": path, "line": 1, "found": ", ".join(map(str, rows.fieldnames or ()))},
                    hint="write `image_id,text` as the first line",
                )
            for row in rows:
                name = image_id((row["image_id"] or "").strip())
                if name not in sizes:
                    out.unknown[name] += 1
                    continue
                try:
                    out.add_image(name, sizes[name], text=row["text"] or "", model=who)
                except BadRecord as error:
                    where = {"file": path, "line": rows.line_num, "image": name, "field": error.key}
                    raise DataError(error.what, where=where, hint=error.hint) from None
    except UnicodeDecodeError:
        raise DataError("the file is not UTF-8", where={"file": path}, hint="save it as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"the file is not CSV: {error}", where={"file": path}) from None
    return out


# ---------------------------------------------------------------- COCO


def read_coco(path: Path, sizes: Mapping[str, Size]) -> Converted:
    """COCO's ``images``, ``annotations``, ``categories``; annotations with a ``caption`` speak of the whole image.

    ``segmentation`` is run lengths (a list, or compressed), ``bbox`` is x, y, width, height; without ``score`` it is 1.

    Raises:
        DataError: names the annotation that is wrong.
    """
    value = _load(path)
    images, annotations = _entries(path, value, "images"), _entries(path, value, "annotations")
    names = {entry.get("id"): entry for entry in images}
    categories = {entry.get("id"): entry.get("name") for entry in _entries(path, value, "categories", absent=True)}
    out, who = Converted(), f"import:{path.stem}"
    for number, entry in enumerate(annotations):
        where = {"file": path, "annotation": entry.get("id", number)}
        image = names.get(entry.get("image_id"))
        if image is None or not isinstance(image.get("file_name"), str):
            raise DataError(f"image {entry.get('image_id')} is not listed with a file_name", where=where)
        name = image_id(image["file_name"])
        if name not in sizes:
            out.unknown[name] += 1
            continue
        size = (image.get("width", sizes[name][0]), image.get("height", sizes[name][1]))
        try:
            if "caption" in entry:
                out.add_image(name, size, text=entry["caption"], model=who)
            else:
                phrase = categories.get(entry.get("category_id"))
                out.add_entity(name, size, detector=who, **_coco_entity(entry, phrase, size))
        except BadRecord as error:
            raise DataError(error.what, where={**where, "image": name, "field": error.key}, hint=error.hint) from None
    return out


def _coco_entity(entry: Mapping[str, Any], phrase: Any, size: Size) -> dict[str, Any]:
    if not isinstance(phrase, str):
        raise BadRecord(f"category {entry.get('category_id')} is not listed with a name", "category_id")
    found: dict[str, Any] = {"phrase": phrase, "score": entry.get("score", 1.0)}
    box, mask = entry.get("bbox"), entry.get("segmentation")
    if isinstance(box, list) and len(box) == 4 and all(isinstance(item, (int, float)) for item in box):
        found["box"] = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
    elif box is not None:
        raise BadRecord("'bbox' has to be x, y, width, height", "bbox")
    if isinstance(mask, dict):
        form = "coco" if isinstance(mask.get("counts"), str) else "rle_f"
        found["mask"] = {"format": form, "size": mask.get("size"), "counts": mask.get("counts")}
    elif mask:
        found["mask"] = {"format": "rle_f", "size": [size[1], size[0]], "counts": _polygons(mask, size).tolist()}
    return found


def _polygons(found: Any, size: Size) -> npt.NDArray[np.int64]:
    """Run lengths of polygons x1, y1, x2, y2, ..., as PIL fills them."""
    from PIL import Image, ImageDraw

    canvas = Image.new("1", size)
    pen = ImageDraw.Draw(canvas)
    for polygon in found if isinstance(found, list) else [found]:
        numbers = isinstance(polygon, list) and all(isinstance(item, (int, float)) for item in polygon)
        if not numbers or len(polygon) < 6 or len(polygon) % 2:
            raise BadRecord("'segmentation' is neither run lengths nor polygons of x, y pairs", "segmentation")
        pen.polygon([float(item) for item in polygon], fill=1, outline=1)
    return encode(np.asarray(canvas))


def _load(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"the file is not JSON: {error}", where={"file": path}) from None
    if not isinstance(value, dict):
        raise DataError("the file is not a JSON object with images and annotations", where={"file": path})
    return value


def _entries(path: Path, value: Mapping[str, Any], key: str, absent: bool = False) -> list[dict[str, Any]]:
    found = value.get(key, [] if absent else None)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise DataError(
            f"'{key}' is missing or no list of objects",
            where={"file": path, "field": key},
            hint="a COCO file has images, annotations and categories",
        )
    return found


# ---------------------------------------------------------------- GroundedSAM's demo


def mask_folders(folder: Path) -> Iterator[tuple[str, Path]]:
    """(id of the image, folder) of all ``<image id>/mask.json`` below ``folder``, sorted."""
    for path in sorted(folder.rglob(MASK_FILE)):
        yield path.parent.relative_to(folder).as_posix(), path.parent


def read_grounded_sam(folder: Path, sizes: Mapping[str, Size]) -> Converted:
    """Of each image a folder ``<image id>/`` with ``mask.json`` and ``mask.png`` or ``mask.npy`` (whose a pixel is).

    ``mask.json`` lists ``value``, ``label``, and for all but the background (value 0) ``logit`` and ``box``.

    Raises:
        DataError: names the file that is wrong.
    """
    out, who = Converted(), f"import:{folder.name}"
    for name, place in mask_folders(folder):
        if name not in sizes:
            out.unknown[name] += 1
            continue
        path = place / MASK_FILE
        try:
            entries = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise DataError(f"the file is not JSON: {error}", where={"file": path}) from None
        entries = entries.get("mask") if isinstance(entries, dict) else entries  # the automatic demo wraps the list
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError("the file is no list of objects with value and label", where={"file": path})
        pixels = _index_image(place, sizes[name])
        for entry in entries:
            value = entry.get("value")
            if value == 0:
                continue
            mask = {"format": "rle_f", "size": list(pixels.shape), "counts": encode(pixels == value).tolist()}
            more = {"box": entry["box"]} if entry.get("box") is not None else {}
            try:
                if not isinstance(value, int) or not (pixels == value).any():
                    raise BadRecord(f"no pixel of the mask image has the value {value}", "value")
                score = _score(entry.get("logit", 1.0))
                out.add_entity(
                    name, sizes[name], phrase=entry.get("label"), score=score, mask=mask, detector=who, **more
                )
            except BadRecord as error:
                raise DataError(error.what, where={"file": path, "field": error.key}, hint=error.hint) from None
    return out


def _score(found: Any) -> float:
    try:
        return min(1.0, max(0.0, float(found)))
    except (TypeError, ValueError):
        raise BadRecord(f"'logit' has to be a number, not {found!r}", "logit") from None


def _index_image(place: Path, size: Size) -> npt.NDArray[np.int64]:
    path = next((place / name for name in _INDEX_IMAGES if (place / name).is_file()), None)
    if path is None:
        raise DataError(
            "there is no image that says which pixel is whose",
            where={"folder": place},
            hint="save the demo's value_mask as mask.npy or one-channel mask.png; its mask.jpg is only a picture",
        )
    try:
        if path.suffix == ".npy":
            pixels = np.load(path, allow_pickle=False)
        else:
            from PIL import Image

            with Image.open(path) as image:
                pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"a mask image cannot be read: {error}", where={"file": path}) from None
    if pixels.shape != (size[1], size[0]):
        raise DataError(
            f"the mask image has the shape {pixels.shape}, the image {size[1]} x {size[0]} (height x width)",
            where={"file": path},
            hint="one channel, and exactly the size of the image",
        )
    return pixels.astype(np.int64)
