"""The text files and the file names of a KITTI odometry sequence."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssl3d.data.datasets.layout import Stamp
from ssl3d.data.errors import DataError


@dataclass(slots=True)
class Numbered:
    """The files ``FFFFFF<suffix>`` of a folder.

    Attributes:
        stamps: frame number -> (bytes, modification time).
        strays: visible names that are not frames.
        broken: names that lead nowhere (links) or are not files.
    """

    stamps: dict[int, Stamp] = field(default_factory=dict)
    strays: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def list_numbered(folder: Path, suffix: str) -> Numbered | None:
    """All frames in a folder, in no order; None when there is no such folder.

    Raises:
        DataError: the folder may not be read.
    """
    found = Numbered()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                stem = name[:6]
                if name[6:] != suffix or not (stem.isascii() and stem.isdigit()):
                    if not name.startswith("."):
                        found.strays.append(name)
                    continue
                try:
                    status = entry.stat()
                except OSError:
                    found.broken.append(name)
                    continue
                if stat.S_ISREG(status.st_mode):
                    found.stamps[int(stem)] = (status.st_size, status.st_mtime_ns)
                else:
                    found.broken.append(name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        raise DataError("a folder may not be read", where={"folder": folder}, hint="check its permissions") from None
    return found


def list_images(folder: Path) -> dict[int, str]:
    """Frame number -> file name of the images of a camera (.png, .jpg); empty without the folder."""
    images = {}
    try:
        for name in os.listdir(folder):  # noqa: PTH208
            if name[:6].isdigit() and name[6:] in (".png", ".jpg"):
                images[int(name[:6])] = name
    except (FileNotFoundError, NotADirectoryError):
        pass
    except PermissionError:
        raise DataError("a folder may not be read", where={"folder": folder}, hint="check its permissions") from None
    return images


def stamp_of(path: Path) -> Stamp | None:
    """Size and modification time, None when there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


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


def read_poses(path: Path | str, frames: list[int], tr: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """LiDAR poses of some frames; line f of the file belongs to frame f, whichever frames are there.

    The file holds poses of the left camera; the LiDAR's is ``Tr^-1 pose Tr`` (semantic-kitti-api).

    Args:
        frames: (S,) frame numbers.
        tr: (4, 4) LiDAR to camera, ``Tr`` of calib.txt.

    Returns:
        (S, 4, 4) float64, sensor to world (the first camera frame's LiDAR), meters.

    Raises:
        DataError: the file is too short, or a line is not 12 finite numbers.
    """
    lines = [line for line in _lines(path) if line.strip()]
    poses = np.empty((len(frames), 4, 4))
    for row, frame in enumerate(frames):
        if frame >= len(lines):
            raise DataError(
                f"poses.txt has {len(lines)} lines, frame {frame} needs line {frame + 1}", where={"file": path}
            )
        pose = _matrix(lines[frame])
        if pose is None:
            raise DataError(
                "a line of poses.txt is not 12 numbers",
                where={"file": path, "line": frame + 1},
                hint="take it again from the SemanticKITTI label archive",
            )
        poses[row] = pose
    moved: npt.NDArray[np.float64] = np.linalg.inv(tr) @ poses @ tr
    return moved


def read_text(path: Path | str) -> str:
    """A small text file, bytes that are no UTF-8 replaced. DataError when it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(
            f"a file cannot be read: {error.strerror}",
            where={"file": path},
            hint="check its permissions and the disk",
        ) from error


def _lines(path: Path | str) -> list[str]:
    return read_text(path).splitlines()


def _matrix(text: str) -> npt.NDArray[np.float64] | None:
    matrix = np.eye(4)
    try:
        matrix[:3] = np.array([float(value) for value in text.split()]).reshape(3, 4)
    except ValueError:
        return None
    return matrix if np.isfinite(matrix).all() else None
