"""``ssl3d boundary``: where semantic classes meet, learned from the labelled scans."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssl3d.cli import console, options, stage_command

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ssl3d.pipeline.dataset import PreparedDataset, ScanRef
    from ssl3d.pipeline.product import Product
    from ssl3d.pipeline.stage_run import StageRun
    from ssl3d.pipeline.stages.boundary_summary import BoundarySummary, Counts

EPILOG = """\
[bold]Example[/]

  ssl3d oversegment; ssl3d boundary    100 epochs on the labelled scans
  ssl3d boundary --steps 2000 --backbone minkunet14
  ssl3d boundary --set rule=interface  another rule: no new training
  ssl3d boundary --preview first       and a picture of one scan
  ssl3d boundary --list-keys           every key of --set

WS3D's boundary network sees the labels of the split and no others; some labelled scans (--set holdout=0.2) are \
kept out of its training, and precision, recall and F1 are measured on them. Then it predicts every scan, and says of \
every pair of adjacent regions whether a boundary runs through both. Killed at any time, the same command goes on."""

app = typer.Typer(add_completion=False)

HIT, FALSE, MISSED, UNKNOWN = (63, 185, 80), (210, 153, 34), (248, 81, 73), (72, 79, 88)
NEITHER = (38, 44, 54)


@app.command(epilog=EPILOG)
def boundary(
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, metavar="N", help="Of training; else 100 epochs, 1,000 to 40,000 steps."),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            metavar="NAME",
            autocompletion=options.complete_backbone,
            help="A sparse U-Net: spunet16 (default), minkunet14, spunet-micro ...",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of weights, batches, held-out scans.")] = 0,
    settings: stage_command.Set = None,
    list_keys: Annotated[bool, typer.Option("--list-keys", help="Only list the keys of --set.")] = False,
    preview: stage_command.Preview = None,
    out: stage_command.PreviewOut = None,
    dataset: options.Dataset = None,
    workspace: options.Workspace = options.DEFAULT_WORKSPACE,
    jobs: options.Jobs = 0,
    device: options.Device = "auto",
    debug: options.Debug = False,
) -> None:
    """Learn from the labelled scans where classes meet, and predict it for all scans of the dataset prepared last."""
    from ssl3d.pipeline.stages.boundary import BoundaryStage

    if list_keys:
        draw_keys(workspace, dataset, backbone, settings or [])
        return
    place = options.resolve_device(device)
    stage_command.run(
        workspace,
        dataset,
        lambda prepared: BoundaryStage.of(
            prepared, settings or [], backbone=backbone, steps=steps, seed=seed, device=place
        ),
        jobs=jobs,
        report=report,
        draw=draw,
        preview=preview,
        out=out,
    )


def draw_keys(workspace: Path, dataset: str | None, backbone: str | None, settings: list[str]) -> None:
    """Every key of ``--set`` with its value on this dataset."""
    from rich.markup import escape

    from ssl3d.pipeline.dataset import PreparedDataset
    from ssl3d.pipeline.stages.boundary_params import choose

    prepared = PreparedDataset(options.open_workspace(workspace, create=False).dataset(dataset))
    choice = choose(prepared.spec, settings, backbone=backbone)
    rows = [tuple(escape(str(cell)) for cell in row) for row in choice.describe()]
    console.out().print(console.table(["key", "value", "expects", "what it is"], rows))


def report(dataset: PreparedDataset, run: StageRun) -> None:
    """How well boundaries are found on visible labels, then what was found everywhere."""
    from ssl3d.pipeline.stages.boundary_summary import HELD, summarize_boundary

    summary = summarize_boundary(run.product, stage_command.subsets_of(dataset))
    paper = console.out()
    columns: list[console.Column] = ["labelled scans", *((name, "right") for name in _QUALITY)]
    paper.print("boundary points on visible labels, in percent")
    paper.print(console.table(columns, [_quality_row(name, counts) for name, counts in summary.quality.items()]))
    if HELD not in summary.quality:
        console.warn("no labelled scan was held out, so how well boundaries are found elsewhere is not known")
    used = max((counts.f1 or 0.0 for counts in summary.quality.values()), default=0.0)
    threshold, best = summary.curve.best
    if best > used + 0.02:
        paper.print(
            f"threshold {run.product.manifest.params['threshold']:g}; over all of these points F1 would be best, "
            f"{100 * best:.1f}, with --set threshold={threshold:g} (no new training)"
        )
    columns = ["subset", *((name, "right") for name in ("scans", "points", "boundary", "pairs", "across a boundary"))]
    paper.print(console.table(columns, _subset_rows(summary)))
    if unseen := sum(totals.unseen for totals in summary.subsets.values()):
        console.warn(f"of {unseen:,} scans the network sees no point (cropped, or not finite): no boundary there")


