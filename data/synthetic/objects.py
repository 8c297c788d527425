"""What stands along a street: houses, fences, plants, poles, signs. Local frame: x along the street, y away, z up."""

from __future__ import annotations

import math

from ssl3d.data.synthetic.intersect import FACADE, MESH, PICKETS, RAILS
from ssl3d.data.synthetic.materials import (
    BARK,
    BRICK,
    CONCRETE,
    GLASS_PAINT,
    LEAF,
    METAL,
    PLASTER,
    RETRO,
    ROOF,
    STEEL_PAINT,
    WOOD,
    Paint,
    Rgb,
)
from ssl3d.data.synthetic.primitives import Builder, Frame, Primitives
from ssl3d.data.synthetic.rng import Rng, cos_sin

BUILDING, FENCE, OTHER_STRUCTURE, VEGETATION, TRUNK, POLE, SIGN, OTHER_OBJECT = 50, 51, 52, 70, 71, 80, 81, 99

_PLASTER: list[Rgb] = [
    (0.82, 0.78, 0.68),
    (0.85, 0.84, 0.80),
    (0.76, 0.66, 0.50),
    (0.66, 0.60, 0.55),
    (0.72, 0.74, 0.76),
]
_BRICK: list[Rgb] = [(0.52, 0.27, 0.20), (0.44, 0.30, 0.24), (0.60, 0.42, 0.32)]
_ROOF: list[Rgb] = [(0.45, 0.20, 0.14), (0.28, 0.26, 0.26), (0.38, 0.24, 0.18)]


def wall_paint(rng: Rng) -> Paint:
    if rng.chance(0.3):
        return Paint(BRICK, rng.uniform(0.22, 0.36), rng.choice(_BRICK))
    return Paint(PLASTER, rng.uniform(0.30, 0.62), rng.choice(_PLASTER))


def building(
    primitives: Primitives, rng: Rng, frame: Frame, width: float, depth: float, storeys: int, roof: str, glass: float
) -> None:
    """A house whose front stands on the frame's x axis, ``depth`` behind it. ``roof``: gable | flat."""
    b = Builder(primitives, frame, BUILDING)
    paint = wall_paint(rng)
    storey = rng.uniform(2.7, 3.3)
    sunk = 2.5
    height = storeys * storey + rng.uniform(0.3, 0.8)
    shape = (rng.uniform(2.0, 3.6), storey, glass * rng.uniform(0.8, 1.2), float(rng.integer(1, 1 << 30)))
    plinth = (0.5 * width, 0.5 * depth)
    b.box((0.0, plinth[1], -0.5 * sunk), (*plinth, 0.5 * sunk), Paint(CONCRETE, 0.3, (0.5, 0.49, 0.47)))
    b.box((0.0, plinth[1], 0.5 * height), (*plinth, 0.5 * height), paint, FACADE, shape)
    if roof == "gable":
        rise = rng.uniform(0.35, 0.55) * depth
        tiles = Paint(ROOF, rng.uniform(0.2, 0.35), rng.choice(_ROOF))
        turned = frame.shifted((0.0, plinth[1], height), 0.5 * math.pi)
        over = 0.35
        outline = [(-plinth[1] - over, -0.15), (plinth[1] + over, -0.15), (0.0, rise)]
        Builder(primitives, turned, BUILDING).profile(outline, plinth[0] + over, tiles, base=0.15)
        if rng.chance(0.6):
            b.box((rng.uniform(-0.3, 0.3) * width, plinth[1], height + rise), (0.35, 0.35, 0.9), paint)
    else:
        b.box(
            (0.0, plinth[1], height + 0.2),
            (plinth[0] + 0.1, plinth[1] + 0.1, 0.2),
            Paint(CONCRETE, 0.3, (0.5, 0.5, 0.5)),
        )
    _front_parts(b, rng, width, height, storeys, storey, paint)


