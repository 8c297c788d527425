"""Furniture. A piece against a wall has its origin at the middle of its back, x along the wall, y towards its front;
a piece in the open has it at its middle. Every function adds the instances it consists of to the room."""

from __future__ import annotations

import math

from ssl3d.data.synthetic.intersect import PICKETS
from ssl3d.data.synthetic.materials import Paint
from ssl3d.data.synthetic.primitives import Builder, Frame
from ssl3d.data.synthetic.rng import Rng
from ssl3d.data.synthetic.rooms.room import Room
from ssl3d.data.synthetic.rooms.surfaces import (
    BLACK,
    BOOKS,
    FABRIC,
    FABRICS,
    GRAY,
    METAL,
    PANELS,
    PLAIN,
    STEEL,
    STRIPES,
    WHITE,
    WOOD,
    WOODS,
    paint,
)


def wood(rng: Rng) -> Paint:
    return paint(WOOD, rng.choice((*WOODS, WHITE)), rng, 0.12)


def cloth(rng: Rng) -> Paint:
    return paint(STRIPES if rng.chance(0.15) else FABRIC, rng.choice(FABRICS), rng, 0.15)


def _legs(b: Builder, half: tuple[float, float], top: float, coat: Paint, radius: float, middle: float = 0.0) -> None:
    for x in (-half[0], half[0]):
        for y in (middle - half[1], middle + half[1]):
            b.tube((x, y, 0.0), (x, y, top), radius, coat)


def table(
    room: Room, frame: Frame, name: str, width: float, depth: float, height: float, rounded: bool = False
) -> None:
    """In the open; ``rounded``: one leg and a round top."""
    rng = room.rng
    b, coat = room.thing(name, frame), wood(rng)
    if rounded:
        b.tube((0.0, 0.0, height - 0.03), (0.0, 0.0, height), 0.5 * width, coat)
        b.tube((0.0, 0.0, 0.03), (0.0, 0.0, height), 0.05, STEEL)
        b.tube((0.0, 0.0, 0.0), (0.0, 0.0, 0.03), 0.28 * width, STEEL)
        return
    b.box((0.0, 0.0, height - 0.02), (0.5 * width, 0.5 * depth, 0.02), coat)
    if height < 0.55 and rng.chance(0.5):
        b.box((0.0, 0.0, 0.15), (0.5 * width - 0.05, 0.5 * depth - 0.05, 0.012), coat)
    if rng.chance(0.7):
        _legs(b, (0.5 * width - 0.05, 0.5 * depth - 0.05), height - 0.02, STEEL if rng.chance(0.4) else coat, 0.03)
    else:
        for x in (-0.5 * width + 0.12, 0.5 * width - 0.12):
            b.box((x, 0.0, 0.5 * height), (0.03, 0.5 * depth - 0.08, 0.5 * height - 0.02), coat)


def desk(room: Room, frame: Frame, width: float, depth: float) -> float:
    """Against a wall; returns the height of its top."""
    rng = room.rng
    b, coat, height = room.thing("desk", frame), wood(rng), rng.uniform(0.70, 0.76)
    b.box((0.0, 0.5 * depth, height - 0.018), (0.5 * width, 0.5 * depth, 0.018), coat)
    side = rng.choice((-1.0, 1.0))
    if rng.chance(0.6):  # drawers below one end
        x = side * (0.5 * width - 0.22)
        b.box((x, 0.5 * depth, 0.5 * height - 0.02), (0.2, 0.46 * depth, 0.5 * height - 0.04), coat)
        for k in range(3):
            b.box((x, 0.97 * depth, 0.14 + 0.2 * k), (0.06, 0.02, 0.012), STEEL)
    else:
        b.box((side * (0.5 * width - 0.02), 0.5 * depth, 0.5 * height), (0.02, 0.47 * depth, 0.5 * height - 0.02), coat)
    b.box((-side * (0.5 * width - 0.02), 0.5 * depth, 0.5 * height), (0.02, 0.47 * depth, 0.5 * height - 0.02), coat)
    b.box((0.0, 0.04, 0.45), (0.5 * width - 0.04, 0.012, 0.22), coat)
    return height


