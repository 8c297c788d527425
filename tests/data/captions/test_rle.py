"""Run lengths: the published examples, masks there and back, points in masks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ssl3d.data.captions.rle import area, bounds, box_counts, contains, decode, encode, first_mask, from_compressed

EXAMPLE = np.array([[0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], bool)
masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))


def compressed(counts: list[int]) -> str:
    """COCO's compressed form, as ``rleToString`` of its C code writes it."""
    text = ""
    for i, count in enumerate(counts):
        x = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            bits = x & 31
            x >>= 5
            more = x != -1 if bits & 16 else x != 0
            text += chr((bits | 32 if more else bits) + 48)
    return text


@pytest.mark.parametrize(
    ("mask", "counts"),
    [(EXAMPLE, [3, 2, 1, 1, 4, 1]), (np.ones((2, 2), bool), [0, 4]), (np.zeros((2, 2), bool), [4])],
)
def test_examples(mask: npt.NDArray[np.bool_], counts: list[int]) -> None:
    assert encode(mask).tolist() == counts
    assert (decode(np.array(counts), *mask.shape) == mask).all()
    assert area(np.array(counts)) == mask.sum()


@given(masks)
def test_there_and_back(mask: npt.NDArray[np.bool_]) -> None:
    counts = encode(mask)
    height, width = mask.shape
    assert counts.sum() == mask.size and (decode(counts, height, width) == mask).all()
    assert area(counts) == mask.sum() == counts[1::2].sum()
    assert from_compressed(compressed(counts.tolist())).tolist() == counts.tolist()
    rows, columns = np.nonzero(mask)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else None
    assert bounds(counts, height) == box


@given(masks, st.integers(0, 30), st.integers(0, 2**32 - 1))
def test_points_in_a_mask(mask: npt.NDArray[np.bool_], count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    v, u = rng.integers(0, mask.shape[0], count), rng.integers(0, mask.shape[1], count)
    assert (contains(encode(mask), mask.shape[0], u, v) == mask[v, u]).all()


def test_pixel_is_row_v_column_u() -> None:
    inside = contains(encode(EXAMPLE), 3, np.array([1, 3, 2]), np.array([1, 2, 1]))
    assert inside.tolist() == [True, True, False]


@given(st.integers(0, 2**32 - 1))
def test_the_first_mask_in_order_wins(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stack = rng.random((5, 6, 7)) < 0.3
    order = rng.permutation(5).tolist()
    v, u = rng.integers(0, 6, 50), rng.integers(0, 7, 50)
    expected = [next((k for k in order if stack[k, b, a]), -1) for a, b in zip(u, v, strict=True)]
    assert first_mask([encode(mask) for mask in stack], order, 6, u, v).tolist() == expected
    assert first_mask([], [], 6, u, v).tolist() == [-1] * 50


@given(st.lists(st.floats(-3, 12), min_size=4, max_size=4))
def test_a_box_is_half_open(box: list[float]) -> None:
    v, u = np.mgrid[:6, :9]
    mask = (box[0] <= u) & (u < box[2]) & (box[1] <= v) & (v < box[3])
    assert box_counts(box, 6, 9).tolist() == encode(mask).tolist()


def test_region_of_a_tile() -> None:
    counts = box_counts((0, 0, 414, 376), 376, 1241)
    assert contains(counts, 376, np.array([413, 414]), np.array([0, 0])).tolist() == [True, False]


@pytest.mark.parametrize("text", ["é", "P", "ooooooooooooooo0"])
def test_damaged_compressed_counts(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be there|inside a number"):
        from_compressed(text)


@pytest.mark.parametrize("counts", [[3, 2], [20, -8], [13]])
def test_runs_that_do_not_fit(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="run"):
        decode(np.array(counts), 3, 4)
