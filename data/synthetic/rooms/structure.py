"""The shell of a room: floor, ceiling, walls with doors and windows, beams, columns, lights."""

from __future__ import annotations

from ssl3d.data.synthetic.materials import Paint
from ssl3d.data.synthetic.primitives import Frame
from ssl3d.data.synthetic.rooms.room import TURNS, Front, Light, Rect, Room
from ssl3d.data.synthetic.rooms.surfaces import (
    CARPET,
    FABRIC,
    PANE,
    PANELS,
    PARQUET,
    PLAIN,
    PLASTER,
    STEEL,
    TILES,
    WALLS,
    WHITE,
    WOOD,
    WOODS,
    paint,
)

WALL = 0.12  # thickness
Opening = tuple[float, float, float, float]  # meters along the wall, heights


def build_shell(room: Room, doors: int, windows: int, floor: str, tiled: bool = False) -> None:
    """``floor``: parquet | carpet | tiles | plain; ``tiled``: the walls are, too."""
    rng = room.rng
    w, d, h = room.width, room.depth, room.height
    middle = Frame(0.5 * w, 0.5 * d, 0.0, (1.0, 0.0))
    ground = {
        "parquet": paint(PARQUET, rng.choice(WOODS), rng, 0.15),
        "carpet": paint(CARPET, rng.choice(((0.40, 0.40, 0.44), (0.50, 0.44, 0.36), (0.28, 0.32, 0.42))), rng, 0.2),
        "tiles": paint(TILES, rng.choice(((0.78, 0.76, 0.70), (0.55, 0.52, 0.48), (0.66, 0.70, 0.72))), rng, 0.1),
        "plain": paint(PLAIN, (0.52, 0.52, 0.50), rng, 0.2),
    }[floor]
    room.thing("floor", middle).box((0.0, 0.0, -0.1), (0.5 * w + WALL, 0.5 * d + WALL, 0.1), ground)
    roof = paint(PANELS if rng.chance(0.5) and not tiled else PLASTER, WHITE, rng, 0.06)
    room.thing("ceiling", middle).box((0.0, 0.0, h + 0.1), (0.5 * w + WALL, 0.5 * d + WALL, 0.1), roof)
    openings: dict[int, list[Opening]] = {k: [] for k in range(4)}
    for k in range(doors):
        _door(room, openings, first=k == 0)
    for _ in range(windows):
        _window(room, openings, small=tiled)
    color = rng.choice(WALLS)
    accent = rng.integer(0, 3) if rng.chance(0.25) else -1
    for k in range(4):
        base = paint(TILES if tiled else PLASTER, color, rng, 0.03)
        if k == accent:
            base = paint(PLASTER, rng.choice(((0.62, 0.30, 0.24), (0.32, 0.44, 0.52), (0.50, 0.54, 0.36))), rng, 0.1)
        _wall(room, k, openings[k], base)
    if rng.chance(0.2) and not tiled and min(w, d) > 3.2:
        _corner(room, color)


def _wall(room: Room, wall: int, openings: list[Opening], coat: Paint) -> None:
    """One wall around its openings, as boxes of one instance."""
    b = room.thing("wall", room.wall_frame(wall, 0.0))
    h, at = room.height, -WALL

    def block(a0: float, a1: float, z0: float, z1: float) -> None:
        if a1 - a0 > 0.005 and z1 - z0 > 0.005:
            b.box((0.5 * (a0 + a1), -0.5 * WALL, 0.5 * (z0 + z1)), (0.5 * (a1 - a0), 0.5 * WALL, 0.5 * (z1 - z0)), coat)

    for a0, a1, z0, z1 in sorted(openings):
        block(at, a0, 0.0, h)
        block(a0, a1, 0.0, z0)
        block(a0, a1, z1, h)
        at = a1
    block(at, room.length(wall) + WALL, 0.0, h)


def _door(room: Room, openings: dict[int, list[Opening]], first: bool) -> None:
    rng = room.rng
    width, high = rng.uniform(0.82, 1.0), rng.uniform(2.0, 2.12)
    frame = room.on_wall(width + 0.16, 0.0, high + 0.1)
    if frame is None:
        return
    wall, along = _place(room, frame)
    openings[wall].append((along - 0.5 * width, along + 0.5 * width, 0.0, high))
    leaf = paint(WOOD, rng.choice((*WOODS, WHITE, (0.55, 0.30, 0.22))), rng, 0.1)
    trim = paint(PLAIN, rng.choice((WHITE, (0.45, 0.35, 0.26), (0.42, 0.43, 0.45))), rng, 0.1)
    room.take(room.footprint(frame, 0.5 * width + 0.05, 0.0, 0.9))  # people have to get in
    b = room.thing("doorframe", frame)
    for side in (-1.0, 1.0):
        b.box((side * (0.5 * width + 0.035), 0.0, 0.5 * high + 0.02), (0.035, 0.02, 0.5 * high + 0.02), trim)
    b.box((0.0, 0.0, high + 0.035), (0.5 * width + 0.07, 0.02, 0.035), trim)
    if first and rng.chance(0.3):  # open: turned into the room around its hinge
        b = room.thing("door", frame.shifted((-0.5 * width, 0.0, 0.0), rng.uniform(1.2, 1.75)))
        b.box((0.5 * width, 0.0, 0.5 * high), (0.5 * width, 0.022, 0.5 * high), leaf)
        b.tube((width - 0.08, -0.06, 1.02), (width - 0.08, 0.06, 1.02), 0.03, STEEL)
        return
    b = room.thing("door", frame)
    b.box((0.0, -0.05, 0.5 * high), (0.5 * width, 0.022, 0.5 * high), leaf)
    b.box((0.0, -0.03, 0.35 * high), (0.28 * width, 0.012, 0.24 * high), leaf._replace(rgb=_darker(leaf.rgb, 0.85)))
    b.tube((0.4 * width, -0.03, 1.02), (0.4 * width, 0.04, 1.02), 0.03, STEEL)


