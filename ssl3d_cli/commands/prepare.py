"""``ssl3d prepare``: a dataset as published -> shards. Cached per unit, resumable; ``--check`` only looks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ssl3d.cli import console, options

if TYPE_CHECKING:
    from ssl3d.data.datasets.layout import CheckReport, Problem

EPILOG = """\
[bold]Example[/]

  ssl3d prepare semantickitti --root /data/kitti --check   only look
  ssl3d prepare semantickitti --root /data/kitti --jobs 8
  ssl3d prepare semantickitti --root /data/kitti --labels scribbles

Nothing is ever written under --root. Typed again, the command converts only what is new or has changed."""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def prepare(
    dataset: Annotated[
        str,
        typer.Argument(metavar="DATASET", autocompletion=options.complete_dataset, help="The layout: semantickitti."),
    ],
    root: Annotated[Path, typer.Option("--root", metavar="PATH", help="Where the dataset was unpacked.")],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Its name in the workspace.", show_default="DATASET")
    ] = None,
    labels: Annotated[
        Literal["labels", "scribbles"], typer.Option("--labels", help="Labels to train with; all are evaluated.")
    ] = "labels",
    classes: Annotated[
        Literal["single", "multiscan"], typer.Option("--classes", help="multiscan keeps moving classes apart.")
    ] = "single",
    check: Annotated[bool, typer.Option("--check", help="Only look: what is found and missing.")] = False,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Take an incomplete download as it is.")
    ] = False,
    compress: Annotated[bool, typer.Option("--compress", help="Smaller shards (lzf), slower to read.")] = False,
    workspace: options.Workspace = options.DEFAULT_WORKSPACE,
    jobs: options.Jobs = 0,
    debug: options.Debug = False,
) -> None:
    """Convert a dataset as published into shards that train fast.

    Every file is checked on the way: truncated scans, labels of another scan, unknown class ids, NaN.
    """
    if check:
        from ssl3d.data.datasets.registry import get_reader

        report = get_reader(dataset).check(root, label_set=labels, allow_partial=allow_partial)
        draw_check(report)
        if report.ok:
            console.err().print("[green]complete[/]; to convert it:")
            console.say("  " + options.command_line("prepare", dataset, "--root", root))
        raise typer.Exit(0 if report.ok else 1)
    convert(
        dataset,
        root,
        name=name,
        labels=labels,
        classes=classes,
        allow_partial=allow_partial,
        compress=compress,
        workspace=workspace,
        jobs=jobs,
    )


# ---------------------------------------------------------------- --check


def draw_check(report: CheckReport) -> None:
    """A line per sequence, then the problems with what to do about each."""
    from rich.markup import escape

    def share(found: int, of: int) -> str:
        return "[dim]-[/]" if not found else "all" if found == of else f"[yellow]{found}/{of}[/]"

    rows = []
    for item in report.sequences:
        complete = item.expected is None or item.frames == item.expected
        expected = "" if item.expected is None else f"/{item.expected}"
        bad = sum(problem.severity == "error" for problem in item.problems)
        odd = len(item.problems) - bad
        state = f"[red]{bad} error{'s' * (bad > 1)}[/]" if bad else f"[yellow]{odd} warning{'s' * (odd > 1)}[/]"
        rows.append(
            (
                item.sequence,
                item.subset,
                f"{item.frames}{expected}" if complete else f"[yellow]{item.frames}{expected}[/]",
                share(item.labels, item.frames),
                share(item.scribbles, item.frames),
                share(item.images, item.frames),
                "[dim]-[/]" if item.poses is None else str(item.poses),
                "ok" if item.calib == "Tr" else f"[yellow]{item.calib}[/]",
                state if item.problems else "[green]ok[/]",
            )
        )
    columns: list[console.Column] = [
        "sequence",
        "subset",
        ("scans", "right"),
        ("labels", "right"),
        ("scribbles", "right"),
        ("images", "right"),
        ("poses", "right"),
        "calib",
        "",
    ]
    paper = console.out()
    paper.print(console.table(columns, rows, title=f"{escape(report.dataset)} at {escape(str(report.root))}"))
    for problem in report.all_problems():
        _draw_problem(problem)


def _draw_problem(problem: Problem) -> None:
    from rich.padding import Padding
    from rich.text import Text

    color = "red" if problem.severity == "error" else "yellow"
    paper = console.out()
    paper.print(Text.assemble((f"{problem.severity:8}", color), problem.what))
    lines = [f"{name}: {value}" for name, value in problem.where.items()]
    if lines:
        paper.print(Padding(Text("\n".join(lines), style="dim", overflow="fold"), (0, 0, 0, 8)))
    if problem.hint:
        paper.print(Padding(Text(problem.hint, style="cyan"), (0, 0, 0, 8)))


# ---------------------------------------------------------------- converting


def convert(
    dataset: str,
    root: Path,
    *,
    name: str | None,
    labels: Literal["labels", "scribbles"],
    classes: Literal["single", "multiscan"],
    allow_partial: bool,
    compress: bool,
    workspace: Path,
    jobs: int,
) -> None:
    """Runs the stage and says what was made."""
    from ssl3d.pipeline.stages.prepare import PrepareParams
    from ssl3d.pipeline.stages.prepare import prepare as run

    space = options.open_workspace(workspace)
    params = PrepareParams(
        label_set=labels, classes=classes, allow_partial=allow_partial, compress="lzf" if compress else None
    )
    result = run(space, dataset, root, params, name=name, jobs=jobs, progress=console.ConsoleProgress())
    facts: dict[str, object] = {}
    for subset, counts in result.subsets().items():
        unlabelled = counts.scans - counts.labelled
        facts[subset] = (
            f"{counts.scans:,} scans, {console.count_text(counts.points)} points"
            f"{f', {unlabelled:,} without labels' if unlabelled else ''} (sequences {counts.sequence})"
        )
    facts["where"] = f"{result.folder} ({console.size_text(result.bytes)})"
    repaired = f", {result.rebuilt} of them damaged before" if result.rebuilt else ""
    facts["units"] = f"{result.fresh} made now{repaired}, {result.cached} cached"
    facts["took"] = console.time_text(result.seconds)
    console.done(f"prepared {result.dataset}", facts, then=[options.command_line("split", "--ratio", "1%")])
