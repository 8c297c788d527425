"""A recorded frame of RELLIS-3D, whose labels tell where a person stands: the same person is in the image."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ssl3d.data.camera import not_hidden, project

pytestmark = pytest.mark.real
PERSON = 17
BOX = (180, 370, 400, 870)
"""x1, y1, x2, y2 of the person in the image, by eye."""


@pytest.fixture
def frame(real_data: Path) -> Path:
    folder = real_data / "rellis3d" / "utils" / "example"
    if not folder.is_dir():
        pytest.skip(f"no frame of RELLIS-3D at {folder}")
    return folder


def pose(path: Path) -> np.ndarray:
    """(4, 4) camera to LiDAR, of the quaternion and the translation in a file."""
    found = {name: float(value) for name, value in re.findall(r"(\w): (-?[\d.]+)", path.read_text().split("t:")[0])}
    w, x, y, z = (found[name] for name in "wxyz")
    out = np.eye(4)
    out[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    out[:3, 3] = [float(value) for _, value in re.findall(r"(\w): (-?[\d.]+)", path.read_text().split("t:")[1])]
    return out


def test_the_person_of_the_labels_is_the_person_in_the_image(frame: Path) -> None:
    points = np.fromfile(frame / "000104.bin", "<f4").reshape(-1, 4)[:, :3]
    label = np.fromfile(frame / "000104.label", "<u4") & 0xFFFF
    fx, fy, cx, cy = (float(word) for word in (frame / "camera_info.txt").read_text().split())
    lens, extrinsic = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), np.linalg.inv(pose(frame / "transforms.yaml"))
    seen = project(points, extrinsic, lens, (1920, 1200), zero_is_none=True)
    person = label[seen.point] == PERSON
    inside = ((seen.uv >= BOX[:2]) & (seen.uv < BOX[2:])).all(axis=1)
    assert person.sum() > 100 and inside[person].mean() > 0.95
    front = not_hidden(seen, (1920, 1200))
    near = front & (np.abs(seen.depth - np.median(seen.depth[person])) < 1.0)
    assert person[inside & near].mean() > 0.6  # the rest is grass around the feet
    turned = extrinsic @ np.diag([-1.0, -1.0, 1.0, 1.0])  # as if the camera looked the other way
    assert not (label[project(points, turned, lens, (1920, 1200)).point] == PERSON).any()
