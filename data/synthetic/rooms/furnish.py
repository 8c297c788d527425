"""Rooms by their use: how large they are, what stands in them, and how often."""

from __future__ import annotations

from collections.abc import Callable

from ssl3d.data.synthetic.rng import Rng
from ssl3d.data.synthetic.rooms import arrange, furniture, objects, structure
from ssl3d.data.synthetic.rooms.room import Room
from ssl3d.data.synthetic.rooms.surfaces import GRAY, METAL, PLAIN, WHITE, paint

_SIZES: dict[str, tuple[float, float, float, float]] = {  # width and depth, from and to
    "office": (3.2, 5.0, 3.0, 4.6),
    "conference room": (5.0, 7.5, 3.8, 5.5),
    "living room": (4.2, 6.2, 3.8, 5.2),
    "bedroom": (3.4, 4.8, 3.2, 4.4),
    "bathroom": (2.1, 3.2, 1.9, 2.8),
    "kitchen": (3.2, 5.0, 2.8, 4.2),
    "hallway": (6.0, 10.0, 1.7, 2.4),
    "copy room": (3.0, 4.2, 2.6, 3.6),
    "storage": (2.4, 3.8, 2.2, 3.2),
    "classroom": (6.5, 8.5, 5.0, 6.5),
}

KINDS = tuple(_SIZES)


def make_room(key: int, kind: str, scale: float = 1.0) -> Room:
    """The room of a key. ``scale``: of the floor's sides (small ones for tests)."""
    rng = Rng(key, 0)
    w0, w1, d0, d1 = _SIZES[kind]
    width, depth = scale * rng.uniform(w0, w1), scale * rng.uniform(d0, d1)
    if rng.chance(0.5):
        width, depth = depth, width
    height = rng.uniform(2.45, 2.75) if kind in ("bathroom", "bedroom", "living room") else rng.uniform(2.6, 3.1)
    room = Room(key, kind, width, depth, height)
    _FURNISH[kind](room)
    if kind != "bathroom" and room.rng.chance(0.35):
        structure.beam(room)
    for _ in range(room.rng.weighted({0: 0.6, 1: 0.3, 2: 0.1})):
        structure.column(room)
    structure.ceiling_lights(room)
    return room


def _office(room: Room) -> None:
    rng = room.rng
    structure.build_shell(room, 1, rng.integer(1, 2), rng.weighted({"carpet": 3.0, "tiles": 1.0, "plain": 1.0}))
    for _ in range(rng.integer(2, 4)):
        arrange.workplace(room)
    arrange.cupboards(room, {"bookshelf": 3.0, "file cabinet": 2.5, "cabinet": 1.2, "shelf": 0.6}, rng.integer(2, 4))
    if rng.chance(0.65):
        objects.board(room, rng.uniform(1.2, 2.4))
    if rng.chance(0.3):
        arrange.sitting(room, "couch" if rng.chance(0.6) else "armchair")
    if rng.chance(0.6):
        arrange.table_set(room, "table", rng.uniform(0.9, 1.4), rng.uniform(0.8, 1.0), "chair", 0.4)
    if rng.chance(0.5):
        objects.radiator(room)
    if rng.chance(0.12):
        arrange.fridge(room, small=True)
    arrange.pictures(room, 0, 2)
    arrange.usual_things(room, bins=0.85, plants=0.35, clocks=0.25)
    arrange.litter(room, {"backpack": 3.0, "box": 3.0, "bag": 1.5, "ottoman": 0.3}, 0, 3)


def _conference(room: Room) -> None:
    rng = room.rng
    structure.build_shell(room, 1, rng.integer(1, 3), "carpet" if rng.chance(0.8) else "parquet")
    long = max(room.width, room.depth)
    arrange.table_set(room, "table", rng.uniform(0.42, 0.55) * long, rng.uniform(1.0, 1.4), "office chair", 0.6)
    objects.board(room, rng.uniform(1.8, 3.0), dark=rng.chance(0.15))
    if rng.chance(0.6):
        frame = room.on_wall(1.3, 1.1, 1.9)
        if frame is not None:
            objects.screen(room, frame.shifted((0.0, 0.04, 1.15)), "tv", 1.2, 0.0)
    arrange.cupboards(room, {"cabinet": 2.0, "bookshelf": 1.0}, rng.integer(0, 2))
    arrange.pictures(room, 0, 2)
    arrange.usual_things(room, bins=0.7, plants=0.5, clocks=0.4)
    arrange.litter(room, {"backpack": 2.0, "bag": 2.0}, 0, 2)


