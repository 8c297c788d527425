"""Filling the lots of a plan: houses, borders, gardens, street furniture and everything that is parked."""

from __future__ import annotations

from collections.abc import Callable

from ssl3d.data.synthetic import ground as g
from ssl3d.data.synthetic import objects, vehicles
from ssl3d.data.synthetic.ground import height_at, main_at
from ssl3d.data.synthetic.layout import Lot, Plan
from ssl3d.data.synthetic.primitives import Builder, Frame, Primitives
from ssl3d.data.synthetic.rng import Rng, cos_sin

CAR, BICYCLE, BUS, MOTORCYCLE, TRUCK, OTHER_VEHICLE, PERSON = 10, 11, 13, 15, 18, 20, 30
HALF_TURN = 3.141592653589793


class Ids:
    """Instance numbers of a sequence, from 1; 16 bits."""

    def __init__(self) -> None:
        self.last = 0

    def next(self) -> int:
        self.last = self.last % 65535 + 1
        return self.last


def street_frame(plan: Plan, street: int, s: float, d: float, side: int = 1) -> Frame:
    """The frame at station s, d meters to the left of street ``street``: x along the street, y to its left.

    With ``side`` -1 both axes are turned round, so that y points away from the road on its right too.
    """
    ground = plan.ground
    row = ground.streets[street]
    if row[g.CURVED]:
        y0, c, sn = main_at(ground, s)
        x, y = s - d * sn, y0 + d * c
    else:
        c, sn = float(row[g.UX]), float(row[g.UY])
        x, y = row[g.OX] + s * c - d * sn, row[g.OY] + s * sn + d * c
    x, y = float(x), float(y)
    return Frame(x, y, float(height_at(ground, x, y)), (side * c, side * sn))