def _front_parts(b: Builder, rng: Rng, width: float, height: float, storeys: int, storey: float, paint: Paint) -> None:
    for k in range(1, storeys):  # balconies
        if rng.chance(0.3):
            x = rng.uniform(-0.3, 0.3) * width
            b.box((x, -0.6, k * storey), (1.4, 0.6, 0.08), Paint(CONCRETE, 0.35, (0.6, 0.6, 0.58)))
            b.box((x, -1.18, k * storey + 0.55), (1.4, 0.02, 0.5), STEEL_PAINT, PICKETS, (0.14, 0.45))
    if rng.chance(0.3) and width > 7.0:  # a bay
        x = rng.uniform(-0.25, 0.25) * width
        b.box(
            (x, -0.4, 0.4 * height), (rng.uniform(1.0, 2.0), 0.45, 0.4 * height), paint, FACADE, (1.6, storey, 0.5, 5.0)
        )
    if rng.chance(0.8):
        x = rng.uniform(-0.4, 0.4) * width
        b.box((x, -0.03, 1.05), (0.5, 0.05, 1.05), Paint(WOOD, 0.25, (0.32, 0.22, 0.15)))
        b.box((x, -0.5, 0.08), (0.8, 0.5, 0.08), Paint(CONCRETE, 0.3, (0.55, 0.54, 0.52)))
    if rng.chance(0.5):
        b.tube((0.48 * width, -0.06, 0.0), (0.48 * width, -0.06, height), 0.05, STEEL_PAINT)


def fence(primitives: Primitives, rng: Rng, frame: Frame, length: float, kind: str) -> None:
    """A fence centered on the frame along x. ``kind``: pickets | mesh | wall | rails | planks."""
    b = Builder(primitives, frame, FENCE)
    half = 0.5 * length
    wood = Paint(
        WOOD, rng.uniform(0.25, 0.45), rng.choice([(0.45, 0.33, 0.22), (0.75, 0.74, 0.70), (0.35, 0.30, 0.25)])
    )
    if kind == "wall":
        height = rng.uniform(0.6, 1.9)
        paint = wall_paint(rng)
        b.box((0.0, 0.0, 0.5 * height - 0.3), (half, 0.12, 0.5 * height + 0.3), paint)
        return
    if kind == "rails":  # a guard rail
        b.box((0.0, 0.0, 0.62), (half, 0.04, 0.16), Paint(METAL, 0.4, (0.6, 0.62, 0.63)))
        for k in range(int(length / 2.0) + 1):
            b.box((-half + 2.0 * k, 0.1, 0.3), (0.05, 0.06, 0.42), STEEL_PAINT)
        return
    height = {"pickets": rng.uniform(0.8, 1.3), "planks": rng.uniform(1.3, 1.9), "mesh": rng.uniform(1.2, 2.2)}[kind]
    pattern = {
        "pickets": (PICKETS, (rng.uniform(0.10, 0.2), rng.uniform(0.45, 0.65))),
        "planks": (RAILS if rng.chance(0.3) else PICKETS, (0.16, 0.88)),
        "mesh": (MESH, (0.04, rng.uniform(0.22, 0.4))),
    }[kind]
    paint = STEEL_PAINT if kind == "mesh" else wood
    base = rng.uniform(0.1, 0.5) if rng.chance(0.4) else 0.0
    if base:
        b.box((0.0, 0.0, 0.5 * base - 0.2), (half, 0.1, 0.5 * base + 0.2), Paint(CONCRETE, 0.32, (0.6, 0.58, 0.55)))
    b.box((0.0, 0.0, base + 0.5 * height), (half, 0.015, 0.5 * height), paint, pattern[0], pattern[1])
    posts = max(1, round(length / 2.5))
    for k in range(posts + 1):
        b.box(
            (-half + length * k / posts, 0.04, 0.5 * (base + height)), (0.05, 0.05, 0.5 * (base + height) + 0.05), paint
        )
    if kind == "pickets":
        for z in (0.25, 0.8):
            b.box((0.0, 0.04, base + z * height), (half, 0.02, 0.05), paint)


def leaf_paint(rng: Rng) -> Paint:
    return Paint(
        LEAF, rng.uniform(0.30, 0.48), (rng.uniform(0.12, 0.30), rng.uniform(0.28, 0.44), rng.uniform(0.06, 0.16))
    )


def hedge(primitives: Primitives, rng: Rng, frame: Frame, length: float, height: float) -> None:
    b = Builder(primitives, frame, VEGETATION)
    half = (0.5 * length, rng.uniform(0.3, 0.6), 0.5 * height)
    b.leaves((0.0, 0.0, half[2]), half, leaf_paint(rng), 0.75, 0.14, boxed=True)


