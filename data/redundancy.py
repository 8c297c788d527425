"""How much a frame of a recording repeats its neighbor: by their camera images, or by the cells that they occupy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

WINDOW, K1, K2 = 7, 0.01, 0.03
CELL_METERS = 0.5


def gray(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """(height, width) luma 0..255 of an RGB image (ITU-R 601, as PIL's ``L``)."""
    return image @ np.array([0.299, 0.587, 0.114])


def ssim(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Mean structural similarity of two gray images (Wang, Bovik, Sheikh, Simoncelli, 2004), -1..1.

    Uniform windows of 7x7 that lie within the image, sample covariances, K1 = 0.01, K2 = 0.03 of the range 255: the
    defaults of scikit-image.

    Args:
        a, b: (height, width) float, 0..255, of the same shape, at least 7 pixels either way.

    Raises:
        ValueError: the images differ in shape, or are smaller than a window.
    """
    if a.shape != b.shape or a.ndim != 2 or min(a.shape) < WINDOW:
        raise ValueError(f"images of {a.shape} and {b.shape} cannot be compared in windows of {WINDOW} pixels")
    sample = WINDOW**2 / (WINDOW**2 - 1)
    mean_a, mean_b = _means(a), _means(b)
    var_a, var_b = (sample * (_means(x * x) - m * m) for x, m in ((a, mean_a), (b, mean_b)))
    both = sample * (_means(a * b) - mean_a * mean_b)
    c1, c2 = (K1 * 255) ** 2, (K2 * 255) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a * mean_a + mean_b * mean_b + c1)
    return float((luminance * (2 * both + c2) / (var_a + var_b + c2)).mean())


def _means(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of every whole window."""
    sums = np.pad(values, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    w = WINDOW
    return (sums[w:, w:] - sums[:-w, w:] - sums[w:, :-w] + sums[:-w, :-w]) / w**2


def overlap(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], cell: float = CELL_METERS) -> float:
    """The share, 0..1, of the cubes occupied by either of two scans that both occupy; 0 where neither has a point.

    Args:
        a, b: (n, 3), (m, 3) meters, each in the frame of its sensor, as camera images are.
    """
    mine, others = _cells(a, cell), _cells(b, cell)
    common = len(np.intersect1d(mine, others, assume_unique=True))
    return common / max(1, len(mine) + len(others) - common)


def _cells(points: npt.NDArray[np.float32], cell: float) -> npt.NDArray[np.int64]:
    """Unique ids of the occupied cubes; coordinates beyond a million cells are cut off there."""
    finite = points[np.isfinite(points).all(1)]
    index = np.clip(np.floor(finite / np.float64(cell)), -(1 << 20), (1 << 20) - 1).astype(np.int64) + (1 << 20)
    return np.unique((index[:, 0] << 42) + (index[:, 1] << 21) + index[:, 2])


__all__ = ["CELL_METERS", "gray", "overlap", "ssim"]