def _living(room: Room) -> None:
    rng = room.rng
    structure.build_shell(room, 1, rng.integer(1, 2), "parquet" if rng.chance(0.65) else "carpet")
    if rng.chance(0.6):
        objects.mat(room, "mat", (rng.uniform(0.7, 1.2), rng.uniform(0.6, 1.0)))
    for _ in range(rng.integer(1, 2)):
        arrange.sitting(room, "couch")
    if rng.chance(0.7):
        arrange.sitting(room, "armchair")
    arrange.cupboards(room, {"tv": 1.0}, 1 if rng.chance(0.75) else 0)
    arrange.cupboards(room, {"bookshelf": 3.0, "cabinet": 1.5, "shelf": 0.5}, rng.integer(1, 3))
    if rng.chance(0.8):
        width, depth = rng.uniform(0.8, 1.2), rng.uniform(0.45, 0.65)
        frame = room.inside(width, depth, 0.3)
        if frame is not None:
            height = rng.uniform(0.38, 0.48)
            furniture.table(room, frame, "coffee table", width, depth, height)
            objects.clutter(room, frame.shifted((0.0, -0.5 * depth, 0.0)), width, depth, height, rng.integer(1, 3))
    if rng.chance(0.6):
        arrange.table_set(room, "dining table", rng.uniform(1.2, 1.6), rng.uniform(0.8, 0.95), "chair", 0.4)
    arrange.pictures(room, 1, 3)
    arrange.usual_things(room, bins=0.2, plants=0.6, clocks=0.25)
    if rng.chance(0.5):
        frame = room.spot(0.2)
        if frame is not None:
            objects.lamp(room, frame, rng.uniform(1.45, 1.75))
    arrange.litter(room, {"backpack": 1.0, "box": 1.0, "ottoman": 2.0, "shoes": 1.0, "bag": 1.0}, 0, 3)


def _bedroom(room: Room) -> None:
    rng = room.rng
    structure.build_shell(room, 1, 1, "parquet" if rng.chance(0.5) else "carpet")
    width, length = rng.choice((0.95, 1.4, 1.6)), rng.uniform(1.95, 2.1)
    frame = room.against(width, length, 1.0, clear=0.3, tries=150)
    if frame is not None:
        furniture.bed(room, frame, width, length)
    arrange.cupboards(room, {"nightstand": 1.0}, rng.integer(1, 2))
    arrange.cupboards(room, {"dresser": 2.0, "wardrobe cabinet": 2.0, "bookshelf": 1.0}, rng.integer(2, 3))
    if rng.chance(0.55):
        arrange.workplace(room)
    if rng.chance(0.3):
        arrange.sitting(room, "armchair")
    if rng.chance(0.45):
        at = room.on_wall(0.6, 0.4, 1.8)
        if at is not None:
            objects.mirror(room, at, 0.5, 0.45, 1.75)
    if rng.chance(0.12):
        arrange.fridge(room, small=True)
    arrange.pictures(room, 0, 2)
    arrange.usual_things(room, bins=0.4, plants=0.2, clocks=0.1)
    arrange.litter(room, {"clothes": 3.0, "shoes": 2.0, "bag": 1.0, "backpack": 1.0, "box": 1.0}, 1, 4)


