"""What is in a product of ``caption``: counts, its manifest, and one file of each kind to hand on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl3d.pipeline.product import Product


@dataclass(frozen=True, slots=True)
class CaptionCounts:
    """Sums over units. ``phrases``: how often each was said."""

    images: int
    captioned: int
    with_entities: int
    captions: int
    entities: int
    boxes: int
    phrases: Counter[str]

    @property
    def membership(self) -> str:
        if not self.boxes:
            return "mask"
        return "box" if self.boxes == self.entities else "mask and box"


def count_captions(product: Product, units: Iterable[str] | None = None) -> CaptionCounts:
    """From the journal alone; of all units, or of some."""
    infos = [product.done[unit].info for unit in sorted(product.done if units is None else units)]
    names = ("images", "captioned", "with_entities", "captions", "entities", "boxes")
    sums = {name: sum(info[name] for info in infos) for name in names}
    phrases: Counter[str] = Counter()
    for info in infos:
        phrases.update(info["phrases"])
    return CaptionCounts(**sums, phrases=phrases)


def manifest_text(product: Product) -> str:
    """``manifest.toml``: what made the captions, and how many there are."""
    from importlib.metadata import version

    counts, manifest = count_captions(product), product.manifest
    params = manifest.params
    parts: dict[str, Any] = {
        "schema": 1,
        "dataset": manifest.about["dataset"],
        "producer": params["producer"],
        "membership": counts.membership,
        "tool": f"ssl3d {version('ssl3d')}",
        "images": counts.images,
        "captions": counts.captions,
        "entities": counts.entities,
    }
    lines = [f"{key} = {_toml(value)}" for key, value in parts.items()]
    if params["producer"] == "transformers":
        lines += ["", "[asked]", *(f"{key} = {_toml(value)}" for key, value in params.items() if key != "producer")]
    else:
        lines += [f"source_digest = {_toml(manifest.identity['source'])}"]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    import json

    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False)  # TOML's basic strings and numbers are JSON's


def export_captions(product: Product, folder: Path) -> list[Path]:
    """Writes ``image.jsonl``, ``entity.jsonl`` and ``manifest.toml`` of all units to a folder, to be handed on."""
    import shutil

    from ssl3d.data.atomic import replacing

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "image.jsonl", folder / "entity.jsonl", folder / "manifest.toml"]
    for path, kind in zip(paths, ("image", "entity"), strict=False):
        with replacing(path) as temporary, temporary.open("wb") as file:
            for line in _sorted_lines(product, kind):
                file.write(line)
    with replacing(paths[2]) as temporary:
        shutil.copyfile(product.folder / "manifest.toml", temporary)
    return paths


def _sorted_lines(product: Product, kind: str) -> Iterable[bytes]:
    """The lines of all units by image; those of one image are in one unit, and sorted."""
    from ssl3d.data.captions.files import LineIndex

    places: list[tuple[str, Path, int, int]] = []
    for unit in sorted(product.done):
        path = product.folder / f"{unit}.{kind}.jsonl"
        for image_id, lines in LineIndex(path, kind).places.items():
            places.append((image_id, path, lines[0][1], sum(size for _, _, size in lines)))
    for _, path, at, size in sorted(places):
        with path.open("rb") as file:
            file.seek(at)
            yield file.read(size)
