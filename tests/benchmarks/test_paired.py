"""Paired differences against numbers worked out by hand and printed tables of Student's t."""

from __future__ import annotations

import pytest

from ssl3d.benchmarks.paired import difference, paired, t_975


def test_five_pairs_worked_out_by_hand() -> None:
    """Differences 1, 2, 3, 4, 5: mean 3, s = sqrt(10 / 4), error = sqrt(0.5), t(0.975, 4) = 2.7764."""
    found = paired([11, 22, 33, 44, 55], [10, 20, 30, 40, 50])
    assert found.values == (1, 2, 3, 4, 5)
    assert found.mean == 3
    assert found.error == pytest.approx(0.70711, abs=1e-5)
    assert (found.low, found.high) == (pytest.approx(1.03676, abs=1e-4), pytest.approx(4.96324, abs=1e-4))
    assert found.verdict == "gains"
    assert found.beyond_two_errors
    assert found.text() == "+3.0 [+1.0, +5.0]"


def test_an_interval_that_holds_zero_decides_nothing_even_beyond_two_standard_errors() -> None:
    """Differences 0, 1, 2: mean 1, error 1 / sqrt(3), t(0.975, 2) = 4.3027: [-1.484, 3.484]; but 1.73 errors."""
    found = difference([0, 1, 2])
    assert (found.low, found.high) == (pytest.approx(-1.4841, abs=1e-4), pytest.approx(3.4841, abs=1e-4))
    assert found.verdict == "undecided" and not found.beyond_two_errors
    wider = difference([1, 2, 4])  # mean 2.333, error 0.882 (2.65 errors), interval [-1.46, 6.13]
    assert wider.verdict == "undecided" and wider.beyond_two_errors


def test_losing_is_said_as_plainly_as_gaining() -> None:
    assert difference([-1, -1.2, -0.9]).verdict == "loses"
    assert difference([0.5, 0.5, 0.5]).verdict == "gains"
    assert difference([0.0, 0.0]).verdict == "undecided"


def test_one_pair_has_no_interval() -> None:
    found = difference([2.0])
    assert (found.error, found.low, found.high) == (None, None, None)
    assert found.verdict == "undecided" and not found.beyond_two_errors
    assert found.text() == "+2.0 [-]"


def test_pairs_have_to_be_pairs() -> None:
    with pytest.raises(ValueError):
        paired([1, 2], [1])
    with pytest.raises(ValueError):
        paired([], [])


def test_quantiles_are_those_of_the_tables() -> None:
    printed = {1: 12.706, 2: 4.303, 4: 2.776, 9: 2.262, 19: 2.093, 29: 2.045, 30: 2.042, 100: 2.042}
    assert {degrees: round(t_975(degrees), 3) for degrees in printed} == printed
    with pytest.raises(ValueError):
        t_975(0)