def _bathroom(room: Room) -> None:
    rng = room.rng
    structure.build_shell(room, 1, 1 if rng.chance(0.4) else 0, "tiles", tiled=True)
    if rng.chance(0.75):
        width, depth = min(rng.uniform(1.5, 1.75), max(room.width, room.depth) - 0.1), 0.72
        frame = room.against(width, depth, 2.0, clear=0.2, tries=150)
        if frame is not None:
            objects.bathtub(room, frame, width, depth)
    for _ in range(1 if rng.chance(0.8) else 2):
        frame = room.against(0.42, 0.7, 0.85, clear=0.3, tries=80)
        if frame is not None:
            objects.toilet(room, frame)
            roll = room.thing("toilet paper", frame.shifted((0.28, 0.05, 0.0)))
            roll.tube((0.0, 0.0, 0.7), (0.11, 0.0, 0.7), 0.055, paint(PLAIN, WHITE))
    if rng.chance(0.6):
        width = rng.uniform(0.75, 1.2)
        frame = room.against(width, 0.52, 0.9, clear=0.4, tries=80)
        if frame is not None:
            furniture.counter(room, frame, width, 0.52, "bathroom counter", "bathroom vanity", 1)
            objects.mirror(room, frame, 0.8 * width, 1.1, 1.85)
    else:
        frame = room.against(0.6, 0.46, 1.0, clear=0.4, tries=80)
        if frame is not None:
            objects.washbasin(room, frame)
            objects.mirror(room, frame, 0.5, 1.2, 1.8)
    for _ in range(rng.integer(0, 2)):
        objects.towel(room)
    if rng.chance(0.25):
        frame = room.against(0.6, 0.6, 0.85, clear=0.3)
        if frame is not None:
            furniture.appliance(room, frame, "washing machine", (0.58, 0.58, 0.85), paint(METAL, WHITE))
    if rng.chance(0.4):
        objects.mat(room, "mat", (0.4, 0.25))
    arrange.usual_things(room, bins=0.6, plants=0.05, clocks=0.0)


def _kitchen(room: Room) -> None:
    rng = room.rng
    structure.build_shell(room, 1, 1, "tiles" if rng.chance(0.7) else "parquet")
    wall = rng.integer(0, 3)
    arrange.fridge(room, small=False, wall=wall)
    if rng.chance(0.8):
        frame = room.against(0.6, 0.62, 0.88, clear=0.6, wall=wall)
        if frame is not None:
            furniture.appliance(room, frame, "stove", (0.6, 0.6, 0.88), paint(METAL, rng.choice((WHITE, GRAY))))
            hood = room.thing("range hood", frame)
            hood.box((0.0, 0.22, 1.65), (0.3, 0.22, 0.08), paint(METAL, GRAY))
    sinks = 1
    for side in (wall, (wall + 1) % 4, (wall + 3) % 4):
        width = rng.uniform(1.2, 2.0)
        frame = room.against(width, 0.62, 0.9, clear=0.6, wall=side, tries=60)
        if frame is None:
            continue
        furniture.counter(room, frame, width, 0.6, "kitchen counter", "kitchen cabinet", sinks)
        sinks = 0
        objects.clutter(room, frame, 0.4 * width, 0.3, 0.9, rng.integer(1, 3))
        if rng.chance(0.5):
            at = frame.shifted((-0.36 * width, 0.1, 0.9))
            furniture.appliance(room, at, "microwave", (0.45, 0.34, 0.28), paint(PLAIN, rng.choice((WHITE, GRAY))))
        upper = room.on_wall(min(width, 1.4), 1.4, 2.1, wall=side)
        if upper is not None:
            hung = upper.shifted((0.0, 0.0, 1.42))
            furniture.cupboard(room, hung, "kitchen cabinet", min(width, 1.4), 0.34, 0.66)
    if rng.chance(0.35):
        frame = room.against(0.6, 0.62, 0.88, clear=0.6)
        if frame is not None:
            furniture.appliance(room, frame, "dishwasher", (0.6, 0.58, 0.86), paint(METAL, rng.choice((WHITE, GRAY))))
    if rng.chance(0.9):
        arrange.table_set(room, "dining table", rng.uniform(0.9, 1.4), rng.uniform(0.75, 0.9), "chair", 0.35)
    if rng.chance(0.25):
        frame = room.spot(0.25)
        if frame is not None:
            furniture.stool(room, frame)
    arrange.pictures(room, 0, 1)
    arrange.usual_things(room, bins=0.8, plants=0.3, clocks=0.4)


