"""Where the labels of ScanNet come from: segments of a mesh, objects made of segments, a table of categories."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from numba import njit

from ssl3d.data.datasets.raw import read_bytes
from ssl3d.data.datasets.source import SourceFile
from ssl3d.data.errors import DataError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLE = "scannetv2-labels.combined.tsv"
GET_TABLE = f"take {TABLE} of ScanNet v2 from the download script"
HIGHEST = 40
"""The last nyu40 id."""
_LARGEST_TABLE = 1 << 24
_SEGMENTS = b'"segIndices"'
I64 = npt.NDArray[np.int64]


@dataclass(slots=True)
class Categories:
    """The category table.

    Attributes:
        nyu40: raw category -> nyu40 id.
        restored: categories that the table has lost and that were put back.
        rows: of the file.
    """

    nyu40: dict[str, int]
    restored: tuple[str, ...] = ()
    rows: int = 0


@dataclass(slots=True)
class Annotation:
    """Labels of the vertices by their segments.

    Attributes:
        nyu40: (n,) ids, 0 where nothing is annotated. instance: (n,) uint32 from 1, 0 where nothing is annotated.
        unknown: raw category -> vertices, of categories that the table has not; they have nyu40 id 0.
    """

    nyu40: I64
    instance: npt.NDArray[np.uint32]
    unknown: dict[str, int] = field(default_factory=dict)


@lru_cache(maxsize=1)
def category_facts() -> Mapping[str, Any]:
    """Table ``categories`` of ``scannet.toml``."""
    text = resources.files("ssl3d.data.datasets").joinpath("scannet.toml").read_text(encoding="utf-8")
    facts: Mapping[str, Any] = tomllib.loads(text)["categories"]
    return facts


def read_categories(file: SourceFile, digest: xxhash.xxh3_128 | None = None, *, generated: bool = False) -> Categories:
    """The table ``scannetv2-labels.combined.tsv``; ids in it are not unique, so its keys are raw categories.

    Args:
        generated: the table of a generated dataset, which has the rows that it needs.

    Raises:
        DataError: columns are missing, a row is damaged, or values are not those of the published table.
    """
    return _categories(read_bytes(file, digest), file, generated)


@lru_cache(maxsize=2)  # the same table for every scan
def _categories(content: bytes, file: SourceFile, generated: bool) -> Categories:
    text = content.decode("utf-8", "replace")
    lines = [line for line in text.splitlines() if line.strip()]
    columns = lines[0].split("\t") if lines else []
    for name in ("raw_category", "nyu40id"):
        if name not in columns:
            raise DataError(
                "the category table lacks a column", where={"file": file.path, "field": name}, hint=GET_TABLE
            )
    key, value = columns.index("raw_category"), columns.index("nyu40id")
    found: dict[str, int] = {}
    for number, line in enumerate(lines[1:], 2):
        cells = line.split("\t")
        text = cells[value].strip() if max(key, value) < len(cells) else ""
        if not text.isdecimal() or int(text) > HIGHEST:
            raise DataError(
                f"the category table has a row without a nyu40 id (0..{HIGHEST}): {text!r}",
                where={"file": file.path, "line": number, "field": "nyu40id"},
                hint=f"the table of ScanNet v1 has such a row; {GET_TABLE}",
            )
        found[cells[key].strip()] = int(text)
    facts, rows = category_facts(), len(lines) - 1
    _check_spots(found, rows, file, generated)
    lost = {name: nyu40 for name, nyu40 in facts["restored"].items() if name not in found and not generated}
    return Categories({**found, **lost}, tuple(lost), rows)


def _check_spots(found: Mapping[str, int], rows: int, file: SourceFile, generated: bool) -> None:
    facts = category_facts()
    spots: Mapping[str, int] = facts["spots"]
    wrong = [name for name, nyu40 in spots.items() if found.get(name, nyu40) != nyu40]
    absent = [] if generated else [name for name in spots if name not in found]
    if wrong or absent:
        name = (wrong or absent)[0]
        stated = found.get(name, "no row")
        raise DataError(
            f"this is not the category table of ScanNet v2: {name!r} is {stated}, not {spots[name]}",
            where={"file": file.path, "field": "nyu40id", "rows": f"{rows} ({facts['rows']} in the published table)"},
            hint=GET_TABLE,
        )


def read_json(file: SourceFile, digest: xxhash.xxh3_128 | None = None) -> dict[str, Any]:
    """A JSON file that holds an object. DataError when it is damaged."""
    return parse_json(file, read_bytes(file, digest))


def parse_json(file: SourceFile, content: bytes) -> dict[str, Any]:
    """As ``read_json``, of bytes that are read already."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _damaged(file, f"the file is damaged: {error}") from error
    if not isinstance(found, dict):
        raise _damaged(file, "the file holds no JSON object")
    return found