def _window(room: Room, openings: dict[int, list[Opening]], small: bool) -> None:
    rng = room.rng
    width, low, high = rng.uniform(1.1, 2.0), rng.uniform(0.75, 1.0), rng.uniform(2.05, 2.25)
    if small:
        width, low = rng.uniform(0.6, 0.9), 1.35
    high = min(high, room.height - 0.2)
    frame = room.on_wall(width + 0.1, low - 0.1, room.height)
    if frame is None:
        return
    wall, along = _place(room, frame)
    openings[wall].append((along - 0.5 * width, along + 0.5 * width, low, high))
    trim = paint(PLAIN, rng.choice((WHITE, (0.40, 0.28, 0.18), (0.30, 0.31, 0.33))), rng, 0.08)
    mid = 0.5 * (low + high)
    b = room.thing("window", frame)
    for z in (low + 0.03, high - 0.03):
        b.box((0.0, -0.05, z), (0.5 * width, 0.035, 0.03), trim)
    for k in range(rng.integer(2, 3) + 1):
        x = (-0.5 + k / 2.0) * (width - 0.06)
        if abs(x) < 0.5 * width:
            b.box((x, -0.05, mid), (0.03, 0.035, 0.5 * (high - low)), trim)
    b.box((0.0, -0.075, mid), (0.5 * width, 0.008, 0.5 * (high - low)), PANE)
    b.box((0.0, 0.03, low - 0.015), (0.5 * width + 0.06, 0.09, 0.015), trim)
    day = rng.uniform(0.9, 1.6)
    x, y, z = frame.at((0.0, 0.1, mid))
    c, s = frame.turn
    room.lights.append(Light(x, y, z, 0.95 * day, day, 1.08 * day, -s, c))
    _dress_window(room, frame, width, low, high)


def _dress_window(room: Room, frame: Frame, width: float, low: float, high: float) -> None:
    """Curtains at the sides, or blinds above."""
    rng = room.rng
    homely = room.kind in ("living room", "bedroom", "kitchen", "lounge")
    if rng.chance(0.85 if homely else 0.15):
        from_floor = 0.05 if homely and rng.chance(0.7) else low - 0.15
        cloth = paint(
            FABRIC, rng.choice(((0.70, 0.62, 0.48), (0.45, 0.20, 0.20), (0.75, 0.75, 0.72), (0.25, 0.34, 0.45)))
        )
        b = room.thing("curtain", frame)
        top = min(high + 0.18, room.height - 0.03)
        folds = rng.integer(3, 5)
        for side in (-1.0, 1.0):
            for k in range(folds):  # each fold a tube: cloth that hangs in waves
                x = side * (0.5 * width + 0.12 - 0.09 * k)
                b.tube((x, 0.07 + 0.03 * (k % 2), from_floor), (x, 0.07 + 0.03 * (k % 2), top), 0.055, cloth)
        b.tube((-0.5 * width - 0.25, 0.08, top), (0.5 * width + 0.25, 0.08, top), 0.015, STEEL)
    elif rng.chance(0.6) and not room.kind.startswith("bath"):
        drop = rng.uniform(0.2, 0.85) * (high - low)
        b = room.thing("blinds", frame)
        slats = max(2, int(drop / 0.09))
        cloth = paint(PLAIN, rng.choice((WHITE, (0.72, 0.68, 0.58), (0.60, 0.62, 0.64))), rng, 0.05)
        for k in range(slats):
            b.box((0.0, 0.02, high - 0.045 - 0.09 * k), (0.5 * width + 0.02, 0.018, 0.036), cloth)


def _darker(rgb: tuple[float, float, float], gain: float) -> tuple[float, float, float]:
    return gain * rgb[0], gain * rgb[1], gain * rgb[2]


def _place(room: Room, frame: Frame) -> tuple[int, float]:
    """Which wall a frame of ``Room.on_wall`` is on, and where along it."""
    wall = TURNS.index(frame.turn)
    start = room.wall_frame(wall, 0.0)
    c, s = frame.turn
    return wall, (frame.x - start.x) * c + (frame.y - start.y) * s


