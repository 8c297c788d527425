"""Sanitary ware, small things, and what hangs on walls."""

from __future__ import annotations

from ssl3d.data.synthetic.primitives import Builder, Frame
from ssl3d.data.synthetic.rooms.furniture import basin, cloth, wood
from ssl3d.data.synthetic.rooms.room import Room
from ssl3d.data.synthetic.rooms.surfaces import (
    ARTWORK,
    BLACK,
    BRIGHT,
    DEAD_SCREEN,
    FABRIC,
    GRAY,
    KEYS,
    LEAF,
    LOOKING_GLASS,
    METAL,
    PLAIN,
    PORCELAIN,
    STEEL,
    STRIPES,
    WHITE,
    paint,
)


def toilet(room: Room, frame: Frame) -> None:
    """Against a wall, 0.4 x 0.7 m."""
    b = room.thing("toilet", frame)
    b.box((0.0, 0.1, 0.6), (0.2, 0.09, 0.19), PORCELAIN)
    b.box((0.0, 0.1, 0.80), (0.21, 0.1, 0.015), PORCELAIN)
    b.box((0.0, 0.3, 0.18), (0.11, 0.17, 0.18), PORCELAIN)
    b.ball((0.0, 0.43, 0.3), (0.19, 0.25, 0.14), PORCELAIN)
    b.tube((0.0, 0.43, 0.40), (0.0, 0.43, 0.425), 0.21, PORCELAIN)
    if room.rng.chance(0.5):
        b.box((0.0, 0.21, 0.62), (0.18, 0.02, 0.19), PORCELAIN)  # the lid is up


def washbasin(room: Room, frame: Frame) -> None:
    """A sink on the wall, or on a foot."""
    b = room.thing("sink", frame)
    half, reach = room.rng.uniform(0.24, 0.3), 0.22
    bowl = Builder(room.primitives, frame.shifted((0.0, reach + 0.01, 0.68)), *b.tag)
    basin(bowl, PORCELAIN, half, reach, 0.18, 0.035)
    b.tube((0.0, 0.05, 0.86), (0.0, 0.05, 1.0), 0.018, STEEL)
    b.tube((0.0, 0.05, 1.0), (0.0, 0.18, 0.98), 0.015, STEEL)
    if room.rng.chance(0.5):
        b.tube((0.0, 0.16, 0.0), (0.0, 0.16, 0.7), 0.08, PORCELAIN)


def bathtub(room: Room, frame: Frame, width: float, depth: float) -> None:
    """Along a wall, with or without its curtain."""
    rng = room.rng
    b = room.thing("bathtub", frame.shifted((0.0, 0.5 * depth, 0.0)))
    basin(b, PORCELAIN, 0.5 * width, 0.5 * depth, rng.uniform(0.5, 0.58), 0.07)
    if rng.chance(0.9):
        coat = paint(
            STRIPES if rng.chance(0.4) else FABRIC, rng.choice((WHITE, (0.55, 0.68, 0.75), (0.80, 0.70, 0.55)))
        )
        c = room.thing("shower curtain", frame)
        share, side = rng.uniform(0.3, 0.75), rng.choice((-1.0, 1.0))
        folds = int(share * width / 0.11)
        for k in range(folds):
            x = side * (0.5 * width - 0.06 - 0.11 * k)
            y = depth - 0.02 + 0.035 * (k % 2)
            c.tube((x, y, 0.3), (x, y, 1.95), 0.06, coat)
        c.tube((-0.5 * width, depth, 1.98), (0.5 * width, depth, 1.98), 0.014, STEEL)


def screen(room: Room, frame: Frame, name: str, width: float, foot: float) -> None:
    """A monitor or television on its foot (``foot`` meters high; 0: on the wall). Looks along y."""
    b, height = room.thing(name, frame), 0.58 * width
    z = foot + 0.5 * height
    b.box((0.0, 0.0, z), (0.5 * width, 0.02, 0.5 * height), BLACK)
    b.box((0.0, 0.021, z), (0.47 * width, 0.004, 0.46 * height), DEAD_SCREEN)
    if foot > 0.0:
        b.box((0.0, -0.02, 0.5 * foot + 0.02), (0.03, 0.015, 0.5 * foot + 0.02), BLACK)
        b.box((0.0, 0.0, 0.008), (0.14, 0.09, 0.008), BLACK)


