"""The pairs of points and pixels that ``ssl3d pair`` has found, as training and pictures read them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.errors import DataError, UsageError
from ssl3d.pipeline.dataset import Places, Shards

if TYPE_CHECKING:
    from ssl3d.pipeline.dataset import PreparedDataset
    from ssl3d.pipeline.product import Product

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ScanCaptions:
    """The M image-level captions of a scan.

    Attributes:
        image: (M,) int16 place among the images of the scan.
        line: (M,) int32, 0-based line of ``image.jsonl``.
        region: (M, 4) float32 x1, y1, x2, y2, half-open: the pixels that it speaks of.
        text: the captions.
    """

    image: npt.NDArray[np.int16]
    line: npt.NDArray[np.int32]
    region: npt.NDArray[np.float32]
    text: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.line)


@dataclass(frozen=True, slots=True)
class ScanEntities:
    """The J entities of the images of a scan.

    Attributes:
        image, line: (J,) int16, (J,) int32 as in ``ScanCaptions``, here of ``entity.jsonl``.
        phrase: what they are called; the same phrase may occur several times.
        score: (J,) float32 of the detector.
    """

    image: npt.NDArray[np.int16]
    line: npt.NDArray[np.int32]
    phrase: tuple[str, ...]
    score: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.line)

    def phrases(self) -> dict[int, str]:
        """Line -> phrase."""
        return dict(zip(self.line.tolist(), self.phrase, strict=True))


def _no_captions() -> ScanCaptions:
    return ScanCaptions(np.zeros(0, np.int16), np.zeros(0, np.int32), np.zeros((0, 4), np.float32), ())


def _no_entities() -> ScanEntities:
    return ScanEntities(np.zeros(0, np.int16), np.zeros(0, np.int32), (), np.zeros(0, np.float32))


@dataclass(frozen=True, slots=True)
class ScanPairs:
    """The P pairs of one scan, sorted by point, then image.

    Attributes:
        point: (P,) int64 row of the scan; of a selection (``at``) the position in it.
        image: (P,) int16 place among ``images``.
        uv: (P, 2) uint16 column and row of the pixel. depth: (P,) float32 meters.
        entity: (P,) int32, 0-based line of ``entity.jsonl``, -1 without one.
        images, cameras: reference of each image and name of its camera, see ``Camera``.
        num_points: rows of the scan, or of the selection.
    """

    point: I64
    image: npt.NDArray[np.int16]
    uv: npt.NDArray[np.uint16]
    depth: npt.NDArray[np.float32]
    entity: npt.NDArray[np.int32]
    images: tuple[str, ...]
    cameras: tuple[str, ...]
    num_points: int
    captions: ScanCaptions = field(default_factory=_no_captions)
    entities: ScanEntities = field(default_factory=_no_entities)

    def __len__(self) -> int:
        return len(self.point)

    def at(self, rows: npt.NDArray[np.integer[Any]]) -> ScanPairs:
        """The pairs of some rows, which may be in any order and may occur more than once: ``View.rows[:, 1]``.

        Args:
            rows: (n,) of the scan; those outside of it have no pairs.
        """
        begin, end = (np.searchsorted(self.point, rows, side=side) for side in ("left", "right"))
        counts = end - begin
        first = np.cumsum(counts) - counts
        taken = np.arange(int(counts.sum())) - np.repeat(first - begin, counts)
        return replace(
            self,
            point=np.repeat(np.arange(len(rows)), counts),
            image=self.image[taken],
            uv=self.uv[taken],
            depth=self.depth[taken],
            entity=self.entity[taken],
            num_points=len(rows),
        )

    def caption_pairs(self) -> tuple[I64, I64]:
        """``vis``: points (Q,) and the captions (Q,), places in ``captions``, that speak of a pixel of theirs.

        Sorted by point, then caption; each pair once.
        """
        points, captions = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        u, v = self.uv[:, 0], self.uv[:, 1]
        for place in range(len(self.captions)):
            x1, y1, x2, y2 = self.captions.region[place]
            here = (self.image == self.captions.image[place]) & (x1 <= u) & (u < x2) & (y1 <= v) & (v < y2)
            points.append(self.point[here])
            captions.append(np.full(len(points[-1]), place, np.int64))
        point, caption = np.concatenate(points), np.concatenate(captions)
        order = np.lexsort((caption, point))
        return point[order], caption[order]

    def entity_pairs(self) -> tuple[I64, npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """``ent``: points (E,), lines of their entities (E,), and weights (E,) that add up to 1 for each point.

        An image gives a point one entity at most; over several images the entities of a point count alike.
        """
        there = self.entity >= 0
        point = self.point[there]
        of_point = np.bincount(point, minlength=self.num_points)[point] if len(point) else np.zeros(0)
        return point, self.entity[there], (1.0 / of_point).astype(np.float32)


class PairSource:
    """The pairs of scans by their index in the dataset. Picklable; opens its files in the process that reads."""

    def __init__(self, folder: str, places: Places, *, captions: bool) -> None:
        self._places = places
        self._pairs, self._images = Shards(folder, "pairs"), Shards(folder, "images")
        self._said = (Shards(folder, "captions"), Shards(folder, "entities")) if captions else None

    @classmethod
    def of(cls, dataset: PreparedDataset, product: Product | None = None) -> PairSource:
        """The pairs of a dataset (default: the current ones).

        Raises:
            UsageError: there are none, or they were interrupted.
            DataError: they belong to scans that were prepared otherwise, or are damaged.
        """
        product = product or dataset.handle.product("pair")
        if product is None or not product.complete:
            raise UsageError(
                "points have not been paired with images", where={"dataset": dataset.name}, hint="type: ssl3d pair"
            )
        if product.manifest.needs["prepare"]["key"] != dataset.product.key:
            raise DataError(
                "the pairs belong to scans that were prepared otherwise",
                where={"folder": product.folder},
                hint="type: ssl3d pair",
            )
        kinds = product.kinds
        product.trust(("pairs", "images", "captions", "entities"))
        return cls(str(product.folder), Places.of(dataset.scans), captions="captions" in kinds)

    def pairs(self, index: int) -> ScanPairs:
        """All pairs of scan ``index``."""
        unit, position = self._places.units[self._places.unit[index]], int(self._places.position[index])
        reader = self._pairs[unit]
        names = ["point_idx", "image_idx", "uv", "depth", "num_points"]
        names += ["entity_line"] if "entity_line" in reader else []
        read = reader.read_many(names, position)
        point = read["point_idx"].astype(np.int64)
        images = self._images[unit].read_many(("image", "name"), position)
        return ScanPairs(
            point,
            read["image_idx"],
            read["uv"],
            read["depth"],
            read.get("entity_line", np.full(len(point), -1, np.int32)),
            tuple(images["image"].tolist()),
            tuple(images["name"].tolist()),
            int(read["num_points"]),
            *self._said_of(unit, position),
        )

    def _said_of(self, unit: str, position: int) -> tuple[ScanCaptions, ScanEntities]:
        if self._said is None:
            return _no_captions(), _no_entities()
        captions = self._said[0][unit].read_many(("image_idx", "line", "region", "text"), position)
        entities = self._said[1][unit].read_many(("image_idx", "line", "phrase", "score"), position)
        return (
            ScanCaptions(captions["image_idx"], captions["line"], captions["region"], tuple(captions["text"].tolist())),
            ScanEntities(
                entities["image_idx"], entities["line"], tuple(entities["phrase"].tolist()), entities["score"]
            ),
        )
