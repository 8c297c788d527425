"""Drawing points: from above, and (of a spinning LiDAR) as the sensor sees them, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.atomic import replacing
from ssl3d.data.range_image import RangeProjection
from ssl3d.data.spec import SensorSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase, SubFigure

Colors = npt.NDArray[np.uint8]

BACKGROUND = (13, 17, 23)
TEXT = "#e6edf3"
DIM = "#9198a1"
NOTHING = (72, 79, 88)
"""Color of points that have no value."""
_TOP_PIXELS = 640
_TOP_REACH = 50.0
"""Side of the picture from above in pixels, and the largest half side in meters."""
_STRIP_PIXELS = 1024
_ROOM_HEIGHT = 6.0
_CEILING = 0.12
"""Where a scan without a sensor is no higher than a room, and this upper part of its height holds at least such a share
of its points, that is a ceiling, and is left out of the view from above."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One coloring of the points of a scan.

    Attributes:
        name: what the colors mean.
        colors: (n, 3) uint8.
        rank: (n,) points of a higher rank are drawn over others, whatever their height.
        points: (n, 3) other points than those of the scan, in the same frame.
    """

    name: str
    colors: Colors
    rank: npt.NDArray[Any] | None = None
    points: npt.NDArray[np.float32] | None = None


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches at 100 pixels an inch, with no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, facecolor=rgb(BACKGROUND))
    FigureCanvasAgg(figure)
    return figure


def write_title(figure: Figure, title: str, below: str) -> None:
    height = float(figure.get_figheight())
    size = min(15, 15 * 110 / max(1, len(title)))
    figure.text(0.015, 1 - 0.17 / height, title, color=TEXT, fontsize=size, va="top")
    figure.text(0.015, 1 - 0.48 / height, below, color=DIM, fontsize=12, va="top")


def height_of(panels: int, sensor: SensorSpec | None) -> float:
    """Inches of a figure of ``draw_panels`` 16 inches wide, with its title and a legend of two rows."""
    return 2.6 + 15.6 / max(panels, 2) + (0.0 if sensor is None else 1.2 * panels)


def draw_panels(
    figure: Figure | SubFigure,
    points: npt.NDArray[np.float32],
    panels: Sequence[Panel],
    sensor: SensorSpec | None,
    *,
    above: float = 0.9,
) -> None:
    """Side by side from above, then a strip each as a spinning sensor sees it.

    Args:
        points: (n, 3) float32 meters; of a spinning sensor in its frame (x forward, y left, z up).
        sensor: None: there are no strips, and the view is centered on the points.
        above: inches left free for a title.
    """
    height, count = float(figure.bbox.height) / 100, len(panels)  # of a part of a figure too; see ``new_figure``
    grid = figure.add_gridspec(
        1 if sensor is None else 1 + count,
        max(count, 2),
        height_ratios=None if sensor is None else [15.0 / max(count, 2), *[1.1] * count],
        left=0.015,
        right=0.985,
        top=1 - above / height,
        bottom=1.15 / height,
        hspace=0.13,
        wspace=0.02,
    )
    middle = _middle(points) if sensor is None else np.zeros(3, np.float32)
    reach = _reach(points - middle, 1.0 if sensor is None else 10.0)
    for column, panel in enumerate(panels):
        own = points if panel.points is None else panel.points
        shown = np.ones(len(own), np.bool_) if sensor is not None else ~_ceiling(own)
        seen = own[shown] - middle
        order = np.lexsort((seen[:, 2], *([] if panel.rank is None else [panel.rank[shown]])))
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(from_above(seen[order], panel.colors[shown][order], reach), interpolation="nearest")
        up = "x" if sensor is None else "driving"
        cut = "" if shown.all() else ", without the ceiling"
        frame_panel(axes, f"{panel.name}, from above ({2 * reach:.0f} x {2 * reach:.0f} m, {up} up{cut})")
        if sensor is not None:
            strip = figure.add_subplot(grid[1 + column, :])
            image = range_colors(own, panel.colors, sensor)
            strip.imshow(image, aspect="auto", interpolation="nearest")
            frame_panel(strip, f"{panel.name}, range image ({image.shape[0]} x {image.shape[1]}, middle = ahead)")


def preview(
    path: Path,
    points: npt.NDArray[np.float32],
    panels: Sequence[Panel],
    sensor: SensorSpec | None,
    *,
    title: str,
    below: str = "",
    legend: Mapping[str, tuple[int, int, int]] | None = None,
) -> Path:
    """Writes a PNG of one scan in several colorings; see ``draw_panels``.

    Args:
        title, below: two lines above it.
        legend: word -> color, below it.
    """
    figure = new_figure(16, height_of(len(panels), sensor))
    draw_panels(figure, points, panels, sensor)
    write_title(figure, title, below)
    if legend:
        draw_legend(figure, legend)
    return save_figure(figure, path)


def draw_legend(figure: FigureBase, legend: Mapping[str, tuple[int, int, int]]) -> None:
    """Word -> color, in rows of eight below the panels."""
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=rgb(color), label=word) for word, color in legend.items()]
    figure.legend(handles=handles, loc="lower center", ncol=8, fontsize=11, frameon=False, labelcolor=TEXT)


def value_colors(values: npt.NDArray[Any], low: float, high: float) -> Colors:
    """(n,) numbers -> (n, 3) uint8 from dark blue (``low`` and below) to yellow; gray where they are no numbers."""
    from matplotlib import colormaps

    share = (np.asarray(values, np.float64) - low) / (high - low if high > low else 1.0)
    there = np.isfinite(share)
    table = (255 * np.asarray(colormaps["viridis"](np.linspace(0.08, 1, 256)))[:, :3]).round().astype(np.uint8)
    colors = table[(255 * np.where(there, share, 0).clip(0, 1)).astype(np.intp)]
    colors[~there] = NOTHING
    return colors


def id_colors(ids: npt.NDArray[np.integer[Any]]) -> Colors:
    """(n,) ids -> (n, 3) uint8, one color an id whatever the other ids are; gray for negative ones."""
    mixed = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    parts = [((mixed >> np.uint64(shift)) & np.uint64(255)).astype(np.uint8) for shift in (8, 24, 40)]
    colors = (55 + np.stack(parts, axis=1).astype(np.float64) * (200 / 255)).astype(np.uint8)
    colors[ids < 0] = NOTHING
    return colors


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes a PNG, whole or not at all; creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=figure.get_facecolor())
    return path


def from_above(points: npt.NDArray[np.float32], colors: Colors, reach: float, pixels: int = _TOP_PIXELS) -> Colors:
    """(pixels, pixels, 3) uint8 seen from above: x up, y left; later points cover earlier ones, 2 x 2 pixels each."""
    image = np.full((pixels + 1, pixels + 1, 3), BACKGROUND, np.uint8)
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
    image[~projection.filled] = BACKGROUND
    return image


def _middle(points: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(3,) of the box around the points that are somewhere."""
    finite = points[np.isfinite(points).all(axis=1)]
    middle = (finite.min(axis=0) + finite.max(axis=0)) / np.float32(2) if len(finite) else np.zeros(3, np.float32)
    return middle.astype(np.float32)


def _ceiling(points: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """(n,) points of a ceiling, if there is one."""
    z = points[:, 2]
    finite = z[np.isfinite(z)]
    none = np.zeros(len(points), np.bool_)
    if not len(finite) or finite.max() - finite.min() > _ROOM_HEIGHT:
        return none
    above = z > finite.max() - _CEILING * (finite.max() - finite.min())
    return above if np.count_nonzero(above) >= _CEILING * len(finite) else none


def _reach(points: npt.NDArray[np.float32], step: float) -> float:
    """Half side of the square that holds nearly all points, in steps of so many meters."""
    distance = np.linalg.norm(points[:, :2], axis=1)
    distance = distance[np.isfinite(distance)]
    wanted = float(np.quantile(distance, 0.98)) if len(distance) else 0.0
    return float(np.clip(step * np.ceil(wanted / step), step, _TOP_REACH))


def frame_panel(axes: Axes, title: str) -> None:
    """A thin frame, no ticks, and a title above it on the left."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, color=TEXT, fontsize=11, loc="left", pad=4)
    for spine in axes.spines.values():
        spine.set_color("#30363d")


def rgb(color: Sequence[int]) -> tuple[float, float, float]:
    red, green, blue = (int(part) / 255 for part in color)
    return red, green, blue
