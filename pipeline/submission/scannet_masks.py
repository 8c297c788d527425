"""Predicted instances as ScanNet's evaluation reads them: a list of masks for each scan, and a text file for each mask.

A line of ``<scan>.txt`` is ``relative/mask.txt label_id confidence``; a mask has one number for each vertex, and those
that are not 0 belong to the instance. A scan without any instance has an empty list.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ssl3d.data.errors import DataError
from ssl3d.data.formats.integers import whole_numbers
from ssl3d.pipeline.submission.handed import Handed

NAME = "scannet-instance"
FIELDS = 3


class Mask(NamedTuple):
    """A line of a list. ``file``: below the folder; ``label``: a NYU40 id, as it stands there; ``line``: from 1."""

    file: str
    label: int
    confidence: float
    line: int


def is_list(handed: Handed, file: str) -> bool | None:
    """Whether a file lists instances (and not the class of every vertex); None of an empty one, which may be both."""
    head = b""
    for block in handed.blocks(file):
        head += block[: 1 << 16]
        break
    words = head.lstrip().partition(b"\n")[0].split()
    return len(words) > 1 if words else None


def masks_of(handed: Handed, file: str) -> list[Mask]:
    """The lines of a list.

    Raises:
        DataError: a line is not three fields with single blanks, names a mask outside of the folder, or one that
            another line names.
    """
    found: list[Mask] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(handed.read(file).decode("utf-8", "replace").splitlines(), start=1):
        where = {**handed.where(file), "line": number}
        mask = _mask(file, line, number)
        if mask is None:
            raise DataError(
                "a line is not `relative/mask.txt label_id confidence`, with single blanks",
                where={**where, "found": repr(line[:60])},
                hint="list the masks of a scan, one a line: predicted_masks/scene0011_00_000.txt 5 0.87",
            )
        if mask.file in lines:
            raise DataError(
                "a mask is listed twice, of which the official script would keep one",
                where={**where, "mask": mask.file, "also in line": lines[mask.file]},
                hint="give each instance a file of its own",
            )
        lines[mask.file] = number
        found.append(mask)
    return found


def _mask(file: str, line: str, number: int) -> Mask | None:
    words = line.split(" ")
    if len(words) != FIELDS or words[0].startswith("/") or ".." in PurePosixPath(words[0]).parts:
        return None
    try:
        mask = Mask(str(PurePosixPath(file).parent / words[0]), int(words[1]), float(words[2]), number)
    except ValueError:
        return None
    return mask if words[0] and math.isfinite(mask.confidence) else None


def instances_of(
    handed: Handed, file: str, scan: str, vertices: int, classes: Mapping[int, int]
) -> Iterator[tuple[int, float, npt.NDArray[np.int64]]]:
    """Class, confidence and (m,) vertices of each instance in a list, one mask in memory at a time.

    Args:
        file: the list, ``scan`` whose it is, with so many ``vertices``.
        classes: NYU40 id -> class. Instances of other ids are left out, as the official script leaves them.

    Raises:
        DataError: see ``masks_of``; a mask is missing, holds something else than whole numbers, or has another length.
    """
    for mask in masks_of(handed, file):
        where = {**handed.where(file), "scan": scan, "line": mask.line}
        if mask.file not in handed:
            raise DataError(
                "a mask that is listed is not there",
                where={**where, "mask": mask.file},
                hint="paths of masks are relative to the folder that the lists lie in",
            )
        rows = _members(handed, mask, vertices, where)
        if mask.label in classes:
            yield classes[mask.label], mask.confidence, rows


def _members(handed: Handed, mask: Mask, vertices: int, listed: Mapping[str, object]) -> npt.NDArray[np.int64]:
    parts, count = [], 0
    where = {**handed.where(mask.file), "listed in": f"{PurePosixPath(str(listed['file'])).name} line {mask.line}"}
    for block in whole_numbers(handed.blocks(mask.file), where):
        parts.append(np.flatnonzero(block) + count)
        count += len(block)
    if count != vertices:
        raise DataError(
            f"a mask has {count} lines, the scan {vertices} vertices",
            where={**where, "scan": listed["scan"]},
            hint="a mask has one number for each vertex of <scan>_vh_clean_2.ply, in its order",
        )
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


__all__ = ["NAME", "instances_of", "is_list", "masks_of"]
