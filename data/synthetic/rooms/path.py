"""Where the camera goes: someone walks through the room and looks around."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ssl3d.data.synthetic.rng import Rng, cos_sin
from ssl3d.data.synthetic.rooms.room import Rect, Room


class Lens(NamedTuple):
    """A pinhole: focal lengths and principal point in pixels (pixel centers at whole numbers), size in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int


DEPTH_LENS = Lens(571.623718, 571.623718, 319.5, 239.5, 640, 480)
COLOR_LENS = Lens(1170.187988, 1170.187988, 647.75, 483.75, 1296, 968)
"""A lens of the recordings; generated images are smaller."""


def scaled(lens: Lens, width: int) -> Lens:
    """The same view with ``width`` columns: fx*w'/w, cx*(w'-1)/(w-1)."""
    height = round(lens.height * width / lens.width)
    x, y = width / lens.width, height / lens.height
    cx, cy = lens.cx * (width - 1) / (lens.width - 1), lens.cy * (height - 1) / (lens.height - 1)
    return Lens(lens.fx * x, lens.fy * y, cx, cy, width, height)


def camera_poses(room: Room, count: int) -> npt.NDArray[np.float64]:
    """(count, 4, 4) camera (x right, y down, z ahead) to room."""
    rng = Rng(room.key, 30)
    stops = [
        standing_place(room, rng, min(0.55, 0.28 * min(room.width, room.depth))) for _ in range(max(4, count // 9))
    ]
    yaw, laps = rng.uniform(0.0, 2.0 * math.pi), max(2.0, count / 17.3)
    eye, nod = rng.uniform(1.35, 1.6), rng.uniform(0.0, 6.0)
    wave = 0.618 * laps + rng.uniform(-0.2, 0.2)  # never the same height twice in one direction
    poses = np.zeros((count, 4, 4))
    for k in range(count):
        at = k / max(1, count - 1)
        s = at * (len(stops) - 1)
        i = min(int(s), len(stops) - 2)
        f = s - i
        f = f * f * (3.0 - 2.0 * f)
        (x0, y0), (x1, y1) = stops[i], stops[i + 1]
        position = (x0 + f * (x1 - x0), y0 + f * (y1 - y0), eye + rng.uniform(-0.08, 0.08))
        sway = cos_sin(nod + 2.0 * math.pi * wave * at)
        pitch = -0.48 + 0.56 * sway[0] + rng.uniform(-0.06, 0.06)
        poses[k] = look(position, yaw + 2.0 * math.pi * laps * at + 0.25 * sway[1], pitch, rng.uniform(-0.06, 0.06))
    return poses


def look(position: tuple[float, float, float], yaw: float, pitch: float, roll: float) -> npt.NDArray[np.float64]:
    """(4, 4) camera to room of a camera that looks along ``yaw`` (from x towards y) and ``pitch`` (up), radians."""
    (cy, sy), (cp, sp), (cr, sr) = cos_sin(yaw), cos_sin(pitch), cos_sin(roll)
    ahead = np.array([cy * cp, sy * cp, sp])
    right = np.array([sy, -cy, 0.0])
    down = np.array([cy * sp, sy * sp, -cp])
    pose = np.eye(4)
    pose[:3, 0] = cr * right + sr * down
    pose[:3, 1] = cr * down - sr * right
    pose[:3, 2] = ahead
    pose[:3, 3] = position
    return pose


def standing_place(room: Room, rng: Rng, clearance: float) -> tuple[float, float]:
    """(x, y) away from walls and from everything that one cannot look over (the best of some places at least)."""
    best, most = (0.5 * room.width, 0.5 * room.depth), -1.0
    for _ in range(40):
        x = rng.uniform(clearance, room.width - clearance)
        y = rng.uniform(clearance, room.depth - clearance)
        spare = min((_gap(rect, x, y) for rect in room.tall), default=clearance)
        if spare > most:
            best, most = (x, y), spare
        if spare >= clearance:
            break
    return best


def _gap(rect: Rect, x: float, y: float) -> float:
    dx, dy = max(rect.x0 - x, 0.0, x - rect.x1), max(rect.y0 - y, 0.0, y - rect.y1)
    return math.sqrt(dx * dx + dy * dy)
