"""The boxes around objects, as annotators draw them: upright, turned with the object."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ssl3d.data.synthetic.intersect import CYLINDER, HULL
from ssl3d.data.synthetic.primitives import PrimitiveArrays


class Box(NamedTuple):
    """``center``: world meters; ``size``: along, across, up; ``turn``: (cos, sin) of the yaw."""

    center: tuple[float, float, float]
    size: tuple[float, float, float]
    turn: tuple[float, float]


def box_of(solids: PrimitiveArrays, instance: int) -> Box | None:
    """The box around the parts of an object; None where it has none in this scene."""
    rows = np.flatnonzero(solids.instance == instance)
    if len(rows) == 0:
        return None
    bounds = solids.bounds[rows]
    round_ones = solids.kind[rows] == CYLINDER
    turn = solids.params[rows[~round_ones][0], 6:8] if not round_ones.all() else np.array([1.0, 0.0])
    corners = [_corners(solids, row, turn) for row in rows]
    low = np.min([a for a, _ in corners], axis=0)
    high = np.max([b for _, b in corners], axis=0)
    middle, size = 0.5 * (low + high), high - low
    c, s = float(turn[0]), float(turn[1])
    bottom, top = float(bounds[:, 2].min()), float(bounds[:, 5].max())
    x, y = c * middle[0] - s * middle[1], s * middle[0] + c * middle[1]
    center = (float(x), float(y), 0.5 * (bottom + top))
    return Box(center, (float(size[0]), float(size[1]), top - bottom), (c, s))


def _corners(
    solids: PrimitiveArrays, row: np.intp, turn: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(2,) low and (2,) high of a part, along and across the object."""
    p = solids.params[row]
    if solids.kind[row] == CYLINDER:
        axis = _turned(p[3:5], turn)
        foot = _turned(p[0:2], turn)
        head = foot + p[6] * axis
        reach = p[7] * np.sqrt(np.maximum(0.0, 1.0 - axis * axis))
        return np.minimum(foot, head) - reach, np.maximum(foot, head) + reach
    center = _turned(p[0:2], turn)
    c, s = np.abs(_turned(p[6:8], turn))
    half = _reach(solids.bounds[row], np.abs(p[6:8])) if solids.kind[row] == HULL else p[3:5]
    reach = np.array([c * half[0] + s * half[1], s * half[0] + c * half[1]])
    return center - reach, center + reach


def _reach(bounds: npt.NDArray[np.float64], turn: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(2,) how far a hull reaches along and across itself, from its bounds along the axes of the world.

    Of one turned by exactly 45 degrees they do not say it: it is left to its other parts.
    """
    x, y = 0.5 * (bounds[3:5] - bounds[0:2])
    c, s = turn
    apart = c * c - s * s
    if abs(apart) < 1e-6:
        return np.zeros(2)
    return np.array([c * x - s * y, c * y - s * x]) / apart


def _turned(v: npt.NDArray[np.float64], turn: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.array([v[0] * turn[0] + v[1] * turn[1], v[1] * turn[0] - v[0] * turn[1]])