def chair(room: Room, frame: Frame, name: str = "chair", style: int | None = None) -> None:
    """In the open; whoever sits on it looks along y. ``style``: chairs of one style are alike."""
    rng = room.rng if style is None else Rng(style)
    b = room.thing(name, frame)
    seat, half = rng.uniform(0.42, 0.48), rng.uniform(0.20, 0.24)
    fill = cloth(rng) if rng.chance(0.6) else wood(rng)
    if name == "office chair":
        for k in range(5):
            foot = b.frame.shifted((0.0, 0.0, 0.0), 1.2566370614 * k + 0.3)
            Builder(room.primitives, foot, *b.tag).box((0.15, 0.0, 0.06), (0.15, 0.022, 0.025), BLACK)
        b.tube((0.0, 0.0, 0.05), (0.0, 0.0, seat - 0.04), 0.03, STEEL)
        b.box((0.0, 0.0, seat), (half + 0.03, half + 0.03, 0.045), fill)
        b.box((0.0, -half - 0.02, seat + 0.38), (half, 0.035, 0.28), fill)
        b.box((0.0, -half - 0.03, seat + 0.08), (0.03, 0.02, 0.12), BLACK)
        if rng.chance(0.6):
            for x in (-half - 0.04, half + 0.04):
                b.box((x, 0.0, seat + 0.20), (0.025, 0.13, 0.018), BLACK)
                b.box((x, -0.05, seat + 0.10), (0.018, 0.02, 0.1), BLACK)
        return
    frame_coat = STEEL if rng.chance(0.4) else wood(rng)
    b.box((0.0, 0.0, seat - 0.02), (half, half, 0.025), fill)
    _legs(b, (half - 0.02, half - 0.02), seat - 0.02, frame_coat, 0.018)
    top = seat + rng.uniform(0.38, 0.52)
    for x in (-half + 0.02, half - 0.02):
        b.tube((x, -half + 0.01, seat), (x, -half - 0.03, top), 0.016, frame_coat)
    slats = PICKETS if rng.chance(0.3) else 0
    b.box(
        (0.0, -half - 0.01, 0.5 * (seat + top) + 0.06),
        (half, 0.018, 0.5 * (top - seat) - 0.08),
        fill,
        slats,
        (0.09, 0.6),
    )


def stool(room: Room, frame: Frame) -> None:
    b, height = room.thing("stool", frame), room.rng.uniform(0.5, 0.75)
    b.tube((0.0, 0.0, height - 0.05), (0.0, 0.0, height), 0.18, wood(room.rng))
    _legs(b, (0.11, 0.11), height - 0.04, STEEL, 0.016)


def sofa(room: Room, frame: Frame, name: str, width: float, depth: float) -> None:
    """A couch or an armchair, with its back at y = 0."""
    rng = room.rng
    b, fill = room.thing(name, frame), cloth(rng)
    seat, back, arm = rng.uniform(0.40, 0.45), rng.uniform(0.75, 0.90), rng.uniform(0.11, 0.2)
    b.box((0.0, 0.5 * depth, 0.5 * seat - 0.08), (0.5 * width, 0.5 * depth - 0.02, 0.5 * seat - 0.06), fill)
    b.box((0.0, 0.12, 0.5 * back), (0.5 * width - 0.02, 0.12, 0.5 * back), fill)
    for side in (-1.0, 1.0):
        x = side * (0.5 * width - 0.5 * arm)
        b.box((x, 0.5 * depth, 0.31), (0.5 * arm, 0.5 * depth - 0.01, 0.31), fill)
    count = max(1, round((width - 2.0 * arm) / 0.65))
    span = (width - 2.0 * arm) / count
    for k in range(count):
        x = -0.5 * width + arm + (k + 0.5) * span
        b.box((x, 0.5 * depth + 0.1, seat - 0.07), (0.5 * span - 0.008, 0.5 * depth - 0.12, 0.075), fill)
        b.box((x, 0.29, seat + 0.22), (0.5 * span - 0.012, 0.07, 0.2), fill)
    for _ in range(rng.integer(0, count)):
        x = rng.uniform(-0.5, 0.5) * (width - 2.0 * arm - 0.4)
        pillow(room, frame.shifted((x, 0.42, seat + 0.2), rng.uniform(-0.4, 0.4)), (0.2, 0.09, 0.2))


