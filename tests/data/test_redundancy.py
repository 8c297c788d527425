"""Similarity of images against loops (and scikit-image's definition), overlap of scans against sets."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ssl3d.data.redundancy import gray, overlap, ssim


def reference(a: np.ndarray, b: np.ndarray) -> float:
    values = []
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    for i in range(a.shape[0] - 6):
        for j in range(a.shape[1] - 6):
            x, y = a[i : i + 7, j : j + 7].ravel(), b[i : i + 7, j : j + 7].ravel()
            (vx, cov), (_, vy) = np.cov(x, y)
            mx, my = x.mean(), y.mean()
            values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(values))


def test_similarity_equals_loops() -> None:
    rng = np.random.default_rng(0)
    a = rng.uniform(0, 255, (20, 31))
    for b in (a * 0.8 + 20, np.clip(a + rng.normal(0, 30, a.shape), 0, 255), rng.uniform(0, 255, a.shape)):
        assert ssim(a, b) == pytest.approx(reference(a, b), rel=1e-9)
    assert ssim(a, a) == pytest.approx(1)
    assert ssim(np.zeros((9, 9)), np.full((9, 9), 255.0)) == pytest.approx(1e-4, rel=1e-2)
    assert ssim(a, 255 - a) < 0


def test_images_that_cannot_be_compared() -> None:
    for a, b in (((20, 20), (20, 21)), ((6, 20), (6, 20)), ((20, 20, 3), (20, 20, 3))):
        with pytest.raises(ValueError, match="cannot be compared"):
            ssim(np.zeros(a), np.zeros(b))


def test_gray_is_pils_but_for_its_rounding() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    np.testing.assert_allclose(gray(image), np.asarray(Image.fromarray(image).convert("L"), float), atol=1)


def test_overlap_is_that_of_sets_of_cubes() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(0, 3, (200, 3)).astype(np.float32) for _ in range(2))
    mine, others = ({tuple(np.floor(p / np.float64(0.5)).astype(int)) for p in points} for points in (a, b))
    assert overlap(a, b) == pytest.approx(len(mine & others) / len(mine | others)) and 0 < overlap(a, b) < 1
    assert overlap(a, a) == 1 and overlap(a, a + 100) == 0
    assert overlap(a[:0], a[:0]) == 0 and overlap(np.full((2, 3), np.nan, np.float32), a) == 0
    assert overlap(np.full((1, 3), 1e30, np.float32), a) == 0  # far away is no overflow
