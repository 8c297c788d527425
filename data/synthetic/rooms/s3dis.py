"""Generated rooms in S3DIS's layout (its aligned archive): points of a panoramic scanner, as text, object by object."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssl3d.data.synthetic.output import write_file
from ssl3d.data.synthetic.raycast import MISS
from ssl3d.data.synthetic.rng import Rng, cos_sin
from ssl3d.data.synthetic.rooms.categories import CATEGORIES, INDEX
from ssl3d.data.synthetic.rooms.furnish import make_room
from ssl3d.data.synthetic.rooms.path import standing_place
from ssl3d.data.synthetic.rooms.presets import PRESETS, Place, RoomsPreset, s3dis_places
from ssl3d.data.synthetic.rooms.room import Room
from ssl3d.data.synthetic.rooms.scannet import SCENE_KEY
from ssl3d.data.synthetic.rooms.scene import Floats, RoomScene, as_bytes, colors, dots, draws, make_scene, trace
from ssl3d.data.synthetic.rooms.surfaces import DROPOUT

_LOWEST = math.radians(-65.0)  # below is the tripod


def place_of(preset: str, name: str) -> Place:
    return next(place for place in s3dis_places(PRESETS[preset]) if place.name == name)


def room_of(preset: str, seed: int, place: Place) -> Room:
    key = Rng(SCENE_KEY, seed, *preset.encode(), 1000 + place.number).key
    return make_room(key, place.kind, PRESETS[preset].scale)


def room_file(out: Path, place: Place) -> Path:
    folder = out / place.name
    return folder / f"{folder.name}.txt"


def write_room(out: Path, preset: str, seed: int, name: str) -> str:
    """Generates a room, unless all of it is there (the file of the whole room is written last); returns its name."""
    place = place_of(preset, name)
    whole = room_file(out, place)
    if complete(whole):
        return name
    whole.unlink(missing_ok=True)
    room = room_of(preset, seed, place)
    points, rgb, instances = scan_points(room, make_scene(room), PRESETS[preset])
    lines = text_lines(points + _corner(place), rgb)
    folder = whole.parent / "Annotations"
    for file, chosen in objects(room, instances):
        write_file(folder / f"{file}.txt", "".join(lines[k] for k in chosen).encode())
    write_file(whole, "".join(lines).encode())
    return name


def complete(whole: Path) -> bool:
    """Whether the file of a room is there, and its annotations are as large: the same lines in another order."""
    return whole.exists() and whole.stat().st_size == sum(
        path.stat().st_size for path in (whole.parent / "Annotations").glob("*.txt")
    )


def _corner(place: Place) -> Floats:
    """Where in the building the room is."""
    area = int(place.name[5])
    return np.array([12.0 * (place.number % 5) - 20.0, 14.0 * (place.number // 5) + 3.0 * area, 0.0])


def scan_points(
    room: Room, scene: RoomScene, preset: RoomsPreset
) -> tuple[Floats, npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """(n, 3) points in the room, (n, 3) colors, (n,) instances: what a scanner on a tripod sees from some places."""
    rng = Rng(room.key, 40)
    points, normals, solids = [], [], []
    for k in range(preset.stations):
        x, y = standing_place(room, rng, min(0.6, 0.3 * min(room.width, room.depth)))
        origin = np.array([x, y, rng.uniform(1.4, 1.7)])
        rays = panorama(preset.rows, rng.uniform(0.0, 1.0))
        found = trace(scene, origin, rays, 20.0)
        keys = rng.child(k)
        lost = 0.6 * DROPOUT[scene.solids.material[found.solid]]
        lost = lost + np.maximum(0.0, 0.8 - 8.0 * np.abs(dots(found.normal, rays)))
        kept = np.flatnonzero((found.solid != MISS) & (draws(keys.key, (len(rays), 1))[:, 0] >= lost))
        noise = draws(keys.child(1).key, (len(rays), 1), normal=True)[kept, 0]
        reach = found.t[kept] + (0.002 + 0.0008 * found.t[kept]) * noise
        points.append(origin + reach[:, None] * rays[kept])
        normals.append(found.normal[kept])
        solids.append(found.solid[kept])
    every, facing, which = np.concatenate(points), np.concatenate(normals), np.concatenate(solids)
    chosen = thinned(every, preset.spacing)
    every, facing, which = every[chosen], facing[chosen], which[chosen]
    light = colors(scene, room, which, every, facing, rng.child(50).key)
    rgb = as_bytes(light + 0.015 * draws(rng.child(51).key, (len(every), 3), normal=True))
    return every, rgb, scene.solids.instance[which].astype(np.int32)


def panorama(rows: int, start: float) -> Floats:
    """(n, 3) unit directions evenly over the sphere: ``rows`` from below to the zenith, shorter ones near it."""
    out = []
    for k in range(rows):
        c, s = cos_sin(_LOWEST + (0.5 * math.pi - _LOWEST) * (k + 0.5) / rows)
        count = max(1, int(2.0 * math.pi / ((0.5 * math.pi - _LOWEST) / rows) * c))
        angles = [cos_sin(2.0 * math.pi * (m + start) / count) for m in range(count)]
        out.append(np.array([(c * a, c * b, s) for a, b in angles]))
    return np.concatenate(out)


def thinned(points: Floats, spacing: float) -> npt.NDArray[np.int64]:
    """Rows of the first point in every cell of ``spacing`` meters, in order."""
    cells = np.floor(points / spacing).astype(np.int64) + (1 << 20)
    keys = (cells[:, 0] << 42) + (cells[:, 1] << 21) + cells[:, 2]
    return np.sort(np.unique(keys, return_index=True)[1])


def text_lines(points: Floats, rgb: npt.NDArray[np.uint8]) -> list[str]:
    """``x y z r g b``, as the aligned archive has it: millimeters, whole colors."""
    rows = zip(points.tolist(), rgb.tolist(), strict=True)
    return [f"{x:.3f} {y:.3f} {z:.3f} {r} {g} {b}\n" for (x, y, z), (r, g, b) in rows]


def objects(room: Room, instances: npt.NDArray[np.int32]) -> list[tuple[str, list[int]]]:
    """(``chair_1``, its rows) for every instance with points, numbered by class in the order of instances."""
    order = np.argsort(instances, kind="stable")
    ids, first = np.unique(instances[order], return_index=True)
    counts: dict[str, int] = {}
    out = []
    for instance, rows in zip(ids.tolist(), np.split(order, first[1:]), strict=True):
        word = CATEGORIES[INDEX[room.names[instance]]].s3dis
        counts[word] = counts.get(word, 0) + 1
        out.append((f"{word}_{counts[word]}", rows.tolist()))
    return out