_QUALITY = ("scans", "points", "boundary", "precision", "recall", "F1")


def _quality_row(name: str, counts: Counts) -> tuple[str, ...]:
    shares = (counts.share, counts.precision, counts.recall, counts.f1)
    return name, f"{counts.scans:,}", console.count_text(counts.points), *(_percent(share) for share in shares)


def _subset_rows(summary: BoundarySummary) -> list[tuple[str, ...]]:
    return [
        (
            name,
            f"{totals.scans:,}",
            console.count_text(totals.points),
            _percent(totals.boundary / totals.points if totals.points else None),
            console.count_text(totals.pairs),
            _percent(totals.across / totals.pairs if totals.pairs else None),
        )
        for name, totals in summary.subsets.items()
    ]


def _percent(share: float | None) -> str:
    return "[dim]-[/]" if share is None else f"{100 * share:.1f}"


def draw(dataset: PreparedDataset, product: Product, scan: ScanRef, path: Path) -> Path:
    """The probabilities, right and wrong where labels are visible, and how many neighbors of a region are across."""
    from ssl3d.data.geometry.boundary import boundary_points
    from ssl3d.data.scan import IGNORE
    from ssl3d.pipeline.drawing import Panel, preview, value_colors

    reader = stage_command.read_product(product, "boundary", scan)
    probability = reader.read("boundary_prob", scan.position).astype("f4")
    view = dataset.visible().view(scan.index)
    truth = boundary_points(view.points, view.label, float(reader.attrs["radius"]))
    found = probability > float(reader.attrs["threshold"])
    across = value_colors(_shares(dataset, product, scan), 0.0, 1.0)
    panels = [Panel("boundary probability", value_colors(probability, 0.0, 1.0), probability)]
    if (truth != IGNORE).any():
        panels.append(Panel("visible labels", _judged(truth, found), truth == 1))
    panels.append(Panel("neighbors across", across))
    known, share = int((truth != IGNORE).sum()), 100 * float(found.mean()) if len(found) else 0.0
    below = (
        f"boundary: {share:.1f}% of {len(found):,} points; labels are visible of {known:,}. Blue (0) to yellow (1): "
    )
    below += "the probability of a boundary; the share of a region's neighbors with which it shares one"
    words = {"found": HIT, "false": FALSE, "missed": MISSED, "neither": NEITHER, "no visible label": UNKNOWN}
    title = f"{scan.scan_id}: semantic boundaries"
    return preview(
        path, view.points, panels, dataset.spec.sensor, title=title, below=below, legend=words if known else None
    )


def _judged(truth: npt.NDArray[np.uint8], found: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    import numpy as np

    from ssl3d.data.scan import IGNORE

    table = np.array([NEITHER, FALSE, MISSED, HIT, UNKNOWN], np.uint8)
    return table[np.where(truth == IGNORE, 4, 2 * (truth == 1) + found)]


def _shares(dataset: PreparedDataset, product: Product, scan: ScanRef) -> npt.NDArray[np.float64]:
    """(n,) of the pairs of a point's region, the share that is labelled 1; NaN without a region or a pair."""
    import numpy as np

    from ssl3d.pipeline.stages.boundary import PAIRS, REGIONS

    regions = dataset.handle.product("oversegment", product.manifest.needs["oversegment"]["key"])
    if regions is None:  # removed since
        return np.full(scan.num_points, np.nan)
    region = stage_command.read_product(regions, REGIONS[0], scan).read(REGIONS[1], scan.position)
    pairs = stage_command.read_product(regions, PAIRS[0], scan).read(PAIRS[1], scan.position)
    label = stage_command.read_product(product, "boundary_pairs", scan).read("boundary_label", scan.position)
    count = max(int(region.max(initial=-1)), int(pairs.max(initial=-1))) + 2  # one more, for points of no region
    all_, across = (
        np.bincount(pairs.reshape(-1), minlength=count),
        np.bincount(pairs.reshape(-1), np.repeat(label, 2), count),
    )
    share = np.full(count, np.nan)
    share[all_ > 0] = across[all_ > 0] / all_[all_ > 0]
    return share[region]
