"""An image with what is said about it, as a PNG: the pixels of its entities, their phrases, its captions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ssl3d.data.captions.files import CaptionFiles
from ssl3d.data.captions.ids import image_id
from ssl3d.data.captions.membership import precedence
from ssl3d.data.captions.records import EntityCaption, ImageCaption
from ssl3d.data.captions.rle import decode
from ssl3d.data.errors import UsageError
from ssl3d.pipeline.drawing import DIM, TEXT, id_colors, new_figure, rgb, save_figure
from ssl3d.pipeline.product import Product

if TYPE_CHECKING:
    from ssl3d.pipeline.dataset import PreparedDataset, ScanRef

_OPAQUE = 0.55
_WIDE = 16.0
"""Inches."""


def scan_captions_picture(dataset: PreparedDataset, product: Product, scan: ScanRef, path: Path) -> Path:
    """Of the images of a scan, the one with most entities (then captions). UsageError when nothing is said of any."""
    from ssl3d.data.images import ImageFiles, chosen_frames
    from ssl3d.data.store import ShardReader
    from ssl3d.pipeline.captioning.images import CAMERAS

    name = f"{scan.unit}.{CAMERAS}.h5"
    if scan.unit not in product.done or name not in dataset.product.done[scan.unit].files:
        raise UsageError(
            "images of this scan are not captioned",
            where={"scan": scan.scan_id, "subset": scan.subset},
            hint="choose a train scan, or add --set images=all",
        )
    cameras = ShardReader(dataset.product.folder / name)
    begin, end = cameras.offsets[scan.position : scan.position + 2]
    references = [str(reference) for reference in cameras.array("image")[begin:end]]
    files = CaptionFiles.of(product.folder, scan.unit)
    found = [(files.entities(image_id(r)), files.images(image_id(r)), r) for r in references]
    found = [found[k] for k in chosen_frames(references)]
    if not found:
        raise UsageError("this scan has no image", where={"scan": scan.scan_id})
    entities, captions, reference = max(found, key=lambda item: (len(item[0]), len(item[1])))
    pixels = ImageFiles(dataset.product.manifest.identity["root"]).color(reference)
    return captions_picture(pixels, captions, entities, path, title=image_id(reference))


def captions_picture(
    pixels: npt.NDArray[np.uint8],
    captions: Sequence[ImageCaption],
    entities: Sequence[EntityCaption],
    path: Path,
    *,
    title: str,
) -> Path:
    """Writes a PNG: the image, the image under the pixels of its entities, and what is said.

    Args:
        pixels: (height, width, 3) uint8.
    """
    height, width = pixels.shape[:2]
    beside = width < 1.6 * height  # wide images stand one above the other
    tall = _WIDE * height / width * (0.5 if beside else 2.0)
    lines = [line for caption in captions for line in _lines(caption)] or ["no caption of this image"]
    below = 0.28 * len(lines) + 0.3
    figure = new_figure(_WIDE, tall + below + 0.9)
    total = float(figure.get_figheight())
    grid = figure.add_gridspec(
        *((1, 2) if beside else (2, 1)),
        left=0.01, right=0.99, top=1 - 0.75 / total, bottom=below / total, hspace=0.03, wspace=0.01,
    )  # fmt: skip
    figure.text(0.01, 1 - 0.15 / total, title, color=TEXT, fontsize=14, va="top")
    said = f"{len(entities)} entities, {len(captions)} captions; of several entities the surest has the pixel"
    figure.text(0.01, 1 - 0.45 / total, said, color=DIM, fontsize=11, va="top")
    for place, image in enumerate((pixels, painted(pixels, entities))):
        axes = figure.add_subplot(grid[divmod(place, 2) if beside else (place, 0)])
        axes.imshow(image)
        axes.set_axis_off()
    colors = _colors(entities)
    for k, entity in enumerate(entities):
        extent = entity.extent()
        if extent is not None:
            x, y = (extent[0] + extent[2]) / 2, (extent[1] + extent[3]) / 2
            words = f"{entity.phrase} {entity.score:.2f}"
            box = {"facecolor": rgb(colors[k]), "alpha": 0.85, "pad": 1.5, "edgecolor": "none"}
            ink = "black" if colors[k].mean() > 110 else "white"
            axes.text(x, y, words, fontsize=8, color=ink, ha="center", va="center", bbox=box, clip_on=True)
    for k, line in enumerate(lines):
        figure.text(0.01, (below - 0.15 - 0.28 * k) / total, line, color=TEXT, fontsize=11, va="top")
    return save_figure(figure, path)


def painted(pixels: npt.NDArray[np.uint8], entities: Sequence[EntityCaption]) -> npt.NDArray[np.uint8]:
    """The image, darker, under the colors of its entities; where several cover a pixel, of the one that wins it."""
    out = (pixels * 0.5).astype(np.uint8)
    colors = _colors(entities)
    for k in reversed(precedence(entities)):
        mask = decode(entities[k].counts(), *pixels.shape[:2])
        out[mask] = (_OPAQUE * colors[k] + (1 - _OPAQUE) * pixels[mask]).astype(np.uint8)
    return out


def _colors(entities: Sequence[EntityCaption]) -> npt.NDArray[np.uint8]:
    return id_colors(np.arange(1, len(entities) + 1))  # 0 would be gray


def _lines(caption: ImageCaption) -> list[str]:
    region = "" if caption.region is None else " [" + ", ".join(f"{value:g}" for value in caption.region) + "]"
    return textwrap.wrap(f"{caption.index}{region}: {caption.text}", 150)[:4]
