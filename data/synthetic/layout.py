"""The plan of one sequence: a main street with crossings, cut into blocks of a style and these into lots."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ssl3d.data.synthetic import ground as g
from ssl3d.data.synthetic.ground import Ground
from ssl3d.data.synthetic.kernels import stamp
from ssl3d.data.synthetic.materials import OTHER_GROUND, PARKING, ROAD
from ssl3d.data.synthetic.rng import Rng, cos_sin
from ssl3d.data.synthetic.styles import HIGHWAY, NEIGHBORS, STYLES, Style

MARGIN = 85.0
CROSS_REACH = 95.0


@dataclass(frozen=True)
class Lot:
    """One lot beside street ``street``, on its left (side +1) or right (-1), from ``low`` to ``high`` along it."""

    street: int
    side: int
    low: float
    high: float
    style: Style
    row: tuple[float, ...]  # the numbers the ground kernels read
    border: str
    house: bool
    car_park: bool

    @property
    def middle(self) -> float:
        return 0.5 * (self.low + self.high)

    @property
    def to_walk(self) -> float:
        """From the road's edge to the sidewalk."""
        return self.row[g.BAY_WIDTH] + self.row[g.STRIP]

    @property
    def to_front(self) -> float:
        """From the road's edge to the private side of the sidewalk."""
        return self.to_walk + self.row[g.WALK]


@dataclass(frozen=True)
class Plan:
    """``length``: of the drive along the main street's x axis, from x = 0."""

    ground: Ground
    lots: list[Lot]
    length: float
    styles: tuple[str, ...]


def make_plan(seed: int, sequence: int, length: float, cell: float, style_name: str | None = None) -> Plan:
    """The streets, lots and heights of a sequence. ``cell``: of the height raster, meters."""
    rng = Rng(seed, sequence, 1)
    main_style = STYLES[style_name or "suburb"]
    x0, x1 = -MARGIN, length + MARGIN
    main = _center_line(rng.child(2), x0, x1)
    mixed = _shuffled(rng.child(12)) if style_name is None else []
    blocks, crossings = _blocks(rng.child(3), main_style, mixed, x0, x1)
    streets = _streets(rng.child(4), main_style, main, x0, x1, crossings)
    default = _lot_row(rng.child(5), main_style, -1.0, -1.0)
    lots: list[Lot] = []
    for b, (low, high, style) in enumerate(blocks):
        block = _varied(rng.child(6, b), style)
        for side in (1, -1):
            lots += _lots_along(rng.child(7, b, side), 0, side, low, high, block)
    for k in range(1, len(streets)):
        at = crossings[k - 1][0]
        style = next(s for low, high, s in blocks if low - 30.0 < at < high + 30.0)
        block = _varied(rng.child(8, k), replace(style, house_chance=min(style.house_chance, 0.9)))
        near = streets[0, g.HALF] + 28.0
        for side in (1, -1):
            for low, high in ((near, CROSS_REACH), (-CROSS_REACH, -near)):
                if streets[k, g.S_MIN] < low and high < streets[k, g.S_MAX] + 1.0:
                    lots += _lots_along(rng.child(9, k, side, int(low)), k, side, low, high, block)
    meters = int(max(streets[:, g.S_MAX] - streets[:, g.S_MIN])) + 2
    lot_of = np.zeros((len(streets), 2, meters), np.int32)
    rows = [default]
    for lot in lots:
        a, b = int(lot.low - streets[lot.street, g.S_MIN]), int(lot.high - streets[lot.street, g.S_MIN])
        lot_of[lot.street, 0 if lot.side > 0 else 1, max(a, 0) : max(b, 0)] = len(rows)
        rows.append(lot.row)
    y0, y1 = float(main[:, 0].min()) - MARGIN, float(main[:, 0].max()) + MARGIN
    shape = (int((y1 - y0) / cell) + 1, int((x1 - x0) / cell) + 1)
    ground = Ground(
        seed=rng.child(10).bits() >> 1,
        origin=np.array([x0, y0, cell]),
        height=np.zeros(shape, np.float32),
        main=main,
        streets=streets,
        lot_of=lot_of,
        lots=np.array(rows, np.float64),
        hills=_hills(rng.child(11)),
        stamp=stamp(),
    )
    g.fill_heights(ground)
    return Plan(ground, lots, length, tuple(style.name for _, _, style in blocks))


