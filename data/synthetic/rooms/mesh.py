"""The scan of a room as ScanNet publishes it: a colored mesh, its segments, and which segments make up which object."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ssl3d.data.synthetic.rng import Rng
from ssl3d.data.synthetic.rooms.categories import CATEGORIES, INDEX
from ssl3d.data.synthetic.rooms.depth import depth_map
from ssl3d.data.synthetic.rooms.fusion import Surface, extract, integrate, make_field
from ssl3d.data.synthetic.rooms.path import DEPTH_LENS, camera_poses, scaled
from ssl3d.data.synthetic.rooms.room import Room
from ssl3d.data.synthetic.rooms.scene import Floats, RoomScene, as_bytes, colors, draws
from ssl3d.data.synthetic.rooms.segments import majority, segment

_OVERLOOKED = 0.3
"""Share of small things that nobody annotated."""
_SMALL = {"object", "book", "cup", "bottle", "box", "clothes", "shoes", "telephone", "toilet paper", "clock", "mat"}


class Scan(NamedTuple):
    """``points`` (n, 3) float64 in the room; ``rgb`` (n, 3) uint8; ``faces`` (m, 3) int32; ``segments`` (n,) int32;
    ``instances`` (n,) int32, whole segments of one value, 0 = not annotated."""

    points: npt.NDArray[np.float64]
    rgb: npt.NDArray[np.uint8]
    faces: npt.NDArray[np.int32]
    segments: npt.NDArray[np.int32]
    instances: npt.NDArray[np.int32]


def vertex_colors(
    scene: RoomScene, room: Room, solids: npt.NDArray[np.int32], points: Floats, normals: Floats, key: int
) -> npt.NDArray[np.uint8]:
    """(n, 3) uint8 color of places on the primitives ``solids``."""
    noise = 0.012 * draws(Rng(key, 1).key, (len(points), 3), normal=True)
    return as_bytes(colors(scene, room, solids, points, normals, key) + noise)


def reconstruct(room: Room, scene: RoomScene, frames: int, width: int, voxel: float) -> Surface:
    """The mesh that ``frames`` depth maps of ``width`` columns fuse to."""
    field = make_field(voxel, (room.width, room.depth, room.height))
    lens = scaled(DEPTH_LENS, width)
    for k, pose in enumerate(camera_poses(room, frames)):
        integrate(field, depth_map(scene, pose, lens, Rng(room.key, 31, k).key), pose, lens)
    return extract(field)


def scan_room(room: Room, scene: RoomScene, frames: int, width: int, voxel: float) -> Scan:
    surface = reconstruct(room, scene, frames, width, voxel)
    rgb = vertex_colors(scene, room, surface.solids, surface.points, surface.normals, Rng(room.key, 32).key)
    segments = segment(surface.points, surface.faces, rgb)
    instances = majority(segments, scene.solids.instance[surface.solids].astype(np.int32), len(room.names))
    instances[np.isin(instances, list(overlooked(room)))] = 0
    return Scan(surface.points, rgb, surface.faces, segments, instances)


def overlooked(room: Room) -> set[int]:
    """Instances that the annotators of this room forgot."""
    draws = Rng(room.key, 33)
    return {k for k, name in enumerate(room.names) if name in _SMALL and draws.child(k).chance(_OVERLOOKED)}


def nyu40(room: Room) -> npt.NDArray[np.uint16]:
    """(instances,) nyu40 id of every instance of a room; 0 for none."""
    return np.array([0, *(CATEGORIES[INDEX[name]].nyu40 for name in room.names[1:])], np.uint16)
