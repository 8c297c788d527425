"""How often, and in which pieces, a whole scan is looked at: test-time augmentation, and clouds larger than memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from ssl3d.data.augment import linear
from ssl3d.data.errors import UsageError
from ssl3d.data.scan import View
from ssl3d.data.text import nearest

AUGMENTS = {
    "flip": "mirrored in x too",
    "rotate": "turned about z by 0, 90, 180, 270 degrees",
    "scale": "times 0.95, 1, 1.05",
}
"""Words after ``--tta``: the passes are all combinations of those that are named."""
_SCALES = (1.0, 0.95, 1.05)


@dataclass(frozen=True)
class Passes:
    """The passes of a network over a whole scan; the mean of their probabilities decides.

    Attributes:
        augment: sorted words of ``AUGMENTS``. Mirrored, turned and scaled copies as in Pointcept's test configurations.
        block_points: larger scans are cut into blocks of at most so many points ...
        overlap: ... that reach so many meters into their neighbors: there, several blocks vote on a point.
    """

    augment: tuple[str, ...] = ()
    block_points: int = 1_500_000
    overlap: float = 2.0

    @classmethod
    def parse(cls, words: str) -> Passes:
        """From ``flip,rotate``; ``none`` or nothing for one plain pass. UsageError for another word."""
        chosen = sorted({word.strip() for word in words.split(",")} - {"", "none"})
        for word in chosen:
            if word not in AUGMENTS:
                near = nearest(word, AUGMENTS)
                hint = f"did you mean {near}? " if near else ""
                raise UsageError(
                    f"there is no test-time augmentation '{word}'", hint=f"{hint}words: {', '.join(AUGMENTS)}, none"
                )
        return cls(tuple(chosen))

    @property
    def name(self) -> str:
        """``tta-flip-rotate``, as file names say it; "" for plain passes."""
        return "-".join(("tta", *self.augment)) if self.augment else ""

    @property
    def copies(self) -> int:
        """How often every block is looked at."""
        return (
            (4 if "rotate" in self.augment else 1)
            * (2 if "flip" in self.augment else 1)
            * (len(_SCALES) if "scale" in self.augment else 1)
        )

    def blocks(self, view: View) -> Iterator[View]:
        """The view, or its overlapping blocks: cut in halves across the longer horizontal side until they are small."""
        if len(view) <= self.block_points:
            yield view
            return
        for rows in _halves(view.points, self.block_points):
            low, high = view.points[rows, :2].min(0) - self.overlap, view.points[rows, :2].max(0) + self.overlap
            inside = ((view.points[:, :2] >= low) & (view.points[:, :2] <= high)).all(axis=1)
            yield view.select(np.flatnonzero(inside))

    def variants(self, view: View) -> Iterator[View]:
        """The view, and its augmented copies."""
        turns = range(4) if "rotate" in self.augment else (0,)
        mirrors = (1.0, -1.0) if "flip" in self.augment else (1.0,)
        scales = _SCALES if "scale" in self.augment else (1.0,)
        for scale, mirror, turn in product(scales, mirrors, turns):
            if (scale, mirror, turn) == (1.0, 1.0, 0):
                yield view
                continue
            cos, sin = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[turn]
            matrix = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]]) * np.array([mirror, 1.0, 1.0])
            yield linear(view, matrix, scale)


def _halves(points: npt.NDArray[np.float32], most: int) -> list[npt.NDArray[np.int64]]:
    """Rows in parts of at most ``most``: halves by the median of the longer horizontal side, again and again."""
    parts, small = [np.arange(len(points))], []
    while parts:
        rows = parts.pop()
        if len(rows) <= most:
            small.append(rows)
            continue
        flat = points[rows, :2]
        along = flat[:, int(np.argmax(np.ptp(flat, axis=0)))]
        order = np.argsort(along, kind="stable")
        parts += [np.sort(rows[order[len(rows) // 2 :]]), np.sort(rows[order[: len(rows) // 2]])]
    return small


__all__ = ["AUGMENTS", "Passes"]
