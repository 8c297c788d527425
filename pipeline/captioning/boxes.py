"""Boxes of a detector: clipped to the image, one of those that overlap, the best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ssl3d.data.captions.records import Box

SMALLEST_SIDE = 2.0
"""Pixels: boxes that are narrower or lower are dropped."""


class Detection(NamedTuple):
    """``score`` 0..1, ``box`` in pixels."""

    phrase: str
    score: float
    box: Box


def overlap(box: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n,) intersection over union of a box (4,) with others (n, 4), x1, y1, x2, y2."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.prod(sides.clip(min=0.0), axis=1)
    return np.asarray(shared / (np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - shared))


def best_boxes(found: Sequence[Detection], size: tuple[int, int], nms: float, most: int) -> list[Detection]:
    """Clips to an image of ``size`` (width, height), drops slivers and, of one phrase, what overlaps a better box.

    Args:
        nms: boxes of a phrase with a larger intersection over union are one.
        most: how many are kept, of all phrases together.

    Returns:
        In order of falling score.
    """
    edge = np.array([size[0], size[1], size[0], size[1]], np.float64)
    inside = []
    for item in found:
        x1, y1, x2, y2 = np.clip(np.array(item.box, np.float64), 0.0, edge).tolist()
        if x2 - x1 >= SMALLEST_SIDE and y2 - y1 >= SMALLEST_SIDE:
            inside.append(item._replace(box=(x1, y1, x2, y2)))
    inside.sort(key=lambda item: (-item.score, item.phrase, item.box))
    kept: list[Detection] = []
    by_phrase: dict[str, list[Box]] = {}
    for item in inside:
        others = by_phrase.setdefault(item.phrase, [])
        if not others or overlap(np.array(item.box), np.array(others)).max() <= nms:
            others.append(item.box)
            kept.append(item)
    return kept[:most]