def read_segments(
    file: SourceFile, scan: str, num_points: int, digest: xxhash.xxh3_128 | None = None
) -> npt.NDArray[np.int32]:
    """(n,) int32 ids of the segments of all vertices, as they are shipped (with gaps).

    Raises:
        DataError: the file is damaged, belongs to another scan, or has another number of vertices than the mesh.
    """
    stored = read_bytes(file, digest)
    content = _quick_segments(stored) or parse_json(file, stored)
    check_owner(file, content, scan)
    listed = content.get("segIndices")
    if not isinstance(listed, list | np.ndarray):
        raise _damaged(file, "the list of segments is missing", "segIndices")
    if len(listed) != num_points:
        raise DataError(
            f"the segments are not of this mesh: {len(listed)} entries, {num_points} vertices",
            where={"file": file.path, "scan": scan, "field": "segIndices"},
            hint="files of _vh_clean and _vh_clean_2 were mixed, or a download was cut: "
            f"download {scan}_vh_clean_2.0.010000.segs.json again",
        )
    ids = _whole(listed) if isinstance(listed, list) else listed
    if ids is None or int(ids.min()) < 0 or int(ids.max()) >= 1 << 31:
        raise _damaged(file, "segments are not all whole numbers from 0 on", "segIndices")
    return ids.astype(np.int32)


