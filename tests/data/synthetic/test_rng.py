from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ssl3d.data.synthetic.rng import Rng, _mix_python, cos_sin, gauss, mix, unit, value_noise

words = st.integers(0, 2**64 - 1)


@given(words, words)
def test_the_compiled_hash_equals_the_python_one(a: int, b: int) -> None:
    assert int(mix(np.uint64(a), np.uint64(b))) == _mix_python(a, b)


@given(st.floats(-1e4, 1e4))
def test_cosine_and_sine_agree_with_the_library(x: float) -> None:
    c, s = cos_sin(x)
    assert abs(c - math.cos(x)) < 1e-11
    assert abs(s - math.sin(x)) < 1e-11


def test_hashes_are_uniform_and_normal_enough() -> None:
    hashes = [np.uint64(mix(np.uint64(3), np.uint64(k))) for k in range(20000)]
    u = np.array([unit(h) for h in hashes])
    g = np.array([gauss(h) for h in hashes])
    assert u.min() >= 0.0 and u.max() < 1.0
    assert np.histogram(u, 10, (0, 1))[0].min() > 1800
    assert abs(g.mean()) < 0.03
    assert abs(g.std() - 1.0) < 0.03


def test_streams_are_repeatable_and_children_do_not_depend_on_draws() -> None:
    a, b = Rng(1, 2), Rng(1, 2)
    assert [a.bits() for _ in range(5)] == [b.bits() for _ in range(5)]
    assert a.child(7).bits() == Rng(1, 2).child(7).bits()
    assert Rng(1, 2).bits() != Rng(1, 3).bits()


def test_noise_is_continuous() -> None:
    values = [value_noise(np.uint64(5), -2.0 + 0.001 * k, 0.3) for k in range(4000)]
    assert max(abs(a - b) for a, b in itertools.pairwise(values)) < 0.01
    assert max(values) - min(values) > 0.3
