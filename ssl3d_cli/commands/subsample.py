"""``ssl3d subsample``: scans thinned on a grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssl3d.cli import console, options, stage_command

if TYPE_CHECKING:
    from ssl3d.pipeline.dataset import PreparedDataset, ScanRef
    from ssl3d.pipeline.product import Product
    from ssl3d.pipeline.stage_run import StageRun

EPILOG = """\
[bold]Example[/]

  ssl3d subsample                      the grid that suits the dataset
  ssl3d subsample --grid 0.1
  ssl3d subsample --preview first      and a picture of one scan

One point a cell: the mean of its points, with their mean intensity and color.
Backbones that work on points read it; predictions go back to every original
point along the nearest thinned one. Labels stay with the split."""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def subsample(
    grid: Annotated[
        float | None,
        typer.Option("--grid", metavar="METERS", help="Side of a cell; else the dataset's.", show_default=False),
    ] = None,
    preview: stage_command.Preview = None,
    out: stage_command.PreviewOut = None,
    dataset: options.Dataset = None,
    workspace: options.Workspace = options.DEFAULT_WORKSPACE,
    jobs: options.Jobs = 0,
    debug: options.Debug = False,
) -> None:
    """Thin all scans of the dataset prepared last to one point a grid cell, with the way back to every point."""
    from ssl3d.pipeline.stages.subsample import SubsampleStage

    given = [] if grid is None else [f"subsample.grid={grid}"]
    stage_command.run(
        workspace,
        dataset,
        lambda prepared: SubsampleStage.of(prepared, given),
        jobs=jobs,
        report=report,
        draw=draw,
        preview=preview,
        out=out,
    )


def report(dataset: PreparedDataset, run: StageRun) -> None:
    """Points before and after, by subset."""
    kept = {unit: entry.info["kept"] for unit, entry in run.product.done.items()}
    sums: dict[str, list[int]] = {}
    for scan in dataset.scans:
        found = sums.setdefault(scan.subset, [0, 0, 0])
        for place, value in enumerate((1, scan.num_points, kept[scan.unit][scan.position])):
            found[place] += value
    rows = [
        (
            subset,
            f"{scans:,}",
            console.count_text(points),
            console.count_text(thinned),
            f"{thinned / max(1, scans):,.0f}",
        )
        for subset, (scans, points, thinned) in sums.items()
    ]
    columns: list[console.Column] = ["subset", *((name, "right") for name in ("scans", "points", "kept", "a scan"))]
    console.out().print(f"one point a cell of {run.product.manifest.params['grid']:g} m")
    console.out().print(console.table(columns, rows))


def draw(dataset: PreparedDataset, product: Product, scan: ScanRef, path: Path) -> Path:
    """The scan and its thinned copy, colored by height or as recorded."""
    import numpy as np

    from ssl3d.pipeline.drawing import Panel, preview, value_colors
    from ssl3d.pipeline.stages.subsample import thinned_view

    views = {"recorded": dataset.source().view(scan.index), "thinned": thinned_view(product, scan)}
    finite = views["recorded"].points[np.isfinite(views["recorded"].points).all(axis=1)]
    low, high = np.quantile(finite[:, 2], [0.02, 0.98]) if len(finite) else (0.0, 1.0)
    panels = [
        Panel(f"{name}, {len(view):,} points", value_colors(view.points[:, 2], low, high), points=view.points)
        for name, view in views.items()
    ]
    title = f"{scan.scan_id}: one point a cell of {product.manifest.params['grid']:g} m"
    return preview(path, views["recorded"].points, panels, dataset.spec.sensor, title=title, below="color: height")