def _center_line(rng: Rng, x0: float, x1: float) -> np.ndarray:
    waves = []
    for _ in range(2):
        wavelength = rng.uniform(140.0, 380.0)
        k = 2.0 * math.pi / wavelength
        waves.append((rng.uniform(0.0, 0.2) / k, k, rng.uniform(0.0, 2.0 * math.pi)))
    rows = []
    for n in range(int(x1 - x0) + 3):
        x, y, slope = x0 + n, 0.0, 0.0
        for amplitude, k, phase in waves:
            c, s = cos_sin(k * x + phase)
            y += amplitude * s
            slope += amplitude * k * c
        norm = math.sqrt(1.0 + slope * slope)
        rows.append((y, 1.0 / norm, slope / norm))
    return np.array(rows, np.float64)


def _shuffled(rng: Rng) -> list[Style]:
    """Every style that fits beside an ordinary road, in an order of its own, the frequent ones twice."""
    styles = [s for s in STYLES.values() if s is not HIGHWAY] + [STYLES["suburb"], STYLES["terrace"]]
    for k in range(len(styles) - 1, 0, -1):
        j = rng.integer(0, k)
        styles[k], styles[j] = styles[j], styles[k]
    return styles


def _hills(rng: Rng) -> np.ndarray:
    rows = []
    for wavelength, grade in ((260.0, 0.025), (120.0, 0.012), (55.0, 0.006)):
        k = 2.0 * math.pi / (wavelength * rng.uniform(0.8, 1.3))
        c, s = cos_sin(rng.uniform(0.0, 2.0 * math.pi))
        rows.append((rng.uniform(0.1, 1.0) * grade / k, k * c, k * s, rng.uniform(0.0, 2.0 * math.pi)))
    return np.array(rows, np.float64)


def _blocks(
    rng: Rng, main_style: Style, mixed: list[Style], x0: float, x1: float
) -> tuple[list[tuple[float, float, Style]], list[tuple[float, float]]]:
    """Blocks (low, high, style) along the main street and crossings (x, half width) between them.

    Their styles take turns through ``mixed``; when it is empty they are ``main_style`` or its like.
    """
    blocks: list[tuple[float, float, Style]] = []
    crossings: list[tuple[float, float]] = []
    at = x0
    while at < x1:
        end = at + rng.uniform(45.0, 95.0)
        if mixed:
            style = mixed[len(blocks) % len(mixed)]
        else:
            style = main_style if rng.chance(0.6) else STYLES[rng.choice(NEIGHBORS[main_style.name])]
        if main_style is HIGHWAY:
            style, end = main_style, end + 60.0
        if end > x1 - 25.0:
            blocks.append((at, x1, style))
            break
        half = rng.uniform(2.6, 3.6)
        crossings.append((end + half, half))
        blocks.append((at, end, style))
        at = end + 2.0 * half
    return blocks, crossings


def _streets(
    rng: Rng, style: Style, main: np.ndarray, x0: float, x1: float, crossings: list[tuple[float, float]]
) -> np.ndarray:
    half = rng.uniform(*style.half_width)
    rows = [[1.0, 0.0, 0.0, 1.0, 0.0, half, x0, x1, float(style.lines), 0.0]]
    for x, cross_half in crossings:
        n = int(x - x0)
        y, c, s = main[n] + (main[n + 1] - main[n]) * (x - x0 - n)
        arms = rng.weighted({"both": 0.4, "left": 0.3, "right": 0.3})
        low = -CROSS_REACH if arms != "left" else 0.0
        high = CROSS_REACH if arms != "right" else 0.0
        zebra = 1.0 if rng.chance(0.35) and style is not HIGHWAY else 0.0
        lines = float(min(style.lines, 1))
        rows.append([0.0, x, y, -s, c, cross_half, low, high, lines, zebra])
    return np.array(rows, np.float64)


