"""What a method counts while it trains, against loops over elements."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl3d.data.scan import IGNORE
from ssl3d.models.monitors import Measures

C = 4
LABELS = st.sampled_from([0, 1, 3, IGNORE])  # class 2 never comes
BATCHES = st.lists(st.lists(st.tuples(LABELS, st.booleans()), max_size=20), max_size=4)


@settings(max_examples=40, deadline=None)
@given(BATCHES)
def test_shares_by_class_are_counted_over_all_batches(batches: list[list[tuple[int, bool]]]) -> None:
    measures = Measures(C, ("a", "b"), ())
    for batch in batches:
        label = torch.tensor([label for label, _ in batch], dtype=torch.int64)
        hit = torch.tensor([hit for _, hit in batch], dtype=torch.bool)
        measures.add_classes("b", hit, label)
    found = measures.describe(measures.take())["classes"]
    flat = [pair for batch in batches for pair in batch]
    expected = []
    for c in range(C):
        hits = [hit for label, hit in flat if label == c]
        expected.append(sum(hits) / len(hits) if hits else None)
    assert found["a"] == [None] * C
    assert found["b"] == [None if value is None else pytest.approx(value, rel=1e-4) for value in expected]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.floats(-1e3, 1e3, width=16), max_size=9), max_size=4))
def test_means_weigh_every_value_alike(batches: list[list[float]]) -> None:
    measures = Measures(C, (), ("m", "n"))
    for batch in batches:
        measures.add("m", torch.tensor(batch, dtype=torch.float16))
    values = [value for batch in batches for value in batch]
    found = measures.describe(measures.take())["means"]
    assert found["n"] is None
    assert found["m"] == (pytest.approx(sum(values) / len(values), rel=1e-4, abs=1e-6) if values else None)


def test_a_mean_of_booleans_is_a_share_and_half_precision_does_not_overflow() -> None:
    measures = Measures(C, (), ("share", "large"))
    measures.add("share", torch.tensor([True, False, False, True]))
    measures.add("large", torch.full((1000, 3), 60_000, dtype=torch.float16))
    assert measures.describe(measures.take())["means"] == {"share": 0.5, "large": pytest.approx(60_000, rel=1e-3)}


def test_sums_of_several_processes_describe_what_one_would_have_seen() -> None:
    label, hit = torch.tensor([0, 0, 1, 3, 3, 3]), torch.tensor([True, False, True, True, False, False])
    values = torch.arange(6.0)
    whole, first, second = (Measures(C, ("c",), ("m",)) for _ in range(3))
    for measures, part in ((whole, slice(0, 6)), (first, slice(0, 1)), (second, slice(1, 6))):
        measures.add_classes("c", hit[part], label[part])
        measures.add("m", values[part])
    together = first.take() + second.take()
    expected = whole.take()
    assert np.array_equal(together, expected) and together.shape == whole.zeros().shape == (2, C + 1)
    described = whole.describe(together)
    assert described == {"classes": {"c": [0.5, 1.0, None, pytest.approx(1 / 3, rel=1e-4)]}, "means": {"m": 2.5}}
    assert json.loads(json.dumps(described))["classes"]["c"][2] is None
    nobody = Measures(C, ("c",), ("m",))
    assert np.array_equal(nobody.take(), nobody.zeros())


def test_reading_starts_again_from_zero() -> None:
    measures = Measures(2, ("c",), ("m",))
    measures.add_classes("c", torch.tensor([True]), torch.tensor([1]))
    measures.add("m", torch.tensor(3.0))
    assert measures.take().tolist() == [[0, 1, 3], [0, 1, 1]]
    assert measures.take().tolist() == [[0, 0, 0], [0, 0, 0]]


def test_names_that_were_not_announced_are_refused() -> None:
    measures = Measures(2, ("c",), ("m",))
    with pytest.raises(ValueError, match="no share is called 'm'"):
        measures.add_classes("m", torch.tensor([True]), torch.tensor([1]))
    with pytest.raises(ValueError, match="no mean is called 'c'"):
        measures.add("c", torch.tensor(1.0))


def test_nothing_that_is_counted_holds_on_to_the_graph() -> None:
    measures = Measures(2, (), ("m",))
    value = torch.ones(3, requires_grad=True)
    measures.add("m", 2 * value)
    assert not measures._sums["m"].requires_grad
