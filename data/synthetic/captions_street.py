"""What is said about images of generated streets; how, and how wrong: ``ssl3d.data.synthetic.captions``.

Things are objects, and of what has no objects (road, buildings, vegetation) all of it that an image shows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from ssl3d.data.synthetic.captions import Noise, Speaker
from ssl3d.data.synthetic.layouts.roadworks import BARRIER, CONE, DIGGER
from ssl3d.data.synthetic.raycast import MISS, Scene, cast, stuff_at

NOISE = Noise(smallest=0.0005, eroded=0.0016, shifted=0.004)
_LABELS = 512
"""A thing is ``instance * 512 + label``."""
WORDS: dict[int, tuple[str, ...]] = {
    10: ("car", "automobile"),
    11: ("bicycle", "bike"),
    13: ("bus", "coach"),
    15: ("motorcycle", "motorbike"),
    18: ("truck", "lorry"),
    20: ("trailer", "caravan"),
    30: ("person", "pedestrian"),
    31: ("bicyclist", "cyclist"),
    32: ("motorcyclist", "biker"),
    40: ("road", "street"),
    44: ("parking lot", "parking space"),
    48: ("sidewalk", "pavement"),
    49: ("gravel", "track"),
    50: ("building", "house"),
    51: ("fence", "railing"),
    70: ("vegetation", "bushes"),
    71: ("tree trunk", "trunk"),
    72: ("terrain", "grass"),
    80: ("pole", "post"),
    81: ("traffic sign", "road sign"),
    CONE: ("traffic cone", "cone"),
    BARRIER: ("barrier", "road barrier"),
    DIGGER: ("excavator", "digger"),
}
"""By SemanticKITTI's raw ids and those of road works: usual name, then another. What is not here nobody names."""
_SAME = {60: 40, 252: 10, 253: 31, 254: 30, 255: 32, 256: 20, 257: 13, 258: 18, 259: 20}
"""Lane markings are road; what moves is called as what stands."""


def words_of(thing: int) -> tuple[str, ...] | None:
    label = thing % _LABELS
    return WORDS.get(_SAME.get(label, label))


def _others_than(thing: int) -> list[tuple[str, ...]]:
    own = words_of(thing)
    return [words for words in WORDS.values() if words != own]


def speaker() -> Speaker:
    return Speaker("street", words_of, _others_than, list(WORDS.values()), NOISE)


@njit(cache=True)
def _identify(scene: Scene, position: np.ndarray, axes: np.ndarray, lens: np.ndarray, out: np.ndarray) -> None:
    o = (position[0], position[1], position[2])
    for v in range(out.shape[0]):
        for u in range(out.shape[1]):
            a, b = (u + 0.5 - lens[2]) / lens[0], (v + 0.5 - lens[3]) / lens[1]
            n = np.sqrt(a * a + b * b + 1.0)
            d = (
                (axes[0, 0] * a + axes[0, 1] * b + axes[0, 2]) / n,
                (axes[1, 0] * a + axes[1, 1] * b + axes[1, 2]) / n,
                (axes[2, 0] * a + axes[2, 1] * b + axes[2, 2]) / n,
            )
            touch = cast(scene, o, d, 0.3, 250.0)
            if touch.solid == MISS:
                continue
            t = touch.t
            what = stuff_at(scene, touch, o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2])
            out[v, u] = what.instance * _LABELS + what.label


def things_seen(
    scene: Scene, camera: npt.NDArray[np.float64], lens: npt.NDArray[np.float64], size: tuple[int, int]
) -> npt.NDArray[np.int32]:
    """(height, width) int32: the thing in the middle of each pixel, 0 for the sky; arguments as of ``picture``."""
    out = np.zeros((size[1], size[0]), np.int32)
    axes, position = np.ascontiguousarray(camera[:3, :3]), np.ascontiguousarray(camera[:3, 3])
    _identify(scene, position, axes, lens, out)
    for label, same in _SAME.items():  # what is called alike and has no instances is one thing
        out[out == label] = same
    return out
