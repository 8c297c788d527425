"""What blocks of a town look like. Numbers are ranges or rates; each block and lot draws its own within them."""

from __future__ import annotations

from dataclasses import dataclass, field

from ssl3d.data.synthetic.materials import BED, COBBLE, OTHER_GROUND, PARKING, ROAD, SIDEWALK, SOIL, TERRAIN, TRACK

Range = tuple[float, float]


@dataclass(frozen=True)
class Style:
    """Lengths in meters; ``*_rate``: objects per 100 m of street side; traffic: per 100 m of street at any moment."""

    name: str
    half_width: Range = (2.8, 3.5)
    lines: int = 1  # 0 none, 1 middle, 2 and edges, 3 and lanes
    bay: Range = (0.0, 0.0)
    bay_chance: float = 0.0
    bay_cover: int = PARKING
    strip: Range = (0.0, 0.0)
    strip_chance: float = 0.0
    walk: Range = (1.8, 3.2)
    walk_cover: int = SIDEWALK
    curb: float = 0.12
    lot: Range = (14.0, 24.0)
    setback: Range = (4.0, 9.0)
    front: dict[int, float] = field(default_factory=lambda: {TERRAIN: 0.52, BED: 0.48})
    back: dict[int, float] = field(default_factory=lambda: {TERRAIN: 1.0})
    drive_chance: float = 0.5
    drive_cover: dict[int, float] = field(default_factory=lambda: {PARKING: 0.4, SIDEWALK: 0.4, OTHER_GROUND: 0.2})
    bank: Range = (-0.4, 0.8)
    bank_width: float = 4.0
    rough: float = 0.07
    house_chance: float = 0.9
    house_gap: Range = (2.0, 6.0)
    depth: Range = (8.0, 12.0)
    storeys: tuple[int, int] = (1, 3)
    gable: float = 0.85
    glass: float = 0.42
    border: dict[str, float] = field(default_factory=lambda: {"none": 1.0})
    side_border: float = 0.5
    shrubs: float = 0.70  # chance of a row of shrubs along the front of a lot
    shrub_size: Range = (0.8, 2.0)
    bush_rate: float = 22.0
    yard_tree_rate: float = 8.8
    tree_height: Range = (5.0, 10.0)
    tree_kinds: dict[str, float] = field(default_factory=lambda: {"round": 0.75, "conifer": 0.15, "column": 0.10})
    street_tree_rate: float = 0.0
    lamp: dict[str, float] = field(default_factory=lambda: {"arm": 0.5, "post": 0.5})
    lamp_rate: float = 1.5
    bollard_rate: float = 0.0
    sign_rate: float = 1.5
    box_rate: float = 1.5
    shelter_chance: float = 0.0
    barrier_chance: float = 0.0
    parked_rate: float = 2.0
    yard_car_chance: float = 0.4
    parked_bike_rate: float = 0.34
    parked_motor_rate: float = 0.3
    parked_truck_rate: float = 0.03
    parked_other_rate: float = 0.07
    lot_parking: float = 0.0  # chance that a lot is a car park
    cars: float = 1.6
    trucks: float = 0.03
    buses: float = 0.02
    walkers: float = 0.72
    cyclists: float = 0.23
    motorcyclists: float = 0.03
    speed: Range = (7.0, 11.0)


SUBURB = Style(
    "suburb",
    shrubs=0.85,
    shrub_size=(0.8, 2.2),
    lines=0,
    border={"hedge": 0.42, "pickets": 0.2, "wall": 0.14, "planks": 0.08, "mesh": 0.06, "none": 0.1},
    strip=(0.8, 1.6),
    strip_chance=0.3,
    bush_rate=35.0,
    yard_tree_rate=18.0,
    street_tree_rate=1.0,
    parked_rate=1.6,
)

