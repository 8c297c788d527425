"""``ssl3d density``: how many points lie near each point."""

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

  ssl3d density                        the radius that suits the dataset
  ssl3d density --radius 0.3
  ssl3d density --preview first        and a picture of one scan

Exact counts within a ball around each point, the point itself included. DDSEmi
weighs points by them; the radius should find 20 to 200 points in a typical
place. Another radius is another product: earlier ones are kept."""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def density(
    radius: Annotated[
        float | None,
        typer.Option("--radius", metavar="METERS", help="Of the ball; else the dataset's.", show_default=False),
    ] = None,
    preview: stage_command.Preview = None,
    out: stage_command.PreviewOut = None,
    dataset: options.Dataset = None,
    workspace: options.Workspace = options.DEFAULT_WORKSPACE,
    jobs: options.Jobs = 0,
    debug: options.Debug = False,
) -> None:
    """Count the neighbors of every point within a radius, for all scans of the dataset prepared last."""
    from ssl3d.pipeline.stages.density import DensityStage

    given = [] if radius is None else [f"density.radius={radius}"]
    stage_command.run(
        workspace,
        dataset,
        lambda prepared: DensityStage.of(prepared, given),
        jobs=jobs,
        report=report,
        draw=draw,
        preview=preview,
        out=out,
    )


def report(dataset: PreparedDataset, run: StageRun) -> None:
    """Quantiles of the counts by subset, and a warning where the radius hardly suits."""
    from ssl3d.pipeline.stages.density import USUAL, summarize_density

    summary = summarize_density(run.product, stage_command.subsets_of(dataset))
    radius = run.product.manifest.params["radius"]
    rows = [
        (subset, f"{scans:,}", console.count_text(points), *(f"{value:,.0f}" for value in quantiles))
        for subset, scans, points, quantiles in summary.rows
    ]
    names = ("scans", "points", "least", "5%", "25%", "median", "75%", "95%", "most")
    columns: list[console.Column] = ["subset", *((name, "right") for name in names)]
    console.out().print(f"points within {radius:g} m of a point, itself included (quantiles: means over scans)")
    console.out().print(console.table(columns, rows))
    if summary.unusual:
        console.warn(
            f"the median count is {summary.median:.0f}, and outside of {USUAL[0]} to {USUAL[1]} counts hardly tell "
            f"sparse from dense places: try a {'larger' if summary.median < USUAL[0] else 'smaller'} --radius"
        )


def draw(dataset: PreparedDataset, product: Product, scan: ScanRef, path: Path) -> Path:
    """The scan by its counts (as a logarithm: they span orders of magnitude), and as Eq. 9 scales them."""
    import numpy as np

    from ssl3d.pipeline.drawing import Panel, preview, value_colors

    counts = stage_command.read_product(product, "density", scan).read("geom_count", scan.position)
    seen = counts[counts > 0]
    low, high = (int(seen.min()), int(seen.max())) if len(seen) else (0, 1)
    with np.errstate(divide="ignore"):
        logs = np.log10(counts.astype(np.float64))
    scaled = np.where(counts > 0, (counts - low) / max(1, high - low), np.nan)
    panels = [
        Panel(
            f"neighbors, {low:,} (blue) to {high:,} (yellow), log",
            value_colors(logs, np.log10(max(1, low)), np.log10(high)),
        ),
        Panel("Eq. 9: (n - min) / (max - min)", value_colors(scaled, 0.0, 1.0)),
    ]
    radius = product.manifest.params["radius"]
    middle = f"median {int(np.median(seen)) if len(seen) else 0:,} of {len(counts):,} points"
    points = dataset.source().view(scan.index).points
    return preview(
        path, points, panels, dataset.spec.sensor, title=f"{scan.scan_id}: points within {radius:g} m", below=middle
    )