def _corner(room: Room, color: tuple[float, float, float]) -> None:
    """A corner that is walled off, which makes the room an L; only where nothing is yet."""
    rng = room.rng
    w, d = rng.uniform(0.5, 0.30 * room.width), rng.uniform(0.5, 0.30 * room.depth)
    east, north = rng.chance(0.5), rng.chance(0.5)
    x, y = (room.width - 0.5 * w if east else 0.5 * w), (room.depth - 0.5 * d if north else 0.5 * d)
    rect = Rect(x - 0.5 * w, y - 0.5 * d, x + 0.5 * w, y + 0.5 * d)
    fronts = [
        _front(room, 2 if north else 0, rect.x0, rect.x1, north),
        _front(room, 1 if east else 3, rect.y0, rect.y1, not east),
    ]
    if not room.free(rect) or not all(room.front_free(front) for front in fronts):
        return
    b = room.thing("wall", Frame(x, y, 0.0, (1.0, 0.0)))
    b.box((0.0, 0.0, 0.5 * room.height), (0.5 * w, 0.5 * d, 0.5 * room.height), paint(PLASTER, color, rng, 0.03))
    room.take(rect, room.height)
    for front in fronts:
        room.take_front(front)


def _front(room: Room, wall: int, low: float, high: float, backwards: bool) -> Front:
    """The piece of a wall between two coordinates; the north and the west wall run ``backwards``."""
    if backwards:
        low, high = room.length(wall) - high, room.length(wall) - low
    return Front(wall, low, high, 0.0, room.height)


def beam(room: Room) -> None:
    """Under the ceiling, across the shorter way, sometimes along a wall."""
    rng = room.rng
    deep, half = rng.uniform(0.18, 0.38), rng.uniform(0.10, 0.18)
    coat = paint(WOOD, rng.choice(WOODS), rng, 0.1) if rng.chance(0.4) else paint(PLASTER, WHITE, rng, 0.1)
    z = room.height - 0.5 * deep
    along_y = room.width > room.depth
    across, span = (room.depth, room.width) if along_y else (room.width, room.depth)
    at = rng.uniform(0.25, 0.75) * span if rng.chance(0.7) else half
    frame = Frame(at, 0.5 * across, 0.0, (0.0, 1.0)) if along_y else Frame(0.5 * across, at, 0.0, (1.0, 0.0))
    room.thing("wood beam", frame).box((0.0, 0.0, z), (0.5 * across, half, 0.5 * deep), coat)


def column(room: Room) -> None:
    """Half in a wall, or free in the room."""
    rng = room.rng
    half = rng.uniform(0.14, 0.26)
    coat = paint(PLASTER, rng.choice((WHITE, (0.60, 0.60, 0.58), (0.72, 0.62, 0.52))), rng, 0.1)
    frame = room.spot(half + 0.1) if rng.chance(0.35) and min(room.width, room.depth) > 4.0 else None
    if frame is not None:
        room.tall.append(Rect(frame.x - half, frame.y - half, frame.x + half, frame.y + half))
        b = room.thing("pillar", frame)
        b.tube((0.0, 0.0, 0.0), (0.0, 0.0, room.height), half, coat)
        return
    frame = room.against(2.0 * half, 1.6 * half, room.height, clear=0.0)
    if frame is not None:
        b = room.thing("column", frame)
        b.box((0.0, 0.8 * half, 0.5 * room.height), (half, 0.8 * half + 0.02, 0.5 * room.height), coat)


def ceiling_lights(room: Room) -> None:
    """Lamps in a row under the ceiling; they light the room, and some shine more than others."""
    rng = room.rng
    count = max(1, round(max(room.width, room.depth) / 2.6))
    long_x = room.width >= room.depth
    warm, power = rng.uniform(0.72, 1.0), rng.uniform(0.8, 1.3)
    kind = rng.choice(("panel", "tube", "bowl"))
    glow = paint(PLAIN, (0.97, 0.96, 0.90))
    for k in range(count):
        share = (k + 0.5) / count
        x, y = (share * room.width, 0.5 * room.depth) if long_x else (0.5 * room.width, share * room.depth)
        frame = Frame(x, y, 0.0, (1.0, 0.0) if long_x else (0.0, 1.0))
        b, z = room.thing("light", frame), room.height
        if kind == "panel":
            b.box((0.0, 0.0, z - 0.02), (0.58, 0.28, 0.025), glow)
        elif kind == "tube":
            b.tube((-0.6, 0.0, z - 0.07), (0.6, 0.0, z - 0.07), 0.05, glow)
            b.box((0.0, 0.0, z - 0.02), (0.62, 0.06, 0.02), STEEL)
        else:
            b.ball((0.0, 0.0, z - 0.02), (0.2, 0.2, 0.13), glow)
        strength = power * rng.uniform(0.75, 1.1)
        room.lights.append(Light(x, y, z - 0.3, strength, strength * (0.5 + 0.5 * warm), strength * warm))
