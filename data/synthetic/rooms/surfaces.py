"""What indoor surfaces are made of: their paints, their textures, and how badly a depth camera sees them."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from ssl3d.data.synthetic.materials import Paint, Rgb
from ssl3d.data.synthetic.rng import Rng, mix, unit, value_noise

(
    PLAIN,
    PLASTER,
    WOOD,
    PARQUET,
    CARPET,
    TILES,
    FABRIC,
    STRIPES,
    METAL,
    GLASS,
    MIRROR,
    SCREEN,
    BOOKS,
    ARTWORK,
    CERAMIC,
    LEAF,
    PANELS,
    KEYS,
) = range(18)

DROPOUT = np.array(
    [0.01, 0.005, 0.01, 0.02, 0.01, 0.03, 0.01, 0.01, 0.12, 0.85, 0.80, 0.30, 0.03, 0.04, 0.04, 0.05, 0.01, 0.08]
)
"""Share of depth pixels without a measurement, by material: infrared passes glass and is mirrored away."""


def paint(material: int, rgb: Rgb, rng: Rng | None = None, spread: float = 0.0) -> Paint:
    """A paint of ``rgb``, which ``rng`` makes lighter or darker by up to ``spread``, with a little tint."""
    if rng is not None:
        gain = 1.0 + rng.uniform(-spread, spread)
        r, g, b = (min(0.97, max(0.02, c * gain + rng.uniform(-0.02, 0.02))) for c in rgb)
        rgb = (r, g, b)
    return Paint(material, 0.5, rgb)


WOODS: tuple[Rgb, ...] = (
    (0.55, 0.38, 0.22),
    (0.36, 0.22, 0.13),
    (0.72, 0.56, 0.38),
    (0.80, 0.72, 0.60),
    (0.24, 0.16, 0.11),
)
FABRICS: tuple[Rgb, ...] = (
    (0.20, 0.25, 0.38),
    (0.45, 0.14, 0.13),
    (0.52, 0.47, 0.40),
    (0.16, 0.16, 0.18),
    (0.30, 0.38, 0.26),
    (0.66, 0.60, 0.50),
    (0.55, 0.35, 0.20),
    (0.35, 0.20, 0.38),
)
WALLS: tuple[Rgb, ...] = (
    (0.86, 0.84, 0.79),
    (0.80, 0.80, 0.80),
    (0.78, 0.82, 0.76),
    (0.84, 0.77, 0.66),
    (0.70, 0.76, 0.83),
    (0.88, 0.86, 0.84),
)
BRIGHT: tuple[Rgb, ...] = (
    (0.75, 0.15, 0.12),
    (0.12, 0.30, 0.62),
    (0.85, 0.65, 0.12),
    (0.15, 0.45, 0.25),
    (0.85, 0.84, 0.82),
    (0.10, 0.10, 0.12),
)
WHITE: Rgb = (0.88, 0.88, 0.87)
GRAY: Rgb = (0.55, 0.56, 0.57)
DARK: Rgb = (0.09, 0.09, 0.10)
STEEL = Paint(METAL, 0.5, (0.62, 0.63, 0.64))
BLACK = Paint(PLAIN, 0.5, DARK)
PANE = Paint(GLASS, 0.5, (0.62, 0.74, 0.82))
LOOKING_GLASS = Paint(MIRROR, 0.5, (0.66, 0.70, 0.72))
DEAD_SCREEN = Paint(SCREEN, 0.5, (0.05, 0.05, 0.07))
PORCELAIN = Paint(CERAMIC, 0.5, (0.90, 0.90, 0.88))


_GRAIN = np.zeros((18, 6))
"""By material: strength of a coarse noise and its waves per meter along and across, the same of a fine one."""
_GRAIN[:] = (0.05, 0.9, 0.9, 0.03, 30.0, 30.0)
_GRAIN[WOOD] = (0.12, 2.5, 26.0, 0.06, 1.0, 60.0)
_GRAIN[PARQUET] = (0.10, 2.5, 26.0, 0.04, 1.0, 60.0)
_GRAIN[CARPET] = (0.12, 3.0, 3.0, 0.18, 45.0, 45.0)
_GRAIN[FABRIC] = (0.10, 5.0, 5.0, 0.14, 38.0, 38.0)
_GRAIN[ARTWORK] = (0.80, 4.0, 5.0, 0.30, 11.0, 9.0)
_GRAIN[LEAF] = (0.45, 17.0, 17.0, 0.10, 60.0, 60.0)
_GRAIN[[METAL, GLASS, MIRROR, SCREEN]] = (0.22, 1.6, 1.1, 0.0, 1.0, 1.0)


@njit
def _joint(u: float, v: float, side: float, gap: float) -> bool:
    """Whether (u, v) lies on the joints of square tiles."""
    a, b = u / side, v / side
    return (a - math.floor(a)) * side < gap or (b - math.floor(b)) * side < gap


@njit(cache=True)
def tints(
    stamp: np.ndarray,
    material: np.ndarray,
    solids: np.ndarray,
    points: np.ndarray,
    normals: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fills ``out`` (n, 3) with the factors, around 1, by which the material at a place differs from its paint.

    Args:
        stamp: see ``kernels.stamp``.
        material: (n,) of the primitives ``solids`` (n,); each has its own grain.
        points, normals: (n, 3) float64.
    """
    for m in range(len(points)):
        kind = material[m]
        key = mix(np.uint64(4517), np.uint64(solids[m]))
        x, y, z = points[m, 0], points[m, 1], points[m, 2]
        u, v = (x, y) if abs(normals[m, 2]) > 0.7 else (x + y, z)
        grain = _GRAIN[kind]
        noise = np.zeros(2)
        for k in range(2):
            wave = mix(key, np.uint64(k))
            noise[k] = grain[3 * k] * value_noise(wave, grain[3 * k + 1] * u, grain[3 * k + 2] * v)
        tone = 1.0 + noise[0] + noise[1]
        red, green, blue = tone, tone, tone
        if kind in (TILES, PANELS, PARQUET):
            wide, high = (0.9, 0.12) if kind == PARQUET else ((0.3, 0.3) if kind == TILES else (0.6, 0.6))
            tile = mix(mix(key, np.uint64(np.int64(math.floor(u / wide)))), np.uint64(np.int64(math.floor(v / high))))
            gain = tone * (0.95 + 0.10 * unit(tile)) if kind != PARQUET else tone * (0.86 + 0.28 * unit(tile))
            if kind != PARQUET and _joint(u, v, wide, 0.02):
                gain = 0.66
            red, green, blue = gain, gain, gain
        elif kind == STRIPES:
            if 7.0 * u - math.floor(7.0 * u) < 0.4:
                red, green, blue = 0.72 * tone, 0.74 * tone, 0.80 * tone
        elif kind == BOOKS:
            spine = mix(mix(key, np.uint64(np.int64(math.floor(u / 0.045)))), np.uint64(np.int64(math.floor(z / 0.33))))
            red = 0.25 + 1.35 * unit(spine)
            green, blue = 0.25 + 1.2 * unit(mix(spine, np.uint64(1))), 0.25 + 1.2 * unit(mix(spine, np.uint64(2)))
        elif kind == ARTWORK:
            red, green, blue = 1.0 + noise[0], 1.0 + noise[1] - 0.3 * noise[0], 1.0 - 0.7 * noise[0]
        elif kind == KEYS and _joint(u, v, 0.025, 0.008):
            red, green, blue = 0.55, 0.55, 0.55
        out[m, 0], out[m, 1], out[m, 2] = red, green, blue
