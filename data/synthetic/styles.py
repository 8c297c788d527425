"""What blocks of a town look like. Numbers are ranges or rates; each block and lot draws its own within them."""

from __future__ import annotations

from dataclasses import dataclass, field

from ssl3d.data.synthetic.materials import COBBLE, OTHER_GROUND, PARKING, ROAD, SIDEWALK, SOIL, TERRAIN, TRACK

Range = tuple[float, float]


@dataclass(frozen=True)
class Style:
    """Lengths in metres; ``*_rate``: objects per 100 m of street side; traffic: per 100 m of street at any moment."""

    name: str
    half_width: Range = (3.0, 3.8)
    lines: int = 1  # 0 none, 1 middle, 2 and edges, 3 and lanes
    bay: Range = (0.0, 0.0)
    bay_chance: float = 0.0
    bay_cover: int = PARKING
    strip: Range = (0.0, 0.0)
    strip_chance: float = 0.0
    walk: Range = (1.6, 2.6)
    walk_cover: int = SIDEWALK
    curb: float = 0.12
    lot: Range = (14.0, 24.0)
    setback: Range = (4.0, 9.0)
    front: dict[int, float] = field(default_factory=lambda: {TERRAIN: 1.0})
    back: dict[int, float] = field(default_factory=lambda: {TERRAIN: 1.0})
    drive_chance: float = 0.5
    drive_cover: dict[int, float] = field(default_factory=lambda: {PARKING: 0.6, SIDEWALK: 0.2, OTHER_GROUND: 0.2})
    bank: Range = (-0.4, 0.8)
    rough: float = 0.07
    house_chance: float = 0.9
    house_gap: Range = (2.0, 6.0)
    depth: Range = (8.0, 12.0)
    storeys: tuple[int, int] = (1, 3)
    gable: float = 0.85
    glass: float = 0.42
    border: dict[str, float] = field(default_factory=lambda: {"none": 1.0})
    side_border: float = 0.5
    bush_rate: float = 10.0
    yard_tree_rate: float = 4.0
    tree_height: Range = (5.0, 10.0)
    tree_kinds: dict[str, float] = field(default_factory=lambda: {"round": 0.75, "conifer": 0.15, "column": 0.10})
    street_tree_rate: float = 0.0
    lamp: dict[str, float] = field(default_factory=lambda: {"arm": 0.5, "post": 0.5})
    lamp_rate: float = 3.0
    bollard_rate: float = 0.0
    sign_rate: float = 1.5
    box_rate: float = 1.5
    shelter_chance: float = 0.0
    barrier_chance: float = 0.0
    parked_rate: float = 5.0
    yard_car_chance: float = 0.4
    parked_bike_rate: float = 1.0
    parked_motor_rate: float = 0.3
    parked_truck_rate: float = 0.1
    parked_other_rate: float = 0.15
    lot_parking: float = 0.0  # chance that a lot is a car park
    cars: float = 1.6
    trucks: float = 0.1
    buses: float = 0.06
    walkers: float = 1.2
    cyclists: float = 0.6
    motorcyclists: float = 0.15
    speed: Range = (7.0, 11.0)


SUBURB = Style(
    "suburb",
    lines=0,
    border={"hedge": 0.42, "pickets": 0.2, "wall": 0.14, "planks": 0.08, "mesh": 0.06, "none": 0.1},
    strip=(0.8, 1.6),
    strip_chance=0.3,
    bush_rate=16.0,
    yard_tree_rate=8.0,
    street_tree_rate=1.0,
    parked_rate=4.0,
)

TERRACE = Style(
    "terrace",
    lines=0,
    bay=(2.0, 2.3),
    bay_chance=0.6,
    walk=(1.8, 2.8),
    lot=(7.0, 12.0),
    setback=(2.0, 5.0),
    front={TERRAIN: 0.6, SIDEWALK: 0.3, SOIL: 0.1},
    house_gap=(0.0, 0.3),
    house_chance=0.95,
    storeys=(2, 3),
    border={"wall": 0.3, "hedge": 0.3, "pickets": 0.3, "none": 0.1},
    bush_rate=14.0,
    yard_tree_rate=3.0,
    tree_height=(3.5, 7.0),
    parked_rate=10.0,
    drive_chance=0.2,
    parked_bike_rate=2.0,
    walkers=2.0,
)

INNER_CITY = Style(
    "inner city",
    half_width=(3.2, 4.5),
    lines=1,
    bay=(2.0, 2.4),
    bay_chance=0.75,
    walk=(2.2, 4.5),
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
    bush_rate=1.0,
    yard_tree_rate=0.5,
    street_tree_rate=4.0,
    tree_height=(5.0, 9.0),
    lamp={"arm": 0.4, "post": 0.3, "tall": 0.3},
    lamp_rate=4.0,
    bollard_rate=5.0,
    sign_rate=4.0,
    box_rate=4.0,
    shelter_chance=0.25,
    parked_rate=12.0,
    parked_bike_rate=5.0,
    parked_motor_rate=2.0,
    parked_truck_rate=0.4,
    yard_car_chance=0.0,
    drive_chance=0.05,
    lot_parking=0.06,
    cars=2.2,
    buses=0.2,
    walkers=6.0,
    cyclists=1.6,
    motorcyclists=0.45,
)