def pillow(room: Room, frame: Frame, radii: tuple[float, float, float]) -> None:
    room.thing("pillow", frame).ball((0.0, 0.0, 0.0), radii, cloth(room.rng))


def bed(room: Room, frame: Frame, width: float, length: float) -> None:
    """Head at the wall."""
    rng = room.rng
    b, coat, sheet = room.thing("bed", frame), wood(rng), cloth(rng)
    b.box((0.0, 0.5 * length, 0.17), (0.5 * width, 0.5 * length, 0.11), coat)
    b.box((0.0, 0.5 * length + 0.02, 0.38), (0.5 * width - 0.03, 0.5 * length - 0.03, 0.11), paint(FABRIC, WHITE))
    b.box((0.0, 0.62 * length, 0.42), (0.5 * width + 0.01, 0.36 * length, 0.10), sheet)
    b.box((0.0, 0.03, 0.5), (0.5 * width + 0.03, 0.035, rng.uniform(0.4, 0.55)), coat)
    count = 2 if width > 1.2 else 1
    for k in range(count):
        x = (k - 0.5 * (count - 1)) * 0.5 * width
        pillow(room, frame.shifted((x, 0.3, 0.56)), (0.19 * width if count == 2 else 0.3, 0.2, 0.09))


def cupboard(room: Room, frame: Frame, name: str, width: float, depth: float, height: float) -> None:
    """A closed box with doors or drawers: cabinet, file cabinet, dresser, wardrobe, nightstand."""
    rng = room.rng
    metal = name == "file cabinet"
    b = room.thing(name, frame)
    coat = paint(
        METAL if metal and rng.chance(0.5) else PLAIN, rng.choice((GRAY, (0.72, 0.70, 0.64), WHITE)), rng, 0.15
    )
    coat = coat if metal else wood(rng)
    b.box((0.0, 0.5 * depth, 0.5 * height), (0.5 * width, 0.5 * depth, 0.5 * height), coat)
    rows = max(1, round(height / 0.3)) if name in ("file cabinet", "dresser", "nightstand") else 1
    columns = max(1, round(width / 0.5)) if rows == 1 else max(1, round(width / 0.9))
    w, h = width / columns, (height - 0.06) / rows
    for i in range(rows):
        for j in range(columns):
            x, z = -0.5 * width + (j + 0.5) * w, 0.05 + (i + 0.5) * h
            front = coat._replace(rgb=(0.93 * coat.rgb[0], 0.93 * coat.rgb[1], 0.93 * coat.rgb[2]))
            b.box((x, depth + 0.008, z), (0.5 * w - 0.012, 0.01, 0.5 * h - 0.012), front)
            handle = (x, depth + 0.03, z) if rows > 1 else (x + (0.4 - 0.8 * (j % 2)) * w, depth + 0.03, z)
            b.box(handle, (0.05, 0.012, 0.01) if rows > 1 else (0.01, 0.012, 0.07), STEEL)


