from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl3d.data.scan import View
from ssl3d.models.backbones.base import Inputs, collate_points
from ssl3d.models.elements import ElementMap
from ssl3d.models.rows import lookup_rows, match_pairs, match_points, point_to_view, random_keys


def inputs(*views: list[tuple[int, int]]) -> Inputs:
    shared = collate_points(
        [
            View(np.zeros((len(rows), 3), np.float32), {}, np.array(rows, np.int64), np.zeros(len(rows), np.uint8))
            for rows in views
        ]
    )
    count = len(shared["rows"])
    return Inputs(elements=ElementMap(torch.arange(count), count), **shared)


def test_rows_are_found_by_scan_and_row() -> None:
    rows = torch.tensor([[0, 5], [1, 5], [1, 2]])
    assert lookup_rows(torch.tensor([[1, 5], [0, 2], [1, 2], [0, 5]]), rows).tolist() == [1, -1, 2, 0]
    assert lookup_rows(torch.tensor([[1, 5]]), rows[:0]).tolist() == [-1]


def test_rows_beyond_32_bits_of_a_scan_do_not_mix() -> None:
    big = 2**32 - 1
    rows = torch.tensor([[0, big], [1, 0]])
    assert lookup_rows(torch.tensor([[1, 0], [0, big], [0, 0]]), rows).tolist() == [1, 0, -1]


def test_two_crops_of_one_scan() -> None:
    a, b = inputs([(0, 1), (0, 2), (0, 9)], [(3, 4)]), inputs([(0, 9), (0, 2)], [(3, 5), (3, 4)])
    mine, theirs = match_points(a, b)
    assert mine.tolist() == [1, 2, 3]
    assert theirs.tolist() == [1, 0, 3]
    assert point_to_view(a).tolist() == [0, 0, 0, 1]


def test_one_scan_twice_in_a_batch_is_kept_apart() -> None:
    a, b = inputs([(0, 1)], [(0, 1), (0, 2)]), inputs([(0, 2), (0, 1)], [(0, 2)])
    mine, theirs = match_points(a, b)
    assert mine.tolist() == [0, 2]
    assert theirs.tolist() == [1, 2]


def test_batches_of_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="1 views cannot be matched with 2"):
        match_points(inputs([(0, 1)]), inputs([(0, 1)], [(0, 2)]))


def test_random_keys_are_splitmix_of_the_rows_and_even() -> None:
    def splitmix(x: int) -> int:
        mask = (1 << 64) - 1
        x &= mask
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
        return (x ^ (x >> 31)) & ((1 << 63) - 1)

    rows = torch.cartesian_prod(torch.arange(5), torch.arange(400))
    for seed in (0, 1, -1, 2**31):
        expected = [splitmix((s << 32) + r + seed * 0x9E3779B97F4A7C15) for s, r in rows.tolist()]
        assert random_keys(rows, seed).tolist() == expected
    share = random_keys(rows, 7).double() / 2**63
    assert abs(float(share.mean()) - 0.5) < 0.03 and abs(float((share < 0.1).double().mean()) - 0.1) < 0.03


def test_pairs_of_views_of_one_batch() -> None:
    batch = inputs([(0, 1), (0, 2), (0, 9)], [(0, 9), (0, 2)], [(0, 9)], [(0, 1), (0, 9)], [(3, 4)], [(3, 5)])
    even, odd = match_pairs(batch)
    assert even.tolist() == [1, 2, 5]  # the scan 0 is there twice, and kept apart
    assert odd.tolist() == [4, 3, 7]
    assert torch.equal(batch.rows[even], batch.rows[odd])


def test_an_odd_number_of_views_is_refused() -> None:
    with pytest.raises(ValueError, match="3 views are no pairs"):
        match_pairs(inputs([(0, 1)], [(0, 1)], [(0, 1)]))
