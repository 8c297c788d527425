"""A room while it is being furnished: its box of walls, what stands where, and which instance is what."""

from __future__ import annotations

import math
from typing import NamedTuple

from ssl3d.data.synthetic.primitives import Builder, Frame, Primitives
from ssl3d.data.synthetic.rng import Rng
from ssl3d.data.synthetic.rooms.categories import INDEX

TURNS = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))
"""(cos, sin) of the directions along the south, east, north and west wall; the room lies to their left."""


class Rect(NamedTuple):
    x0: float
    y0: float
    x1: float
    y1: float

    def meets(self, other: Rect) -> bool:
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1


class Front(NamedTuple):
    """A piece of a wall that is taken: meters along it, and heights."""

    wall: int
    a0: float
    a1: float
    z0: float
    z1: float

    def meets(self, other: Front) -> bool:
        return (
            self.wall == other.wall
            and self.a0 < other.a1
            and other.a0 < self.a1
            and self.z0 < other.z1
            and other.z0 < self.z1
        )


class Light(NamedTuple):
    """A lamp or a window, as a point that shines: place, power for red, green and blue, direction (zero: all)."""

    x: float
    y: float
    z: float
    red: float
    green: float
    blue: float
    nx: float = 0.0
    ny: float = 0.0


class Room:
    """x in 0..``width``, y in 0..``depth``, z in 0..``height``, meters.

    ``names[i]``: raw category of instance i (0 is nothing); ``tall``: footprints that a person cannot look over.
    """

    def __init__(self, key: int, kind: str, width: float, depth: float, height: float) -> None:
        self.key, self.kind = key, kind
        self.rng = Rng(key, 1)
        self.width, self.depth, self.height = width, depth, height
        self.primitives = Primitives()
        self.names = [""]
        self.lights: list[Light] = []
        self.tall: list[Rect] = []
        self._taken: list[Rect] = []
        self._fronts: list[Front] = []

    def thing(self, name: str, frame: Frame) -> Builder:
        """Builds a new instance of the category ``name`` at ``frame``."""
        self.names.append(name)
        return Builder(self.primitives, frame, INDEX[name], len(self.names) - 1)

    def length(self, wall: int) -> float:
        return self.depth if wall % 2 else self.width

    def wall_frame(self, wall: int, along: float) -> Frame:
        """At a wall, ``along`` meters from its start: x along the wall, y into the room."""
        corner = ((0.0, 0.0), (self.width, 0.0), (self.width, self.depth), (0.0, self.depth))[wall]
        c, s = TURNS[wall]
        return Frame(corner[0] + along * c, corner[1] + along * s, 0.0, TURNS[wall])

    def footprint(self, frame: Frame, half: float, y0: float, y1: float) -> Rect:
        """The bounds of x in -half..half, y in y0..y1 of the frame."""
        corners = [frame.at((x, y, 0.0)) for x in (-half, half) for y in (y0, y1)]
        xs, ys = [p[0] for p in corners], [p[1] for p in corners]
        return Rect(min(xs), min(ys), max(xs), max(ys))

    def free(self, rect: Rect) -> bool:
        inside = rect.x0 > -0.01 and rect.y0 > -0.01 and rect.x1 < self.width + 0.01 and rect.y1 < self.depth + 0.01
        return inside and not any(rect.meets(other) for other in self._taken)

    def take(self, rect: Rect, height: float = 0.0) -> None:
        self._taken.append(rect)
        if height > 1.1:
            self.tall.append(rect)

    def front_free(self, front: Front) -> bool:
        return not any(front.meets(other) for other in self._fronts)

    def take_front(self, front: Front) -> None:
        self._fronts.append(front)

    def against(
        self, width: float, depth: float, height: float, clear: float = 0.5, wall: int | None = None, tries: int = 40
    ) -> Frame | None:
        """Room for a thing of this size with its back to a wall and ``clear`` meters before it: origin at the middle
        of its back, x along the wall, y into the room. None when there is none."""
        for _ in range(tries):
            k = self.rng.integer(0, 3) if wall is None else wall
            spare = self.length(k) - width
            if spare < 0.02:
                continue
            along = 0.5 * width + self._along(spare)
            frame = self.wall_frame(k, along)
            front = Front(k, along - 0.5 * width, along + 0.5 * width, 0.0, height)
            if self.free(self.footprint(frame, 0.5 * width, 0.005, depth + clear)) and self.front_free(front):
                self.take(self.footprint(frame, 0.5 * width + 0.02, 0.0, depth), height)
                self.take_front(front)
                return frame.shifted((0.0, 0.02, 0.0))
        return None

    def _along(self, spare: float) -> float:
        """Where along a wall; often in a corner."""
        if self.rng.chance(0.35):
            return 0.01 if self.rng.chance(0.5) else spare - 0.01
        return self.rng.uniform(0.01, spare - 0.01)

    def on_wall(self, width: float, low: float, high: float, wall: int | None = None, tries: int = 30) -> Frame | None:
        """Room for a flat thing on a wall between two heights: origin on the wall, z = 0."""
        for _ in range(tries):
            k = self.rng.integer(0, 3) if wall is None else wall
            spare = self.length(k) - width - 0.2
            if spare < 0.02:
                continue
            along = 0.1 + 0.5 * width + self.rng.uniform(0.0, spare)
            front = Front(k, along - 0.5 * width - 0.05, along + 0.5 * width + 0.05, low, high)
            if self.front_free(front):
                self.take_front(front)
                return self.wall_frame(k, along)
        return None

    def inside(self, width: float, depth: float, margin: float, tries: int = 40) -> Frame | None:
        """Room for a thing in the open, ``margin`` meters around it: origin at its middle; along x or along y."""
        for _ in range(tries):
            turned = self.rng.chance(0.5)
            w, d = (depth, width) if turned else (width, depth)
            x_spare, y_spare = self.width - w - 2.0 * margin, self.depth - d - 2.0 * margin
            if x_spare < 0.0 or y_spare < 0.0:
                continue
            x = 0.5 * w + margin + self.rng.uniform(0.2, 0.8) * x_spare
            y = 0.5 * d + margin + self.rng.uniform(0.2, 0.8) * y_spare
            frame = Frame(x, y, 0.0, self.rng.choice(TURNS[1::2] if turned else TURNS[::2]))
            if self.free(Rect(x - 0.5 * w - margin, y - 0.5 * d - margin, x + 0.5 * w + margin, y + 0.5 * d + margin)):
                self.take(Rect(x - 0.5 * w, y - 0.5 * d, x + 0.5 * w, y + 0.5 * d))
                return frame
        return None

    def spot(self, radius: float, tries: int = 30) -> Frame | None:
        """Room on the floor for something small, turned anyhow."""
        for _ in range(tries):
            x = self.rng.uniform(radius, self.width - radius)
            y = self.rng.uniform(radius, self.depth - radius)
            rect = Rect(x - radius, y - radius, x + radius, y + radius)
            if self.free(rect):
                self.take(rect)
                return Frame(x, y, 0.0, (1.0, 0.0)).shifted((0.0, 0.0, 0.0), self.rng.uniform(0.0, 2.0 * math.pi))
        return None