def bookshelf(room: Room, frame: Frame, name: str, width: float, depth: float, height: float) -> None:
    """Boards with rows of books; ``shelf``: with boxes and things instead."""
    rng = room.rng
    b, coat = room.thing(name, frame), wood(rng)
    for side in (-1.0, 1.0):
        b.box((side * (0.5 * width - 0.012), 0.5 * depth, 0.5 * height), (0.012, 0.5 * depth, 0.5 * height), coat)
    if name == "bookshelf":
        b.box((0.0, 0.01, 0.5 * height), (0.5 * width, 0.01, 0.5 * height), coat)
    levels = max(2, round(height / 0.36))
    for k in range(levels + 1):
        b.box((0.0, 0.5 * depth, k * height / levels), (0.5 * width, 0.5 * depth, 0.013), coat)
    for k in range(levels):
        z = k * height / levels + 0.013
        tall = height / levels - 0.08
        if name == "shelf":
            for _ in range(rng.integer(0, 2)):
                x = rng.uniform(-0.3, 0.3) * width
                box(room, frame.shifted((x, 0.5 * depth, z)), (0.14, 0.4 * depth, 0.5 * tall))
            continue
        if rng.chance(0.85):
            share = rng.uniform(0.4, 1.0) * (width - 0.05)
            x = -0.5 * width + 0.025 + 0.5 * share
            reach = 0.5 * depth * rng.uniform(0.7, 0.9)
            rows = room.thing("books", frame) if rng.chance(0.4) else b
            rows.box(
                (x, reach, z + 0.5 * tall), (0.5 * share, reach, 0.5 * tall), paint(BOOKS, (0.45, 0.42, 0.40), rng, 0.2)
            )


def box(room: Room, frame: Frame, half: tuple[float, float, float]) -> None:
    brown = paint(PLAIN, room.rng.choice(((0.62, 0.47, 0.30), (0.72, 0.60, 0.42), (0.85, 0.84, 0.80))), room.rng, 0.15)
    room.thing("box", frame).box((0.0, 0.0, half[2]), half, brown)


def counter(room: Room, frame: Frame, width: float, depth: float, name: str, below: str, sinks: int) -> None:
    """A worktop over cupboards, with basins let into it."""
    rng = room.rng
    height, coat = rng.uniform(0.84, 0.92), wood(rng)
    b = room.thing(below, frame)
    b.box((0.0, 0.5 * depth - 0.02, 0.5 * height - 0.12), (0.5 * width, 0.5 * depth - 0.03, 0.5 * height - 0.12), coat)
    count = max(1, round(width / 0.55))
    for k in range(count):
        x = -0.5 * width + (k + 0.5) * width / count
        b.box((x, depth - 0.04, 0.5 * height - 0.06), (0.46 * width / count, 0.012, 0.5 * height - 0.2), coat)
        b.box((x, depth - 0.015, height - 0.2), (0.05, 0.012, 0.01), STEEL)
    top = room.thing(name, frame)
    slab = paint(
        PLAIN if rng.chance(0.6) else WOOD, rng.choice(((0.30, 0.30, 0.31), (0.72, 0.68, 0.60), WHITE)), rng, 0.12
    )
    half, low = 0.24, height - 0.24
    at = -0.5 * width
    for k in range(sinks):  # the top is cut open where basins are
        x = -0.5 * width + (k + 1) * width / (sinks + 1)
        top.box((0.5 * (at + x - half), 0.5 * depth, height - 0.02), (0.5 * (x - half - at), 0.5 * depth, 0.02), slab)
        top.box((x, 0.06, height - 0.02), (half, 0.06, 0.02), slab)
        top.box((x, depth - 0.05, height - 0.02), (half, 0.05, 0.02), slab)
        sink(room, frame.shifted((x, 0.5 * depth + 0.01, low)), half, 0.5 * depth - 0.1, 0.25)
        at = x + half
    top.box((0.5 * (at + 0.5 * width), 0.5 * depth, height - 0.02), (0.5 * (0.5 * width - at), 0.5 * depth, 0.02), slab)
    top.box((0.0, 0.01, height + 0.05), (0.5 * width, 0.01, 0.05), slab)