def on_desk(room: Room, frame: Frame, width: float, depth: float, top: float) -> None:
    """Computer, telephone, books, cups: what stands on a desk or table (the frame's y looks to who sits there)."""
    rng = room.rng
    x = rng.uniform(-0.2, 0.2) * width
    if rng.chance(0.8):
        for k in range(rng.choice((1, 1, 2))):
            screen(room, frame.shifted((x + 0.55 * k, 0.25 * depth, top), rng.uniform(-0.2, 0.2)), "monitor", 0.5, 0.12)
        keys = room.thing("keyboard", frame.shifted((x, 0.62 * depth, top), rng.uniform(-0.15, 0.15)))
        keys.box((0.0, 0.0, 0.012), (0.22, 0.075, 0.012), paint(KEYS, rng.choice((BLACK.rgb, GRAY, WHITE))))
    else:
        laptop(room, frame.shifted((x, 0.55 * depth, top), rng.uniform(-0.3, 0.3)))
    if rng.chance(0.45):
        side = rng.choice((-1.0, 1.0))
        phone = room.thing("telephone", frame.shifted((side * 0.38 * width, 0.5 * depth, top), rng.uniform(-0.5, 0.5)))
        phone.box((0.0, 0.0, 0.03), (0.09, 0.1, 0.03), BLACK)
        phone.box((-0.06, 0.0, 0.07), (0.025, 0.1, 0.018), BLACK)
    if rng.chance(0.4):
        lamp(room, frame.shifted((-0.42 * width, 0.2 * depth, top)), rng.uniform(0.35, 0.5))
    clutter(room, frame, width, depth, top, rng.integer(1, 4))


def clutter(room: Room, frame: Frame, width: float, depth: float, top: float, count: int) -> None:
    """Small things on a surface, anywhere on it."""
    rng = room.rng
    for _ in range(count):
        at = frame.shifted(
            (rng.uniform(-0.44, 0.44) * width, rng.uniform(0.15, 0.85) * depth, top), rng.uniform(0.0, 6.28)
        )
        kind = rng.weighted({"book": 3.0, "cup": 2.0, "bottle": 2.0, "object": 3.0, "box": 0.8})
        coat = paint(PLAIN, rng.choice(BRIGHT), rng, 0.3)
        b = room.thing(kind, at)
        if kind == "book":
            for k in range(rng.integer(1, 4)):
                coat = paint(PLAIN, rng.choice(BRIGHT), rng, 0.4)
                b.box((0.01 * k, 0.0, 0.02 + 0.035 * k), (0.11, 0.15, 0.018), coat)
        elif kind in ("cup", "bottle"):
            tall, radius = (0.1, 0.045) if kind == "cup" else (rng.uniform(0.18, 0.3), 0.04)
            b.tube((0.0, 0.0, 0.0), (0.0, 0.0, tall), radius, coat)
        else:
            half = (rng.uniform(0.05, 0.15), rng.uniform(0.05, 0.12), rng.uniform(0.03, 0.1))
            b.box((0.0, 0.0, half[2]), half, coat)


def laptop(room: Room, frame: Frame) -> None:
    b = room.thing("laptop", frame)
    b.box((0.0, 0.0, 0.01), (0.17, 0.12, 0.01), paint(KEYS, GRAY))
    b.box((0.0, -0.13, 0.11), (0.17, 0.012, 0.11), BLACK)


def lamp(room: Room, frame: Frame, height: float) -> None:
    """A shade on a stick."""
    b = room.thing("lamp", frame)
    b.tube((0.0, 0.0, 0.0), (0.0, 0.0, 0.025), 0.12 if height > 1.0 else 0.07, BLACK)
    b.tube((0.0, 0.0, 0.0), (0.0, 0.0, height), 0.014, STEEL)
    b.tube(
        (0.0, 0.0, height - 0.18), (0.0, 0.0, height + 0.02), 0.14, paint(FABRIC, (0.90, 0.86, 0.72), room.rng, 0.08)
    )


