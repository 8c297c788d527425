"""A generated scan, alone or above a recorded one: from above, and as the sensor sees it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ssl3d.data.datasets.semantickitti import SemanticKitti
from ssl3d.data.datasets.source import RawScan, ReadOptions
from ssl3d.data.errors import DataError
from ssl3d.pipeline.drawing import from_above, range_colors, save_figure
from ssl3d.pipeline.evaluation.pictures import class_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_REACH = 50.0
_DARK, _LIGHT = "#0d1117", "#e6edf3"


def draw(streets: Path, real: Path | None, path: Path) -> Path:
    """Writes a PNG of the middle labelled scan of the val sequence (08, or else the first that has labels).

    Args:
        streets: a SemanticKITTI root.
        real: another one, whose scan is drawn below. Pictures of recordings are for the eye only: their license
            forbids to publish them.
        path: file to write; its folder is created.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    spec = SemanticKitti().spec()
    assert spec.sensor is not None  # it is a LiDAR's
    scans = {"generated": _middle_scan(streets)} | ({"recorded": _middle_scan(real)} if real is not None else {})
    height = 4.0 * len(scans) + 0.9  # inches; a line of titles above, two of classes below
    figure = Figure(figsize=(14, height), dpi=80, facecolor=_DARK)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(scans),
        2,
        width_ratios=[1, 2.4],
        left=0.005,
        right=0.995,
        wspace=0.02,
        top=1 - 0.3 / height,
        bottom=0.6 / height,
        hspace=0.1,
    )
    for i, (kind, (scan_id, scan)) in enumerate(scans.items()):
        colors = class_colors(_labels(scan), spec)
        order = np.argsort(scan.points[:, 2])
        above, strip = figure.add_subplot(grid[i, 0]), figure.add_subplot(grid[i, 1])
        above.imshow(from_above(scan.points[order], colors[order], _REACH, pixels=400), interpolation="nearest")
        _frame(above, f"{kind} {scan_id}, 100 x 100 m")
        strip.imshow(range_colors(scan.points, colors, spec.sensor), aspect="auto", interpolation="nearest")
        _frame(strip, f"{len(scan.points):,} points as the sensor sees them, middle = ahead")
    present = np.unique(np.concatenate([_labels(scan) for _, scan in scans.values()]))
    shown = [int(index) for index in present if index < spec.num_classes]
    handles = [Patch(facecolor=tuple(spec.colors[index] / 255), label=spec.classes[index]) for index in shown]
    figure.legend(handles=handles, loc="lower center", ncol=10, fontsize=9, frameon=False, labelcolor=_LIGHT)
    return save_figure(figure, path)


def _middle_scan(root: Path) -> tuple[str, RawScan]:
    """Its id, and the scan."""
    reader = SemanticKitti()
    layout = reader.discover(root, ReadOptions(allow_partial=True))
    chosen = [(unit, i) for unit, i in layout.scans() if unit.scans[i].labelled]
    if not chosen:
        raise DataError("no scan here has labels", where={"root": root}, hint="unpack the archive of labels as well")
    chosen = [(unit, i) for unit, i in chosen if unit.subset == "val"] or chosen
    unit, i = chosen[len(chosen) // 2]
    return unit.scans[i].scan_id, reader.read_scan(unit, i, reader.spec())


def _labels(scan: RawScan) -> npt.NDArray[np.uint8]:
    assert scan.label is not None  # chosen for it
    return scan.label


def _frame(axes: Axes, title: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, color=_LIGHT, fontsize=10, loc="left", pad=4)
