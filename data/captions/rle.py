"""Masks as run lengths, as COCO counts them: column by column, zeros and ones in turn, zeros first.

A mask is (height, width) bool; its pixel (u, v) is ``mask[v, u]``, number ``u * height + v`` of the count. Points are
looked up in the runs themselves, without the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Counts = npt.NDArray[np.int64]
"""(k,) int64: lengths of the runs; those at odd positions are the mask. They add up to height * width."""


def encode(mask: npt.NDArray[np.bool_]) -> Counts:
    """The run lengths of a mask (height, width)."""
    flat = np.asarray(mask, bool).ravel(order="F")
    bounds = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [len(flat)]))
    runs = np.diff(bounds)
    return np.concatenate(([0], runs)) if len(flat) and flat[0] else runs


def decode(counts: Counts, height: int, width: int) -> npt.NDArray[np.bool_]:
    """The mask (height, width). ValueError when the counts do not add up to its pixels."""
    if len(counts) and int(counts.min()) < 0:
        raise ValueError("a run is shorter than nothing")
    if int(counts.sum()) != height * width:
        raise ValueError(f"runs of {int(counts.sum())} pixels for {height} x {width}")
    values = (np.arange(len(counts)) % 2).astype(np.bool_)
    return np.repeat(values, counts).reshape(width, height).T


def area(counts: Counts) -> int:
    """Pixels of the mask."""
    return int(counts[1::2].sum())


def bounds(counts: Counts, height: int) -> tuple[int, int, int, int] | None:
    """Half-open box x1, y1, x2, y2 around the mask; None for an empty one."""
    ends = np.cumsum(counts)
    begin, end = (ends - counts)[1::2], ends[1::2]
    begin, end = begin[end > begin], end[end > begin]
    if not len(begin):
        return None
    first, last = begin // height, (end - 1) // height
    if (first != last).any():  # a run over the end of a column has the lowest pixel of one, the highest of the next
        return int(first.min()), 0, int(last.max()) + 1, height
    return int(first.min()), int((begin % height).min()), int(last.max()) + 1, int(((end - 1) % height).max()) + 1


def box_counts(box: Sequence[float], height: int, width: int) -> Counts:
    """The run lengths of the pixels inside a half-open box: ``x1 <= u < x2`` and ``y1 <= v < y2``, clipped."""
    x1, x2 = (int(np.clip(np.ceil(value), 0, width)) for value in (box[0], box[2]))
    y1, y2 = (int(np.clip(np.ceil(value), 0, height)) for value in (box[1], box[3]))
    tall, wide = y2 - y1, x2 - x1
    if tall <= 0 or wide <= 0:
        return np.array([height * width])
    if tall == height:
        runs = np.array([x1 * height, wide * height, (width - x2) * height])
    else:
        runs = np.full(2 * wide + 1, height - tall)
        runs[1::2] = tall
        runs[0], runs[-1] = x1 * height + y1, (width - x2) * height + height - y2
    return runs[:-1] if runs[-1] == 0 else runs


def from_compressed(text: str) -> Counts:
    """The run lengths of COCO's compressed form: numbers in five bits a letter, from the third on as differences.

    Source: ``rleFrString`` of the COCO API (maskApi.c). ValueError for text that is none.
    """
    values: list[int] = []
    number, shift = 0, 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 55:
            raise ValueError(f"'{letter}' cannot be there")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        values.append(number + (values[-2] if len(values) > 2 else 0))
        number, shift = 0, 0
    if shift:
        raise ValueError("it ends inside a number")
    return np.array(values, np.int64)


@njit(cache=True, nogil=True)
def _claim(
    sorted_keys: np.ndarray, counts: np.ndarray, offsets: np.ndarray, order: np.ndarray, out: np.ndarray
) -> None:
    """out[i]: the first mask of ``order`` that covers sorted_keys[i]; masks are counts[offsets[m]:offsets[m + 1]]."""
    for m in order:
        end = np.int64(0)
        for run in range(offsets[m], offsets[m + 1]):
            begin, end = end, end + counts[run]
            if (run - offsets[m]) % 2 == 0 or begin == end:
                continue
            i = np.searchsorted(sorted_keys, begin)
            while i < len(sorted_keys) and sorted_keys[i] < end:
                if out[i] < 0:
                    out[i] = m
                i += 1


def contains(
    counts: Counts, height: int, u: npt.NDArray[np.integer[Any]], v: npt.NDArray[np.integer[Any]]
) -> npt.NDArray[np.bool_]:
    """(n,) bool: whether the pixels (u, v), (n,) each and inside the image, belong to the mask."""
    return first_mask([counts], [0], height, u, v) == 0


def first_mask(
    masks: Sequence[Counts],
    order: Sequence[int],
    height: int,
    u: npt.NDArray[np.integer[Any]],
    v: npt.NDArray[np.integer[Any]],
) -> npt.NDArray[np.int32]:
    """Which mask a pixel belongs to, where several may cover it.

    Args:
        masks: run lengths of images of one size.
        order: positions in ``masks``, the mask that wins first.
        u, v: (n,) column and row of pixels inside the image.

    Returns:
        (n,) int32, position in ``masks``, -1 where none covers it.
    """
    out = np.full(len(u), -1, np.int32)
    if not len(masks) or not len(out):
        return out
    keys = np.asarray(u, np.int64) * height + np.asarray(v, np.int64)
    by_place = np.argsort(keys, kind="stable")
    offsets = np.cumsum([0, *map(len, masks)])
    found = np.full(len(keys), -1, np.int32)
    _claim(keys[by_place], np.concatenate(masks).astype(np.int64), offsets, np.asarray(order, np.int64), found)
    out[by_place] = found
    return out