TERRACE = Style(
    "terrace",
    lines=0,
    bay=(2.0, 2.3),
    bay_chance=0.6,
    walk=(2.1, 3.5),
    lot=(7.0, 12.0),
    setback=(2.0, 5.0),
    front={TERRAIN: 0.35, BED: 0.35, SIDEWALK: 0.25, SOIL: 0.05},
    house_gap=(0.0, 0.3),
    house_chance=0.95,
    storeys=(2, 3),
    border={"wall": 0.27, "hedge": 0.38, "pickets": 0.27, "none": 0.08},
    bush_rate=31.0,
    yard_tree_rate=6.6,
    tree_height=(3.5, 7.0),
    parked_rate=4.0,
    drive_chance=0.2,
    parked_bike_rate=0.68,
    walkers=1.2,
)

INNER_CITY = Style(
    "inner city",
    shrubs=0.28,
    half_width=(3.0, 4.0),
    lines=1,
    bay=(2.0, 2.4),
    bay_chance=0.75,
    walk=(2.5, 5.6),
    lot=(10.0, 18.0),
    setback=(0.0, 0.4),
    front={SIDEWALK: 0.7, COBBLE: 0.3},
    back={SIDEWALK: 0.4, OTHER_GROUND: 0.3, TERRAIN: 0.3},
    bank=(0.0, 0.0),
    house_gap=(0.0, 0.2),
    house_chance=0.96,
    depth=(10.0, 14.0),
    storeys=(3, 6),
    gable=0.5,
    glass=0.5,
    side_border=0.1,
    bush_rate=2.2,
    yard_tree_rate=1.0,
    street_tree_rate=4.0,
    tree_height=(5.0, 9.0),
    lamp={"arm": 0.4, "post": 0.3, "tall": 0.3},
    lamp_rate=2.0,
    bollard_rate=2.5,
    sign_rate=4.0,
    box_rate=4.0,
    shelter_chance=0.25,
    parked_rate=4.8,
    parked_bike_rate=1.7,
    parked_motor_rate=2.0,
    parked_truck_rate=0.14,
    yard_car_chance=0.0,
    drive_chance=0.05,
    lot_parking=0.01,
    cars=2.2,
    buses=0.07,
    walkers=3.6,
    cyclists=0.62,
    motorcyclists=0.11,
)

INDUSTRIAL = Style(
    "industrial",
    shrubs=0.55,
    half_width=(3.6, 4.6),
    lines=2,
    strip=(1.0, 3.0),
    strip_chance=0.5,
    walk=(1.6, 2.8),
    lot=(28.0, 50.0),
    setback=(9.0, 18.0),
    front={PARKING: 0.3, OTHER_GROUND: 0.2, TRACK: 0.1, TERRAIN: 0.2, BED: 0.2},
    back={OTHER_GROUND: 0.6, TERRAIN: 0.4},
    drive_chance=0.8,
    drive_cover={PARKING: 0.4, OTHER_GROUND: 0.4, ROAD: 0.2},
    house_gap=(6.0, 14.0),
    depth=(14.0, 22.0),
    storeys=(1, 3),
    gable=0.1,
    glass=0.3,
    border={"mesh": 0.55, "hedge": 0.1, "none": 0.35},
    side_border=0.6,
    bush_rate=8.8,
    yard_tree_rate=3.2,
    street_tree_rate=1.0,
    lamp={"tall": 0.7, "arm": 0.3},
    sign_rate=2.0,
    box_rate=3.0,
    parked_rate=1.0,
    parked_truck_rate=0.55,
    parked_other_rate=0.41,
    yard_car_chance=0.5,
    lot_parking=0.09,
    trucks=0.17,
    walkers=0.3,
    cyclists=0.12,
    speed=(8.0, 13.0),
)