def bush(primitives: Primitives, rng: Rng, frame: Frame, size: float) -> None:
    b = Builder(primitives, frame, VEGETATION)
    paint = leaf_paint(rng)
    for _ in range(rng.integer(1, 3)):
        r = size * rng.uniform(0.5, 1.0)
        x, y = rng.uniform(-0.5, 0.5) * size, rng.uniform(-0.5, 0.5) * size
        radii = (r, r * rng.uniform(0.7, 1.0), r * rng.uniform(0.7, 1.2))
        b.leaves((x, y, 0.7 * radii[2]), radii, paint, rng.uniform(0.55, 1.0), 0.17)


def tree(primitives: Primitives, rng: Rng, frame: Frame, height: float, kind: str = "round") -> None:
    """A trunk with a crown of loose foliage. ``kind``: round | conifer | column."""
    trunk = Builder(primitives, frame, TRUNK)
    crown = Builder(primitives, frame, VEGETATION)
    bark = Paint(BARK, rng.uniform(0.2, 0.38), (rng.uniform(0.25, 0.4), rng.uniform(0.2, 0.3), rng.uniform(0.14, 0.22)))
    paint = leaf_paint(rng)
    radius = min(0.34, max(0.07, height * rng.uniform(0.014, 0.028)))
    lean = (rng.uniform(-0.04, 0.04) * height, rng.uniform(-0.04, 0.04) * height)
    if kind == "conifer":
        low = 0.1 * height
        trunk.tube((0.0, 0.0, -0.5), (0.0, 0.0, 0.6 * height), radius, bark)
        for k in range(5):
            share = k / 5.0
            r = (1.0 - share) * 0.22 * height + 0.25
            crown.leaves((0.0, 0.0, low + share * 0.9 * height + 0.6), (r, r, 0.16 * height), paint, 0.6, 0.2)
        return
    free = rng.uniform(0.12, 0.38) * height if kind == "round" else 0.12 * height
    head = (lean[0], lean[1], 0.75 * height)
    trunk.tube((0.0, 0.0, -0.5), (0.5 * head[0], 0.5 * head[1], free), radius, bark)
    trunk.tube((0.5 * head[0], 0.5 * head[1], free - 0.05), head, 0.7 * radius, bark)
    if kind == "column":
        half = 0.5 * (height - free)
        r = rng.uniform(0.10, 0.16) * height
        crown.leaves((head[0], head[1], free + half), (r, r, half), paint, rng.uniform(0.4, 0.7), 0.22)
        return
    spread = rng.uniform(0.20, 0.34) * height
    density, cell = rng.uniform(0.20, 0.55), rng.uniform(0.16, 0.24)
    for _ in range(rng.integer(3, 6)):
        direction = cos_sin(rng.uniform(0.0, 2.0 * math.pi))
        out, up = rng.uniform(0.1, 0.75) * spread, rng.uniform(free + 0.25 * spread, height - 0.6 * spread)
        center = (head[0] + out * direction[0], head[1] + out * direction[1], max(up, free + 0.4 * spread))
        r = spread * rng.uniform(0.5, 0.85)
        crown.leaves(center, (r, r * rng.uniform(0.8, 1.1), r * rng.uniform(0.6, 0.9)), paint, density, cell)
        trunk.tagged(VEGETATION).tube((0.6 * head[0], 0.6 * head[1], free), center, 0.3 * radius + 0.01, bark)


