"""The RGB-D camera: depth maps with the gaps and the noise of structured light, and color images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ssl3d.data.synthetic.raycast import MISS
from ssl3d.data.synthetic.rng import Rng
from ssl3d.data.synthetic.rooms.path import Lens
from ssl3d.data.synthetic.rooms.room import Room
from ssl3d.data.synthetic.rooms.scene import Floats, RoomScene, as_bytes, colors, dots, draws, trace
from ssl3d.data.synthetic.rooms.surfaces import DROPOUT

NEAR, FADE, FAR = 0.4, 4.0, 6.5
"""Meters: nothing is measured nearer than NEAR and beyond FAR; from FADE on, less and less."""
_OUTSIDE = (38, 38, 42)  # what is seen through an open door


class DepthMap(NamedTuple):
    """``z`` (height, width) float64 meters along the optical axis, 0 without a measurement; ``solid`` (height, width)
    int32 primitive; ``normal`` (height, width, 3) float64 of the surface."""

    z: Floats
    solid: npt.NDArray[np.int32]
    normal: Floats


def pixel_rays(pose: Floats, lens: Lens) -> tuple[Floats, Floats]:
    """(n, 3) unit directions in the room of all pixels, row by row, and (n,) their share along the optical axis."""
    v, u = np.divmod(np.arange(lens.width * lens.height), lens.width)
    a, b = (u - lens.cx) / lens.fx, (v - lens.cy) / lens.fy
    n = np.sqrt(a * a + b * b + 1.0)
    axes = pose[:3, :3]
    rays = np.stack([(axes[k, 0] * a + axes[k, 1] * b + axes[k, 2]) / n for k in range(3)], axis=1)
    return rays, 1.0 / n


def depth_map(scene: RoomScene, pose: Floats, lens: Lens, key: int) -> DepthMap:
    """What a depth camera at ``pose`` (4, 4: camera to room) measures."""
    rays, ahead = pixel_rays(pose, lens)
    found = trace(scene, pose[:3, 3], rays, FAR)
    depth = found.t * ahead
    incidence = np.abs(dots(found.normal, rays))
    lost = DROPOUT[scene.solids.material[found.solid]] + np.maximum(0.0, 0.9 - 4.5 * incidence)
    lost = lost + np.maximum(0.0, (depth - FADE) / (FAR - FADE))
    gone = (found.solid == MISS) | (depth < NEAR) | (draws(key, (len(rays), 1))[:, 0] < lost)
    sigma = 0.0012 + 0.0019 * (depth - 0.4) * (depth - 0.4)  # Nguyen et al. 2012, axial noise of a Kinect
    noisy = depth + sigma * draws(Rng(key, 1).key, (len(rays), 1), normal=True)[:, 0]
    z = np.where(gone, 0.0, np.floor(noisy * 1000.0 + 0.5) / 1000.0)
    shape = (lens.height, lens.width)
    return DepthMap(z.reshape(shape), found.solid.reshape(shape), found.normal.reshape(*shape, 3))


def photograph(
    scene: RoomScene, room: Room, pose: Floats, lens: Lens, gain: Floats, key: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """(height, width, 3) uint8 RGB and (height, width) int32 instance (0: nothing) seen from ``pose``.

    ``gain`` (3,): exposure and white balance.
    """
    rays, _ = pixel_rays(pose, lens)
    found = trace(scene, pose[:3, 3], rays, 30.0)
    hit = np.flatnonzero(found.solid != MISS)
    points = pose[:3, 3] + found.t[hit, None] * rays[hit]
    rgb = colors(scene, room, found.solid[hit], points, found.normal[hit], key) * gain
    image = np.full((len(rays), 3), _OUTSIDE, np.uint8)
    image[hit] = as_bytes(rgb + 0.012 * draws(Rng(key, 2).key, (len(hit), 3), normal=True))
    who = np.zeros(len(rays), np.int32)
    who[hit] = scene.solids.instance[found.solid[hit]]
    return image.reshape(lens.height, lens.width, 3), who.reshape(lens.height, lens.width)