def _quick_segments(stored: bytes) -> dict[str, Any] | None:
    """What json makes of the file, but with ``segIndices`` as an array: json is slow with long lists.

    Returns:
        None where that list is not once in the file, holds anything but numbers without a sign, or json finds faults.
    """
    begin = stored.find(b"[", stored.find(_SEGMENTS))
    end = stored.find(b"]", begin)
    if stored.count(_SEGMENTS) != 1 or begin < 0 or end < 0:
        return None
    found = np.empty((end - begin) // 2 + 1, np.int64)
    count = _whole_numbers(np.frombuffer(stored, np.uint8), begin + 1, end, found)
    try:
        content = json.loads(stored[: begin + 1] + stored[end:]) if count > 0 else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("segIndices") != []:  # it is deeper inside, or in a text
        return None
    return {**content, "segIndices": found[:count]}


@njit(cache=True, nogil=True)
def _whole_numbers(data: npt.NDArray[np.uint8], begin: int, end: int, out: I64) -> int:
    """Numbers of 1 to 10 digits in ``data[begin:end]``, with commas between them, as JSON has them.

    Returns:
        how many there are; -1 when it holds anything else.
    """
    count, at, last = 0, np.uint64(begin), np.uint64(end)
    one, ten, zero, nine = np.uint64(1), np.int64(10), np.uint8(48), np.uint8(57)
    while True:
        while at < last and (data[at] == 32 or data[at] == 10 or data[at] == 13 or data[at] == 9):
            at += one
        start, value = at, np.int64(0)
        while at < last and zero <= data[at] <= nine:
            value = value * ten + np.int64(data[at] - zero)
            at += one
        digits = at - start
        if digits < 1 or digits > 10 or (digits > 1 and data[start] == zero):
            return -1
        out[count] = value
        count += 1
        while at < last and (data[at] == 32 or data[at] == 10 or data[at] == 13 or data[at] == 9):
            at += one
        if at == last:
            return count
        if data[at] != 44:
            return -1
        at += one


def read_objects(file: SourceFile, scan: str, digest: xxhash.xxh3_128 | None = None) -> list[dict[str, Any]]:
    """The objects of ``aggregation.json`` in file order: ``objectId``, ``segments`` (int64), ``label``.

    Raises:
        DataError: the file is damaged, belongs to another scan, or refers to the mesh in full resolution.
    """
    content = read_json(file, digest)
    check_owner(file, content, scan)
    named = content.get("segmentsFile")
    if isinstance(named, str) and not named.endswith("_vh_clean_2.0.010000.segs.json"):
        raise DataError(
            "the objects refer to the segments of another mesh",
            where={"file": file.path, "scan": scan, "field": "segmentsFile", "found": named},
            hint=f"{scan}_vh_clean.aggregation.json was copied over {scan}.aggregation.json: download the latter again",
        )
    groups = content.get("segGroups")
    if not isinstance(groups, list):
        raise _damaged(file, "the list of objects is missing", "segGroups")
    found = []
    for number, group in enumerate(groups):
        entry = group if isinstance(group, dict) else {}
        segments, label, identity = entry.get("segments"), entry.get("label"), entry.get("objectId")
        ids = _whole(segments) if isinstance(segments, list) else None
        if ids is None or not isinstance(label, str) or type(identity) is not int or not 0 <= identity < 1 << 31:
            raise _damaged(file, "an object has no objectId, segments and label", f"segGroups[{number}]")
        found.append({"objectId": identity, "segments": ids, "label": label})
    return found


def annotate(
    segments: npt.NDArray[np.int32],
    objects: list[dict[str, Any]],
    categories: Mapping[str, int],
    scan: str,
    path: str,
) -> Annotation:
    """Labels and instances of all vertices. Where objects share a segment, the last one of the file has it.

    Raises:
        DataError: an object names a segment that the mesh has not.
    """
    if int(segments.max()) < _LARGEST_TABLE:
        known, place = None, segments.astype(np.intp)  # once: whatever looks up rows wants them so
        present = np.bincount(place)
    else:  # ids that would make the tables too long
        known, place, present = np.unique(segments, return_inverse=True, return_counts=True)
    nyu40, instance = np.zeros(len(present), np.int64), np.zeros(len(present), np.uint32)
    unknown: dict[str, int] = {}
    for group in objects:
        rows = group["segments"]
        if known is not None:
            rows = np.where(np.isin(rows, known), np.searchsorted(known, rows), -1)
        outside = (rows < 0) | (rows >= len(present))
        outside[~outside] = present[rows[~outside]] == 0
        if outside.any():
            raise DataError(
                "an object names a segment that the mesh has not",
                where={
                    "file": path,
                    "scan": scan,
                    "object": f"{group['objectId']} ({group['label']})",
                    "segment": int(group["segments"][outside][0]),
                },
                hint="files of _vh_clean and _vh_clean_2 were mixed: download aggregation.json and segs.json again",
            )
        label = group["label"].strip()
        if label not in categories:
            unknown[label] = unknown.get(label, 0) + int(present[rows].sum())
        nyu40[rows], instance[rows] = categories.get(label, 0), group["objectId"] + 1
    return Annotation(nyu40.take(place), instance.take(place), unknown)


def check_owner(file: SourceFile, content: Mapping[str, Any], scan: str) -> None:
    """DataError when a file says that it belongs to another scan."""
    stated = content.get("sceneId")
    if isinstance(stated, str) and stated.rsplit(".", 1)[-1] != scan:
        raise DataError(
            "the file belongs to another scan",
            where={"file": file.path, "scan": scan, "field": "sceneId", "found": stated},
            hint="files were swapped: download it again",
        )


def _whole(values: list[Any]) -> I64 | None:
    """(n,) int64 of a list of whole numbers, None of any other."""
    try:
        found = np.array(values) if values else np.zeros(0, np.int64)
    except (ValueError, OverflowError):
        return None
    return found.astype(np.int64) if found.ndim == 1 and found.dtype.kind == "i" else None


def _damaged(file: SourceFile, what: str, name: str = "") -> DataError:
    where = {"file": file.path, **({"field": name} if name else {})}
    return DataError(what, where=where, hint="the download was cut, or the file was edited: download it again")
