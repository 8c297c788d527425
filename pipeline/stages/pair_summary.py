"""What ``ssl3d pair`` tells about its product, from the journal alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ssl3d.pipeline.product import Product


@dataclass(slots=True)
class PairCount:
    """Sums over the scans of a subset.

    Attributes:
        scans, pictured: all scans, and those with images.
        points: measured ones of the scans with images. paired: those with a pixel; pairs: with all their pixels.
        entity, captioned: points with an entity, with a caption.
    """

    scans: int = 0
    pictured: int = 0
    images: int = 0
    points: int = 0
    paired: int = 0
    pairs: int = 0
    entity: int = 0
    captioned: int = 0

    @property
    def share(self) -> float:
        """Of the points of scans with images, those that an image shows."""
        return self.paired / self.points if self.points else 0.0


@dataclass(slots=True)
class PairSummary:
    """Counts of a product.

    Attributes:
        subsets: by name.
        cameras: name of a fixed camera -> (images, pairs).
        empty: images that show no point.
        notes: ``lost``, ``untested``, ``odd`` (see ``Pairs``) -> (images, the first of them).
        captions: whether there are any.
    """

    subsets: dict[str, PairCount] = field(default_factory=dict)
    cameras: dict[str, tuple[int, int]] = field(default_factory=dict)
    empty: int = 0
    notes: dict[str, tuple[int, str]] = field(default_factory=dict)
    captions: bool = False

    @property
    def total(self) -> PairCount:
        names = PairCount.__slots__
        return PairCount(*(sum(getattr(count, name) for count in self.subsets.values()) for name in names))

    def unusual(self, usual: tuple[float, float] | None) -> bool:
        """Whether so many or so few points are paired that most likely a calibration is wrong."""
        total = self.total
        return usual is not None and total.points > 0 and not usual[0] <= total.share <= usual[1]

    def blind(self) -> list[str]:
        """Fixed cameras none of whose images shows a point."""
        return [name for name, (images, pairs) in self.cameras.items() if images and not pairs]


def summarize_pairs(product: Product, subsets: Mapping[str, str]) -> PairSummary:
    """``subsets``: unit -> subset."""
    found = PairSummary(captions="caption" in product.manifest.needs)
    for unit, entry in sorted(product.done.items()):
        info, count = entry.info, found.subsets.setdefault(subsets[unit], PairCount())
        for position, images in enumerate(info["images"]):
            count.scans += 1
            if images:
                count.pictured += 1
                count.images += images
                for name in ("points", "paired", "pairs", "entity", "captioned"):
                    setattr(count, name, getattr(count, name) + (info[name][position] if name in info else 0))
        for name, (images, pairs) in info["cameras"].items():
            before = found.cameras.get(name, (0, 0))
            found.cameras[name] = (before[0] + images, before[1] + pairs)
        found.empty += info["empty"]
        for name in ("lost", "untested", "odd"):
            number, first = info[name]
            if number:
                before_number, before_first = found.notes.get(name, (0, first))
                found.notes[name] = (before_number + number, before_first)
    return found
