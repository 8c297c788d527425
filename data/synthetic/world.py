"""One sequence as a place in which time passes: its static scene, its traffic, and where the sensor is."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ssl3d.data.synthetic.camera import matmul
from ssl3d.data.synthetic.ground import height_at
from ssl3d.data.synthetic.layout import Plan, make_plan
from ssl3d.data.synthetic.primitives import Primitives, joined
from ssl3d.data.synthetic.raycast import Scene, make_scene
from ssl3d.data.synthetic.rng import Rng, cos_sin
from ssl3d.data.synthetic.scenery import Scenery, street_frame
from ssl3d.data.synthetic.sensor import SENSOR_HEIGHT
from ssl3d.data.synthetic.traffic import ego_station, make_actors


class World:
    """
    Args:
        seed, sequence: decide everything.
        seconds, speed: of the drive (speed in m/s along the main street).
        cell: of the ground raster, meters.
        style: of most blocks; None takes turns through all.
    """

    def __init__(
        self, seed: int, sequence: int, seconds: float, speed: float, cell: float, style: str | None = None
    ) -> None:
        rng = Rng(seed, sequence)
        self.key = rng.key
        self.speed = speed
        self.plan: Plan = make_plan(seed, sequence, seconds * speed, cell, style)
        scenery = Scenery(self.plan, rng.child(1).key)
        self.static = scenery.build().arrays()
        self.actors = make_actors(self.plan, rng.child(2).key, speed, seconds, scenery.ids, style is None)
        c, s = cos_sin(rng.uniform(0.0, 2.0 * math.pi))
        ce, se = cos_sin(rng.uniform(0.5, 1.0))
        self.sun = (ce * c, ce * s, se)

    def scene(self, time: float) -> Scene:
        moving = Primitives()
        for actor in self.actors:
            actor.build(self.plan, moving, time)
        solids = joined(self.static, moving.arrays()) if len(moving) else self.static
        return make_scene(solids, self.plan.ground)

    def pose(self, time: float) -> npt.NDArray[np.float64]:
        """(4, 4) laser to world: on its lane, following the ground's pitch and roll."""
        ground = self.plan.ground
        s, d = ego_station(self.plan, self.speed, time)
        frame = street_frame(self.plan, 0, s, d)
        c, sn = frame.turn

        def height(forward: float, left: float) -> float:
            return float(height_at(ground, frame.x + forward * c - left * sn, frame.y + forward * sn + left * c))

        # cos and sin of small angles, by normalizing: no library functions on the way
        climb = (height(1.4, 0.0) - height(-1.3, 0.0)) / 2.7
        bank = (height(0.0, 0.75) - height(0.0, -0.75)) / 1.5
        forward = _normalized(np.array([c, sn, climb]))
        left = np.array([-sn, c, bank])
        left = _normalized(left - forward * float(matmul(left[None], forward[:, None])[0, 0]))
        up = np.array(
            [
                forward[1] * left[2] - forward[2] * left[1],
                forward[2] * left[0] - forward[0] * left[2],
                forward[0] * left[1] - forward[1] * left[0],
            ]
        )
        pose = np.eye(4)
        pose[:3, 0], pose[:3, 1], pose[:3, 2] = forward, left, up
        foot = 0.25 * (height(1.4, 0.7) + height(1.4, -0.7) + height(-1.3, 0.7) + height(-1.3, -0.7))
        pose[:3, 3] = np.array([frame.x, frame.y, foot]) + SENSOR_HEIGHT * up
        return pose


def _normalized(v: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return v / math.sqrt(float(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]))
