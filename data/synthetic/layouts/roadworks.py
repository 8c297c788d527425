"""Cones, barriers and diggers, which other datasets name and SemanticKITTI does not: added to a finished world."""

from __future__ import annotations

from ssl3d.data.synthetic import ground as g
from ssl3d.data.synthetic.materials import CONCRETE, GLASS_PAINT, METAL, PLASTER, RETRO, RUBBER_PAINT, Paint
from ssl3d.data.synthetic.primitives import Builder, Primitives, joined
from ssl3d.data.synthetic.rng import Rng
from ssl3d.data.synthetic.scenery import street_frame
from ssl3d.data.synthetic.world import World

CONE, BARRIER, DIGGER = 301, 302, 303
"""Raw ids that only the layouts know."""

_ORANGE = Paint(RETRO, 0.55, (0.92, 0.36, 0.08))
_WHITE = Paint(PLASTER, 0.6, (0.88, 0.88, 0.86))
_RED = Paint(PLASTER, 0.45, (0.72, 0.12, 0.10))
_YELLOW = Paint(METAL, 0.4, (0.90, 0.66, 0.08))
_APART = 28.0


def add_roadworks(world: World) -> None:
    """Puts a site every 28 m or so along both edges of the main street, clear of the lanes that are driven."""
    rng = Rng(world.key, 77)
    primitives = Primitives()
    instance = max(int(world.static.instance.max(initial=0)), *(actor.instance for actor in world.actors), 0)
    half = float(world.plan.ground.streets[0, g.HALF])
    sites = int((world.plan.length + 80.0) / _APART) + 1
    for k in range(sites):
        r = rng.child(k)
        side = 1 if k % 2 else -1
        s = -40.0 + _APART * (k + r.uniform(0.2, 0.8))
        for n in range(r.integer(3, 5)):
            instance += 1
            frame = street_frame(world.plan, 0, s + 1.6 * n, side * (half - 0.25 + r.uniform(-0.05, 0.05)), side)
            cone(Builder(primitives, frame, CONE, instance))
        for n in range(r.integer(1, 3)):
            instance += 1
            frame = street_frame(world.plan, 0, s - 2.2 * (n + 1), side * (half + 0.3), side)
            barrier(Builder(primitives, frame, BARRIER, instance), n)
        if k % 3 == 0:
            instance += 1
            frame = street_frame(world.plan, 0, s + 3.0, side * (half + 2.4), side)
            digger(Builder(primitives, frame, DIGGER, instance), r)
    world.static = joined(world.static, primitives.arrays())


def cone(b: Builder) -> None:
    b.box((0.0, 0.0, 0.02), (0.19, 0.19, 0.03), RUBBER_PAINT)
    b.tube((0.0, 0.0, 0.0), (0.0, 0.0, 0.35), 0.13, _ORANGE)
    b.tube((0.0, 0.0, 0.35), (0.0, 0.0, 0.52), 0.09, _WHITE)
    b.tube((0.0, 0.0, 0.52), (0.0, 0.0, 0.72), 0.06, _ORANGE)


def barrier(b: Builder, number: int) -> None:
    b.box((0.0, 0.0, 0.08), (0.95, 0.28, 0.12), Paint(CONCRETE, 0.35, (0.55, 0.54, 0.52)))
    b.box((0.0, 0.0, 0.55), (0.95, 0.11, 0.38), _RED if number % 2 else _WHITE)


def digger(b: Builder, rng: Rng) -> None:
    """An excavator with its arm along the street."""
    for side in (-1.0, 1.0):
        b.box((0.0, side * 0.75, 0.4), (1.35, 0.22, 0.4), RUBBER_PAINT)
    b.box((-0.25, 0.0, 1.25), (1.05, 0.9, 0.45), _YELLOW)
    b.box((0.35, 0.45, 2.05), (0.5, 0.4, 0.6), GLASS_PAINT)
    b.box((0.35, 0.45, 2.68), (0.55, 0.45, 0.06), _YELLOW)
    elbow = (2.2, -0.2, rng.uniform(2.6, 3.3))
    b.tube((0.7, -0.2, 1.4), elbow, 0.16, _YELLOW)
    b.tube(elbow, (3.0, -0.2, 0.7), 0.13, _YELLOW)
    b.box((3.0, -0.2, 0.45), (0.3, 0.35, 0.3), Paint(METAL, 0.25, (0.3, 0.3, 0.3)))
