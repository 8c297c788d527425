"""``ssl3d pair``: which points the images show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ssl3d.cli import console, options, stage_command

if TYPE_CHECKING:
    from ssl3d.pipeline.dataset import PreparedDataset, ScanRef
    from ssl3d.pipeline.product import Product
    from ssl3d.pipeline.stage_run import StageRun
    from ssl3d.pipeline.stages.pair_summary import PairSummary

EPILOG = """\
[bold]Example[/]

  ssl3d pair                           as suits the dataset
  ssl3d pair --preview first           and a picture of one scan: look at it
  ssl3d pair --occlusion zbuffer       without points that others hide
  ssl3d pair --set pair.min_depth=0.5

A point is paired with a pixel if it lies ahead of the camera, inside the image
and, where that is tested, nothing hides it; with one of every image that shows
it. An image that is gone, or of another size than its calibration, is an error
that names it. Of .sens streams every hundredth frame is used.

[bold]--occlusion[/]

  none     no test: what LASS3D and CLIP2Scene do with LiDAR scans.
  zbuffer  points at most 2% and 0.3 m behind the nearest of 4 x 4 pixels.
  depth    points within 5 cm of what a depth camera measured there.
  auto     depth where images have depth maps (ScanNet), else none.

Captions of the images (ssl3d caption) are used where they are there: points
get the entities of their pixels. After new captions type ssl3d pair again."""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def pair(
    occlusion: Annotated[
        Literal["auto", "none", "zbuffer", "depth"] | None,
        typer.Option("--occlusion", help="How hidden points are found; else auto.", show_default=False),
    ] = None,
    changes: stage_command.Set = None,
    preview: stage_command.Preview = None,
    out: stage_command.PreviewOut = None,
    dataset: options.Dataset = None,
    workspace: options.Workspace = options.DEFAULT_WORKSPACE,
    jobs: options.Jobs = 0,
    debug: options.Debug = False,
) -> None:
    """Find the pixels of every point in the images of its scan, for all scans of the dataset prepared last."""
    from ssl3d.pipeline.stages.pair import PairStage

    given = [*(changes or []), *([] if occlusion is None else [f"pair.occlusion={occlusion}"])]
    stage_command.run(
        workspace,
        dataset,
        lambda prepared: PairStage.of(prepared, given),
        jobs=jobs,
        report=report,
        draw=draw,
        preview=preview,
        out=out,
    )


def report(dataset: PreparedDataset, run: StageRun) -> None:
    """Counts by subset and camera, beside what is usual; and what looks wrong."""
    from ssl3d.pipeline.stages.pair_summary import summarize_pairs

    summary = summarize_pairs(run.product, stage_command.subsets_of(dataset))
    names = ["scans", "with images", "images", "points", "paired", "images a point"]
    names += ["with an entity", "with a caption"] if summary.captions else []
    rows = []
    for subset, count in summary.subsets.items():
        row = [subset, f"{count.scans:,}", f"{count.pictured:,}", f"{count.images:,}", console.count_text(count.points)]
        row += [console.percent_text(count.share), f"{count.pairs / max(1, count.paired):.2f}"]
        if summary.captions:
            row += [console.percent_text(part / max(1, count.points)) for part in (count.entity, count.captioned)]
        rows.append(row)
    columns: list[console.Column] = ["subset", *((name, "right") for name in names)]
    paper = console.out()
    paper.print(console.table(columns, rows))
    usual = dataset.spec.paired
    if usual is not None:
        low, high = (f"{100 * share:.0f}" for share in usual)
        paper.print(f"paired, of the points of scans with images; usual for {dataset.spec.title}: {low} to {high}%")
    if len(summary.cameras) > 1:
        parts = (f"{name} {pairs / max(1, images):,.0f}" for name, (images, pairs) in summary.cameras.items())
        paper.print(f"points an image: {', '.join(parts)}", highlight=False)
    if not summary.captions:
        paper.print("without captions: after `ssl3d caption` type `ssl3d pair` again", highlight=False)
    _warn(summary, usual)


def _warn(summary: PairSummary, usual: tuple[float, float] | None) -> None:
    total, look = summary.total, "look at a scan with --preview first"
    if not total.images:
        console.warn("no scan has an image: put them where the dataset's layout has them, and prepare it again")
    if summary.unusual(usual) and usual is not None:
        share, low, high = (f"{100 * value:.1f}%" for value in (total.share, *usual))
        console.warn(f"{share} of the points are paired, {low} to {high} are usual: is the calibration right? {look}")
    if blind := summary.blind():
        console.warn(f"no image of {', '.join(blind)} shows a point: is the calibration right? {look}")
    elif summary.empty:
        console.warn(f"{summary.empty:,} of {total.images:,} images show no point")
    told = {
        "lost": "{} images have no pose or calibration (not finite), and no pairs; the first: {}",
        "untested": "{} images have no depth map, and no pairs; the first: {} (--occlusion none takes them)",
        "odd": "the optical axes of {} images are far from their middles: were images resized or cut without their "
        f"calibration? The first: {{}}; {look}",
    }
    for name, (number, first) in summary.notes.items():
        console.warn(told[name].format(f"{number:,}", first))


def draw(dataset: PreparedDataset, product: Product, scan: ScanRef, path: Path) -> Path:
    """The images with points on them, and the points in the colors of the images and of entities."""
    from ssl3d.data.images import ImageFiles
    from ssl3d.pipeline.pair_picture import pair_picture
    from ssl3d.pipeline.pairs import PairSource

    pairs = PairSource.of(dataset, product).pairs(scan.index)
    params = product.manifest.params
    return pair_picture(
        path,
        dataset.source().view(scan.index).points,
        pairs,
        ImageFiles(dataset.product.manifest.identity["root"]),
        dataset.spec.sensor,
        title=f"{scan.scan_id}: points in images, occlusion {params['occlusion']}",
    )
