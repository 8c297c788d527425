"""``ssl3d prepare``: a dataset as published -> shards. Cached per unit, resumable; ``--check`` only looks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ssl3d.cli import console, folder, options

if TYPE_CHECKING:
    from ssl3d.data.datasets.source import CheckReport, GroupReport

EPILOG = """\
[bold]Example[/]

  ssl3d prepare semantickitti --root /data/kitti --check   only look
  ssl3d prepare semantickitti --root /data/kitti --jobs 8
  ssl3d prepare semantickitti --root /data/kitti --labels scribbles
  ssl3d prepare folder --guess /data/mine --out mine.toml   describe own scans
  ssl3d prepare folder --config mine.toml

[bold]After --version[/]

  nuscenes       v1.0-trainval, v1.0-mini: which tables of the folder.
  semanticposs   the sequence for validation: val02 (CENet, COARSE3D; the
                 same as none), val03 (ALSO, NOPS, CoSMix).
  semantic3d     whose clouds are for validation: randlanet (the same as
                 none), kpconv, spg.
  s3dis          plain, aligned: to be sure which archive it is. Any area is
                 held out later: ssl3d split --val Area_3.

Nothing is ever written under --root. Typed again, the command converts only what is new or has changed."""

_MOST_NAMED = 12
_MOST_ROWS = 60
"""Groups of a dataset that are shown one by one; ScanNet has 1,613."""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def prepare(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET", autocompletion=options.complete_dataset, help="The layout, e.g. semantickitti."
        ),
    ],
    root: Annotated[
        Path | None,
        typer.Option("--root", metavar="PATH", help="Where the dataset was unpacked.", show_default=False),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Its name in the workspace.", show_default="DATASET")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="folder: says what is in it.", rich_help_panel="Own scans"),
    ] = None,
    guess: Annotated[
        Path | None,
        typer.Option("--guess", metavar="DIR", help="folder: writes such a .toml.", rich_help_panel="Own scans"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Where --guess writes.", show_default="stdout", rich_help_panel="Own scans"
        ),
    ] = None,
    labels: Annotated[
        Literal["labels", "scribbles"], typer.Option("--labels", help="Labels to train with; all are evaluated.")
    ] = "labels",
    classes: Annotated[
        str,
        typer.Option(
            "--classes",
            metavar="LIST",
            help="Class list: multiscan (SemanticKITTI), 12, 11 (SemanticPOSS).",
        ),
    ] = "single",
    version: Annotated[
        str, typer.Option("--version", metavar="NAME", help="Which of several, or what is held out (see below).")
    ] = "",
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
    if guess is not None or out is not None:
        folder.write_guess(dataset, guess, out)
        return
    source = folder.source_of(dataset, root, config)
    if check:
        from ssl3d.data.datasets.registry import get_reader
        from ssl3d.data.datasets.source import ReadOptions

        reader = get_reader(dataset, source.config)
        reader.spec(classes)  # an unknown class list is an error here too
        report = reader.check(source.root, ReadOptions(labels, allow_partial, version))
        draw_check(report)
        if report.ok:
            console.err().print("[green]complete[/]; to convert it:")
            console.say("  " + options.command_line(*reader.command(source.root)[1:]))
        raise typer.Exit(0 if report.ok else 1)
    convert(
        dataset,
        source.root,
        config=source.config,
        name=name or source.name,
        labels=labels,
        classes=classes,
        version=version,
        allow_partial=allow_partial,
        compress=compress,
        workspace=workspace,
        jobs=jobs,
    )


# ---------------------------------------------------------------- --check


def draw_check(report: CheckReport) -> None:
    """A line per group (of a dataset with many: per subset), then the problems with what to do about each."""
    from rich.markup import escape

    facts = list(report.groups[0].facts) if report.groups else []
    one_by_one = len(report.groups) <= _MOST_ROWS
    rows = [_row(item) for item in report.groups] if one_by_one else _rows_of_subsets(report.groups)
    columns: list[console.Column] = ["group", "subset", ("scans", "right"), *((name, "right") for name in facts), ""]
    paper = console.out()
    paper.print(console.table(columns, rows, title=f"{escape(report.dataset)} at {escape(str(report.root))}"))
    for problem in report.all_problems() if one_by_one else report.grouped():
        console.problem(problem)


def _row(item: GroupReport) -> tuple[str, ...]:
    from rich.markup import escape

    complete = item.expected is None or item.scans == item.expected
    scans = str(item.scans) if item.expected is None else f"{item.scans}/{item.expected}"
    cells = [
        value if isinstance(value, str) else _share(value, item.scans) for value in map(_cell, item.facts.values())
    ]
    bad = sum(problem.severity == "error" for problem in item.problems)
    return (
        escape(item.group),
        item.subset,
        scans if complete else f"[yellow]{scans}[/]",
        *cells,
        _state(bad, len(item.problems) - bad),
    )


def _cell(value: str | int) -> str | int:
    from rich.markup import escape

    return escape(value) if isinstance(value, str) else value


def _share(found: int, of: int) -> str:
    return "[dim]-[/]" if not found else "all" if found == of else f"[yellow]{found}/{of}[/]"


def _state(errors: int, warnings: int) -> str:
    if errors:
        return f"[red]{errors} error{'s' * (errors > 1)}[/]"
    return f"[yellow]{warnings} warning{'s' * (warnings > 1)}[/]" if warnings else "[green]ok[/]"


def _rows_of_subsets(groups: Sequence[GroupReport]) -> list[tuple[str, ...]]:
    """Sums; texts, which have no sum, are left out."""
    rows = []
    for subset in dict.fromkeys(item.subset for item in groups):
        members = [item for item in groups if item.subset == subset]
        scans = sum(item.scans for item in members)
        expected = [item.expected for item in members if item.expected is not None]
        whole = f"{scans}/{sum(expected)}" if len(expected) == len(members) else str(scans)
        cells = []
        for name in members[0].facts:
            counts = [count for item in members if isinstance(count := item.facts[name], int)]
            cells.append(_share(sum(counts), scans) if counts else "")
        problems = [problem.severity for item in members for problem in item.problems]
        state = _state(problems.count("error"), problems.count("warning"))
        rows.append((f"{len(members)} groups", subset, whole, *cells, state))
    return rows


# ---------------------------------------------------------------- converting


def convert(
    dataset: str,
    root: Path,
    *,
    config: str = "",
    name: str | None,
    labels: Literal["labels", "scribbles"],
    classes: str,
    version: str,
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
        label_set=labels,
        classes=classes,
        version=version,
        allow_partial=allow_partial,
        compress="lzf" if compress else None,
    )
    result = run(space, dataset, root, params, config=config, name=name, jobs=jobs, progress=console.ConsoleProgress())
    facts: dict[str, object] = {}
    for subset, counts in result.subsets().items():
        unlabelled = counts.scans - counts.labelled
        facts[subset] = (
            f"{counts.scans:,} scans, {console.count_text(counts.points)} points"
            f"{f', {unlabelled:,} without labels' if unlabelled else ''} ({_named(counts.group)})"
        )
    facts["where"] = f"{result.folder} ({console.size_text(result.bytes)})"
    repaired = f", {result.rebuilt} of them damaged before" if result.rebuilt else ""
    facts["units"] = f"{result.fresh} made now{repaired}, {result.cached} cached"
    facts["took"] = console.time_text(result.seconds)
    console.done(f"prepared {result.dataset}", facts, then=[options.command_line("split", "--ratio", "1%")])


def _named(groups: str) -> str:
    """Groups in words: their names, of many the first and the last."""
    names = groups.split(", ")
    if len(names) <= _MOST_NAMED:
        return f"group{'s' * (len(names) > 1)} {groups}"
    return f"{len(names)} groups, {names[0]} .. {names[-1]}"
