"""A scan and its images in one picture: a wrong calibration is seen at a glance."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.images import ImageFiles
from ssl3d.pipeline.drawing import (
    NOTHING,
    Colors,
    Panel,
    draw_legend,
    draw_panels,
    frame_panel,
    height_of,
    id_colors,
    new_figure,
    save_figure,
    value_colors,
    write_title,
)
from ssl3d.pipeline.pairs import ScanPairs

if TYPE_CHECKING:
    from ssl3d.data.spec import SensorSpec

_MOST_IMAGES = 6
_MOST_WORDS = 16
_WIDTH = 16.0
_DOT = (2, 6)
_COVERED = 0.15
"""Pixels of a side of a point, least and most, and the share of an image that points may cover: it has to be seen."""
_DARKER = 0.75


def pair_picture(
    path: Path,
    points: npt.NDArray[np.float32],
    pairs: ScanPairs,
    files: ImageFiles,
    sensor: SensorSpec | None,
    *,
    title: str,
) -> Path:
    """Writes a PNG: the images with points in the color of their depth, and of their entities; the points in the color
    of their pixels, and of their entities.

    Args:
        points: (n, 3) float32 meters.
        sensor: of a spinning LiDAR, see ``draw_panels``.
    """
    phrases = pairs.entities.phrases()
    shown, ids = _shown(pairs), _phrase_ids(pairs.entity, phrases)
    pictures = {place: files.color(pairs.images[place]) for place in shown}
    columns, rows = min(3, max(1, len(shown))), 2 if phrases else 1
    row_height = _row_height(pictures, columns)
    lines = max(1, -(-len(shown) // columns)) * rows
    panels = _panels(len(points), pairs, files, ids if phrases else None)
    top_height, low_height = 0.9 + lines * row_height, height_of(len(panels), sensor) - 0.6
    figure = new_figure(_WIDTH, top_height + low_height)
    top, low = list(np.ravel(np.asarray(figure.subfigures(2, 1, height_ratios=[top_height, low_height]), object)))
    for part in (top, low):
        part.set_facecolor(figure.get_facecolor())
    grid = top.add_gridspec(
        lines,
        columns,
        left=0.015,
        right=0.985,
        top=1 - 0.9 / top_height,
        bottom=0.02,
        hspace=0.35 / row_height,
        wspace=0.02,
    )
    for row in range(rows):
        for k, place in enumerate(shown):
            axes = top.add_subplot(grid[row * lines // rows + k // columns, k % columns])
            axes.imshow(_painted(pictures[place], pairs, place, ids if row else None, columns), interpolation="nearest")
            near, far = _range(pairs.depth)
            frame_panel(axes, f"{pairs.cameras[place]}: " + ("entities" if row else f"{near:.0f} to {far:.0f} m"))
    draw_panels(low, points, panels, sensor, above=0.3)
    write_title(figure, title, _verdict(pairs, len(points), len(shown)))
    draw_legend(low, _words(ids, phrases) if phrases else _cameras(pairs, shown))
    return save_figure(figure, path)


def _panels(points: int, pairs: ScanPairs, files: ImageFiles, ids: npt.NDArray[np.int64] | None) -> list[Panel]:
    panels = [Panel("color of the images", *_by_color(points, pairs, files))]
    panels.append(Panel("which image", *_by_id(points, pairs, pairs.image.astype(np.int64) + 1)))
    return panels if ids is None else [*panels, Panel("entities", *_by_id(points, pairs, ids))]


def _verdict(pairs: ScanPairs, points: int, shown: int) -> str:
    paired = len(np.unique(pairs.point))
    share = 100 * paired / points if points else 0.0
    told = "" if shown == len(pairs.images) else f"; {shown} of {len(pairs.images)} images"
    return f"{paired:,} of {points:,} points are paired ({share:.1f}%){told}"


def _shown(pairs: ScanPairs) -> list[int]:
    """The images with most pairs, in order."""
    counts = np.bincount(pairs.image, minlength=len(pairs.images))
    return sorted(np.argsort(-counts, kind="stable")[:_MOST_IMAGES].tolist())


def _row_height(pictures: Mapping[int, Colors], columns: int) -> float:
    """Inches of a row of images with its title."""
    if not pictures:
        return 0.5
    tallest = max(picture.shape[0] / picture.shape[1] for picture in pictures.values())
    return 0.35 + 0.97 * _WIDTH / columns * tallest


def _range(depth: npt.NDArray[np.float32]) -> tuple[float, float]:
    return (float(np.quantile(depth, 0.02)), float(np.quantile(depth, 0.98))) if len(depth) else (0.0, 1.0)


def _painted(picture: Colors, pairs: ScanPairs, place: int, ids: npt.NDArray[np.int64] | None, columns: int) -> Colors:
    """The image, smaller, with a part of its points: by depth, or by ``ids`` of those that have one (not negative)."""
    from PIL import Image

    width = round(100 * 0.97 * _WIDTH / columns)
    height = max(1, round(width * picture.shape[0] / picture.shape[1]))
    small = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
    canvas = (np.asarray(small) * _DARKER).astype(np.uint8)
    here = np.flatnonzero((pairs.image == place) & (True if ids is None else ids >= 0))
    area = _COVERED * width * height
    dot = int(np.clip(np.sqrt(area / max(1, len(here))), *_DOT))
    if len(here) > (most := max(1, int(area / dot**2))):
        here = np.sort(np.random.default_rng(0).choice(here, most, replace=False))
    here = here[np.argsort(-pairs.depth[here], kind="stable")]  # the nearest over others
    low, high = _range(pairs.depth)
    colors = (
        value_colors(-np.log(pairs.depth[here]), -np.log(high), -np.log(low)) if ids is None else id_colors(ids[here])
    )
    scale = np.array([width / picture.shape[1], height / picture.shape[0]])
    column, row = ((pairs.uv[here] + 0.5) * scale - dot / 2).round().astype(np.int64).T
    for down in range(dot):
        for right in range(dot):
            canvas[(row + down).clip(0, height - 1), (column + right).clip(0, width - 1)] = colors
    return canvas


def _by_color(points: int, pairs: ScanPairs, files: ImageFiles) -> tuple[Colors, npt.NDArray[Any]]:
    """(n, 3) the mean color of the pixels of each point, gray without any, and a rank that draws those first."""
    sums, counts = np.zeros((points, 3)), np.bincount(pairs.point, minlength=points)
    for place in np.unique(pairs.image).tolist():
        here = pairs.image == place
        u, v = pairs.uv[here].T
        np.add.at(sums, pairs.point[here], files.color(pairs.images[place])[v, u])
    colors = np.full((points, 3), NOTHING, np.uint8)
    seen = counts > 0
    colors[seen] = (sums[seen] / counts[seen, None]).round()
    return colors, seen.astype(np.int8)


def _by_id(points: int, pairs: ScanPairs, ids: npt.NDArray[np.int64]) -> tuple[Colors, npt.NDArray[Any]]:
    of_point = np.full(points, -1, np.int64)
    there = ids >= 0
    of_point[pairs.point[there]] = ids[there]
    return id_colors(of_point), (of_point >= 0).astype(np.int8)


def _phrase_ids(lines: npt.NDArray[np.int32], phrases: Mapping[int, str]) -> npt.NDArray[np.int64]:
    """(P,) a number for each pair that is the same for the same phrase; -1 without one."""
    known, inverse = np.unique(lines, return_inverse=True)
    numbers = [zlib.crc32(phrases[line].encode()) if line in phrases else -1 for line in known.tolist()]
    return np.array(numbers, np.int64)[inverse]


def _words(ids: npt.NDArray[np.int64], phrases: Mapping[int, str]) -> dict[str, tuple[int, int, int]]:
    """The phrases of most points, with their colors."""
    words = {zlib.crc32(phrase.encode()): phrase for phrase in phrases.values()}
    found, counts = np.unique(ids[ids >= 0], return_counts=True)
    most = found[np.argsort(-counts, kind="stable")[:_MOST_WORDS]]
    return {words[number]: tuple(color) for number, color in zip(most.tolist(), id_colors(most).tolist(), strict=True)}


def _cameras(pairs: ScanPairs, shown: list[int]) -> dict[str, tuple[int, int, int]]:
    """Name -> color of the images."""
    colors = id_colors(np.array(shown, np.int64) + 1).tolist()
    return {pairs.cameras[place]: tuple(color) for place, color in zip(shown, colors, strict=True)}
