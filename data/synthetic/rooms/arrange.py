"""Groups of things that belong together, and where they go: a desk with its chair, a table with chairs around it."""

from __future__ import annotations

import math

from ssl3d.data.synthetic.rooms import furniture, objects
from ssl3d.data.synthetic.rooms.room import Rect, Room


def pictures(room: Room, low: int, high: int) -> None:
    for _ in range(room.rng.integer(low, high)):
        objects.picture(room)


def litter(room: Room, kinds: dict[str, float], low: int, high: int) -> None:
    for _ in range(room.rng.integer(low, high)):
        objects.lying_about(room, room.rng.weighted(kinds))


def workplace(room: Room) -> None:
    """A desk with its chair and what stands on it."""
    rng = room.rng
    width, depth = rng.uniform(1.2, 1.7), rng.uniform(0.62, 0.8)
    frame = room.against(width, depth, 0.75, clear=0.6, tries=100)
    if frame is None:
        return
    top = furniture.desk(room, frame, width, depth)
    objects.on_desk(room, frame, width, depth, top)
    at = furniture.facing(
        frame, rng.uniform(-0.25, 0.25) * width, depth + rng.uniform(0.1, 0.4), rng.uniform(-0.6, 0.6)
    )
    room.take(Rect(at.x - 0.3, at.y - 0.3, at.x + 0.3, at.y + 0.3))
    furniture.chair(room, at, "office chair" if rng.chance(0.75) else "chair")


def cupboards(room: Room, kinds: dict[str, float], count: int) -> None:
    rng = room.rng
    for _ in range(count):
        kind = rng.weighted(kinds)
        width, depth, height = {
            "bookshelf": (rng.uniform(0.8, 1.6), rng.uniform(0.26, 0.36), rng.uniform(1.2, 2.1)),
            "shelf": (rng.uniform(0.8, 1.5), rng.uniform(0.35, 0.5), rng.uniform(1.5, 2.0)),
            "file cabinet": (rng.uniform(0.4, 0.9), 0.5, rng.choice((0.7, 1.0, 1.3))),
            "cabinet": (rng.uniform(0.8, 1.4), rng.uniform(0.4, 0.5), rng.uniform(0.8, 1.9)),
            "dresser": (rng.uniform(0.8, 1.3), 0.46, rng.uniform(0.75, 1.05)),
            "wardrobe cabinet": (rng.uniform(1.0, 1.8), 0.6, rng.uniform(1.9, 2.2)),
            "nightstand": (0.45, 0.4, 0.55),
            "tv": (rng.uniform(1.2, 1.8), 0.42, rng.uniform(0.4, 0.6)),
        }[kind]
        frame = room.against(width, depth, height, clear=0.4, tries=80)
        if frame is None:
            continue
        if kind in ("bookshelf", "shelf"):
            furniture.bookshelf(room, frame, kind, width, depth, height)
            continue
        furniture.cupboard(room, frame, "cabinet" if kind == "tv" else kind, width, depth, height)
        if kind == "tv":
            objects.screen(room, frame.shifted((0.0, 0.22, height)), "tv", rng.uniform(0.85, 1.2), 0.06)
        elif height < 1.2:
            if rng.chance(0.3):
                objects.lamp(room, frame.shifted((0.3 * width, 0.5 * depth, height)), 0.4)
            objects.clutter(room, frame, width, depth, height, rng.integer(0, 3))


def table_set(room: Room, name: str, width: float, depth: float, chair: str, margin: float) -> None:
    """A table in the open with chairs on all its sides."""
    rng = room.rng
    rounded = rng.chance(0.2) and width < 1.6
    if rounded:
        width = depth = max(0.9, depth)
    frame = room.inside(width, depth, margin, tries=150)
    if frame is None:
        return
    height = rng.uniform(0.71, 0.77)
    furniture.table(room, frame, name, width, depth, height, rounded)
    corner = frame.shifted((0.0, -0.5 * depth, 0.0))
    objects.clutter(room, corner, 0.8 * width, 0.8 * depth, height, rng.integer(0, 4))
    count, style = max(1, int(width / 0.62)), rng.bits()
    for side in (1.0, -1.0):
        for k in range(count):
            if rng.chance(0.1):
                continue
            x = (k + 0.5) / count * width - 0.5 * width
            out = 0.5 * depth + rng.uniform(0.0, 0.35)
            at = frame.shifted((x, side * out, 0.0), (math.pi if side > 0 else 0.0) + rng.uniform(-0.35, 0.35))
            furniture.chair(room, at, chair, style)
    room.take(room.footprint(frame, 0.5 * width + 0.4, -0.5 * depth - 0.6, 0.5 * depth + 0.6))


def sitting(room: Room, name: str) -> None:
    rng = room.rng
    width = rng.uniform(1.5, 2.2) if name == "couch" else rng.uniform(0.8, 0.95)
    depth = rng.uniform(0.82, 0.95)
    frame = room.against(width, depth, 0.85, clear=0.4, tries=80)
    if frame is None:
        return
    furniture.sofa(room, frame, name, width, depth)
    if name == "couch" and rng.chance(0.4):
        side = room.against(0.45, 0.45, 0.55, clear=0.1)
        if side is not None:
            middle = side.shifted((0.0, 0.22, 0.0))
            furniture.table(room, middle, "end table", 0.44, 0.44, 0.54)
            objects.lamp(room, middle.shifted((0.0, 0.0, 0.54)), 0.42)


def fridge(room: Room, small: bool, wall: int | None = None) -> None:
    rng = room.rng
    size = (0.5, 0.52, rng.uniform(0.6, 0.85)) if small else (rng.uniform(0.6, 0.8), 0.65, rng.uniform(1.6, 1.85))
    frame = room.against(*size, clear=0.5, wall=wall, tries=80)
    if frame is not None:
        furniture.refrigerator(room, frame, *size)


def usual_things(room: Room, bins: float, plants: float, clocks: float) -> None:
    """What any room may have."""
    rng = room.rng
    if rng.chance(bins):
        frame = room.against(0.4, 0.36, 0.5, clear=0.0)
        if frame is not None:
            objects.bin_(room, frame.shifted((0.0, 0.18, 0.0), rng.uniform(-0.3, 0.3)))
    if rng.chance(plants):
        frame = room.against(0.5, 0.5, 1.0, clear=0.0)
        if frame is not None:
            objects.plant(room, frame.shifted((0.0, 0.26, 0.0)), rng.uniform(0.6, 1.3))
    if rng.chance(clocks):
        objects.clock(room)
