"""What moves: the drive of the sensor, and other traffic on the streets and sidewalks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ssl3d.data.synthetic import ground as g
from ssl3d.data.synthetic import vehicles
from ssl3d.data.synthetic.layout import Plan
from ssl3d.data.synthetic.primitives import Builder, Primitives
from ssl3d.data.synthetic.rng import Rng
from ssl3d.data.synthetic.scenery import Ids, street_frame
from ssl3d.data.synthetic.styles import STYLES, Style

MOVING = {
    "car": (252, vehicles.car),
    "truck": (258, vehicles.truck),
    "bus": (257, vehicles.bus),
    "trailer": (259, vehicles.trailer),
    "bicyclist": (253, vehicles.bicyclist),
    "motorcyclist": (255, vehicles.motorcyclist),
}
WALKING = 254


@dataclass(frozen=True)
class Actor:
    """At time t (seconds) at station ``start + speed * t`` of a street, ``offset`` meters to the left of its middle."""

    kind: str
    key: int
    instance: int
    street: int
    start: float
    speed: float
    offset: float

    def build(self, plan: Plan, primitives: Primitives, time: float) -> None:
        s = self.start + self.speed * time
        row = plan.ground.streets[self.street]
        if not row[g.S_MIN] + 2.0 < s < row[g.S_MAX] - 2.0:
            return
        frame = street_frame(plan, self.street, s, self.offset, 1 if self.speed >= 0 else -1)
        if self.kind == "walker":
            builder = Builder(primitives, frame, WALKING, self.instance)
            vehicles.person(builder, Rng(self.key), phase=4.2 * abs(self.speed) * time + self.instance)
        else:
            label, make = MOVING[self.kind]
            make(Builder(primitives, frame, label, self.instance), Rng(self.key))


def ego_station(plan: Plan, speed: float, time: float) -> tuple[float, float]:
    """(s, d) of the sensor on the main street."""
    return speed * time, -lane(plan)


def lane(plan: Plan, inner: bool = False) -> float:
    """Distance of the middle of a lane from that of the main street; roads with lane lines have two a direction."""
    half = float(plan.ground.streets[0, g.HALF])
    if plan.ground.streets[0, g.LINES] >= 3.0:
        return (0.26 if inner else 0.74) * half
    return 0.46 * half


def make_actors(plan: Plan, seed: int, speed: float, seconds: float, ids: Ids, all_kinds: bool) -> list[Actor]:
    """Traffic that a drive of ``seconds`` at ``speed`` m/s meets; none crosses its path.

    ``all_kinds``: leave no kind of vehicle to chance.
    """
    half = float(plan.ground.streets[0, g.HALF])
    actors: list[Actor] = []

    def spread(rate: float, low: float, high: float, rng: Rng, make: Callable[[Rng, float], None]) -> None:
        expected = rate * max(0.0, high - low) / 100.0
        count = int(expected) + (1 if rng.chance(expected - int(expected)) else 0)
        for k in range(count):
            r = rng.child(k)
            make(r, r.uniform(low, high))

    def add(kind: str, r: Rng, street: int, start: float, velocity: float, offset: float) -> None:
        actors.append(Actor(kind, r.child(99).key, ids.next(), street, start, velocity, offset))

    names = plan.styles
    rng = Rng(seed, 30)
    for b, name in enumerate(names):
        style = STYLES[name]
        low = plan.length * b / len(names) - (60.0 if b == 0 else 0.0)
        high = plan.length * (b + 1) / len(names) + (60.0 if b == len(names) - 1 else 0.0)
        r = rng.child(b)
        mix = {"car": style.cars, "truck": style.trucks, "bus": style.buses, "trailer": 0.03 * style.cars}

        def oncoming(r: Rng, s: float, mix: dict[str, float] = mix, style: Style = style) -> None:
            add(r.weighted(mix), r, 0, s, -r.uniform(*style.speed), lane(plan, inner=r.chance(0.4)))

        # oncoming traffic that will be met later starts further along
        reach = high + (high - low) * min(2.0, 9.0 * seconds / max(plan.length, 1.0))
        spread(sum(mix.values()), low, reach, r.child(1), oncoming)
        ahead = 14.0 + r.uniform(0.0, 22.0)
        if b == 0 and r.chance(min(0.8, 0.3 * sum(mix.values()))):
            add(r.weighted(mix), r.child(2), 0, ahead, speed * r.uniform(0.98, 1.1), -lane(plan))
        if b == 0 and r.chance(0.3):
            add("car", r.child(3), 0, -12.0 - r.uniform(0.0, 15.0), speed * r.uniform(0.92, 1.0), -lane(plan))

        def cyclist(r: Rng, s: float) -> None:
            sign = 1.0 if r.chance(0.5) else -1.0
            add("bicyclist", r, 0, s, -sign * r.uniform(3.5, 6.0), sign * (half - 0.35))

        def motorcyclist(r: Rng, s: float, style: Style = style) -> None:
            add("motorcyclist", r, 0, s, -r.uniform(*style.speed), lane(plan) + r.uniform(-0.4, 0.5))

        def walker(r: Rng, s: float) -> None:
            side = 1.0 if r.chance(0.5) else -1.0
            lot = plan.ground.lots[g.lot_at(plan.ground, 0, s, side)]
            walk = float(lot[g.WALK])
            edge = half + float(lot[g.BAY_WIDTH]) + float(lot[g.STRIP])
            way = 1.0 if r.chance(0.5) else -1.0
            add("walker", r, 0, s, way * r.uniform(0.8, 1.6), side * (edge + r.uniform(0.25, 0.8) * max(walk, 1.0)))

        spread(style.cyclists, low, high + 20.0, r.child(4), cyclist)
        spread(style.motorcyclists, low, reach, r.child(5), motorcyclist)
        spread(style.walkers, low, high, r.child(6), walker)
    present = {actor.kind for actor in actors}
    for n, kind in enumerate(("bicyclist", "motorcyclist", "truck", "bus", "car")):
        r = rng.child(2000, n)
        if kind not in present and (all_kinds or r.chance(0.25)):  # one comes towards the sensor
            velocity = r.uniform(4.0, 6.0) if kind == "bicyclist" else r.uniform(6.0, 10.0)
            meeting = r.uniform(0.25, 0.75) * seconds
            add(kind, r, 0, (speed + velocity) * meeting, -velocity, half - 0.35 if kind == "bicyclist" else lane(plan))
    for k in range(1, len(plan.ground.streets)):  # leaving along a crossing
        r = rng.child(1000, k)
        if r.chance(0.6):
            way = 1.0 if plan.ground.streets[k, g.S_MAX] > 1.0 else -1.0
            offset = -way * 0.5 * float(plan.ground.streets[k, g.HALF])
            kind = r.weighted({"car": 0.8, "bicyclist": 0.1, "motorcyclist": 0.05, "truck": 0.05})
            add(kind, r, k, way * r.uniform(half + 8.0, 45.0), way * r.uniform(4.0, 8.0), offset)
    return actors