def plant(room: Room, frame: Frame, height: float) -> None:
    b = room.thing("plant", frame)
    b.tube((0.0, 0.0, 0.0), (0.0, 0.0, 0.3 * height), 0.14, paint(PLAIN, (0.55, 0.30, 0.20), room.rng, 0.3))
    green = paint(LEAF, (0.18, 0.38, 0.13), room.rng, 0.25)
    b.leaves((0.0, 0.0, 0.68 * height), (0.26, 0.26, 0.36 * height), green, 0.75, 0.08)
    b.tube((0.0, 0.0, 0.3 * height), (0.0, 0.0, 0.6 * height), 0.018, wood(room.rng))


def bin_(room: Room, frame: Frame) -> None:
    rng = room.rng
    name = "recycling bin" if rng.chance(0.25) else "trash can"
    rgb = (0.12, 0.30, 0.60) if name == "recycling bin" else rng.choice((GRAY, BLACK.rgb, (0.72, 0.71, 0.68)))
    b, tall = room.thing(name, frame), rng.uniform(0.28, 0.55)
    if rng.chance(0.5):
        b.tube((0.0, 0.0, 0.0), (0.0, 0.0, tall), 0.15, paint(PLAIN, rgb, rng, 0.15))
        b.tube((0.0, 0.0, tall), (0.0, 0.0, tall + 0.012), 0.13, BLACK)
    else:
        b.box((0.0, 0.0, 0.5 * tall), (0.17, 0.12, 0.5 * tall), paint(PLAIN, rgb, rng, 0.15))
        b.box((0.0, 0.0, tall), (0.15, 0.10, 0.01), BLACK)


def lying_about(room: Room, kind: str) -> None:
    """Something on the floor, where there is room: backpack, bag, box, shoes, clothes, ottoman, stool."""
    rng = room.rng
    frame = room.spot(0.24)
    if frame is None:
        return
    if kind == "box":
        half = (rng.uniform(0.12, 0.24), rng.uniform(0.12, 0.2), rng.uniform(0.1, 0.24))
        brown = paint(PLAIN, (0.62, 0.47, 0.30), rng, 0.2)
        room.thing("box", frame).box((0.0, 0.0, half[2]), half, brown)
    elif kind == "shoes":
        b, coat = room.thing("shoes", frame), paint(PLAIN, rng.choice(BRIGHT), rng, 0.3)
        for y in (-0.08, 0.08):
            b.ball((0.0, y, 0.04), (0.14, 0.05, 0.06), coat)
    elif kind == "clothes":
        b = room.thing("clothes", frame)
        for _ in range(3):
            x, y = rng.uniform(-0.12, 0.12), rng.uniform(-0.12, 0.12)
            b.ball((x, y, 0.04), (rng.uniform(0.12, 0.22), rng.uniform(0.1, 0.18), rng.uniform(0.05, 0.12)), cloth(rng))
    elif kind == "ottoman":
        b, fill = room.thing("ottoman", frame), cloth(rng)
        b.box((0.0, 0.0, 0.2), (0.23, 0.23, 0.17), fill)
    else:
        b, coat = room.thing(kind, frame), paint(FABRIC, rng.choice(BRIGHT), rng, 0.3)
        b.ball((0.0, 0.0, 0.2), (0.17, 0.11, 0.22), coat)
        b.box((0.0, 0.1, 0.12), (0.11, 0.05, 0.09), coat)


