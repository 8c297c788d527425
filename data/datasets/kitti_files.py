"""The text files and the file names of a KITTI odometry sequence."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssl3d.data.datasets.raw import read_bytes
from ssl3d.data.datasets.root import read_text
from ssl3d.data.datasets.source import SourceFile
from ssl3d.data.errors import DataError


@dataclass(slots=True)
class Numbered:
    """The files ``FFFFFF<suffix>`` of a folder.

    Attributes:
        files: frame number -> file.
        strays: visible names that are not frames.
        broken: names that lead nowhere (links) or are not files.
    """

    files: dict[int, SourceFile] = field(default_factory=dict)
    strays: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def list_numbered(folder: Path, *suffixes: str) -> Numbered | None:
    """All frames in a folder, in no order; None when there is no such folder.

    Args:
        suffixes: e.g. ``.bin``; several where files may have one of them.

    Raises:
        DataError: the folder may not be read.
    """
    found = Numbered()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                stem = name[:6]
                if name[6:] not in suffixes or not (stem.isascii() and stem.isdigit()):
                    if not name.startswith("."):
                        found.strays.append(name)
                    continue
                try:
                    status = entry.stat()
                except OSError:
                    found.broken.append(name)
                    continue
                if stat.S_ISREG(status.st_mode):
                    found.files[int(stem)] = SourceFile(entry.path, (status.st_size, status.st_mtime_ns))
                else:
                    found.broken.append(name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        raise DataError("a folder may not be read", where={"folder": folder}, hint="check its permissions") from None
    return found


def read_calib(path: Path | str) -> dict[str, npt.NDArray[np.float64]]:
    """``calib.txt``: name (``P0``..``P3``, ``Tr``) -> (4, 4) float64, the 3x4 of the file padded by 0 0 0 1.

    Raises:
        DataError: a line is not a name and 12 finite numbers.
    """
    matrices = {}
    for number, line in enumerate(_lines(path), start=1):
        name, colon, values = line.partition(":")
        if not line.strip():
            continue
        matrix = _matrix(values) if colon else None
        if matrix is None:
            raise DataError(
                "a line of calib.txt is not a name and 12 numbers",
                where={"file": path, "line": number},
                hint="take it again from data_odometry_calib.zip",
            )
        matrices[name.strip()] = matrix
    return matrices


def count_poses(path: Path | str) -> int:
    """Lines of ``poses.txt`` that are not blank."""
    return sum(1 for line in _lines(path) if line.strip())


def read_pose(poses: SourceFile, calib: SourceFile, frame: int) -> npt.NDArray[np.float64]:
    """LiDAR pose of a frame; line f of poses.txt belongs to frame f, whichever frames are there.

    The file holds poses of the left camera; the LiDAR's is ``Tr^-1 pose Tr`` (semantic-kitti-api).

    Args:
        calib: calib.txt with ``Tr``, LiDAR to camera.

    Returns:
        (4, 4) float64, sensor to world (the first camera frame's LiDAR), meters.

    Raises:
        DataError: the file is too short or changed, or the line is not 12 finite numbers.
    """
    lines = _pose_lines(poses)
    if frame >= len(lines):
        raise DataError(
            f"poses.txt has {len(lines)} lines, frame {frame} needs line {frame + 1}", where={"file": poses.path}
        )
    pose = _matrix(lines[frame])
    if pose is None:
        raise DataError(
            "a line of poses.txt is not 12 numbers",
            where={"file": poses.path, "line": frame + 1},
            hint="take it again from the SemanticKITTI label archive",
        )
    tr = calibration(calib)["Tr"]
    moved: npt.NDArray[np.float64] = np.linalg.inv(tr) @ pose @ tr
    return moved


@lru_cache(maxsize=2)  # all scans of a unit need the same
def _pose_lines(poses: SourceFile) -> Sequence[str]:
    text = read_bytes(poses).decode("utf-8", errors="replace")
    return [line for line in text.splitlines() if line.strip()]


@lru_cache(maxsize=2)
def calibration(file: SourceFile) -> dict[str, npt.NDArray[np.float64]]:
    """``read_calib`` of a file that is as it was when it was found; not to be changed."""
    return read_calib(file.path)


def image_size(path: str) -> tuple[int, int] | None:
    """Width and height of a PNG or JPEG in pixels, from its header; None where it is neither."""
    try:
        with open(path, "rb") as stream:  # noqa: PTH123
            head = stream.read(24)
            if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) == 24:
                width, height = struct.unpack(">II", head[16:24])
                return width, height
            at = 2 if head[:2] == b"\xff\xd8" else 0
            while at:  # JPEG: segments with a length each; one of the kinds C0..CF states the size
                stream.seek(at)
                marker, kind, length, _, height, width = struct.unpack(">BBHBHH", stream.read(9))
                if marker != 0xFF:
                    return None
                if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
                    return width, height
                at += 2 + length
    except (OSError, struct.error):
        pass
    return None


def _lines(path: Path | str) -> list[str]:
    return read_text(path).splitlines()


def _matrix(text: str) -> npt.NDArray[np.float64] | None:
    matrix = np.eye(4)
    try:
        matrix[:3] = np.array([float(value) for value in text.split()]).reshape(3, 4)
    except ValueError:
        return None
    return matrix if np.isfinite(matrix).all() else None