def lamp(primitives: Primitives, rng: Rng, frame: Frame, style: str) -> None:
    """A street lamp, traffic light, bollard or wooden pole; the frame's +y is away from the road."""
    b = Builder(primitives, frame, POLE)
    if style == "bollard":
        b.tube((0.0, 0.0, -0.2), (0.0, 0.0, rng.uniform(0.7, 1.0)), 0.06, STEEL_PAINT)
        return
    if style == "wooden":
        b.tube((0.0, 0.0, -0.5), (0.0, 0.0, 8.0), 0.13, Paint(WOOD, 0.25, (0.32, 0.26, 0.2)))
        b.box((0.0, 0.0, 7.6), (0.9, 0.06, 0.06), Paint(WOOD, 0.25, (0.32, 0.26, 0.2)))
        return
    if style == "light":
        b.tube((0.0, 0.0, -0.3), (0.0, 0.0, 3.4), 0.07, STEEL_PAINT)
        dark = Paint(METAL, 0.12, (0.08, 0.10, 0.08))
        b.tagged(SIGN).box((0.0, 0.0, 3.0), (0.16, 0.18, 0.5), dark)
        return
    height = {"tall": rng.uniform(7.5, 9.5), "arm": rng.uniform(6.5, 8.0), "post": rng.uniform(3.5, 4.6)}[style]
    b.tube((0.0, 0.0, -0.3), (0.0, 0.0, height), rng.uniform(0.06, 0.1), STEEL_PAINT)
    b.tube((0.0, 0.0, -0.3), (0.0, 0.0, 1.1), 0.11, STEEL_PAINT)
    if style == "post":
        b.ball((0.0, 0.0, height + 0.15), (0.2, 0.2, 0.25), GLASS_PAINT)
    else:
        b.tube((0.0, 0.0, height - 0.2), (0.0, -2.0, height + 0.15), 0.05, STEEL_PAINT)
        b.box((0.0, -2.0, height + 0.12), (0.14, 0.4, 0.06), STEEL_PAINT)


def sign(primitives: Primitives, rng: Rng, frame: Frame, big: bool = False) -> None:
    """A traffic sign that faces along -x of the frame, on its pole."""
    pole, plate = Builder(primitives, frame, POLE), Builder(primitives, frame, SIGN)
    rgb = rng.choice([(0.75, 0.10, 0.10), (0.10, 0.25, 0.65), (0.85, 0.84, 0.80), (0.85, 0.70, 0.10)])
    paint = Paint(RETRO, rng.uniform(0.75, 1.0), rgb)
    if big:
        for y in (-1.2, 1.2):
            pole.tube((0.03, y, -0.3), (0.03, y, 3.4), 0.06, STEEL_PAINT)
        plate.box((-0.05, 0.0, 2.7), (0.03, 1.6, 0.8), paint)
        return
    height = rng.uniform(2.0, 2.6)
    pole.tube((0.03, 0.0, -0.3), (0.03, 0.0, height + 0.35), 0.035, STEEL_PAINT)
    if rng.chance(0.6):
        plate.tube((-0.03, 0.0, height), (0.0, 0.0, height), 0.32, paint)
    else:
        plate.box((-0.02, 0.0, height), (0.015, rng.uniform(0.25, 0.42), rng.uniform(0.2, 0.42)), paint)
    if rng.chance(0.3):
        plate.box((-0.02, 0.0, height - 0.5), (0.015, 0.25, 0.12), paint)


def bin_or_box(primitives: Primitives, rng: Rng, frame: Frame) -> None:
    """A bin, a switch box, a pile of stuff: raw class other-object."""
    b = Builder(primitives, frame, OTHER_OBJECT)
    rgb = rng.choice([(0.15, 0.25, 0.15), (0.4, 0.4, 0.4), (0.5, 0.35, 0.1)])
    half = (rng.uniform(0.25, 0.6), rng.uniform(0.25, 0.4), rng.uniform(0.4, 0.75))
    b.box((0.0, 0.0, half[2]), half, Paint(METAL, rng.uniform(0.15, 0.4), rgb))


def shelter(primitives: Primitives, rng: Rng, frame: Frame) -> None:
    """A bus stop: raw class other-structure."""
    b = Builder(primitives, frame, OTHER_STRUCTURE)
    b.box((0.0, 0.7, 2.35), (2.0, 0.8, 0.06), STEEL_PAINT)
    b.box((0.0, 1.4, 1.2), (1.9, 0.02, 1.0), Paint(CONCRETE, 0.25, (0.5, 0.55, 0.58)))
    for x in (-1.9, 1.9):
        b.tube((x, 1.4, -0.2), (x, 1.4, 2.3), 0.05, STEEL_PAINT)
    b.box((0.0, 1.1, 0.45), (1.2, 0.2, 0.05), Paint(WOOD, 0.3, (0.45, 0.3, 0.2)))


def noise_barrier(primitives: Primitives, frame: Frame, length: float, height: float) -> None:
    b = Builder(primitives, frame, OTHER_STRUCTURE)
    b.box(
        (0.0, 0.0, 0.5 * height - 0.5), (0.5 * length, 0.1, 0.5 * height + 0.5), Paint(CONCRETE, 0.3, (0.5, 0.52, 0.48))
    )
