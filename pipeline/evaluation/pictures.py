"""A scan in one picture: truth, prediction and errors, from above and (of a spinning LiDAR) as the sensor sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ssl3d.data.atomic import replacing
from ssl3d.data.range_image import RangeProjection
from ssl3d.data.scan import IGNORE
from ssl3d.data.spec import DatasetSpec, SensorSpec
from ssl3d.pipeline.evaluation.confusion import Confusion
from ssl3d.pipeline.evaluation.protocols import nanmean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Colors = npt.NDArray[np.uint8]

_BACKGROUND = (13, 17, 23)
_TEXT = "#e6edf3"
_DIM = "#9198a1"
_NO_TRUTH = (72, 79, 88)
_CORRECT = (46, 140, 105)
_WRONG = (255, 75, 75)
_TOP_PIXELS = 640
_TOP_REACH = 50.0
"""Side of the picture from above in pixels, and the largest half side in meters."""
_STRIP_PIXELS = 1024


def scan_picture(
    points: npt.NDArray[np.float32],
    truth: npt.NDArray[np.uint8],
    prediction: npt.NDArray[np.uint8],
    spec: DatasetSpec,
    path: Path,
    *,
    title: str,
) -> Path:
    """Writes a PNG of one scan.

    Args:
        points: (n, 3) float32, sensor frame (x forward, y left, z up), meters.
        truth: (n,) uint8 classes, IGNORE where there is none.
        prediction: (n,) uint8 classes.
        spec: classes, colors and the sensor of the range image; without a sensor there is none.
        path: file to write; its folder is created.
        title: what is shown, e.g. "08/000123, supervised-minkunet18".

    Returns:
        ``path``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    confusion = Confusion(spec.num_classes)
    confusion.add(prediction, truth)
    scores = nanmean(confusion)
    strips = 0 if spec.sensor is None else 3
    height = 7.8 + 1.2 * strips  # inches
    figure = Figure(figsize=(16, height), dpi=100, facecolor=_rgb(_BACKGROUND))
    FigureCanvasAgg(figure)
    _panels(figure, points, truth, prediction, spec)
    verdict = "no labels to compare with"
    if confusion.counts.sum():
        right, miou = 100 * scores.overall_accuracy, 100 * scores.miou
        verdict = f"{right:.1f}% of points right, mIoU {miou:.1f}% (nanmean, this scan alone)"
    size = min(15, 15 * 110 / max(1, len(title)))
    figure.text(0.015, 1 - 0.17 / height, title, color=_TEXT, fontsize=size, va="top")
    figure.text(0.015, 1 - 0.48 / height, verdict, color=_DIM, fontsize=12, va="top")
    _legend(figure, spec, truth, prediction, scores.iou)
    return save_figure(figure, path)


def _panels(
    figure: Figure,
    points: npt.NDArray[np.float32],
    truth: npt.NDArray[np.uint8],
    prediction: npt.NDArray[np.uint8],
    spec: DatasetSpec,
) -> None:
    """Side by side from above, then a strip each as a spinning sensor sees it."""
    panels = {
        "truth": class_colors(truth, spec),
        "prediction": class_colors(prediction, spec),
        "errors": error_colors(truth, prediction),
    }
    sensor, height = spec.sensor, float(figure.get_figheight())
    grid = figure.add_gridspec(
        1 if sensor is None else 4,
        3,
        height_ratios=None if sensor is None else [5, 1.1, 1.1, 1.1],
        left=0.015,
        right=0.985,
        top=1 - 0.9 / height,
        bottom=1.15 / height,
        hspace=0.13,
        wspace=0.02,
    )
    if sensor is None:
        points = points - _middle(points)
    reach = _reach(points, 1.0 if sensor is None else 10.0)
    errors_last = np.where(truth == IGNORE, 0, np.where(truth == prediction, 1, 2))
    for column, (name, colors) in enumerate(panels.items()):
        order = np.lexsort((points[:, 2], errors_last)) if name == "errors" else np.argsort(points[:, 2])
        above = figure.add_subplot(grid[0, column])
        above.imshow(from_above(points[order], colors[order], reach), interpolation="nearest")
        up = "x" if sensor is None else "driving"
        _frame(above, f"{name}, from above ({2 * reach:.0f} x {2 * reach:.0f} m, {up} up)")
        if sensor is not None:
            strip = figure.add_subplot(grid[1 + column, :])
            image = range_colors(points, colors, sensor)
            strip.imshow(image, aspect="auto", interpolation="nearest")
            _frame(strip, f"{name}, range image ({image.shape[0]} x {image.shape[1]}, middle = ahead)")


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes a PNG, whole or not at all; creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=figure.get_facecolor())
    return path


