"""What an image is called in caption files: its path in the dataset without folders that every image has, and ending.

SemanticKITTI ``00/image_2/000123``, nuScenes ``samples/CAM_FRONT/<stem>``, ScanNet ``scene0000_00/color/000100``.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_COMMON = frozenset({"sequences", "scans", "scans_test", "scannet_frames_25k", "scannet_frames_test"})
_STREAM = re.compile(r"(?P<scan>[^/]+)\.sens#color/(?P<frame>\d+)$")


def image_id(image: str) -> str:
    """The id of ``Camera.image``, a path relative to the root or ``<path>.sens#color/<frame>``.

    >>> image_id("dataset/sequences/00/image_2/000123.png")
    '00/image_2/000123'
    >>> image_id("scans/scene0000_00/scene0000_00.sens#color/100")
    'scene0000_00/color/000100'
    """
    if stream := _STREAM.search(image):
        return f"{stream['scan']}/color/{int(stream['frame']):06d}"
    path = PurePosixPath(image)
    parts = list(path.parts)
    parts[-1] = path.stem if path.suffix.lower() in IMAGE_ENDINGS else path.name
    begin = max((place + 1 for place, part in enumerate(parts[:-1]) if part in _COMMON), default=0)
    return "/".join(parts[begin:])


def problem_of_id(name: str) -> str | None:
    """Why ``name`` cannot be the id of an image; None when it can."""
    if not name.strip():
        return "is empty"
    if "\\" in name:
        return "has backslashes: write forward slashes"
    if name.startswith("/") or ":" in name or ".." in PurePosixPath(name).parts:
        return "is not a path below the dataset: write it relative to the root"
    if name.lower().endswith(IMAGE_ENDINGS):
        return f"has an ending: write it without {PurePosixPath(name).suffix}"
    return None