def picture(room: Room) -> None:
    """A picture, painting, poster or clock on a wall."""
    rng = room.rng
    width, height = rng.uniform(0.4, 1.2), rng.uniform(0.4, 0.85)
    low = rng.uniform(1.1, 1.5)
    frame = room.on_wall(width, low, low + height)
    if frame is None:
        return
    b = room.thing(rng.weighted({"picture": 6.0, "painting": 1.5, "poster": 1.5}), frame)
    z, edge = low + 0.5 * height, wood(rng) if rng.chance(0.6) else BLACK
    art = paint(ARTWORK, rng.choice((*BRIGHT, (0.55, 0.50, 0.42), (0.40, 0.52, 0.60))), rng, 0.2)
    b.box((0.0, 0.015, z), (0.5 * width, 0.018, 0.5 * height), edge)
    b.box((0.0, 0.02, z), (0.5 * width - 0.03, 0.017, 0.5 * height - 0.03), art)


def board(room: Room, width: float, dark: bool = False) -> None:
    frame = room.on_wall(width, 0.8, 2.05)
    if frame is None:
        return
    b = room.thing("blackboard" if dark else "whiteboard", frame)
    face = paint(ARTWORK, (0.13, 0.22, 0.17)) if dark else paint(PLAIN, (0.93, 0.94, 0.95))
    b.box((0.0, 0.02, 1.42), (0.5 * width, 0.018, 0.6), STEEL)
    b.box((0.0, 0.03, 1.42), (0.5 * width - 0.03, 0.012, 0.57), face)
    b.box((0.0, 0.06, 0.83), (0.35 * width, 0.05, 0.012), STEEL)
    if not dark:
        for _ in range(3):  # writing
            x, z = room.rng.uniform(-0.35, 0.35) * width, room.rng.uniform(1.1, 1.75)
            ink = paint(PLAIN, room.rng.choice(BRIGHT))
            b.box((x, 0.035, z), (room.rng.uniform(0.08, 0.3), 0.008, 0.012), ink)


def mirror(room: Room, frame: Frame, width: float, low: float, high: float) -> None:
    z, half = 0.5 * (low + high), 0.5 * (high - low)
    room.thing("mirror", frame).box((0.0, 0.012, z), (0.5 * width, 0.014, half), LOOKING_GLASS)


def towel(room: Room) -> None:
    frame = room.on_wall(0.5, 0.7, 1.45)
    if frame is not None:
        b = room.thing("towel", frame)
        b.box((0.0, 0.05, 1.1), (0.22, 0.022, 0.32), paint(FABRIC, room.rng.choice((*BRIGHT, (0.80, 0.72, 0.60)))))
        b.tube((-0.25, 0.05, 1.42), (0.25, 0.05, 1.42), 0.012, STEEL)


def radiator(room: Room) -> None:
    width = room.rng.uniform(0.7, 1.3)
    frame = room.against(width, 0.12, 0.65, clear=0.25)
    if frame is not None:
        b, coat = room.thing("radiator", frame), paint(METAL, WHITE)
        for k in range(int(width / 0.1)):
            b.box((-0.5 * width + 0.05 + 0.1 * k, 0.06, 0.38), (0.036, 0.05, 0.26), coat)


def clock(room: Room) -> None:
    frame = room.on_wall(0.32, 1.75, 2.1)
    if frame is not None:
        b = room.thing("clock", frame)
        b.tube((0.0, 0.0, 1.92), (0.0, 0.035, 1.92), 0.16, BLACK)
        b.tube((0.0, 0.01, 1.92), (0.0, 0.04, 1.92), 0.14, paint(PLAIN, WHITE))


def mat(room: Room, name: str, half: tuple[float, float]) -> None:
    """Flat on the floor, below whatever stands there."""
    rng = room.rng
    if 2.0 * max(half) > min(room.width, room.depth) - 0.4:
        return
    x = rng.uniform(half[0] + 0.2, room.width - half[0] - 0.2)
    y = rng.uniform(half[1] + 0.2, room.depth - half[1] - 0.2)
    coat = paint(STRIPES if rng.chance(0.5) else FABRIC, rng.choice(BRIGHT), rng, 0.3)
    room.thing(name, Frame(x, y, 0.0, (1.0, 0.0))).box((0.0, 0.0, 0.008), (*half, 0.01), coat)
