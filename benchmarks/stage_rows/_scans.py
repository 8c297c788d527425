"""What the parts compute on: a street of about 120,000 points, a room of about 150,000, and turns of both sides."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssl3d.benchmarks.sparse_scans import street_scans
from ssl3d.benchmarks.stages import seconds

_ROOM_POINTS = 150_000


@dataclass(frozen=True, slots=True)
class Cloud:
    """``points`` (n, 3) float32 meters; ``color`` (n, 3) uint8 where there is any."""

    points: npt.NDArray[np.float32]
    color: npt.NDArray[np.uint8] | None = None


def street(folder: Path) -> Cloud:
    """A turn of a generated sensor of 64 beams."""
    return Cloud(np.ascontiguousarray(street_scans(folder / "street", 1)[0][:, :3]))


def room(folder: Path) -> Cloud:
    """A furnished room as S3DIS scans it: the first of the preset ``bench``, thinned by chance."""
    path = folder / "room.npz"
    if not path.exists():
        from ssl3d.data.synthetic.rooms.presets import PRESETS, s3dis_places
        from ssl3d.data.synthetic.rooms.s3dis import room_of, scan_points
        from ssl3d.data.synthetic.rooms.scene import make_scene

        preset = PRESETS["bench"]
        made = room_of("bench", 0, s3dis_places(preset)[0])
        points, color, _ = scan_points(made, make_scene(made), preset)
        chosen = np.sort(np.random.default_rng(0).permutation(len(points))[:_ROOM_POINTS])
        np.savez(path, points=points[chosen].astype(np.float32), color=color[chosen])
    with np.load(path) as kept:
        return Cloud(kept["points"], kept["color"])


def in_turns(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Seconds of both, of the turn with the middle ratio; each is called once before."""
    ours()
    theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    ratios = [b / a for a, b in pairs]
    return pairs[ratios.index(statistics.median_low(ratios))]
