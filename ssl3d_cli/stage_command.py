"""What the commands of stages share: options, running a stage of the current dataset, and its previews."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl3d.cli import console, options
from ssl3d.data.errors import UsageError
from ssl3d.data.text import nearest

if TYPE_CHECKING:
    from ssl3d.pipeline.dataset import PreparedDataset, ScanRef
    from ssl3d.pipeline.product import Product
    from ssl3d.pipeline.stage import Stage
    from ssl3d.pipeline.stage_run import StageRun

Preview = Annotated[
    str | None,
    typer.Option("--preview", metavar="SCAN", help="Also draw this scan (00/000123, or first).", show_default=False),
]
PreviewOut = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="The PNG of --preview; else in the workspace.", show_default=False),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a parameter; may be repeated.", show_default=False),
]

Draw = Callable[["PreparedDataset", "Product", "ScanRef", Path], Path]
"""Writes the picture of one scan to a path."""


def run(
    workspace: Path,
    dataset: str | None,
    make: Callable[[PreparedDataset], Stage],
    *,
    jobs: int,
    report: Callable[[PreparedDataset, StageRun], None],
    draw: Draw | None = None,
    preview: str | None = None,
    out: Path | None = None,
    then: Sequence[str] = (),
) -> StageRun:
    """Runs a stage, prints its report, draws a scan if asked, and sums up.

    Args:
        make: the stage for the dataset.
        report: prints what was found, on stdout.
        draw: of stages that have a picture.
        preview: id of the scan to draw, or ``first``.
    """
    from ssl3d.pipeline.dataset import PreparedDataset
    from ssl3d.pipeline.stages.per_scan import run_on

    if out is not None and preview is None:
        raise UsageError("--out belongs to --preview.", hint="Type: --preview first --out FILE.png")
    start = time.monotonic()
    space = options.open_workspace(workspace, create=False)
    handle = space.dataset(dataset)
    prepared = PreparedDataset(handle)
    scan = find_scan(prepared, preview) if preview is not None else None
    done = run_on(space, make, dataset=handle.name, jobs=jobs, progress=console.ConsoleProgress())
    report(prepared, done)
    told: dict[str, object] = {"where": done.product.folder}
    if scan is not None and draw is not None:
        name = f"{done.product.manifest.stage}-{scan.scan_id.replace('/', '-')}-{done.product.key[:6]}.png"
        told["picture"] = draw(prepared, done.product, scan, out or space.root / "previews" / handle.name / name)
    told |= {
        "cached": f"{done.cached} of {len(done.product.manifest.plan)} units",
        "took": console.time_text(time.monotonic() - start),
    }
    console.done(
        f"{done.product.manifest.stage} of {handle.name}", told, then=[options.command_line(*then)] if then else []
    )
    return done


def find_scan(dataset: PreparedDataset, name: str) -> ScanRef:
    """The scan with this id, or the ``first`` one. UsageError that names the nearest."""
    if name == "first" and dataset.scans:
        return dataset.scans[0]
    if name not in dataset.by_id:
        near = nearest(name, dataset.by_id)
        examples = ", ".join(scan.scan_id for scan in dataset.scans[:3])
        raise UsageError(
            f"no prepared scan is called '{name}'",
            where={"dataset": dataset.name},
            hint=f"did you mean {near}?" if near else f"scans are called {examples} ...",
        )
    return dataset.by_id[name]


def subsets_of(dataset: PreparedDataset) -> dict[str, str]:
    """Unit -> subset."""
    return {scan.unit: scan.subset for scan in dataset.scans}


def read_product(product: Product, kind: str, scan: ScanRef) -> Any:
    """The reader of ``<unit>.<kind>.h5`` of the scan; its row is ``scan.position``."""
    from ssl3d.data.store import ShardReader

    return ShardReader(product.folder / f"{scan.unit}.{kind}.h5")
