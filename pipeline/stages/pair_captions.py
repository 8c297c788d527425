"""What captions say about pairs: the files of the caption stage, read by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.captions.files import LineIndex
from ssl3d.data.captions.ids import image_id
from ssl3d.data.captions.membership import captions_at, entity_at
from ssl3d.data.datasets.source import Camera
from ssl3d.data.errors import DataError
from ssl3d.data.pairs import Pairs

if TYPE_CHECKING:
    from ssl3d.pipeline.dataset import PreparedDataset
    from ssl3d.pipeline.pairs import ScanPairs
    from ssl3d.pipeline.product import Product

STAGE = "caption"


@dataclass(frozen=True, slots=True)
class Captioned:
    """Of the pairs of one scan.

    Attributes:
        entity: (P,) int32, 0-based line of the entity that has the pixel, -1 without one.
        image, line, region: (M,) int16, (M,) int32, (M, 4) float32 of the image-level captions: place of the image,
            0-based line, the pixels it speaks of.
        points: with a caption; entity_points: with an entity.
    """

    entity: npt.NDArray[np.int32]
    image: npt.NDArray[np.int16]
    line: npt.NDArray[np.int32]
    region: npt.NDArray[np.float32]
    points: int
    entity_points: int


class CaptionLines:
    """The two files of a unit; either may be missing. Made once per process and file: their indices are kept."""

    def __init__(self, folder: Path) -> None:
        self._image, self._entity = (_index(folder / f"{kind}.jsonl", kind) for kind in ("image", "entity"))

    def images(self, name: str) -> list[tuple[int, Any]]:
        """(0-based line, record) of an image by index."""
        return self._image.read(name) if self._image else []

    def entities(self, name: str) -> list[tuple[int, Any]]:
        return self._entity.read(name) if self._entity else []

    def unknown(self, known: set[str]) -> list[str]:
        """Images with a record that are not ``known``, sorted."""
        names = [name for index in (self._image, self._entity) if index for name in index.places]
        return sorted(set(names) - known)

    def of_pairs(self, pairs: Pairs, cameras: Sequence[Camera]) -> Captioned:
        """What is said about the pixels of a scan.

        Raises:
            DataError: captions of an image of another size, or damaged ones.
        """
        entity, heard = np.full(len(pairs), -1, np.int32), np.zeros(len(pairs), np.bool_)
        found: list[tuple[int, int, tuple[float, ...]]] = []
        for place, camera in enumerate(cameras):
            name, here = image_id(camera.image), np.flatnonzero(pairs.image == place)
            u, v = pairs.uv[here].T.astype(np.int64)
            entities, captions = self.entities(name), self.images(name)
            for index, records in ((self._entity, entities), (self._image, captions)):
                _check_sizes(index, records, camera)
            if entities and len(here):
                lines = np.array([-1, *(line for line, _ in entities)], np.int32)
                entity[here] = lines[entity_at([record for _, record in entities], u, v) + 1]
            if captions and len(here):
                heard[here] = captions_at([record for _, record in captions], u, v).any(axis=1)
            for line, record in captions:
                found.append((place, line, record.region or (0.0, 0.0, *map(float, camera.size))))
        return Captioned(
            entity,
            np.array([image for image, _, _ in found], np.int16),
            np.array([line for _, line, _ in found], np.int32),
            np.array([region for _, _, region in found], np.float32).reshape(-1, 4),
            len(np.unique(pairs.point[heard])),
            len(np.unique(pairs.point[entity >= 0])),
        )


def _check_sizes(index: LineIndex | None, records: Sequence[tuple[int, Any]], camera: Camera) -> None:
    for line, record in records:
        if index is not None and (record.width, record.height) != camera.size:
            raise DataError(
                f"a caption is for an image of {record.width} x {record.height} pixels, "
                f"the image has {camera.size[0]} x {camera.size[1]}",
                where={"file": index.path, "line": line + 1, "image": camera.image},
                hint="caption the images in the size of the dataset",
            )


def _index(path: Path, kind: str) -> LineIndex | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return _kept_index(path, kind, (status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=4)
def _kept_index(path: Path, kind: str, stamp: tuple[int, int, int]) -> LineIndex:
    return LineIndex(path, kind)


def lines_of(dataset: PreparedDataset, product: Product) -> CaptionLines | None:
    """The captions that a product of ``pair`` was made with; None without any, or where they were removed."""
    used = product.manifest.needs.get(STAGE)
    found = dataset.handle.product(STAGE, used["key"]) if used else None
    return None if found is None else CaptionLines(found.folder)


def entity_phrases(lines: CaptionLines | None, pairs: ScanPairs) -> dict[int, str]:
    """Line -> phrase of the entities of a scan's images."""
    if lines is None:
        return {}
    return {line: record.phrase for image in pairs.images for line, record in lines.entities(image_id(image))}
