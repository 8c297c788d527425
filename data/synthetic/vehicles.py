"""Cars, trucks, buses, two-wheelers and people. Local frame: x forward, y left, z up from the ground; meters."""

from __future__ import annotations

from ssl3d.data.synthetic.intersect import WHEEL
from ssl3d.data.synthetic.materials import (
    CAR_PAINT,
    CLOTH,
    GLASS,
    LAMP_PAINT,
    METAL,
    PLATE_PAINT,
    RUBBER_PAINT,
    STEEL_PAINT,
    Paint,
)
from ssl3d.data.synthetic.primitives import Builder
from ssl3d.data.synthetic.rng import Rng, cos_sin

_CAR_COLORS = {
    (0.05, 0.05, 0.06): 0.26,
    (0.50, 0.52, 0.54): 0.24,
    (0.28, 0.29, 0.31): 0.16,
    (0.85, 0.86, 0.86): 0.12,
    (0.10, 0.15, 0.38): 0.10,
    (0.50, 0.06, 0.06): 0.07,
    (0.12, 0.28, 0.16): 0.05,
}


def body_paint(rng: Rng) -> Paint:
    rgb = rng.weighted(_CAR_COLORS)
    bright = max(rgb)
    return Paint(CAR_PAINT, max(0.015, (0.03 + 0.42 * bright) * rng.uniform(0.6, 1.2)), rgb)


def _wheels(b: Builder, front: float, rear: float, track: float, radius: float, width: float) -> None:
    for x in (front, rear):
        for side in (-1.0, 1.0):
            outer, inner = side * track, side * (track - width)
            b.tube((x, inner, radius), (x, outer, radius), radius, RUBBER_PAINT)
            b.tube((x, outer, radius), (x, outer + side * 0.01, radius), 0.6 * radius, STEEL_PAINT)


def _plates(b: Builder, front: float, rear: float, half_width: float, height: float) -> None:
    for x in (front, rear):
        b.box((x, 0.0, height), (0.02, 0.26, 0.06), PLATE_PAINT)
    for side in (-1.0, 1.0):
        b.box((rear, side * (half_width - 0.2), height + 0.25), (0.02, 0.13, 0.09), LAMP_PAINT)


def car(b: Builder, rng: Rng) -> tuple[float, float]:
    """A passenger car; returns its (length, width)."""
    kind = rng.weighted({"hatch": 0.34, "sedan": 0.24, "estate": 0.20, "suv": 0.14, "van": 0.08})
    length = {"hatch": 3.9, "sedan": 4.6, "estate": 4.6, "suv": 4.6, "van": 4.9}[kind] * rng.uniform(0.95, 1.06)
    height = {"hatch": 1.45, "sedan": 1.44, "estate": 1.47, "suv": 1.72, "van": 1.95}[kind] * rng.uniform(0.97, 1.04)
    half_width = {"suv": 0.92, "van": 0.94}.get(kind, 0.86) * rng.uniform(0.97, 1.03)
    a = 0.5 * length
    belt = (0.58 if kind != "van" else 0.55) * height
    paint = body_paint(rng)
    clearance = 0.22 if kind != "suv" else 0.30
    nose = rng.uniform(0.62, 0.72) * height if kind != "van" else 0.62 * height
    hood = nose * 0.93
    lower = [
        (-a + 0.06, clearance),
        (a - 0.08, clearance),
        (a, 0.45),
        (a - 0.06, hood * 0.88),
        (a - 0.95, belt + 0.03),
        (-a + 0.12, belt + 0.03),
        (-a, 0.55),
    ]
    b.profile(lower, half_width, paint, lean=0.08)
    wind_foot = a - (1.05 if kind != "van" else 0.75)
    wind_head = wind_foot - (0.85 if kind != "van" else 0.55)
    tail_foot, tail_head = {
        "hatch": (-a + 0.10, -a + 0.45),
        "sedan": (-a + 0.62, -a + 1.25),
        "estate": (-a + 0.10, -a + 0.38),
        "suv": (-a + 0.12, -a + 0.40),
        "van": (-a + 0.08, -a + 0.20),
    }[kind]
    cabin = [(tail_foot, belt), (wind_foot, belt), (wind_head, height - 0.05), (tail_head, height - 0.05)]
    panes = {1: GLASS, 3: GLASS}
    b.profile(cabin, half_width - 0.05, paint, lean=0.30, faces=panes, side=GLASS)
    b.box((0.5 * (wind_head + tail_head), 0.0, height - 0.03), (0.5 * (wind_head - tail_head), 0.56, 0.025), paint)
    middle = 0.5 * (wind_head + tail_head)  # the pillar between the side panes
    inset = half_width - 0.05 - 0.15 * (height - belt)
    for side in (-1.0, 1.0):
        b.tube((middle, side * (half_width - 0.06), belt), (middle, side * (inset - 0.14), height - 0.06), 0.05, paint)
        b.ball((wind_foot - 0.2, side * (half_width + 0.1), belt + 0.08), (0.08, 0.10, 0.07), paint)
    _wheels(b, a - 0.85, -a + 0.80, half_width - 0.01, 0.32 if kind != "suv" else 0.36, 0.2)
    _plates(b, a - 0.01, -a + 0.01, half_width, 0.62)
    return length, 2.0 * half_width


