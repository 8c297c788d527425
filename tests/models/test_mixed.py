from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ssl3d.data.augment import Augmentation, AugmentParams
from ssl3d.data.mixing import inclination_bands
from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.base import Inputs, collate_points
from ssl3d.models.elements import ElementMap
from ssl3d.models.mixed import ORIGIN, BandParams, carried, halves, mix_pairs, numbered, origins

PARAMS = BandParams()
STRONG = Augmentation(AugmentParams(drop=0.5, jitter=0.01))


def view(scan: int, n: int = 60) -> View:
    rng = np.random.default_rng(scan)
    rows = np.stack([np.full(n, scan), np.arange(n)], 1)
    return View((rng.normal(size=(n, 3)) * [10, 10, 3]).astype(np.float32), {}, rows, np.zeros(n, np.uint8))


def inputs(views: Sequence[View]) -> Inputs:
    shared = collate_points(views)
    shared["extras"]["xyz"] = torch.from_numpy(np.concatenate([view.points for view in views]))
    return Inputs(elements=ElementMap(torch.arange(len(shared["rows"])), len(shared["rows"])), **shared)


def moved(scans: Sequence[int], rng: np.random.Generator) -> list[View]:
    return numbered([STRONG(view(scan), rng) for scan in scans], rng)


@pytest.mark.parametrize(
    ("first", "second"), [((1, 2), (3, 4)), ((1, 1), (1, 1)), ((5,), (6, 6, 7)), ((1, 2, 1), (3,))]
)
def test_every_mixed_point_knows_the_very_point_that_it_was(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    """Also where a scan is in the batch twice: coordinates tell which of its augmentations was meant."""
    groups: dict[str, list[View]] = {"scans": [], "mixed": []}
    for item in range(2):  # as two items of a batch, each with a generator of its own
        rng = np.random.default_rng(item)
        a, b = moved(first, rng), moved(second, rng)
        groups["scans"] += [*a, *b]
        groups["mixed"] += mix_pairs(a, b, PARAMS, rng)
    scans, mixed = inputs(groups["scans"]), inputs(groups["mixed"])
    origin = origins(mixed, scans)
    assert (origin >= 0).all() and len(origin) > 100
    assert torch.equal(scans.extras["xyz"][origin], mixed.extras["xyz"])
    assert torch.equal(scans.rows[origin], mixed.rows)
    if len(first) == len(second):
        assert torch.equal(origin.sort().values, torch.arange(len(scans.rows)))  # all of them, once


def test_points_of_views_that_are_not_there_have_no_origin() -> None:
    rng = np.random.default_rng(0)
    scans = moved((1, 2), rng)
    mixed = inputs(mix_pairs(scans[:1], scans[1:], PARAMS, rng))
    empty = scans[1].select(np.zeros(len(scans[1]), np.bool_))  # a view without a point has no number
    only = inputs([empty, scans[0]])
    assert torch.equal(origins(mixed, only) >= 0, mixed.rows[:, 0] == 1)
    half = inputs([scans[0].select(scans[0].rows[:, 1] < 30)])
    assert torch.equal(origins(mixed, half) >= 0, (mixed.rows[:, 0] == 1) & (mixed.rows[:, 1] < 30))


def test_values_are_carried_and_filled() -> None:
    assert carried(torch.tensor([5, 6]), torch.tensor([1, -1, 0]), IGNORE).tolist() == [6, IGNORE, 5]
    assert carried(torch.zeros(0, dtype=torch.int64), torch.tensor([-1]), IGNORE).tolist() == [IGNORE]


@pytest.mark.parametrize(
    ("a", "b", "expected"), [(2, 2, [(0, 2), (1, 3)]), (1, 3, [(0, 1), (0, 2), (0, 3)]), (2, 1, [(0, 2), (1, 2)])]
)
def test_scans_are_paired_in_order_and_the_shorter_side_begins_again(
    a: int, b: int, expected: list[tuple[int, int]]
) -> None:
    scans = [view(scan) for scan in range(a + b)]
    mixed = mix_pairs(scans[:a], scans[a:], PARAMS, np.random.default_rng(0))
    assert len(mixed) == 2 * len(expected)
    for i, pair in enumerate(expected):
        for one in mixed[2 * i : 2 * i + 2]:
            assert set(one.rows[:, 0].tolist()) == set(pair)
        assert len(mixed[2 * i]) + len(mixed[2 * i + 1]) == 120


def test_one_number_of_bands_is_drawn_for_both_scans_of_each_pair() -> None:
    scans, seen = [view(0, 400), view(1, 400)], set()
    for seed in range(40):
        one, _ = mix_pairs(scans[:1], scans[1:], PARAMS, np.random.default_rng(seed))
        fits = []
        for bands in range(2, 9):
            band = inclination_bands(one.points, bands, PARAMS.fov_up, PARAMS.fov_down)
            if np.array_equal(band % 2 == 0, one.rows[:, 0] == 0):
                fits.append(bands)
        (found,) = fits
        seen.add(found)
    assert seen == {3, 4, 5, 6}


def test_halves_of_scans_of_one_kind() -> None:
    scans = [view(scan) for scan in range(3)]
    assert [[int(v.rows[0, 0]) for v in side] for side in halves(scans)] == [[0, 1], [2]]
    alone = mix_pairs(*halves(scans[:1]), PARAMS, np.random.default_rng(0))
    assert [sorted(v.rows[:, 1].tolist()) for v in alone] == [list(range(60))] * 2


def test_numbers_are_the_views_own_and_other_extras_are_dropped() -> None:
    scan = view(1)
    scan.extras = {"region": np.arange(60)}
    one, two = numbered([scan, scan], np.random.default_rng(0), [{"x": np.zeros(60)}, {"x": np.ones(60)}])
    assert sorted(one.extras) == sorted(two.extras) == [ORIGIN, "x"] and list(scan.extras) == ["region"]
    assert len({*one.extras[ORIGIN].tolist(), *two.extras[ORIGIN].tolist()}) == 2


@pytest.mark.parametrize("wrong", [{"fov_up": -30.0}, {"m": ()}, {"m": (0, 3)}])
def test_bands_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        BandParams(**wrong)  # type: ignore[arg-type]