class Scenery:
    def __init__(self, plan: Plan, seed: int) -> None:
        self.plan, self.seed = plan, seed
        self.primitives = Primitives()
        self.ids = Ids()

    def build(self) -> Primitives:
        for n, lot in enumerate(self.plan.lots):
            rng = Rng(self.seed, 20, n)
            self._house(rng.child(1), lot)
            self._borders(rng.child(2), lot)
            self._garden(rng.child(3), lot)
            self._furniture(rng.child(4), lot)
            self._parked(rng.child(5), lot)
            if lot.car_park:
                self._car_park(rng.child(6), lot)
        return self.primitives

    def _at(self, lot: Lot, s: float, beyond: float) -> Frame:
        """``beyond``: meters beyond the edge of the road, on the lot's side."""
        half = float(self.plan.ground.streets[lot.street, g.HALF])
        return street_frame(self.plan, lot.street, s, lot.side * (half + beyond), lot.side)

    def _in_drive(self, lot: Lot, s: float, room: float = 0.6) -> bool:
        return lot.row[g.DRIVE_LOW] - room < s < lot.row[g.DRIVE_HIGH] + room

    def _house(self, rng: Rng, lot: Lot) -> None:
        if not lot.house:
            return
        style = lot.style
        gap = rng.uniform(*style.house_gap)
        width = max(5.0, lot.high - lot.low - gap)
        depth = rng.uniform(*style.depth)
        frame = self._at(lot, lot.middle, lot.to_front + lot.row[g.SETBACK])
        roof = "gable" if rng.chance(style.gable) else "flat"
        storeys = rng.integer(*style.storeys)
        objects.building(self.primitives, rng, frame, width, depth, storeys, roof, style.glass)
        if rng.chance(0.25) and gap > 3.5:  # a garage beside it
            side = self._at(lot, lot.high - 0.5 * gap + 0.2, lot.to_front + lot.row[g.SETBACK] + 2.0)
            objects.building(self.primitives, rng.child(1), side, gap - 0.6, 6.0, 1, "flat", 0.1)

    def _borders(self, rng: Rng, lot: Lot) -> None:
        """What separates the lot from the sidewalk and from its neighbor."""
        if lot.style.barrier_chance and rng.chance(lot.style.barrier_chance):
            frame = self._at(lot, lot.middle, lot.to_front + 3.5)
            objects.noise_barrier(self.primitives, frame, lot.high - lot.low, rng.uniform(2.5, 4.0))
        deep = lot.row[g.SETBACK]
        if lot.border != "none" and deep > 1.2:
            pieces = [(lot.low + 0.1, lot.high - 0.1)]
            if lot.row[g.DRIVE_LOW] > -100.0:
                low, high = lot.row[g.DRIVE_LOW], lot.row[g.DRIVE_HIGH]
                pieces = [(lot.low + 0.1, low), (high, lot.high - 0.1)]
            elif lot.house and lot.border != "rails":  # a gate
                gate = rng.uniform(lot.low + 1.0, lot.high - 2.2)
                pieces = [(lot.low + 0.1, gate), (gate + 1.1, lot.high - 0.1)]
            height = rng.uniform(0.8, 2.0)
            for low, high in pieces:
                self._border(rng, lot, low, high, height)
        if deep > 2.5 and rng.chance(lot.style.side_border):
            frame = self._at(lot, lot.high - 0.1, lot.to_front + 0.5 * deep + 0.3)
            kind = lot.border if lot.border not in ("none", "rails") else "hedge"
            turned = frame.shifted((0.0, 0.0, 0.0), 0.5 * HALF_TURN)
            self._piece(rng, turned, deep - 0.5, kind, rng.uniform(0.8, 1.8))

    def _border(self, rng: Rng, lot: Lot, low: float, high: float, height: float) -> None:
        beyond = lot.to_front + (0.35 if lot.border != "rails" else -0.3)
        count = max(1, round((high - low) / 5.0))  # short pieces follow a curved street
        for k in range(count):
            a, b = low + (high - low) * k / count, low + (high - low) * (k + 1) / count
            if b - a > 0.3:
                self._piece(rng.child(77), self._at(lot, 0.5 * (a + b), beyond), b - a, lot.border, height)

    def _piece(self, rng: Rng, frame: Frame, length: float, kind: str, height: float) -> None:
        if length < 0.3:
            return
        if kind == "hedge":
            objects.hedge(self.primitives, rng, frame, length, height)
        else:
            objects.fence(self.primitives, rng, frame, length, kind)

    def _scattered(self, rng: Rng, rate: float, lot: Lot, place: Callable[[Rng, float], None]) -> None:
        """``place(rng, s)`` at about ``rate`` places per 100 m."""
        expected = rate * (lot.high - lot.low) / 100.0
        count = int(expected) + (1 if rng.chance(expected - int(expected)) else 0)
        for k in range(count):
            r = rng.child(k)
            place(r, r.uniform(lot.low + 0.4, lot.high - 0.4))

    def _garden(self, rng: Rng, lot: Lot) -> None:
        if lot.car_park:
            return
        style, deep = lot.style, lot.row[g.SETBACK]
        behind = deep + (style.depth[1] + 2.0 if lot.house else 0.0)

        def bush(r: Rng, s: float) -> None:
            if deep > 1.0 and not self._in_drive(lot, s, 1.0):
                frame = self._at(lot, s, lot.to_front + r.uniform(0.7, max(0.8, deep - 0.8)))
                objects.bush(self.primitives, r, frame, r.uniform(0.4, 1.5))

        def tree(r: Rng, s: float) -> None:
            front = deep > 3.5 and r.chance(0.6) and not self._in_drive(lot, s, 1.0)
            beyond = r.uniform(1.5, max(1.6, deep - 1.5)) if front else behind + r.uniform(2.0, 18.0)
            frame = self._at(lot, s, lot.to_front + beyond)
            objects.tree(self.primitives, r, frame, r.uniform(*style.tree_height), r.weighted(style.tree_kinds))

        def thicket(r: Rng, s: float) -> None:
            frame = self._at(lot, s, lot.to_front + behind + r.uniform(1.0, 14.0))
            objects.bush(self.primitives, r, frame, r.uniform(1.0, 2.4))

        if deep > 1.5 and rng.chance(style.shrubs):
            self._shrubs(
                rng.child(4), lot, rng.uniform(*style.shrub_size), rng.uniform(0.8, max(0.9, min(3.0, deep - 0.6)))
            )
        self._scattered(rng.child(1), style.bush_rate, lot, bush)
        self._scattered(rng.child(2), style.yard_tree_rate, lot, tree)
        self._scattered(rng.child(3), 0.8 * style.bush_rate, lot, thicket)

    def _shrubs(self, rng: Rng, lot: Lot, size: float, beyond: float) -> None:
        s = lot.low + 0.6 * size
        while s < lot.high - 0.4 * size:
            if not self._in_drive(lot, s, 0.8 * size) and rng.chance(0.85):
                frame = self._at(lot, s, lot.to_front + beyond + 0.3 * size + rng.normal(0.0, 0.15))
                objects.bush(self.primitives, rng.child(int(100 * s) & 0xFFFF), frame, size * rng.uniform(0.7, 1.1))
            s += size * rng.uniform(0.8, 1.5)

    def _furniture(self, rng: Rng, lot: Lot) -> None:
        style, primitives = lot.style, self.primitives
        walk, strip = lot.row[g.WALK], lot.row[g.STRIP]
        curb_side = lot.to_walk + 0.35 if strip < 0.7 else lot.row[g.BAY_WIDTH] + 0.5 * strip
        if walk < 0.5 and strip < 0.7:
            curb_side = lot.to_front + 0.8

        def lamp(r: Rng, s: float) -> None:
            kind = r.weighted(style.lamp)
            objects.lamp(primitives, r, self._at(lot, s, curb_side if kind != "wooden" else lot.to_front + 1.0), kind)

        def bollard(r: Rng, s: float) -> None:
            objects.lamp(primitives, r, self._at(lot, s, curb_side - 0.1), "bollard")

        def sign(r: Rng, s: float) -> None:
            facing = self._at(lot, s, curb_side + 0.1).shifted((0.0, 0.0, 0.0), HALF_TURN)
            objects.sign(primitives, r, facing, big=style.name == "highway" and r.chance(0.4))

        def street_tree(r: Rng, s: float) -> None:
            if not self._in_drive(lot, s):
                height = r.uniform(*style.tree_height)
                objects.tree(primitives, r, self._at(lot, s, curb_side + 0.3), height, "round")

        def box(r: Rng, s: float) -> None:
            objects.bin_or_box(
                primitives, r, self._at(lot, s, lot.to_front - 0.4 if walk > 1.5 else lot.to_front + 0.8)
            )

        self._scattered(rng.child(1), style.lamp_rate, lot, lamp)
        self._scattered(rng.child(2), style.bollard_rate, lot, bollard)
        self._scattered(rng.child(3), style.sign_rate, lot, sign)
        self._scattered(rng.child(4), style.street_tree_rate, lot, street_tree)
        self._scattered(rng.child(5), style.box_rate, lot, box)
        if style.shelter_chance and walk > 2.4 and rng.chance(style.shelter_chance):
            objects.shelter(primitives, rng, self._at(lot, lot.middle, lot.to_walk + 0.4))
        if lot.street == 0 and style.shelter_chance and rng.chance(0.3):
            objects.lamp(primitives, rng, self._at(lot, lot.low + 0.6, curb_side), "light")

    def _parked(self, rng: Rng, lot: Lot) -> None:
        style = lot.style
        bay, walk = lot.row[g.BAY_WIDTH], lot.row[g.WALK]
        s = lot.low + rng.uniform(2.5, 6.0)
        beyond = 0.5 * bay if bay > 0 else (-1.0 if walk > 0.5 else 1.1)
        if lot.street == 0 and bay == 0.0 and walk > 0.5:
            beyond = 0.35  # half on the sidewalk: the lane must stay free for the drive
        rates = {"car": style.parked_rate, "truck": style.parked_truck_rate, "other": style.parked_other_rate}
        total = sum(rates.values())
        while total > 0 and s < lot.high - 2.5:
            if rng.chance(min(0.95, total * 6.5 / 100.0)) and not self._in_drive(lot, s, 2.5):
                kind = rng.weighted(rates)
                wide = 0.7 if kind == "truck" and bay == 0.0 else 0.0
                frame = self._at(lot, s, beyond + wide + rng.normal(0.0, 0.08))
                length = self._vehicle(rng, frame.shifted((0.0, 0.0, 0.0), HALF_TURN + rng.normal(0.0, 0.02)), kind)
                s += 0.5 * length
            s += rng.uniform(3.4, 5.0)
        if lot.row[g.DRIVE_LOW] > -100.0 and lot.row[g.SETBACK] > 4.5 and rng.chance(style.yard_car_chance):
            middle = 0.5 * (lot.row[g.DRIVE_LOW] + lot.row[g.DRIVE_HIGH])
            frame = self._at(lot, middle, lot.to_front + 0.55 * lot.row[g.SETBACK])
            turned = frame.shifted((0.0, 0.0, 0.0), (0.5 if rng.chance(0.5) else -0.5) * HALF_TURN)
            self._vehicle(rng, turned, rng.weighted({"car": 0.92, "other": 0.08}))
        at_walk = lot.to_front - 0.45 if walk > 1.4 else lot.to_front + 0.6

        def two_wheeler(r: Rng, s: float, label: int) -> None:
            for k in range(r.integer(1, 3) if label == BICYCLE else 1):
                frame = self._at(lot, s + 0.7 * k, at_walk).shifted((0.0, 0.0, 0.0), r.uniform(0.0, 2.0 * HALF_TURN))
                builder = Builder(self.primitives, frame, label, self.ids.next())
                (vehicles.bicycle if label == BICYCLE else vehicles.motorcycle)(builder, r)

        self._scattered(rng.child(8), style.parked_bike_rate, lot, lambda r, at: two_wheeler(r, at, BICYCLE))
        self._scattered(rng.child(9), style.parked_motor_rate, lot, lambda r, at: two_wheeler(r, at, MOTORCYCLE))

        def standing(r: Rng, s: float) -> None:
            c = cos_sin(r.uniform(0.0, 2.0 * HALF_TURN))
            frame = self._at(lot, s, lot.to_walk + r.uniform(0.3, max(0.4, walk)))._replace(turn=c)
            vehicles.person(Builder(self.primitives, frame, PERSON, self.ids.next()), r)

        self._scattered(rng.child(10), 0.3 * style.walkers, lot, standing)

    def _vehicle(self, rng: Rng, frame: Frame, kind: str) -> float:
        label = {"car": CAR, "truck": TRUCK, "other": OTHER_VEHICLE}[kind]
        make = {"car": vehicles.car, "truck": vehicles.truck, "other": vehicles.trailer}[kind]
        return make(Builder(self.primitives, frame, label, self.ids.next()), rng)[0]

    def _car_park(self, rng: Rng, lot: Lot) -> None:
        for row, beyond in enumerate((3.5, 13.0)):
            s = lot.low + 2.0
            while s < lot.high - 2.0:
                if rng.chance(0.65) and not self._in_drive(lot, s, 1.5):
                    frame = self._at(lot, s, lot.to_front + beyond)
                    yaw = (0.5 if (row + rng.integer(0, 1)) % 2 else -0.5) * HALF_TURN
                    self._vehicle(rng, frame.shifted((0.0, 0.0, 0.0), yaw), "car")
                s += 2.7
