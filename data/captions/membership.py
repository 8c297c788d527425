"""Which caption and which entity a pixel belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.captions.records import EntityCaption, ImageCaption
from ssl3d.data.captions.rle import area, first_mask

Pixels = npt.NDArray[np.integer[Any]]


def precedence(entities: Sequence[EntityCaption]) -> list[int]:
    """Positions in ``entities`` (of one image), first the one that wins a pixel which several cover.

    The highest score wins, then the smaller area, then the smaller index.
    """
    areas = [area(entity.counts()) for entity in entities]
    return sorted(range(len(entities)), key=lambda k: (-entities[k].score, areas[k], entities[k].index))


def entity_at(entities: Sequence[EntityCaption], u: Pixels, v: Pixels) -> npt.NDArray[np.int32]:
    """(n,) int32, position in ``entities`` of the one that wins each pixel, -1 where none covers it.

    Args:
        entities: of one image.
        u, v: (n,) columns and rows, inside the image.
    """
    if not entities:
        return np.full(len(u), -1, np.int32)
    masks = [entity.counts() for entity in entities]
    return first_mask(masks, precedence(entities), entities[0].height, u, v)


def captions_at(captions: Sequence[ImageCaption], u: Pixels, v: Pixels) -> npt.NDArray[np.bool_]:
    """(n, k) bool: whether caption k speaks of pixel n. One without a region speaks of all; regions are half-open."""
    out = np.ones((len(u), len(captions)), np.bool_)
    for k, caption in enumerate(captions):
        if caption.region is not None:
            x1, y1, x2, y2 = caption.region
            out[:, k] = (x1 <= u) & (u < x2) & (y1 <= v) & (v < y2)
    return out
