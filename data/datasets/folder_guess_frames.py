"""What a folder of frames says of itself in JSON files: poses, cameras and names of classes, as PandaSet has them."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl3d.data.datasets.folder_config import beside
from ssl3d.data.formats.read import split_suffix

_IMAGES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, slots=True)
class GuessedCamera:
    """A camera with an image of the first cloud. All but name and size are patterns."""

    name: str
    files: str
    size: tuple[int, int]
    intrinsic: str
    poses: str


def find_cameras(root: Path, cloud: str, names: Sequence[str]) -> list[GuessedCamera]:
    """Folders of images with ``intrinsics.json`` and ``poses.json``, one of whose images is called like the cloud."""
    there, stem = set(names), split_suffix(posixpath.basename(cloud))[0]
    found = []
    for name in names:
        folder, base = posixpath.split(name)
        beside_it = {f"{folder}/{file}" for file in ("intrinsics.json", "poses.json")}
        if split_suffix(base)[0] != stem or split_suffix(base)[1] not in _IMAGES or not beside_it <= there:
            continue
        size = _size(root / name)
        if size is not None:
            place = relation(cloud, folder)
            suffix = base[len(stem) :]
            found.append(
                GuessedCamera(
                    posixpath.basename(folder),
                    f"{place}/{{stem}}{suffix}",
                    size,
                    f"{place}/intrinsics.json",
                    f"{place}/poses.json",
                )
            )
    return found


def relation(cloud: str, folder: str) -> str:
    """The pattern that leads from a cloud to a folder."""
    place = posixpath.relpath(folder or ".", posixpath.dirname(cloud) or ".")
    return "{folder}" if place == "." else f"{{folder}}/{place}"


def find_json_poses(root: Path, cloud: str, names: Sequence[str]) -> str:
    """The pattern of a list of poses, each position and heading, in the folder of the cloud or above; "": none."""
    for pattern in ("{folder}/poses.json", "{folder}/../poses.json"):
        place = posixpath.normpath(beside(pattern, cloud))
        if place in names:
            listed = _json(root / place)
            if isinstance(listed, list) and listed and isinstance(listed[0], dict) and "heading" in listed[0]:
                return pattern
    return ""


def class_names(root: Path, label: str, names: Sequence[str]) -> dict[int, str]:
    """Id -> name of ``classes.json`` beside a file of labels, where there is one."""
    place = posixpath.normpath(posixpath.join(posixpath.dirname(label), "classes.json"))
    table = _json(root / place) if place in names else None
    if not isinstance(table, Mapping):
        return {}
    return {int(raw): str(name) for raw, name in table.items() if str(raw).isdecimal() and isinstance(name, str)}


def _json(path: Path) -> Any:
    """None where it cannot be read: a guess goes on without."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _size(path: Path) -> tuple[int, int] | None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
    except (OSError, ValueError):
        return None
    return int(width), int(height)
