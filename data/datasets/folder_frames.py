"""Where a cloud of a folder stands, and what its cameras saw: poses, images, intrinsics, from the files beside it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl3d.data.datasets.folder_config import FolderConfig, Images, PoseFiles, beside, matching
from ssl3d.data.datasets.rigid import Motion, from_quaternion, inverse
from ssl3d.data.datasets.root import read_text
from ssl3d.data.datasets.source import Camera, SourceFile
from ssl3d.data.errors import DataError
from ssl3d.data.formats.read import split_suffix

POSES = "poses"
"""Role of the file with the pose of a cloud."""
_FORMS = "12 or 16 finite numbers, row by row; in JSON also position (x, y, z) and heading (w, x, y, z)"


def files_of_frame(config: FolderConfig, root: Path, relative: str) -> dict[str, Path]:
    """Role -> path of the files that tell where a cloud and its cameras stand. Images that are not there need none."""
    found = {} if config.poses is None else {POSES: _path(root, config.poses.files, relative)}
    for number, image in enumerate(config.images):
        if find_image(image, root, relative) is None:
            continue
        if image.poses is not None:
            found[f"images.{number}.poses"] = _path(root, image.poses.files, relative)
        if isinstance(image.intrinsic, str):
            found[f"images.{number}.intrinsic"] = _path(root, image.intrinsic, relative)
    return found


def find_image(image: Images, root: Path, relative: str) -> str | None:
    """The image of a cloud, relative to the root; None where there is none.

    Raises:
        DataError: a pattern with * matches several.
    """
    name = Path(os.path.normpath(beside(image.files, relative))).as_posix()
    folder, _, last = name.rpartition("/")
    if not set("*?[") & set(last):
        return name if (root / name).is_file() else None
    found = sorted(matching(last, os.listdir(root / folder))) if (root / folder).is_dir() else []  # noqa: PTH208
    if len(found) > 1:
        raise DataError(
            f"{len(found)} images match, a cloud has one of each camera",
            where={"folder": root / folder, "pattern": last, "first": ", ".join(found[:2]), "field": "images.files"},
            hint="make the pattern say more",
        )
    return f"{folder}/{found[0]}".lstrip("/") if found else None


def read_pose(path: str, rule: PoseFiles, relative: str, line: int) -> Motion:
    """The pose of a cloud.

    Args:
        path: of the file.
        relative: path of the cloud below the root.
        line: its place among the clouds of its folder.

    Raises:
        DataError: the file is damaged, or has none for this cloud.
    """
    entries = _entries(path)
    if "{stem}" in rule.files or "{path}" in rule.files:
        return _pose(entries if path.lower().endswith(".json") else " ".join(entries), path, 0)
    stem = split_suffix(os.path.basename(relative))[0]  # noqa: PTH119
    if isinstance(entries, Mapping):
        if stem not in entries:
            hint = f"its keys are {', '.join(list(entries)[:3])}; they are the names of the clouds"
            raise DataError("a cloud has no pose", where={"file": path, "cloud": relative, "key": stem}, hint=hint)
        return _pose(entries[stem], path, stem)
    if rule.by == "stem":
        digits = re.search(r"\d+$", stem)
        if digits is None:
            hint = 'by = "order" takes poses in order of the clouds\' names'
            raise DataError("the name of a cloud has no number", where={"file": path, "cloud": relative}, hint=hint)
        line = int(digits.group())
    if line >= len(entries):
        what = f"the file has {len(entries)} poses, too few for its clouds"
        raise DataError(what, where={"file": path, "row": line, "cloud": relative}, hint=f"poses go by {_BY[rule.by]}")
    return _pose(entries[line], path, line)


_BY = {"order": "the order of the clouds' names", "stem": "the numbers in the clouds' names, from 0"}


def cameras(
    config: FolderConfig, root: Path, files: Mapping[str, SourceFile], relative: str, line: int, to_world: Motion
) -> Sequence[Camera]:
    """The images of a cloud whose points ``to_world`` takes to the world. DataError: see ``read_pose``."""
    found = []
    for number, image in enumerate(config.images):
        name = find_image(image, root, relative)
        if name is None:
            continue
        if image.poses is None:
            extrinsic = np.array(image.extrinsic).reshape(4, 4)
        else:
            pose = read_pose(files[f"images.{number}.poses"].path, image.poses, relative, line)
            extrinsic = inverse(pose) @ to_world
        if isinstance(image.intrinsic, str):
            intrinsic = _intrinsic(files[f"images.{number}.intrinsic"].path)
        else:
            intrinsic = np.array(image.intrinsic).reshape(3, 3)
        found.append(Camera(image.name, name, image.size, intrinsic, extrinsic))
    return found


def _path(root: Path, pattern: str, relative: str) -> Path:
    return Path(os.path.normpath(root / beside(pattern, relative)))


def _entries(path: str) -> Any:
    """Lines of a text, or what JSON holds: a list or a dictionary."""
    text = read_text(path)
    if not path.lower().endswith(".json"):
        return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found = _json(path, text)
    if not isinstance(found, (list, dict)):
        raise DataError("the file holds no poses", where={"file": path}, hint=_FORMS)
    return found


def _json(path: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the JSON is damaged: {error}", where={"file": path}, hint="copy it again") from error


def _pose(entry: Any, path: str, row: int | str) -> Motion:
    """One pose in any of its forms."""
    where = {"file": path, "row": row}
    if isinstance(entry, Mapping):
        try:
            position = [float(entry["position"][axis]) for axis in "xyz"]
            heading = [float(entry["heading"][axis]) for axis in "wxyz"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"a pose is not understood: {error!r}", where=where, hint=_FORMS) from None
        if not np.isfinite([*position, *heading]).all() or abs(np.linalg.norm(heading) - 1) > 1e-3:
            raise DataError("a pose is no position and unit quaternion", where=where, hint=_FORMS)
        return from_quaternion(position, heading)
    try:
        words = entry.replace(",", " ").split() if isinstance(entry, str) else np.array(entry, np.float64).ravel()
        numbers = [float(word) for word in words]
    except (TypeError, ValueError) as error:
        raise DataError(f"a pose holds no numbers: {error}", where=where, hint=_FORMS) from None
    if len(numbers) not in (12, 16) or not np.isfinite(numbers).all():
        raise DataError(f"a pose has {len(numbers)} numbers", where=where, hint=_FORMS)
    return np.array(numbers + [0.0, 0.0, 0.0, 1.0] * (len(numbers) == 12)).reshape(4, 4)


def _intrinsic(path: str) -> Motion:
    """(3, 3) of a JSON file with fx, fy, cx, cy."""
    found = _json(path, read_text(path))
    try:
        fx, fy, cx, cy = (float(found[name]) for name in ("fx", "fy", "cx", "cy"))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"the intrinsics of a camera are not understood: {error!r}",
            where={"file": path},
            hint="fx, fy, cx and cy, in pixels; or write intrinsic as 9 numbers",
        ) from None
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
