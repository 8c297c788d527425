"""Rigid motions as (4, 4) float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Motion = npt.NDArray[np.float64]


def from_quaternion(translation: Sequence[float], rotation: Sequence[float]) -> Motion:
    """Of a translation x, y, z and a quaternion w, x, y, z that is not 0."""
    w, x, y, z = np.array(rotation) / np.linalg.norm(rotation)
    moved = np.eye(4)
    moved[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    moved[:3, 3] = translation
    return moved


def inverse(motion: Motion) -> Motion:
    """The way back."""
    back = np.eye(4)
    back[:3, :3] = motion[:3, :3].T
    back[:3, 3] = -motion[:3, :3].T @ motion[:3, 3]
    return back