def class_colors(label: npt.NDArray[np.uint8], spec: DatasetSpec) -> Colors:
    """(n,) labels -> (n, 3) uint8; gray where there is no class."""
    table = np.full((256, 3), _NO_TRUTH, np.uint8)
    table[: spec.num_classes] = spec.colors
    return table[label]


def error_colors(truth: npt.NDArray[np.uint8], prediction: npt.NDArray[np.uint8]) -> Colors:
    """(n, 3) uint8: green right, red wrong, gray without a truth."""
    colors = np.array([_WRONG, _CORRECT], np.uint8)[(truth == prediction).astype(np.intp)]
    colors[truth == IGNORE] = _NO_TRUTH
    return colors


def from_above(points: npt.NDArray[np.float32], colors: Colors, reach: float, pixels: int = _TOP_PIXELS) -> Colors:
    """(pixels, pixels, 3) uint8 seen from above: x up, y left; later points cover earlier ones, 2 x 2 pixels each."""
    image = np.full((pixels + 1, pixels + 1, 3), _BACKGROUND, np.uint8)
    with np.errstate(invalid="ignore"):  # points that are not numbers are nowhere
        inside = (np.abs(points[:, :2]) < reach).all(axis=1)
    row, column = ((reach - points[inside, :2]) / (2 * reach) * pixels).astype(np.int64).clip(0, pixels - 1).T
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        image[row + down, column + right] = colors[inside]
    return image[:pixels, :pixels]


def range_colors(points: npt.NDArray[np.float32], colors: Colors, sensor: SensorSpec) -> Colors:
    """(H, W, 3) uint8 as the sensor sees it; W is the sensor's, but no more columns than the picture can show."""
    finite = np.isfinite(points).all(axis=1)
    projection = RangeProjection.of(points[finite], sensor, width=min(sensor.width, _STRIP_PIXELS))
    image = projection.image(colors[finite])
    image[~projection.filled] = _BACKGROUND
    return image


def _middle(points: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(3,) of the box around the points that are somewhere."""
    finite = points[np.isfinite(points).all(axis=1)]
    middle = (finite.min(axis=0) + finite.max(axis=0)) / np.float32(2) if len(finite) else np.zeros(3, np.float32)
    return middle.astype(np.float32)


def _reach(points: npt.NDArray[np.float32], step: float) -> float:
    """Half side of the square that holds nearly all points, in steps of so many meters."""
    distance = np.linalg.norm(points[:, :2], axis=1)
    distance = distance[np.isfinite(distance)]
    wanted = float(np.quantile(distance, 0.98)) if len(distance) else 0.0
    return float(np.clip(step * np.ceil(wanted / step), step, _TOP_REACH))


def _frame(axes: Axes, title: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, color=_TEXT, fontsize=11, loc="left", pad=4)
    for spine in axes.spines.values():
        spine.set_color("#30363d")


def _legend(
    figure: Figure,
    spec: DatasetSpec,
    truth: npt.NDArray[np.uint8],
    prediction: npt.NDArray[np.uint8],
    iou: Sequence[float],
) -> None:
    from matplotlib.patches import Patch

    present = sorted({*np.unique(truth).tolist(), *np.unique(prediction).tolist()} - {IGNORE})
    handles = [
        Patch(
            facecolor=_rgb(tuple(spec.colors[index])),
            label=spec.classes[index] + ("" if np.isnan(iou[index]) else f"  {100 * iou[index]:.0f}"),
        )
        for index in present
    ]
    errors = (("right", _CORRECT), ("wrong", _WRONG), ("no truth", _NO_TRUTH))
    handles += [Patch(facecolor=_rgb(color), label=name) for name, color in errors]
    legend = figure.legend(
        handles=handles,
        loc="lower center",
        ncol=8,
        fontsize=11,
        frameon=False,
        labelcolor=_TEXT,
        title="class, IoU of this scan in %",
        bbox_to_anchor=(0.5, 0.0),
    )
    legend.get_title().set_color(_DIM)


def _rgb(color: Sequence[int]) -> tuple[float, float, float]:
    red, green, blue = (int(part) / 255 for part in color)
    return red, green, blue