def truck(b: Builder, rng: Rng) -> tuple[float, float]:
    paint, load = body_paint(rng), Paint(METAL, rng.uniform(0.2, 0.5), rng.choice([(0.8, 0.8, 0.8), (0.2, 0.3, 0.55)]))
    if rng.chance(0.4):  # a delivery van with a box
        length, height, half_width, cab = rng.uniform(5.6, 7.0), rng.uniform(2.7, 3.1), 1.05, 1.6
    else:
        length, height, half_width, cab = rng.uniform(7.5, 11.5), rng.uniform(3.3, 3.9), 1.25, 1.9
    a = 0.5 * length
    low = 0.55
    front = [(a - cab, low), (a, low), (a, 1.3), (a - 0.25, 0.8 * height), (a - cab, 0.8 * height)]
    b.profile(front, half_width - 0.05, paint, faces={2: GLASS})
    b.box((-0.5 * cab - 0.05, 0.0, 0.5 * (height + 1.0)), (a - 0.5 * cab - 0.1, half_width, 0.5 * (height - 1.0)), load)
    b.box((-0.3, 0.0, 0.8), (a - 0.5, 0.45, 0.18), STEEL_PAINT)
    _wheels(b, a - 0.9, -a + 1.6, half_width - 0.02, 0.48, 0.3)
    if length > 7.2:
        _wheels(b, -a + 2.7, -a + 1.5, half_width - 0.02, 0.48, 0.5)
    _plates(b, a + 0.01, -a, half_width, 0.75)
    return length, 2.0 * half_width


def bus(b: Builder, rng: Rng) -> tuple[float, float]:
    length, height, half_width = rng.uniform(10.0, 12.5), rng.uniform(2.9, 3.2), 1.25
    a = 0.5 * length
    paint = Paint(CAR_PAINT, 0.3, rng.choice([(0.8, 0.7, 0.1), (0.75, 0.12, 0.1), (0.85, 0.85, 0.85)]))
    b.profile([(-a, 0.35), (a, 0.35), (a, 1.2), (-a, 1.2)], half_width, paint)
    b.profile([(-a, 1.2), (a, 1.2), (a - 0.15, 2.3), (-a, 2.3)], half_width - 0.01, paint, faces={1: GLASS}, side=GLASS)
    b.box((0.0, 0.0, 0.5 * (height + 2.3)), (a - 0.1, half_width, 0.5 * (height - 2.3)), paint)
    for k in range(int(length / 1.6)):
        for side in (-1.0, 1.0):
            b.box((-a + 0.8 + 1.6 * k, side * half_width, 1.75), (0.06, 0.02, 0.55), paint)
    _wheels(b, a - 2.4, -a + 2.9, half_width - 0.02, 0.48, 0.3)
    _plates(b, a + 0.01, -a, half_width, 0.7)
    return length, 2.0 * half_width


def trailer(b: Builder, rng: Rng) -> tuple[float, float]:
    """A caravan, trailer or tractor: what the labels call other-vehicle."""
    length, height = rng.uniform(3.2, 5.8), rng.uniform(1.5, 2.6)
    a, half_width = 0.5 * length, rng.uniform(0.85, 1.15)
    paint = Paint(
        CAR_PAINT, rng.uniform(0.25, 0.45), rng.choice([(0.88, 0.87, 0.82), (0.3, 0.5, 0.25), (0.6, 0.6, 0.6)])
    )
    side = GLASS if rng.chance(0.3) else -1
    b.profile([(-a, 0.5), (a, 0.5), (a + 0.1, 0.6 * height), (a - 0.4, height), (-a + 0.1, height)], half_width, paint)
    b.box((0.2, 0.0, 0.65 * height), (0.6, half_width + 0.01, 0.18 * height), Paint(GLASS, 0.1, (0.1, 0.12, 0.15)))
    b.tube((a, 0.0, 0.45), (a + 1.1, 0.0, 0.45), 0.05, STEEL_PAINT)
    if side == GLASS:
        b.box((-0.3 * length, 0.0, 0.6 * height), (0.3, half_width + 0.01, 0.15 * height), RUBBER_PAINT)
    _wheels(b, 0.35, -0.45, half_width - 0.02, 0.33, 0.2)
    return length + 1.1, 2.0 * half_width