INDUSTRIAL = Style(
    "industrial",
    half_width=(3.6, 4.6),
    lines=2,
    strip=(1.0, 3.0),
    strip_chance=0.5,
    walk=(1.4, 2.2),
    lot=(28.0, 50.0),
    setback=(9.0, 18.0),
    front={PARKING: 0.45, OTHER_GROUND: 0.25, TRACK: 0.1, TERRAIN: 0.2},
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
    bush_rate=4.0,
    yard_tree_rate=1.5,
    street_tree_rate=1.0,
    lamp={"tall": 0.7, "arm": 0.3},
    sign_rate=2.0,
    box_rate=3.0,
    parked_rate=2.5,
    parked_truck_rate=1.6,
    parked_other_rate=0.9,
    yard_car_chance=0.5,
    lot_parking=0.35,
    trucks=0.5,
    walkers=0.5,
    cyclists=0.3,
    speed=(8.0, 13.0),
)

COUNTRY = Style(
    "country",
    half_width=(2.8, 3.6),
    lines=2,
    walk=(0.0, 0.0),
    curb=0.0,
    strip=(0.8, 2.0),
    strip_chance=1.0,
    lot=(24.0, 60.0),
    setback=(8.0, 25.0),
    front={TERRAIN: 0.9, SOIL: 0.1},
    house_chance=0.12,
    bank=(-1.2, 1.6),
    rough=0.14,
    border={"none": 0.5, "rails": 0.25, "hedge": 0.12, "mesh": 0.08, "planks": 0.05},
    side_border=0.1,
    bush_rate=11.0,
    yard_tree_rate=6.0,
    tree_height=(6.0, 14.0),
    lamp={"wooden": 1.0},
    lamp_rate=1.6,
    sign_rate=1.0,
    box_rate=0.1,
    parked_rate=0.2,
    yard_car_chance=0.05,
    parked_other_rate=0.3,
    drive_chance=0.25,
    drive_cover={OTHER_GROUND: 0.7, ROAD: 0.3},
    parked_bike_rate=0.1,
    cars=1.2,
    trucks=0.2,
    walkers=0.25,
    cyclists=0.5,
    motorcyclists=0.25,
    speed=(11.0, 16.0),
)

HIGHWAY = Style(
    "highway",
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
    bush_rate=10.0,
    yard_tree_rate=4.0,
    lamp={"tall": 1.0},
    lamp_rate=1.8,
    sign_rate=1.2,
    box_rate=0.1,
    barrier_chance=0.3,
    parked_rate=0.0,
    parked_bike_rate=0.0,
    parked_motor_rate=0.0,
    yard_car_chance=0.0,
    drive_chance=0.0,
    cars=2.6,
    trucks=0.8,
    buses=0.15,
    walkers=0.0,
    cyclists=0.0,
    motorcyclists=0.35,
    speed=(16.0, 24.0),
)

CAMPUS = Style(
    "campus",
    half_width=(2.8, 3.6),
    lines=0,
    strip=(1.2, 3.5),
    strip_chance=0.7,
    walk=(1.8, 3.2),
    walk_cover=COBBLE,
    lot=(22.0, 40.0),
    setback=(8.0, 20.0),
    front={TERRAIN: 0.7, SIDEWALK: 0.15, OTHER_GROUND: 0.15},
    house_chance=0.6,
    house_gap=(6.0, 14.0),
    depth=(10.0, 16.0),
    storeys=(2, 5),
    gable=0.15,
    glass=0.6,
    border={"none": 0.7, "hedge": 0.2, "rails": 0.1},
    side_border=0.1,
    bush_rate=12.0,
    yard_tree_rate=9.0,
    tree_height=(6.0, 12.0),
    street_tree_rate=3.0,
    bollard_rate=2.0,
    lamp={"post": 1.0},
    lamp_rate=4.0,
    parked_rate=2.0,
    parked_bike_rate=5.0,
    lot_parking=0.2,
    cars=0.8,
    walkers=4.0,
    cyclists=1.8,
    speed=(5.0, 8.0),
)

STYLES = {s.name: s for s in (SUBURB, TERRACE, INNER_CITY, INDUSTRIAL, COUNTRY, HIGHWAY, CAMPUS)}
WEIGHTS = {
    "suburb": 0.30,
    "terrace": 0.20,
    "inner city": 0.18,
    "industrial": 0.09,
    "country": 0.10,
    "highway": 0.05,
    "campus": 0.08,
}
NEIGHBORS = {
    "suburb": ("terrace", "country", "campus"),
    "terrace": ("suburb", "inner city"),
    "inner city": ("terrace", "campus", "industrial"),
    "industrial": ("suburb", "inner city"),
    "country": ("suburb", "industrial"),
    "highway": ("country", "industrial"),
    "campus": ("suburb", "inner city"),
}
