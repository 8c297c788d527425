from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ssl3d.models.elements import ElementMap

POINTS = st.integers(1, 40).flatmap(
    lambda n: st.tuples(
        npst.arrays(np.int64, n, elements=st.integers(-1, 6)),
        npst.arrays(np.int64, n, elements=st.sampled_from([0, 1, 2, 3, 255])),
    )
)


@settings(max_examples=80, deadline=None)
@given(POINTS, st.sampled_from([torch.int64, torch.uint8]))
def test_majority_of_visible_votes(points: tuple[np.ndarray, np.ndarray], dtype: torch.dtype) -> None:
    element, label = points
    elements = ElementMap(torch.from_numpy(element), 7)
    for ignore in (255, None):
        winners = elements.reduce(torch.from_numpy(label).to(dtype), "majority", ignore=ignore)
        assert winners.dtype == dtype
        for m in range(7):
            votes = label[element == m]
            votes = votes[votes != ignore] if ignore is not None else votes
            # bincount().argmax() takes the first maximum: the smaller label
            expected = np.bincount(votes).argmax() if len(votes) else (ignore or 0)
            assert winners[m] == expected


@settings(max_examples=40, deadline=None)
@given(POINTS)
def test_mean_any_first_and_gather(points: tuple[np.ndarray, np.ndarray]) -> None:
    element, label = points
    elements = ElementMap(torch.from_numpy(element), 7)
    values = torch.from_numpy(np.c_[label, label * 2].astype(np.float32))
    mean = elements.reduce(values, "mean")
    some = elements.reduce(torch.from_numpy(label > 1), "any")
    for m in range(7):
        members = element == m
        np.testing.assert_allclose(mean[m], values[members].mean(0) if members.any() else [0, 0], rtol=1e-5)
        assert bool(some[m]) == bool((label[members] > 1).any())
    back = elements.gather(torch.arange(14.0).reshape(7, 2), fill=-5)
    assert back.tolist() == [[2.0 * e, 2.0 * e + 1] if e >= 0 else [-5.0, -5.0] for e in element.tolist()]


def test_first_point_of_each_element() -> None:
    elements = ElementMap(torch.tensor([1, -1, 0, 1, 0]), 2)
    assert elements.reduce(torch.tensor([5, 6, 7, 8, 9]), "first").tolist() == [7, 5]
    with pytest.raises(ValueError, match="has no point"):
        ElementMap(torch.tensor([0]), 2).reduce(torch.tensor([5]), "first")


def test_large_labels_need_no_table() -> None:
    """Instance ids: a table of elements x labels would not fit in memory."""
    elements = ElementMap(torch.arange(100_000) // 3, 33_334)
    label = torch.full((100_000,), 2**30)
    label[::3] = 7
    assert elements.reduce(label, "majority")[:-1].unique().tolist() == [2**30]


def test_no_elements_at_all() -> None:
    elements = ElementMap(torch.tensor([-1, -1]), 0)
    assert elements.gather(torch.zeros(0, 3), fill=9).tolist() == [[9.0] * 3] * 2
    assert elements.reduce(torch.tensor([1, 2]), "majority", ignore=255).shape == (0,)


def test_mean_of_half_precision_is_summed_in_float32() -> None:
    values = torch.full((4096, 1), 100.0, dtype=torch.float16)  # the sum overflows float16
    mean = ElementMap(torch.zeros(4096, dtype=torch.int64), 1).reduce(values, "mean")
    assert mean.dtype == torch.float16 and mean.item() == 100


def test_gradients_reach_the_points() -> None:
    elements = ElementMap(torch.tensor([0, 0, -1, 1]), 2)
    values = torch.ones(4, 1, requires_grad=True)
    elements.reduce(values, "mean").sum().backward()
    assert values.grad is not None and values.grad[:, 0].tolist() == [0.5, 0.5, 0, 1]