def sink(room: Room, frame: Frame, half: float, reach: float, deep: float) -> None:
    """A basin of thin walls, open above, with its tap; origin at the middle of its bottom."""
    rng = room.rng
    coat = paint(METAL, (0.70, 0.71, 0.72)) if rng.chance(0.4) else paint(PLAIN, (0.90, 0.90, 0.88), rng, 0.04)
    b = room.thing("sink", frame)
    basin(b, coat, half, reach, deep, 0.02)
    b.tube((0.0, -reach - 0.03, deep), (0.0, -reach - 0.03, deep + 0.2), 0.016, STEEL)
    b.tube((0.0, -reach - 0.03, deep + 0.2), (0.0, -0.2 * reach, deep + 0.16), 0.014, STEEL)


def basin(b: Builder, coat: Paint, half: float, reach: float, deep: float, wall: float) -> None:
    """Four walls and a bottom."""
    b.box((0.0, 0.0, 0.3 * deep), (half, reach, 0.3 * deep), coat)
    for side in (-1.0, 1.0):
        b.box((side * (half - 0.5 * wall), 0.0, 0.5 * deep), (0.5 * wall, reach, 0.5 * deep), coat)
        b.box((0.0, side * (reach - 0.5 * wall), 0.5 * deep), (half, 0.5 * wall, 0.5 * deep), coat)


def refrigerator(room: Room, frame: Frame, width: float, depth: float, height: float) -> None:
    rng = room.rng
    coat = (
        paint(METAL, (0.66, 0.67, 0.68)) if rng.chance(0.4) else paint(PLAIN, rng.choice((WHITE, BLACK.rgb)), rng, 0.06)
    )
    b = room.thing("refrigerator" if height > 1.1 else "mini fridge", frame)
    b.box((0.0, 0.5 * depth - 0.03, 0.5 * height), (0.5 * width, 0.5 * depth - 0.03, 0.5 * height), coat)
    split = 0.62 * height if height > 1.1 else height
    b.box((0.0, depth - 0.02, 0.5 * split + 0.02), (0.5 * width - 0.005, 0.03, 0.5 * split - 0.03), coat)
    if height > 1.1:
        b.box(
            (0.0, depth - 0.02, 0.5 * (split + height)),
            (0.5 * width - 0.005, 0.03, 0.5 * (height - split) - 0.015),
            coat,
        )
    b.tube((0.42 * width, depth + 0.03, 0.45 * height), (0.42 * width, depth + 0.03, 0.6 * height), 0.014, STEEL)


def appliance(room: Room, frame: Frame, name: str, size: tuple[float, float, float], coat: Paint) -> None:
    """Stove, dishwasher, washing machine, copier, printer, water cooler: a body with a dark front and a rim."""
    width, depth, height = size
    b = room.thing(name, frame)
    b.box((0.0, 0.5 * depth, 0.5 * height), (0.5 * width, 0.5 * depth, 0.5 * height), coat)
    b.box((0.0, depth + 0.005, 0.42 * height), (0.38 * width, 0.012, 0.24 * height), BLACK)
    b.box((0.0, depth + 0.01, 0.82 * height), (0.42 * width, 0.014, 0.05 * height), paint(PANELS, GRAY))
    if name == "stove":
        for x in (-0.22, 0.22):
            for y in (0.3, 0.7):
                b.tube((x * width, y * depth, height), (x * width, y * depth, height + 0.015), 0.17 * width, BLACK)
    elif name == "copier":
        b.box((0.0, 0.55 * depth, height + 0.05), (0.46 * width, 0.42 * depth, 0.06), paint(PLAIN, DARKER))
    elif name == "water cooler":
        b.tube(
            (0.0, 0.5 * depth, height), (0.0, 0.5 * depth, height + 0.35), 0.4 * width, paint(PLAIN, (0.5, 0.65, 0.8))
        )


DARKER = (0.34, 0.35, 0.37)


def facing(frame: Frame, x: float, y: float, jitter: float) -> Frame:
    """For a chair before a table or desk: at (x, y) of its frame, looking back along -y."""
    return frame.shifted((x, y, 0.0), math.pi + jitter)
