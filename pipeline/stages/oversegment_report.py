"""What ``ssl3d oversegment`` tells about its product: sizes from the journal, quality on visible labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssl3d.data.errors import DataError, UsageError

if TYPE_CHECKING:
    from ssl3d.pipeline.dataset import PreparedDataset
    from ssl3d.pipeline.product import Product
    from ssl3d.pipeline.progress import Progress

MOST_SCANS = 64
"""Labelled scans that quality is measured on at most, evenly spread."""


@dataclass(frozen=True, slots=True)
class SizeRow:
    """Of a subset: means over its scans that have regions. ``without``: share of points that have none."""

    subset: str
    scans: int
    regions: float
    least: int
    most: int
    smallest: float
    median: float
    largest: float
    pairs: float
    without: float


@dataclass(frozen=True, slots=True)
class Quality:
    """On visible labels.

    Attributes:
        split: its name. scans: measured, of ``labelled`` ones. points: with a visible label and a region.
        purity: share of them with the most frequent visible label of their region.
        edges: points with another visible label among their nearest; ``recall``: share of them that also have another
            region among these.
    """

    split: str
    scans: int
    labelled: int
    points: int
    purity: float
    edges: int
    recall: float


def summarize_sizes(product: Product, dataset: PreparedDataset) -> list[SizeRow]:
    """One row for each subset, from the journals alone."""
    import numpy as np

    found: dict[str, list[tuple[int, ...]]] = {}
    points: dict[str, int] = {}
    without: dict[str, int] = {}
    subsets = {scan.unit: scan.subset for scan in dataset.scans}
    for unit, entry in sorted(product.done.items()):
        subset, info = subsets[unit], entry.info
        rows = [(*sizes, pairs) for sizes, pairs in zip(info["sizes"], info["pairs"], strict=True) if sizes[0]]
        found.setdefault(subset, []).extend(rows)
        points[subset] = points.get(subset, 0) + sum(dataset.product.done[unit].info["num_points"])
        without[subset] = without.get(subset, 0) + sum(info["without"])
    table = []
    for subset, rows in found.items():
        values = np.array(rows, np.float64).reshape(-1, 5)
        mean = values.mean(axis=0) if len(rows) else np.zeros(5)
        least, most = (int(values[:, 0].min()), int(values[:, 0].max())) if len(rows) else (0, 0)
        share = without[subset] / max(1, points[subset])
        table.append(SizeRow(subset, len(rows), mean[0], least, most, mean[1], mean[2], mean[3], mean[4], share))
    return table


def visible_quality(
    dataset: PreparedDataset, product: Product, *, threads: int = 1, progress: Progress
) -> Quality | None:
    """Purity and boundary recall on the labels that the current split shows; None without a split or such labels.

    Hidden labels are never opened: this reads ``VisibleSource``.
    """
    import numpy as np

    from ssl3d.data.geometry.region_quality import count_boundaries, count_pure
    from ssl3d.data.geometry.sensor_metric import grows_with_range
    from ssl3d.data.store import ShardReader
    from ssl3d.pipeline.splits import find_split

    try:
        split = find_split(dataset.handle)
        source = dataset.visible(split)
    except (UsageError, DataError):  # none, or one of scans that were prepared otherwise
        return None
    count = min(MOST_SCANS, len(source.labelled))
    chosen = source.labelled[np.linspace(0, len(source.labelled) - 1, count).round().astype(int)]
    params = product.manifest.params
    pure = known = kept = edges = 0
    with progress.task("quality", total=count, unit="scan") as task:
        for index in chosen:
            view = source.view(int(index))
            task.advance()
            if not len(view):
                continue
            scan = dataset.scans[int(view.rows[0, 0])]  # a part of a cut scan has rows of the whole one
            whole = ShardReader(product.folder / f"{scan.unit}.regions.h5").read("region_id", scan.position)
            region = whole[view.rows[:, 1]]
            good, all_ = count_pure(region, view.label)
            longer = np.ones(len(view))
            if params["neighborhood"] == "sensor":
                longer = grows_with_range(view.points, params["range_start"])
            found, all_edges = count_boundaries(
                view.points, region, view.label, params["adjacency_reach"] * longer, threads=threads
            )
            pure, known, kept, edges = pure + good, known + all_, kept + found, edges + all_edges
    if not known:
        return None
    return Quality(
        split.name, count, len(source.labelled), known, pure / known, edges, kept / edges if edges else float("nan")
    )


def advice(rows: list[SizeRow], params: Mapping[str, object]) -> str | None:
    """What to try where the regions can hardly be of use; None where they look right."""
    if params["algorithm"] == "shipped" and (bare := [row.subset for row in rows if row.without > 0.5]):
        return (
            f"most points of {' and '.join(bare)} have no region: scans came without segments (as ScanNet's test scans "
            "do); felzenszwalb makes such segments: ssl3d oversegment --algorithm felzenszwalb"
        )
    rows = [row for row in rows if row.scans]
    if not rows:
        return "no point has a region"
    smallest, reach = int(str(params["smallest"])), float(str(params["reach"]))
    if params["algorithm"] == "region-growing" and all(row.largest < 4 * smallest for row in rows):
        largest = max(row.largest for row in rows)
        return (
            f"regions hardly grew (the largest have {largest:.0f} points on average): too far apart for these "
            f"lengths; try a larger reach, e.g. --set reach={5 * reach:g}"
        )
    if all(row.regions < 2 for row in rows):
        return "most scans are a single region: try a smaller angle, e.g. --set angle=5"
    return None
