"""What captions say about pairs: the files of the caption stage, read by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.captions.files import LineIndex
from ssl3d.data.captions.ids import image_id
from ssl3d.data.captions.membership import captions_at, entity_at
from ssl3d.data.captions.records import EntityCaption, ImageCaption
from ssl3d.data.datasets.source import Camera
from ssl3d.data.errors import DataError
from ssl3d.data.pairs import Pairs

Rows = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Captioned:
    """What was said about the pixels of one scan.

    Attributes:
        entity: (P,) int32, 0-based line of the entity that has the pixel of a pair, -1 without one.
        captions: of the image-level captions: ``image_idx`` int16, ``line`` int32, ``region`` (4) float32, ``text``.
        entities: of all entities: ``image_idx``, ``line``, ``phrase``, ``score`` float32.
        points: with a caption; entity_points: with an entity.
    """

    entity: npt.NDArray[np.int32]
    captions: Rows
    entities: Rows
    points: int
    entity_points: int


class CaptionLines:
    """The two files of a unit; either may be missing.

    Args:
        folder: of the product of the caption stage.
    """

    def __init__(self, folder: Path, unit: str) -> None:
        paths = {kind: folder / f"{unit}.{kind}.jsonl" for kind in ("image", "entity")}
        self._indices = {kind: LineIndex(path, kind) for kind, path in paths.items() if path.exists()}

    def of_pairs(self, pairs: Pairs, cameras: Sequence[Camera]) -> Captioned:
        """What is said about the pixels of a scan.

        Raises:
            DataError: captions of an image of another size, or damaged ones.
        """
        entity, heard = np.full(len(pairs), -1, np.int32), np.zeros(len(pairs), np.bool_)
        said: list[tuple[int, int, ImageCaption]] = []
        things: list[tuple[int, int, EntityCaption]] = []
        for place, camera in enumerate(cameras):
            here = np.flatnonzero(pairs.image == place)
            u, v = pairs.uv[here].T.astype(np.int64)
            captions, entities = self._read("image", camera), self._read("entity", camera)
            if captions:
                heard[here] = captions_at([record for _, record in captions], u, v).any(axis=1)
            if entities:
                lines = np.array([-1, *(line for line, _ in entities)], np.int32)
                entity[here] = lines[entity_at([record for _, record in entities], u, v) + 1]
            said += [(place, line, record) for line, record in captions]
            things += [(place, line, record) for line, record in entities]
        sizes = [camera.size for camera in cameras]
        return Captioned(
            entity,
            {**_places(said), "region": _regions(said, sizes), "text": _texts([r.text for _, _, r in said])},
            {
                **_places(things),
                "phrase": _texts([record.phrase for _, _, record in things]),
                "score": np.array([record.score for _, _, record in things], np.float32),
            },
            len(np.unique(pairs.point[heard])),
            len(np.unique(pairs.point[entity >= 0])),
        )

    def _read(self, kind: str, camera: Camera) -> list[tuple[int, Any]]:
        """(0-based line, record) of an image by index."""
        index = self._indices.get(kind)
        records = index.read(image_id(camera.image)) if index else []
        for line, record in records:
            if index and (record.width, record.height) != camera.size:
                raise DataError(
                    f"a caption is for an image of {record.width} x {record.height} pixels, "
                    f"the image has {camera.size[0]} x {camera.size[1]}",
                    where={"file": index.path, "line": line + 1, "image": camera.image},
                    hint="caption the images in the size of the dataset",
                )
        return records


def _places(records: Sequence[tuple[int, int, Any]]) -> dict[str, npt.NDArray[Any]]:
    return {
        "image_idx": np.array([place for place, _, _ in records], np.int16),
        "line": np.array([line for _, line, _ in records], np.int32),
    }


def _regions(
    records: Sequence[tuple[int, int, ImageCaption]], sizes: Sequence[tuple[int, int]]
) -> npt.NDArray[np.float32]:
    regions = [record.region or (0.0, 0.0, *sizes[place]) for place, _, record in records]
    return np.array(regions, np.float32).reshape(-1, 4)


def _texts(texts: list[str]) -> npt.NDArray[np.str_]:
    return np.array(texts, np.str_)