COUNTRY = Style(
    "country",
    shrubs=0.65,
    half_width=(2.8, 3.6),
    lines=2,
    walk=(0.0, 0.0),
    curb=0.0,
    strip=(0.8, 2.0),
    strip_chance=1.0,
    lot=(24.0, 60.0),
    setback=(8.0, 25.0),
    front={TERRAIN: 0.65, BED: 0.28, SOIL: 0.07},
    house_chance=0.12,
    bank=(-1.2, 1.6),
    rough=0.14,
    border={"none": 0.5, "rails": 0.25, "hedge": 0.12, "mesh": 0.08, "planks": 0.05},
    side_border=0.1,
    bush_rate=24.0,
    yard_tree_rate=13.0,
    tree_height=(6.0, 14.0),
    lamp={"wooden": 1.0},
    lamp_rate=0.8,
    sign_rate=1.0,
    box_rate=0.1,
    parked_rate=0.1,
    yard_car_chance=0.05,
    parked_other_rate=0.14,
    drive_chance=0.25,
    drive_cover={OTHER_GROUND: 0.7, ROAD: 0.3},
    parked_bike_rate=0.03,
    cars=1.2,
    trucks=0.07,
    walkers=0.15,
    cyclists=0.2,
    motorcyclists=0.06,
    speed=(11.0, 16.0),
)

HIGHWAY = Style(
    "highway",
    shrubs=0.7,
    half_width=(7.0, 8.5),
    lines=3,
    walk=(0.0, 0.0),
    curb=0.0,
    strip=(1.5, 3.0),
    strip_chance=1.0,
    lot=(40.0, 70.0),
    setback=(20.0, 30.0),
    house_chance=0.15,
    bank=(-1.5, 2.5),
    rough=0.12,
    border={"rails": 0.7, "none": 0.3},
    side_border=0.0,
    bush_rate=22.0,
    yard_tree_rate=8.8,
    lamp={"tall": 1.0},
    lamp_rate=0.9,
    sign_rate=1.2,
    box_rate=0.1,
    barrier_chance=0.3,
    parked_rate=0.0,
    parked_bike_rate=0.0,
    parked_motor_rate=0.0,
    yard_car_chance=0.0,
    drive_chance=0.0,
    cars=2.6,
    trucks=0.28,
    buses=0.05,
    walkers=0.0,
    cyclists=0.0,
    motorcyclists=0.09,
    speed=(16.0, 24.0),
)

CAMPUS = Style(
    "campus",
    half_width=(2.8, 3.6),
    lines=0,
    strip=(1.2, 3.5),
    strip_chance=0.7,
    walk=(2.1, 4.0),
    walk_cover=COBBLE,
    lot=(22.0, 40.0),
    setback=(8.0, 20.0),
    front={TERRAIN: 0.45, BED: 0.3, SIDEWALK: 0.15, OTHER_GROUND: 0.1},
    house_chance=0.6,
    house_gap=(6.0, 14.0),
    depth=(10.0, 16.0),
    storeys=(2, 5),
    gable=0.15,
    glass=0.6,
    border={"none": 0.7, "hedge": 0.2, "rails": 0.1},
    side_border=0.1,
    bush_rate=27.0,
    yard_tree_rate=20.0,
    tree_height=(6.0, 12.0),
    street_tree_rate=3.0,
    bollard_rate=1.0,
    lamp={"post": 1.0},
    lamp_rate=2.0,
    parked_rate=0.8,
    parked_bike_rate=1.7,
    lot_parking=0.05,
    cars=0.8,
    walkers=2.4,
    cyclists=0.69,
    speed=(5.0, 8.0),
)

STYLES = {s.name: s for s in (SUBURB, TERRACE, INNER_CITY, INDUSTRIAL, COUNTRY, HIGHWAY, CAMPUS)}
NEIGHBORS = {
    "suburb": ("terrace", "country", "campus"),
    "terrace": ("suburb", "inner city"),
    "inner city": ("terrace", "campus", "industrial"),
    "industrial": ("suburb", "inner city"),
    "country": ("suburb", "industrial"),
    "highway": ("country", "industrial"),
    "campus": ("suburb", "inner city"),
}
