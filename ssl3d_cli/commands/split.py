"""``ssl3d split``: which scans show their labels, and what that costs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssl3d.cli import console, options
from ssl3d.data.errors import UsageError

if TYPE_CHECKING:
    from ssl3d.pipeline.splits import SplitResult

EPILOG = """\
[bold]Example[/]

  ssl3d split --ratio 1% --seed 0             then: ssl3d train supervised
  ssl3d split --official lasermix-1%          the frames that LaserMix and others publish
  ssl3d split --list my_scans.txt             one 08/000123 per line
  ssl3d split --show                          the current split, and its budget

The labelled scans are the beginning of one seeded order: with the same seed, the 1% lie inside the 10%."""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def split(
    ratio: Annotated[
        str | None,
        typer.Option("--ratio", metavar="RATIO", help="Share of the train scans: 1%, 10%, 0.05.", show_default=False),
    ] = None,
    official: Annotated[
        str | None,
        typer.Option("--official", metavar="NAME", help="A published list: lasermix-1%.", show_default=False),
    ] = None,
    list_file: Annotated[
        Path | None, typer.Option("--list", metavar="FILE", help="Your own list of scan ids.", show_default=False)
    ] = None,
    regime: Annotated[str, typer.Option("--regime", metavar="scan", help="What is labelled: whole scans.")] = "scan",
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of the order that --ratio cuts.")] = 0,
    transductive: Annotated[
        bool, typer.Option("--transductive", help="The val scans count as unlabelled train scans too.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Only show the current split.")] = False,
    as_json: options.Json = False,
    dataset: options.Dataset = None,
    workspace: options.Workspace = options.DEFAULT_WORKSPACE,
    jobs: options.Jobs = 0,
    debug: options.Debug = False,
) -> None:
    """Choose the scans whose labels a method may see.

    Acts on the dataset prepared last. Prints the budget: clicks, labelled points, share, points per class.
    """
    start = time.monotonic()
    if show:
        result = find(workspace, dataset)
    else:
        result = choose(
            workspace,
            dataset,
            {"regime": regime, "ratio": ratio, "official": official, "list_file": list_file, "seed": seed},
            transductive=transductive,
            jobs=jobs,
        )
    if as_json:
        options.print_json(result.to_json())
    else:
        draw_split(result)
    if not show:
        facts = {"where": result.folder, "took": console.time_text(time.monotonic() - start)}
        console.done(f"split {result.name}", facts, then=[options.command_line("train", "supervised")])


def find(workspace: Path, dataset: str | None) -> SplitResult:
    """The current split of a dataset."""
    from ssl3d.pipeline.splits import find_split

    return find_split(options.open_workspace(workspace, create=False).dataset(dataset))


def choose(
    workspace: Path, dataset: str | None, words: dict[str, object], *, transductive: bool, jobs: int
) -> SplitResult:
    """Makes the split that the options describe."""
    given = [name for name in ("ratio", "official", "list_file") if words[name] is not None]
    if len(given) != 1:
        shown = {"ratio": "--ratio", "official": "--official", "list_file": "--list"}
        what = f"{' and '.join(shown[name] for name in given)} exclude each other." if given else "Which scans?"
        raise UsageError(what, hint="Use one of --ratio 1%, --official lasermix-1%, --list FILE; --show only looks.")
    from ssl3d.pipeline.stages.split import SplitParams
    from ssl3d.pipeline.stages.split import split as run

    params = SplitParams(**{**words, "transductive": transductive})  # type: ignore[arg-type]
    space = options.open_workspace(workspace)
    return run(space, params, dataset=dataset, jobs=jobs, progress=console.ConsoleProgress())


def draw_split(result: SplitResult) -> None:
    """The budget, and the visible points of each class."""
    from rich.markup import escape

    budget = result.budget
    paper = console.out()
    paper.print(
        f"[bold]{escape(result.name)}[/] of {escape(result.dataset)}: {len(result.labelled):,} labelled scans, "
        f"{len(result.unlabelled):,} unlabelled{' (val scans among them)' if result.transductive else ''}"
    )
    paper.print(
        f"budget: {console.count_text(budget.clicks)} clicks, {console.count_text(budget.labelled_points)} labelled points, "
        f"{console.percent_text(budget.share)} of the points of the train scans"
    )
    rows = []
    for name, points in zip(result.classes, budget.per_class, strict=True):
        share = points / budget.labelled_points if budget.labelled_points else 0.0
        rows.append(
            (escape(name), f"{points:,}", console.percent_text(share), "" if points else "[yellow]not labelled[/]")
        )
    paper.print(console.table(["class", ("labelled points", "right"), ("share", "right"), ""], rows))
