"""The relational tables of nuScenes: JSON lists of records, one table a file, joined by tokens.

The tables of all sweeps are gigabytes; records are read one by one, and what no key frame needs is dropped at once.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from ssl3d.data.errors import DataError
from ssl3d.data.spec import DatasetSpec

LIDAR = "LIDAR_TOP"
CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")
METADATA = "unpack the metadata archive again (v1.0-trainval_meta.tgz, v1.0-test_meta.tgz or v1.0-mini.tgz)"
LABEL_ARCHIVE = "the lidarseg archive (nuScenes-lidarseg-all-v1.0 or nuScenes-lidarseg-mini-v1.0)"

Rigid = tuple[float, float, float, float, float, float, float]
"""Translation x, y, z (meters) and unit quaternion w, x, y, z."""
Kinds = Mapping[str, type | tuple[type, ...]]

_CHUNK = 1 << 22  # characters
_GAP = re.compile(r"[\s,]*")
_NUMBER = (int, float)


class Scene(NamedTuple):
    """A drive of 20 s. ``first``, ``last``: tokens of its samples; ``stated``: how many the table says there are."""

    name: str
    first: str
    last: str
    stated: int


class Recording(NamedTuple):
    """A key frame of one sensor: tokens of its own, of where the car was, of its calibration; file below the root."""

    token: str
    ego: str
    calibration: str
    file: str
    size: tuple[int, int]


class Calibration(NamedTuple):
    """Of a sensor in the car. ``intrinsic``: 3 x 3 by rows, of cameras; else empty."""

    channel: str
    mount: Rigid
    intrinsic: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Tables:
    """What is needed of the tables of a version.

    Attributes:
        scenes: in order of name.
        following: token of a sample -> that of the next one of its scene, "" at the end.
        frames: token of a sample -> channel -> its key frame.
        ego, calibrations: by token.
        labels, panoptic: token of a lidar recording -> label file below the root; None without such a table.
        unlabelable: recordings that ``labels`` names although they are no key frames of the lidar.
    """

    version: str
    scenes: tuple[Scene, ...]
    following: Mapping[str, str]
    frames: Mapping[str, Mapping[str, Recording]]
    ego: Mapping[str, Rigid]
    calibrations: Mapping[str, Calibration]
    labels: Mapping[str, str] | None
    panoptic: Mapping[str, str] | None
    unlabelable: tuple[str, ...]


def load_tables(folder: Path) -> Tables:
    """The tables of a folder ``v1.0-...``.

    Raises:
        DataError: a table is missing or damaged, or names a record of another table that is not there.
    """
    channels = {
        row["token"]: row["channel"] for row in read_records(folder / "sensor.json", {"token": str, "channel": str})
    }
    calibrations = _calibrations(folder / "calibrated_sensor.json", channels)
    labels, panoptic = (_label_files(folder / f"{name}.json") for name in ("lidarseg", "panoptic"))
    frames, unlabelable = _frames(folder / "sample_data.json", calibrations, labels or {})
    wanted = {recording.ego for channels in frames.values() for recording in channels.values()}
    kinds: Kinds = {"token": str, "next": str}
    return Tables(
        version=folder.name,
        scenes=tuple(sorted(_scenes(folder / "scene.json"))),
        following={row["token"]: row["next"] for row in read_records(folder / "sample.json", kinds)},
        frames=frames,
        ego=_egos(folder / "ego_pose.json", wanted),
        calibrations=calibrations,
        labels=labels,
        panoptic=panoptic,
        unlabelable=unlabelable,
    )


def check_categories(path: Path, spec: DatasetSpec) -> None:
    """``category.json`` has to be the one of the label files.

    Raises:
        DataError: it is the older one without ``index``, or numbers its classes otherwise than ``spec``.
    """
    found: dict[int, str] = {}
    for number, row in enumerate(read_records(path, {"name": str}), 1):
        if not isinstance(row.get("index"), int):
            raise DataError(
                "category.json is the old one, without `index`: it does not say what the label ids mean",
                where={"file": path, "record": number, "field": "index"},
                hint=f"copy the category.json of {LABEL_ARCHIVE} over it",
            )
        found[row["index"]] = row["name"]
    wrong = sorted(index for index in found.keys() | spec.raw_names if found.get(index) != spec.raw_names.get(index))
    if wrong:
        raise DataError(
            f"category.json numbers classes otherwise than the label files of {spec.title}",
            where={
                "file": path,
                "index": wrong[0],
                "found": found.get(wrong[0], "nothing"),
                "expected": spec.raw_names.get(wrong[0], "nothing"),
            },
            hint=f"copy the category.json of {LABEL_ARCHIVE} over it",
        )


def read_records(path: Path, kinds: Kinds) -> Iterator[dict[str, Any]]:
    """The records of a table, one at a time.

    Args:
        kinds: fields that every record has -> their type.

    Raises:
        DataError: the file is missing, unreadable or no list of such records.
    """
    number = 0
    try:
        with path.open(encoding="utf-8") as stream:
            for number, row in enumerate(_values(stream), 1):
                if not isinstance(row, dict):
                    raise ValueError("it is no record")
                for name, kind in kinds.items():
                    if name not in row or not isinstance(row[name], kind):
                        raise _wrong(path, number, name, row.get(name, "missing"))
                yield row
    except FileNotFoundError:
        raise DataError(f"the table {path.name} is missing", where={"file": path}, hint=METADATA) from None
    except OSError as error:
        raise DataError(
            f"a table cannot be read: {error.strerror}", where={"file": path}, hint="check its permissions and the disk"
        ) from error
    except ValueError as error:  # of the JSON, or of its encoding
        raise DataError(
            f"a table is damaged: {error}", where={"file": path, "record": number + 1}, hint=METADATA
        ) from error


def _values(stream: TextIO) -> Iterator[Any]:
    """The items of a JSON list, in the memory of a few of them."""
    decode = json.JSONDecoder().raw_decode
    text = stream.read(_CHUNK).lstrip()
    if not text.startswith("["):
        raise ValueError("it is no JSON list")
    at = 1
    while True:
        gap = _GAP.match(text, at)
        at = gap.end() if gap else at
        if text[at : at + 1] == "]":
            return
        try:
            value, at = decode(text, at)
        except ValueError as error:  # of an item that the next piece completes, or of one that is wrong
            more = stream.read(_CHUNK)
            if not more or len(text) - at > _CHUNK:
                raise ValueError(f"{error.msg if isinstance(error, json.JSONDecodeError) else error}") from None
            text, at = text[at:] + more, 0
            continue
        yield value


def _wrong(path: Path, number: int, name: str, found: object) -> DataError:
    return DataError(
        f"a record of {path.name} is damaged",
        where={"file": path, "record": number, "field": name, "found": str(found)[:80]},
        hint=METADATA,
    )


def _scenes(path: Path) -> Iterator[Scene]:
    kinds: Kinds = {"name": str, "first_sample_token": str, "last_sample_token": str, "nbr_samples": int}
    for row in read_records(path, kinds):
        yield Scene(row["name"], row["first_sample_token"], row["last_sample_token"], row["nbr_samples"])


def _rigid(row: Mapping[str, Any], path: Path) -> Rigid:
    numbers = []
    for name, length in (("translation", 3), ("rotation", 4)):
        values = row[name]
        if len(values) != length or not all(isinstance(v, _NUMBER) and math.isfinite(v) for v in values):
            raise _not_rigid(path, row["token"], name, f"{length} finite numbers were expected")
        numbers += [float(value) for value in values]
    if abs(math.hypot(*numbers[3:]) - 1) > 1e-3:
        raise _not_rigid(path, row["token"], "rotation", "a quaternion w, x, y, z has length 1")
    x, y, z, a, b, c, d = numbers
    return x, y, z, a, b, c, d


def _not_rigid(path: Path, token: str, name: str, why: str) -> DataError:
    where = {"file": path, "token": token, "field": name}
    return DataError(f"a record of {path.name} is no rigid motion: {why}", where=where, hint=METADATA)


def _calibrations(path: Path, channels: Mapping[str, str]) -> dict[str, Calibration]:
    kinds: Kinds = {
        "token": str,
        "sensor_token": str,
        "translation": list,
        "rotation": list,
        "camera_intrinsic": list,
    }
    found = {}
    for row in read_records(path, kinds):
        channel = channels.get(row["sensor_token"])
        if channel is None:
            raise _dangling(path, "sensor_token", row["sensor_token"], "sensor.json")
        intrinsic = _intrinsic(row["camera_intrinsic"])
        if channel in CAMERAS and len(intrinsic) != 9:
            where = {"file": path, "token": row["token"], "field": "camera_intrinsic"}
            raise DataError("a camera has no intrinsic matrix (3 x 3)", where=where, hint=METADATA)
        found[row["token"]] = Calibration(channel, _rigid(row, path), intrinsic)
    return found


def _intrinsic(rows: list[Any]) -> tuple[float, ...]:
    try:
        values = tuple(float(value) for row in rows for value in row)
    except (TypeError, ValueError):
        return ()
    return values if all(math.isfinite(value) for value in values) else ()


def _label_files(path: Path) -> dict[str, str] | None:
    if not path.exists():
        return None
    kinds: Kinds = {"sample_data_token": str, "filename": str}
    return {row["sample_data_token"]: _below_root(row, path) for row in read_records(path, kinds)}


def _below_root(row: Mapping[str, Any], path: Path) -> str:
    name: str = row["filename"]
    if name.startswith("/") or ".." in name.split("/"):
        where = {"file": path, "field": "filename", "found": name}
        raise DataError("a table names a file outside of the root", where=where, hint=METADATA)
    return name


def _frames(
    path: Path, calibrations: Mapping[str, Calibration], labels: Mapping[str, str]
) -> tuple[dict[str, dict[str, Recording]], tuple[str, ...]]:
    """Key frames of the lidar and the cameras; and what else ``labels`` names."""
    kinds: Kinds = {
        **dict.fromkeys(("token", "sample_token", "ego_pose_token", "calibrated_sensor_token", "filename"), str),
        "is_key_frame": bool,
    }
    frames: dict[str, dict[str, Recording]] = {}
    unlabelable: list[str] = []
    for row in read_records(path, kinds):
        token, calibration = row["token"], calibrations.get(row["calibrated_sensor_token"])
        if calibration is None:
            raise _dangling(path, "calibrated_sensor_token", row["calibrated_sensor_token"], "calibrated_sensor.json")
        channel = calibration.channel
        if token in labels and not (row["is_key_frame"] and channel == LIDAR):
            unlabelable.append(token)
        if row["is_key_frame"] and (channel == LIDAR or channel in CAMERAS):
            size = (int(row.get("width") or 0), int(row.get("height") or 0))
            frames.setdefault(row["sample_token"], {})[channel] = Recording(
                token, row["ego_pose_token"], row["calibrated_sensor_token"], _below_root(row, path), size
            )
    return frames, tuple(unlabelable)


def _egos(path: Path, wanted: set[str]) -> dict[str, Rigid]:
    kinds: Kinds = {"token": str, "translation": list, "rotation": list}
    found = {row["token"]: _rigid(row, path) for row in read_records(path, kinds) if row["token"] in wanted}
    if missing := sorted(wanted - found.keys()):
        raise _dangling(path.with_name("sample_data.json"), "ego_pose_token", missing[0], path.name)
    return found


def _dangling(path: Path, name: str, token: str, other: str) -> DataError:
    return DataError(
        f"{path.name} names a record that {other} does not have: tables of several versions are mixed",
        where={"file": path, "field": name, "token": token},
        hint=METADATA,
    )
