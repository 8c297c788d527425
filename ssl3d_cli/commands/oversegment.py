"""``ssl3d oversegment``: cutting scans into regions of one surface each."""

from __future__ import annotations

from enum import Enum
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

  ssl3d oversegment                            region growing
  ssl3d oversegment --algorithm felzenszwalb   on a mesh, or on neighbors
  ssl3d oversegment --algorithm shipped        ScanNet's own segments
  ssl3d oversegment --set angle=8              keys: --list-keys
  ssl3d oversegment --preview first            and a picture of one scan

WS3D trains on regions: what lies in one is taken for one thing. Of each scan
this stores a region for every point (-1 without one), normals, curvatures and
which regions touch. Lengths and angles are tuned for each dataset. Purity and
boundary recall are printed for labels that the current split shows; hidden
ones are not looked at. Other parameters are another product: earlier ones are
kept."""

app = typer.Typer(add_completion=False)


class Algorithm(str, Enum):
    GROWING = "region-growing"
    FELZENSZWALB = "felzenszwalb"
    SHIPPED = "shipped"


@app.command(epilog=EPILOG)
def oversegment(
    algorithm: Annotated[
        Algorithm | None,
        typer.Option(
            "--algorithm", help="Else the dataset's: region growing; ScanNet: felzenszwalb.", show_default=False
        ),
    ] = None,
    settings: stage_command.Set = None,
    list_keys: Annotated[bool, typer.Option("--list-keys", help="Show what --set takes, and stop.")] = False,
    preview: stage_command.Preview = None,
    out: stage_command.PreviewOut = None,
    dataset: options.Dataset = None,
    workspace: options.Workspace = options.DEFAULT_WORKSPACE,
    jobs: options.Jobs = 0,
    debug: options.Debug = False,
) -> None:
    """Cut scans into regions of one surface each, for all scans of the dataset prepared last."""
    from ssl3d.pipeline.stages.oversegment import OversegmentStage

    given = [] if algorithm is None else [f"oversegment.algorithm={algorithm.value}"]
    given += settings or []
    if list_keys:
        print_keys(workspace, dataset, given)
        return
    stage_command.run(
        workspace,
        dataset,
        lambda prepared: OversegmentStage.of(prepared, given),
        jobs=jobs,
        report=lambda prepared, run: report(prepared, run, jobs),
        draw=draw,
        preview=preview,
        out=out,
    )


def print_keys(workspace: Path, dataset: str | None, given: list[str]) -> None:
    """The parameters as they would be used on the dataset."""
    from ssl3d.pipeline.dataset import PreparedDataset
    from ssl3d.pipeline.stages.oversegment import OversegmentParams, OversegmentStage

    prepared = PreparedDataset(options.open_workspace(workspace, create=False).dataset(dataset))
    values = OversegmentStage.of(prepared, given).params.model_dump(mode="json")
    rows = [
        (name, "none" if values[name] is None else str(values[name]), field.description or "")
        for name, field in OversegmentParams.model_fields.items()
    ]
    console.out().print(console.table(["key", f"on {prepared.name}", "what it is"], rows))


def report(dataset: PreparedDataset, run: StageRun, jobs: int) -> None:
    """Sizes by subset, quality on visible labels, and a warning where the parameters hardly suit."""
    from ssl3d.pipeline.stages.oversegment_report import advice, summarize_sizes, visible_quality

    sizes = summarize_sizes(run.product, dataset)
    rows = [
        (
            row.subset,
            f"{row.scans:,}",
            f"{row.regions:,.0f}",
            f"{row.least:,} to {row.most:,}",
            *(f"{value:,.0f}" for value in (row.smallest, row.median, row.largest, row.pairs)),
            console.percent_text(row.without),
        )
        for row in sizes
    ]
    names = ("scans", "regions", "range", "smallest", "median", "largest", "adjacent pairs", "without region")
    columns: list[console.Column] = ["subset", *((name, "right") for name in names)]
    params = run.product.manifest.params
    console.out().print(f"{params['algorithm']}: regions of a scan, and their points (means over scans)")
    console.out().print(console.table(columns, rows))
    found = visible_quality(dataset, run.product, threads=max(1, jobs), progress=console.ConsoleProgress())
    if found is None:
        console.out().print("no visible labels: after `ssl3d split`, purity and boundary recall are printed here")
    else:
        scans = f"{found.scans:,} labelled scans" + (f" of {found.labelled:,}" if found.scans < found.labelled else "")
        recall = f"{console.percent_text(found.recall)} of {found.edges:,} points" if found.edges else "no boundaries"
        console.out().print(f"on visible labels ({found.split}, {scans}):")
        console.out().print(
            f"  purity {console.percent_text(found.purity)} of {console.count_text(found.points)} points, "
            f"boundary recall {recall}"
        )
    hint = advice(sizes, params)
    if hint:
        console.warn(hint)


def draw(dataset: PreparedDataset, product: Product, scan: ScanRef, path: Path) -> Path:
    """The scan by regions, normals (red, green, blue: how much they point along x, y, z) and curvature."""
    import numpy as np

    from ssl3d.pipeline.drawing import NOTHING, Panel, id_colors, preview, value_colors

    read = stage_command.read_product(product, "regions", scan).read_many(
        ("region_id", "normal", "curvature"), scan.position
    )
    region = read["region_id"]
    there = region >= 0
    normals = (55 + 200 * np.abs(read["normal"].astype(np.float64))).clip(0, 255).astype(np.uint8)
    normals[~there] = NOTHING
    curvature = np.where(there, read["curvature"].astype(np.float64), np.nan)
    count = int(region.max(initial=-1)) + 1
    panels = [
        Panel(f"{count:,} regions", id_colors(region)),
        Panel("normals |x y z|", normals),
        Panel("curvature to 0.1", value_colors(curvature, 0.0, 0.1)),
    ]
    algorithm = product.manifest.params["algorithm"]
    below = f"{algorithm}; {int(there.sum()):,} of {len(region):,} points have a region"
    points = dataset.source().view(scan.index).points
    return preview(path, points, panels, dataset.spec.sensor, title=f"{scan.scan_id}: {count:,} regions", below=below)
