"""``ssl3d bench tta``: what test-time augmentation gains for finished runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from ssl3d.cli import console, options

EPILOG = """\
[bold]Example[/]

  ssl3d bench tta                       every finished run
  ssl3d bench tta RUN_A RUN_B RUN_C     three seeds: mean and interval
  ssl3d bench tta --json tta.json --docs docs/benchmarks.md

Each run is evaluated without and with flip, rotate, scale and all of them (33 looks at every scan in all); what is
already evaluated is not computed. Stopped at any time, the same command goes on."""


def tta(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...",
            autocompletion=options.complete_run,
            help="Which runs; none: every finished run of the dataset.",
            show_default=False,
        ),
    ] = None,
    subset: Annotated[
        Literal["val", "train", "holdout"], typer.Option("--subset", help="Which scans are evaluated.")
    ] = "val",
    weights: Annotated[Literal["auto", "own", "ema"], typer.Option("--weights", help="See ssl3d eval.")] = "auto",
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures there.", show_default=False)
    ] = None,
    docs: Annotated[
        Path | None,
        typer.Option(
            "--docs", metavar="FILE", help="Also replace the marked section of this page.", show_default=False
        ),
    ] = None,
    dataset: options.Dataset = None,
    workspace: options.Workspace = options.DEFAULT_WORKSPACE,
    jobs: options.Jobs = 0,
    device: options.Device = "auto",
    debug: options.Debug = False,
) -> None:
    """What test-time augmentation gains: finished runs, evaluated with it and without.

    mIoU under the protocol of each run. Runs that differ in their seed alone are put together: the mean of their paired
    differences, which gains or loses only where its 95% interval excludes zero.
    """
    from ssl3d.benchmarks import tta as measured
    from ssl3d.benchmarks.pages import write_section
    from ssl3d.cli.commands.bench import describe_machine, write_figures
    from ssl3d.cli.commands.eval import choose_runs

    start = time.monotonic()
    space = options.open_workspace(workspace, create=False)
    chosen = choose_runs(space, runs or [], dataset, subset, weights)
    place = options.resolve_device(device)
    progress = console.ConsoleProgress()
    records = measured.measure(
        space, chosen, subset=subset, weights=weights, device=place, jobs=jobs, progress=progress
    )
    machine = describe_machine("ssl3d bench tta")
    paper = console.out()
    for group in measured.gains(records):
        paper.print(measured.title(group), style="bold", markup=False)
        columns: list[console.Column] = [measured.COLUMNS[0], *((name, "right") for name in measured.COLUMNS[1:])]
        paper.print(console.table(columns, [tuple(map(_plain, measured.cells(gain))) for gain in group]))
    facts: dict[str, object] = {}
    if json_file is not None:
        write_figures(json_file, measured.figures(records, machine))
        facts["wrote"] = json_file
    if docs is not None:
        write_section(docs, "tta", measured.markdown(records, machine))
        facts["page"] = docs
    facts["took"] = console.time_text(time.monotonic() - start)
    console.done(f"test-time augmentation of {len(records)} run{'s' * (len(records) > 1)}", facts)


def _plain(text: str) -> str:
    """Intervals stand in square brackets, which rich would read as markup."""
    from rich.markup import escape

    return escape(text)
