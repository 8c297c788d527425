"""Counter-based random numbers and elementary functions that give the same bits on every machine.

The value drawn for (seed, scan, ray, purpose) is a hash of those numbers: it depends on no generator state, so neither
on the order of evaluation nor on the number of processes. Sine and cosine use only IEEE ``+ - * /``: the C library's
versions may differ in the last bit between machines, which is enough to move a ray to the other side of an edge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias, TypeVar

import numpy as np
from numba import njit

T = TypeVar("T")
Word: TypeAlias = np.uint64 | np.int64 | int
"""64 random bits, or a key to draw them with."""

_MASK = (1 << 64) - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11, _S16 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11), np.uint64(16)
_LOW16 = np.uint64(0xFFFF)
_TWO_OVER_PI = 0.6366197723675814
_PIO2_HIGH, _PIO2_LOW = 1.5707963267341256, 6.077100506506192e-11  # Cody and Waite's split of pi/2


@njit
def mix(a: Word, b: Word) -> np.uint64:
    """The 64-bit hash of the running hash ``a`` and the next key ``b`` (splitmix64's finalizer, Steele et al. 2014)."""
    z = (np.uint64(a) ^ (np.uint64(b) * _MIX1)) + _GOLDEN
    z = (z ^ (z >> _S30)) * _MIX1
    z = (z ^ (z >> _S27)) * _MIX2
    return z ^ (z >> _S31)


@njit
def unit(h: Word) -> float:
    """A hash as a float64 in [0, 1)."""
    return np.float64(np.uint64(h) >> _S11) * (1.0 / 9007199254740992.0)


@njit
def gauss(h: Word) -> float:
    """A hash as an approximately normal float64 (sum of four uniforms; never beyond 3.47 sigma)."""
    z = np.uint64(h)
    total = np.float64(z & _LOW16)
    for _ in range(3):
        z = z >> _S16
        total += np.float64(z & _LOW16)
    return (total / 65536.0 - 2.0) * 1.7320508075688772


@njit(cache=True)
def cos_sin(x: float) -> tuple[float, float]:
    """(cos x, sin x), for |x| below about 1e5, to about 1e-15."""
    n = math.floor(x * _TWO_OVER_PI + 0.5)
    r = (x - n * _PIO2_HIGH) - n * _PIO2_LOW
    q = r * r
    s, c = r, 1.0
    term_s, term_c = r, 1.0
    for k in range(1, 10):
        term_c = -term_c * q / ((2 * k - 1) * (2 * k))
        term_s = -term_s * q / ((2 * k) * (2 * k + 1))
        c += term_c
        s += term_s
    k4 = int(n) % 4
    if k4 == 0:
        return c, s
    if k4 == 1:
        return -s, c
    if k4 == 2:
        return -c, -s
    return s, -c


@njit
def value_noise(h: Word, x: float, y: float) -> float:
    """Smooth noise in [-1, 1] on the unit lattice, keyed by the hash ``h``."""
    ix, iy = math.floor(x), math.floor(y)
    fx, fy = x - ix, y - iy
    fx, fy = fx * fx * (3.0 - 2.0 * fx), fy * fy * (3.0 - 2.0 * fy)
    kx, ky = np.int64(ix), np.int64(iy)
    v00 = unit(mix(mix(h, np.uint64(kx)), np.uint64(ky)))
    v10 = unit(mix(mix(h, np.uint64(kx + 1)), np.uint64(ky)))
    v01 = unit(mix(mix(h, np.uint64(kx)), np.uint64(ky + 1)))
    v11 = unit(mix(mix(h, np.uint64(kx + 1)), np.uint64(ky + 1)))
    low = v00 + (v10 - v00) * fx
    high = v01 + (v11 - v01) * fx
    return 2.0 * (low + (high - low) * fy) - 1.0


def _mix_python(a: int, b: int) -> int:
    z = ((a ^ (b * int(_MIX1) & _MASK)) + int(_GOLDEN)) & _MASK
    z = ((z ^ (z >> 30)) * int(_MIX1)) & _MASK
    z = ((z ^ (z >> 27)) * int(_MIX2)) & _MASK
    return z ^ (z >> 31)


class Rng:
    """Draws for laying out a scene. ``Rng(seed, *keys)``: the same keys give the same draws, in any process."""

    def __init__(self, *keys: int) -> None:
        self.key = 0
        for key in keys:
            self.key = _mix_python(self.key, key & _MASK)
        self._count = 0

    def child(self, *keys: int) -> Rng:
        """An independent stream that does not depend on how much was drawn from this one."""
        return Rng(self.key, *keys)

    def bits(self) -> int:
        self._count += 1
        return _mix_python(self.key, self._count)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * ((self.bits() >> 11) / 9007199254740992.0)

    def normal(self, mean: float = 0.0, sigma: float = 1.0) -> float:
        return mean + sigma * (sum(self.uniform() for _ in range(6)) - 3.0) * 1.4142135623730951

    def integer(self, low: int, high: int) -> int:
        """An integer of low..high, both included."""
        return low + self.bits() % (high - low + 1)

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def choice(self, items: Sequence[T]) -> T:
        return items[self.bits() % len(items)]

    def weighted(self, weights: dict[T, float]) -> T:
        at = self.uniform(0.0, sum(weights.values()))
        for item, weight in weights.items():
            at -= weight
            if at < 0:
                return item
        return next(iter(weights))