def _varied(rng: Rng, style: Style) -> Style:
    """The style as one block has it: bays or not, its own sidewalk, greener or barer, more or fewer cars."""
    green, busy = rng.uniform(0.4, 1.7), rng.uniform(0.4, 1.5)
    bay = rng.uniform(*style.bay) if rng.chance(style.bay_chance) else 0.0
    strip = rng.uniform(*style.strip) if rng.chance(style.strip_chance) else 0.0
    walk, setback = rng.uniform(*style.walk), rng.uniform(*style.setback)
    storeys, bank = rng.integer(*style.storeys), rng.uniform(*style.bank)
    return replace(
        style,
        bay=(bay, bay),
        bay_cover=ROAD if rng.chance(0.68) else PARKING,
        strip=(strip, strip),
        walk=(walk, walk),
        setback=(0.8 * setback, 1.2 * setback),
        bank=(bank, bank),
        bank_width=rng.uniform(2.0, 6.0),
        storeys=(max(style.storeys[0], storeys - 1), min(style.storeys[1], storeys + 1)),
        bush_rate=style.bush_rate * green,
        yard_tree_rate=style.yard_tree_rate * green,
        street_tree_rate=style.street_tree_rate * rng.uniform(0.0, 2.0),
        parked_rate=style.parked_rate * busy,
        walkers=style.walkers * busy,
    )


def _lot_row(rng: Rng, style: Style, drive_low: float, drive_high: float) -> tuple[float, ...]:
    row = [0.0] * g.LOT_COLUMNS
    row[g.BAY_WIDTH], row[g.BAY_COVER] = rng.uniform(*style.bay), style.bay_cover
    row[g.STRIP], row[g.WALK], row[g.WALK_COVER] = rng.uniform(*style.strip), rng.uniform(*style.walk), style.walk_cover
    row[g.SETBACK] = rng.uniform(*style.setback)
    row[g.FRONT], row[g.BACK] = rng.weighted(style.front), rng.weighted(style.back)
    row[g.DRIVE_LOW], row[g.DRIVE_HIGH], row[g.DRIVE_COVER] = drive_low, drive_high, rng.weighted(style.drive_cover)
    row[g.BANK_START], row[g.BANK_WIDTH] = 0.3, style.bank_width
    row[g.BANK_RISE] = rng.uniform(*style.bank)
    row[g.CURB], row[g.ROUGH] = style.curb * rng.uniform(0.8, 1.2), style.rough * rng.uniform(0.6, 1.5)
    return tuple(row)


def _lots_along(rng: Rng, street: int, side: int, low: float, high: float, style: Style) -> list[Lot]:
    lots, at, k = [], low, 0
    while at < high - 5.0:
        r = rng.child(k)
        width = r.uniform(*style.lot)
        end = high if high - (at + width) < style.lot[0] else at + width
        end = math.floor(end) if end < high else high
        car_park = r.chance(style.lot_parking)
        drive = (-1e3, -1e3)
        if r.chance(style.drive_chance):
            start = at + r.uniform(0.3, 1.5) if r.chance(0.5) else end - r.uniform(4.2, 5.5)
            drive = (start, start + r.uniform(2.8, 3.8))
        row = list(_lot_row(r, style, *drive))
        if car_park:
            row[g.FRONT], row[g.SETBACK] = (PARKING if r.chance(0.8) else OTHER_GROUND), max(16.0, row[g.SETBACK])
            row[g.BANK_RISE] = 0.0
        house = r.chance(style.house_chance) and end - at > 6.0 and not car_park
        border = r.weighted(style.border)
        lots.append(Lot(street, side, at, end, style, tuple(row), border, house, car_park))
        at, k = end, k + 1
    return lots
