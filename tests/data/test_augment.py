from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ssl3d.data.augment import Augmentation, AugmentParams, drop_to
from ssl3d.data.scan import View

NOTHING = AugmentParams(rotate=0, flip_x=0, flip_y=0, scale_min=1, scale_max=1, translate=0)


def make_view(n: int = 200, seed: int = 0) -> View:
    rng = np.random.default_rng(seed)
    return View(
        points=rng.normal(0, 10, (n, 3)).astype(np.float32),
        features={"intensity": rng.random((n, 1), dtype=np.float32)},
        rows=np.stack([np.full(n, 3), np.arange(n)], 1),
        label=rng.integers(0, 5, n).astype(np.uint8),
    )


def pairwise(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None].astype(float) - points[None], axis=-1)


def test_switched_off_changes_nothing() -> None:
    view = make_view()
    out = Augmentation(NOTHING)(view, np.random.default_rng(0))
    np.testing.assert_array_equal(out.points, view.points)
    np.testing.assert_array_equal(out.label, view.label)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_rotation_and_flips_keep_distances_and_heights(seed: int) -> None:
    view = make_view(40)
    params = NOTHING.model_copy(update={"rotate": 180.0, "flip_x": 0.5, "flip_y": 0.5})
    out = Augmentation(params)(view, np.random.default_rng(seed))
    np.testing.assert_allclose(pairwise(out.points), pairwise(view.points), atol=1e-4)
    np.testing.assert_array_equal(out.points[:, 2], view.points[:, 2])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), drop=st.floats(0, 0.99))
def test_rows_labels_and_features_follow_their_points(seed: int, drop: float) -> None:
    view = make_view(50)
    out = Augmentation(AugmentParams(drop=drop, jitter=0.01))(view, np.random.default_rng(seed))
    kept = out.rows[:, 1]
    assert 2 <= len(out) <= len(view)
    assert (np.diff(kept) > 0).all()
    np.testing.assert_array_equal(out.label, view.label[kept])
    np.testing.assert_array_equal(out.features["intensity"], view.features["intensity"][kept])
    assert out.points.dtype == np.float32


def test_known_quarter_turn_and_mirror() -> None:
    view = make_view(1)
    view.points[:] = [[1.0, 2.0, 3.0]]
    params = NOTHING.model_copy(update={"flip_x": 1.0})
    np.testing.assert_array_equal(Augmentation(params)(view, np.random.default_rng(0)).points, [[-1, 2, 3]])


def test_scale_shift_and_jitter_stay_in_their_ranges() -> None:
    view = make_view()
    scaled = Augmentation(NOTHING.model_copy(update={"scale_min": 0.5, "scale_max": 0.6}))
    for seed in range(20):
        ratio = scaled(view, np.random.default_rng(seed)).points / view.points
        assert ratio.max() - ratio.min() < 1e-5
        assert 0.5 <= ratio.mean() <= 0.6
    moved = Augmentation(NOTHING.model_copy(update={"translate": 1.0}))(view, np.random.default_rng(1)).points
    shift = moved - view.points
    assert np.ptp(shift, axis=0).max() < 1e-5
    assert np.abs(shift).max() > 0
    jittered = Augmentation(NOTHING.model_copy(update={"jitter": 0.1}))(view, np.random.default_rng(1)).points
    assert 0.02 < np.abs(jittered - view.points).max() <= 0.05 + 1e-5


def test_normals_turn_but_are_not_scaled() -> None:
    view = make_view()
    normal = view.points / np.linalg.norm(view.points, axis=1, keepdims=True)
    view.features["normal"] = normal
    out = Augmentation(AugmentParams(translate=0, scale_min=2, scale_max=3))(view, np.random.default_rng(4))
    unit = out.points / np.linalg.norm(out.points, axis=1, keepdims=True)
    np.testing.assert_allclose(out.features["normal"], unit, atol=1e-5)
    np.testing.assert_array_equal(view.features["normal"], normal)


def test_same_seed_same_result_and_input_untouched() -> None:
    view, params = make_view(), AugmentParams(drop=0.5, jitter=0.02)
    before = view.points.copy()
    a, b, other = (Augmentation(params)(view, np.random.default_rng(seed)) for seed in (7, 7, 8))
    np.testing.assert_array_equal(a.points, b.points)
    assert len(a) != len(other) or not np.array_equal(a.points, other.points)
    np.testing.assert_array_equal(view.points, before)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 60), limit=st.integers(1, 80))
def test_drop_to(n: int, limit: int) -> None:
    out = drop_to(make_view(n), limit, np.random.default_rng(n))
    assert len(out) == min(n, limit)
    assert len(np.unique(out.rows[:, 1])) == len(out)


def test_wrong_ranges_are_refused() -> None:
    with pytest.raises(ValidationError, match="scale_min"):
        AugmentParams(scale_min=1.2, scale_max=1.1)
    with pytest.raises(ValidationError):
        AugmentParams(drop=1.0)