def bicycle(b: Builder, rng: Rng) -> None:
    paint = Paint(METAL, rng.uniform(0.1, 0.4), rng.choice([(0.1, 0.1, 0.1), (0.6, 0.1, 0.1), (0.2, 0.4, 0.6)]))
    for x in (-0.53, 0.53):
        b.tube((x, -0.025, 0.34), (x, 0.025, 0.34), 0.34, RUBBER_PAINT, WHEEL)
    for p, q in (
        ((-0.53, 0.0, 0.34), (-0.10, 0.0, 0.85)),
        ((-0.05, 0.0, 0.30), (-0.15, 0.0, 0.95)),
        ((-0.05, 0.0, 0.30), (0.42, 0.0, 0.78)),
        ((-0.13, 0.0, 0.80), (0.42, 0.0, 0.85)),
        ((0.53, 0.0, 0.34), (0.38, 0.0, 1.02)),
        ((-0.53, 0.0, 0.34), (-0.05, 0.0, 0.30)),
    ):
        b.tube(p, q, 0.024, paint)
    b.tube((0.38, -0.28, 1.02), (0.38, 0.28, 1.02), 0.02, paint)
    b.box((-0.17, 0.0, 0.97), (0.13, 0.07, 0.03), RUBBER_PAINT)
    if rng.chance(0.4):
        b.box((-0.55, 0.0, 0.78), (0.18, 0.14, 0.10), Paint(CLOTH, 0.25, (0.2, 0.2, 0.2)))


def motorcycle(b: Builder, rng: Rng) -> None:
    paint = body_paint(rng)
    for x in (-0.68, 0.68):
        b.tube((x, -0.07, 0.31), (x, 0.07, 0.31), 0.31, RUBBER_PAINT)
    b.ball((0.12, 0.0, 0.80), (0.34, 0.17, 0.17), paint)
    b.ball((-0.05, 0.0, 0.47), (0.36, 0.19, 0.22), STEEL_PAINT)
    b.box((-0.45, 0.0, 0.80), (0.35, 0.14, 0.06), RUBBER_PAINT)
    b.tube((0.68, 0.0, 0.31), (0.45, 0.0, 1.0), 0.06, STEEL_PAINT)
    b.tube((0.42, -0.35, 1.03), (0.42, 0.35, 1.03), 0.025, RUBBER_PAINT)
    b.ball((0.55, 0.0, 0.88), (0.12, 0.14, 0.15), paint)
    if rng.chance(0.4):  # a scooter's apron and top case
        b.box((0.45, 0.0, 0.65), (0.05, 0.22, 0.30), paint)
        b.box((-0.85, 0.0, 0.98), (0.17, 0.19, 0.14), RUBBER_PAINT)
    b.box((-0.95, 0.0, 0.62), (0.01, 0.1, 0.07), PLATE_PAINT)


def _cloth(rng: Rng) -> Paint:
    rgb = (rng.uniform(0.05, 0.7), rng.uniform(0.05, 0.6), rng.uniform(0.05, 0.6))
    return Paint(CLOTH, rng.uniform(0.08, 0.45), rgb)


_SKIN = Paint(CLOTH, 0.4, (0.75, 0.56, 0.45))


def person(b: Builder, rng: Rng, phase: float = 0.0) -> None:
    """A standing or walking person; ``phase``: of the stride, in radians."""
    tall = rng.uniform(0.90, 1.08) if rng.chance(0.85) else rng.uniform(0.60, 0.80)
    top, trousers = _cloth(rng), _cloth(rng)
    swing = 0.28 * cos_sin(phase)[1]
    b.ball((0.0, 0.0, 1.63 * tall), (0.10, 0.09, 0.13 * tall), _SKIN)
    b.ball((0.0, 0.0, 1.18 * tall), (0.15, 0.22, 0.36 * tall), top)
    for side in (-1.0, 1.0):
        b.tube((side * swing, side * 0.10, 0.0), (0.0, side * 0.09, 0.88 * tall), 0.075 * tall, trousers)
        b.tube((-side * swing, side * 0.27, 0.80 * tall), (0.0, side * 0.22, 1.42 * tall), 0.05 * tall, top)
    if rng.chance(0.25):
        b.ball((-0.2, 0.0, 1.25 * tall), (0.12, 0.17, 0.22), _cloth(rng))


def _rider(b: Builder, rng: Rng, seat: float, lean: float, reach: float) -> None:
    top, trousers = _cloth(rng), _cloth(rng)
    b.ball((lean * 0.9 - 0.1, 0.0, seat + 0.75), (0.12, 0.11, 0.14), _SKIN if rng.chance(0.5) else _cloth(rng))
    b.ball((lean * 0.45 - 0.15, 0.0, seat + 0.33), (0.17, 0.21, 0.34), top)
    for side in (-1.0, 1.0):
        b.tube((lean * 0.7 - 0.12, side * 0.2, seat + 0.52), (reach, side * 0.24, seat + 0.12), 0.05, top)
        b.tube((-0.12, side * 0.11, seat), (0.22, side * 0.13, seat - 0.30), 0.085, trousers)
        b.tube((0.22, side * 0.13, seat - 0.30), (0.02, side * 0.12, 0.30), 0.06, trousers)


def bicyclist(b: Builder, rng: Rng) -> None:
    bicycle(b, rng)
    _rider(b, rng, 0.98, 0.25, 0.38)


def motorcyclist(b: Builder, rng: Rng) -> None:
    motorcycle(b, rng)
    _rider(b, rng, 0.88, 0.20, 0.40)