def _hallway(room: Room) -> None:
    rng = room.rng
    structure.build_shell(
        room, rng.integer(3, 6), rng.integer(0, 1), rng.weighted({"tiles": 1.0, "carpet": 1.0, "plain": 1})
    )
    for _ in range(rng.integer(1, 2)):
        structure.beam(room)
    if rng.chance(0.6):
        structure.column(room)
    if rng.chance(0.4):
        frame = room.against(1.3, 0.4, 0.45, clear=0.5)
        if frame is not None:
            b = room.thing("bench", frame)
            coat = furniture.wood(rng)
            b.box((0.0, 0.22, 0.43), (0.62, 0.2, 0.025), coat)
            for x in (-0.5, 0.5):
                b.box((x, 0.22, 0.2), (0.03, 0.17, 0.2), coat)
    if rng.chance(0.3):
        frame = room.against(0.36, 0.36, 1.35, clear=0.4)
        if frame is not None:
            furniture.appliance(room, frame, "water cooler", (0.34, 0.34, 0.98), paint(PLAIN, WHITE))
    if rng.chance(0.35):
        objects.board(room, rng.uniform(0.9, 1.6))
    arrange.cupboards(room, {"file cabinet": 1.0, "bookshelf": 1.0, "cabinet": 1.0}, rng.integer(0, 1))
    arrange.pictures(room, 1, 3)
    arrange.usual_things(room, bins=0.5, plants=0.3, clocks=0.2)
    arrange.litter(room, {"box": 1.0}, 0, 1)


def _copy_room(room: Room) -> None:
    rng = room.rng
    structure.build_shell(room, 1, rng.integer(0, 1), "carpet" if rng.chance(0.5) else "plain")
    for name, size in (("copier", (1.1, 0.65, 1.0)), ("printer", (0.55, 0.5, 0.7))):
        frame = room.against(size[0], size[1], size[2], clear=0.5)
        if frame is not None:
            furniture.appliance(room, frame, name, size, paint(PLAIN, (0.78, 0.78, 0.76), rng, 0.1))
    width = rng.uniform(1.3, 2.0)
    frame = room.against(width, 0.6, 0.9, clear=0.5)
    if frame is not None:
        furniture.counter(room, frame, width, 0.6, "counter", "cabinet", 0)
        objects.clutter(room, frame, width, 0.5, 0.9, rng.integer(1, 5))
    arrange.cupboards(room, {"shelf": 2.0, "cabinet": 1.0, "file cabinet": 1.0}, rng.integer(1, 3))
    if rng.chance(0.4):
        objects.board(room, rng.uniform(0.9, 1.5))
    arrange.usual_things(room, bins=0.9, plants=0.1, clocks=0.3)
    arrange.litter(room, {"box": 1.0}, 1, 4)


def _storage(room: Room) -> None:
    rng = room.rng
    structure.build_shell(room, 1, 0, "plain")
    arrange.cupboards(room, {"shelf": 3.0, "cabinet": 1.0, "file cabinet": 0.7, "bookshelf": 0.5}, rng.integer(2, 4))
    arrange.litter(room, {"box": 5.0, "bag": 1.0}, 2, 6)
    arrange.usual_things(room, bins=0.5, plants=0.0, clocks=0.0)
    if rng.chance(0.4):
        frame = room.spot(0.3)
        if frame is not None:
            furniture.chair(room, frame)


def _classroom(room: Room) -> None:
    rng = room.rng
    structure.build_shell(room, 1, rng.integer(2, 3), "plain" if rng.chance(0.5) else "carpet")
    objects.board(room, rng.uniform(2.4, 3.2), dark=rng.chance(0.5))
    for _ in range(rng.integer(4, 7)):
        arrange.table_set(room, "table", rng.uniform(1.2, 1.6), rng.uniform(0.55, 0.8), "chair", 0.3)
    arrange.workplace(room)
    arrange.cupboards(room, {"bookshelf": 1.0, "cabinet": 1.0}, rng.integer(1, 2))
    arrange.pictures(room, 0, 3)
    arrange.usual_things(room, bins=0.8, plants=0.3, clocks=0.7)
    arrange.litter(room, {"backpack": 3.0, "bag": 1.0}, 1, 4)


_FURNISH: dict[str, Callable[[Room], None]] = {
    "office": _office,
    "conference room": _conference,
    "living room": _living,
    "bedroom": _bedroom,
    "bathroom": _bathroom,
    "kitchen": _kitchen,
    "hallway": _hallway,
    "copy room": _copy_room,
    "storage": _storage,
    "classroom": _classroom,
}
