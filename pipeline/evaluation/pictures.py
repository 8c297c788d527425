"""A scan in one picture: truth, prediction and errors, from above and (of a spinning LiDAR) as the sensor sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ssl3d.data.scan import IGNORE
from ssl3d.data.spec import DatasetSpec
from ssl3d.pipeline.drawing import (
    DIM,
    NOTHING,
    TEXT,
    Colors,
    Panel,
    draw_panels,
    height_of,
    new_figure,
    rgb,
    save_figure,
    write_title,
)
from ssl3d.pipeline.evaluation.confusion import Confusion
from ssl3d.pipeline.evaluation.protocols import nanmean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CORRECT = (46, 140, 105)
_WRONG = (255, 75, 75)


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
    confusion = Confusion(spec.num_classes)
    confusion.add(prediction, truth)
    scores = nanmean(confusion)
    panels = [
        Panel("truth", class_colors(truth, spec)),
        Panel("prediction", class_colors(prediction, spec)),
        Panel(
            "errors",
            error_colors(truth, prediction),
            np.where(truth == IGNORE, 0, np.where(truth == prediction, 1, 2)),
        ),
    ]
    figure = new_figure(16, height_of(len(panels), spec.sensor))
    draw_panels(figure, points, panels, spec.sensor)
    verdict = "no labels to compare with"
    if confusion.counts.sum():
        right, miou = 100 * scores.overall_accuracy, 100 * scores.miou
        verdict = f"{right:.1f}% of points right, mIoU {miou:.1f}% (nanmean, this scan alone)"
    write_title(figure, title, verdict)
    _legend(figure, spec, truth, prediction, scores.iou)
    return save_figure(figure, path)


def class_colors(label: npt.NDArray[np.uint8], spec: DatasetSpec) -> Colors:
    """(n,) labels -> (n, 3) uint8; gray where there is no class."""
    table = np.full((256, 3), NOTHING, np.uint8)
    table[: spec.num_classes] = spec.colors
    return table[label]


def error_colors(truth: npt.NDArray[np.uint8], prediction: npt.NDArray[np.uint8]) -> Colors:
    """(n, 3) uint8: green right, red wrong, gray without a truth."""
    colors = np.array([_WRONG, _CORRECT], np.uint8)[(truth == prediction).astype(np.intp)]
    colors[truth == IGNORE] = NOTHING
    return colors


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
            facecolor=rgb(tuple(spec.colors[index])),
            label=spec.classes[index] + ("" if np.isnan(iou[index]) else f"  {100 * iou[index]:.0f}"),
        )
        for index in present
    ]
    errors = (("right", _CORRECT), ("wrong", _WRONG), ("no truth", NOTHING))
    handles += [Patch(facecolor=rgb(color), label=name) for name, color in errors]
    legend = figure.legend(
        handles=handles,
        loc="lower center",
        ncol=8,
        fontsize=11,
        frameon=False,
        labelcolor=TEXT,
        title="class, IoU of this scan in %",
        bbox_to_anchor=(0.5, 0.0),
    )
    legend.get_title().set_color(DIM)
