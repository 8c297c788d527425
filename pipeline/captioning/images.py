"""The images that a prepared dataset has, by the ids that captions know them by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ssl3d.data.captions.ids import image_id
from ssl3d.data.errors import DataError

if TYPE_CHECKING:
    from ssl3d.data.store import ShardReader
    from ssl3d.pipeline.dataset import PreparedDataset

CAMERAS = "cameras"
"""Kind of the shards that list images."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image: ``reference`` as ``Camera.image`` has it, size in pixels."""

    image_id: str
    reference: str
    width: int
    height: int


def images_of(cameras: ShardReader) -> list[ImageRef]:
    """The images of a unit, each once, by id; of a ``.sens`` stream every hundredth frame (``chosen_frames``).

    Raises:
        DataError: two images have one id.
    """
    from ssl3d.data.images import chosen_frames

    references = [str(name) for name in cameras.array("image")]
    sizes = cameras.array("size")
    found: dict[str, ImageRef] = {}
    for k in chosen_frames(references):
        name = image_id(references[k])
        first = found.setdefault(name, ImageRef(name, references[k], int(sizes[k][0]), int(sizes[k][1])))
        if first.reference != references[k]:
            raise DataError(
                f"two images would both be called '{name}' in captions",
                where={"image": first.reference, "and": references[k]},
                hint="keep one of them: their names differ in the ending alone",
            )
    return [found[name] for name in sorted(found)]


def dataset_images(dataset: PreparedDataset, units: Iterable[str] | None = None) -> dict[str, list[ImageRef]]:
    """Unit -> its images, of all units that have any."""
    dataset.product.trust((CAMERAS,))
    names = {unit: f"{unit}.{CAMERAS}.h5" for unit in (dataset.product.done if units is None else units)}
    there = [unit for unit, name in sorted(names.items()) if name in dataset.product.done[unit].files]
    content = dataset.product.content
    images = {unit: list(_images_in(dataset.product.folder / names[unit], content)) for unit in there}
    return {unit: found for unit, found in images.items() if found}


@lru_cache(maxsize=4096)
def _images_in(path: Path, content: str) -> tuple[ImageRef, ...]:
    """``content``: of the product, so that scans that were prepared again are read again."""
    from ssl3d.data.store import ShardReader

    return tuple(images_of(ShardReader(path)))
