"""``ssl3d split``: which scans show their labels, and what that costs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl3d.cli import console, options
from ssl3d.data.errors import UsageError

if TYPE_CHECKING:
    from ssl3d.pipeline.stages.split import SplitView

EPILOG = """\
[bold]Example[/]

  ssl3d split --ratio 1% --seed 0         then: ssl3d train supervised
  ssl3d split --official lasermix-1%      as LaserMix and others publish
  ssl3d split --regime sequence --ratio 10%
  ssl3d split --regime points --ratio 0.1% --protocol voxel
  ssl3d split --regime 1pt                one point per class and scan
  ssl3d split --ratio 1% --holdout 09,10  kept out, to tune on
  ssl3d split --ratio 10% --val Area_3    a fold: the other areas train
  ssl3d split --list my_scans.txt         one 00/000123, or one 00, per line
  ssl3d split --list points20             ScanNet's limited annotations
  ssl3d split --ratio 5% --protocol limited
  ssl3d split --show                      the current split, and its budget

[bold]Regimes[/]

  scan       whole scans: the first floor(ratio x n), at least 1, of a seeded
             order. Words of the dataset for groups of scans (SemanticKITTI:
             scene, sequence) take whole groups in the same way.
  points     some points of every scan, see --protocol.
  1pt        one point of every class of every scan; --per-class 3: three.

[bold]Lists[/]

  text       a scan or a group a line; # begins a comment. ScanNet's limited
             reconstructions (tasks/scenes/1.txt ...) are such lists.
  points     an .npz with an array for each scan, named like it: the rows of
             its labelled points, from 0; or a dictionary of such arrays saved
             by torch.save, as ScanNet's tasks/points/points20 ... are.
  published  --official. SemanticKITTI: lasermix-1% 10 20 50, lim3d-1% 2 5 10
             20 40 50, gpc-5% 10 20 30 40. nuScenes: lasermix-1% 10 20 50.
             ScanNet, S3DIS (Area 5 held out): gpc-5% 10 20 30 40.

[bold]--protocol limited[/], of whole scans

  Scans of the seeded order while they fit into round(ratio x points of all
  train scans). The next is cut across its longer horizontal extent, so that
  the share is met by the point; its parts are scans of their own, one of them
  unlabelled: WS3D's limited reconstruction (ECCV 2022).

[bold]--protocol strfd[/], of whole scans

  round(ratio x n) scans, fewer where a recording repeats itself: of each 100
  consecutive scans of a sequence the share exp(beta phi), where phi is how
  alike neighbors are (SSIM of their images, or without images the cells that
  both occupy). Reconstructs LiM3D's selection (CVPR 2023); its own lists are
  --official lim3d-10%. Results on such a split say so in its name.

[bold]Protocols of --regime points[/], for a scan of n points

  raw          max(1, floor(ratio x n)) points of those with a class (as SQN
               draws them, there from a subsampled cloud).
  class        max(1, floor(ratio x n_c)) points of every class with n_c
               points: PSD (Zhang et al., ICCV 2021), Decoupling.
  voxel        max(1, round(ratio x n)) voxels of 0.06 m; all points of a
               voxel get the label of its first: COARSE3D (BMVC 2022).
  voxel-first  the same voxels, only the first point of each is labelled:
               COARSE3D without propagation, as its baselines are trained.

Draws depend on the seed and on the scan alone, and smaller ratios lie inside larger ones: the 0.1% inside the 1%
(not those of strfd)."""

_MOST_GROUPS = 40
"""Groups that are shown one by one; ScanNet has 1,201."""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def split(
    ratio: Annotated[
        str | None,
        typer.Option(
            "--ratio", metavar="RATIO", help="Share of scans, groups or points: 1%, 0.05.", show_default=False
        ),
    ] = None,
    official: Annotated[
        str | None,
        typer.Option("--official", metavar="NAME", help="A published list: gpc-5%, lasermix-1%.", show_default=False),
    ] = None,
    list_file: Annotated[
        Path | None,
        typer.Option("--list", metavar="FILE", help="Your own list of scans, groups, or points.", show_default=False),
    ] = None,
    regime: Annotated[
        str, typer.Option("--regime", metavar="WORD", help="What is labelled: scan, scene, points, 1pt ...")
    ] = "scan",
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            metavar="NAME",
            help="How points are drawn: raw (default), class, voxel, voxel-first; or scans: limited, strfd.",
            show_default=False,
        ),
    ] = None,
    per_class: Annotated[
        int | None,
        typer.Option(
            "--per-class", min=1, metavar="K", help="With --regime 1pt: points per class (1).", show_default=False
        ),
    ] = None,
    holdout: Annotated[
        str | None,
        typer.Option(
            "--holdout",
            metavar="GROUPS",
            help="Train sequences to keep out, to tune without val: 09,10.",
            show_default=False,
        ),
    ] = None,
    val: Annotated[
        str | None,
        typer.Option(
            "--val",
            metavar="GROUPS",
            help="Evaluate on these (a fold: Area_3); all others train.",
            show_default="the dataset's own",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of what is drawn by --ratio or 1pt.")] = 0,
    transductive: Annotated[
        bool, typer.Option("--transductive", help="The val scans (never their labels) count as unlabelled too.")
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Take those scans of a list that are prepared.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Only show a split: the current one, or --name.")] = False,
    name: Annotated[
        str | None, typer.Option("--name", metavar="SPLIT", help="With --show: which.", show_default=False)
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="SPLIT", help="With --show: count the scans both have.", show_default=False),
    ] = None,
    as_json: options.Json = False,
    dataset: options.Dataset = None,
    workspace: options.Workspace = options.DEFAULT_WORKSPACE,
    jobs: options.Jobs = 0,
    debug: options.Debug = False,
) -> None:
    """Choose the scans, or the points of each scan, whose labels a method may see.

    Acts on the dataset prepared last. Prints the budget: clicks, labelled points, share, points per class.
    """
    if not show and (name or against):
        raise UsageError("--name and --against belong to --show.", hint="Type: ssl3d split --show --name SPLIT")
    makes: dict[str, object] = {"--ratio": ratio, "--official": official, "--list": list_file, "--protocol": protocol}
    makes |= {
        "--per-class": per_class,
        "--holdout": holdout,
        "--val": val,
        "--regime": None if regime == "scan" else regime,
    }
    if show and (given := [option for option, value in makes.items() if value is not None]):
        raise UsageError(
            f"--show only shows: {' and '.join(given)} would make a split.",
            hint="Leave out --show, or name the split to see: ssl3d split --show --name SPLIT",
        )
    words: dict[str, Any] = {"regime": regime, "ratio": ratio, "official": official, "list_file": list_file}
    start = time.monotonic()
    if not show:
        words |= {"transductive": transductive, "allow_missing": allow_missing, "protocol": protocol}
        words |= {"per_class": per_class, "holdout": holdout or (), "val": val or (), "seed": seed}
        name = choose(workspace, dataset, words, jobs=jobs)
    view = look(workspace, dataset, name, against)
    if as_json:
        options.print_json(view.to_json())
    else:
        draw_split(view)
    if view.no_label:
        console.warn(f"no label is visible of: {', '.join(view.no_label)} (the train scans have points of them)")
    if not show:
        facts = {"where": view.split.folder, "took": console.time_text(time.monotonic() - start)}
        console.done(f"split {view.split.name}", facts, then=[options.command_line("train", "supervised")])


def choose(workspace: Path, dataset: str | None, words: dict[str, Any], *, jobs: int) -> str:
    """Makes the split that the options describe, and returns its key."""
    from ssl3d.pipeline.stages.split import SplitParams
    from ssl3d.pipeline.stages.split import split as run

    params = SplitParams(**words)
    space = options.open_workspace(workspace, create=False)
    return run(space, params, dataset=dataset, jobs=jobs, progress=console.ConsoleProgress()).key


def look(workspace: Path, dataset: str | None, which: str | None = None, against: str | None = None) -> SplitView:
    """A split, with what there is to compare it with."""
    from ssl3d.pipeline.stages.split import show_split

    return show_split(options.open_workspace(workspace, create=False).dataset(dataset), which, against)


def draw_split(view: SplitView) -> None:
    """The budget, the scans of each group, and the visible points of each class."""
    from rich.markup import escape

    result, budget = view.split, view.split.budget
    paper = console.out()
    hidden = f"{len(result.unlabelled):,} unlabelled{' (val scans among them)' if result.transductive else ''}"
    paper.print(
        f"[bold]{escape(result.name)}[/] of {escape(result.dataset)}: {len(result.labelled):,} labelled scans, {hidden}"
    )
    for line in _remarks(view):
        paper.print(escape(line))
    clicks, points = console.count_text(budget.clicks), console.count_text(budget.labelled_points)
    share = console.percent_text(budget.share)
    paper.print(f"budget: {clicks} clicks, {points} labelled points, {share} of the points of the train scans")
    if len(view.groups) <= _MOST_GROUPS:
        groups = ", ".join(f"{name}: {shown}/{shown + hidden}" for name, shown, hidden in view.groups)
        paper.print(f"labelled scans by group: {groups}")
    else:
        some = sum(shown > 0 for _, shown, _ in view.groups)
        paper.print(f"{some:,} of {len(view.groups):,} groups of scans have labelled ones", highlight=False)
    if view.against is not None:
        paper.print(f"{view.common} of them are labelled in {escape(view.against.name)} too", highlight=False)
    rows = []
    for name, visible, of in zip(result.classes, budget.per_class, view.class_points, strict=True):
        part = console.percent_text(visible / budget.labelled_points) if budget.labelled_points else ""
        seen = console.percent_text(visible / of) if of else "[dim]-[/]"
        absent = "[yellow]no label[/]" if of and not visible else "" if of else "[dim]not in the data[/]"
        rows.append((escape(name), f"{visible:,}", part, seen, absent))
    columns: list[console.Column] = [
        "class",
        ("labelled points", "right"),
        ("of all labels", "right"),
        ("of the class", "right"),
        "",
    ]
    paper.print(console.table(columns, rows))


def _remarks(view: SplitView) -> list[str]:
    """What is unusual about a split, a line each."""
    result, partial = view.split, view.split.budget.partial_scans
    lines = []
    if partial:
        lines.append(f"{partial:,} of the labelled scans are labelled in part: their other points count as unlabelled")
    if not result.unlabelled:
        lines.append("no scan is unlabelled" + ("" if partial else ": nothing is left to learn from without labels"))
    if (cut := result.cut) is not None:
        lines.append(
            f"{cut.scan} is cut: {cut.points:,} of its {cut.of:,} points are the labelled scan {cut.parts[0]}, "
            f"the others the unlabelled scan {cut.parts[1]}"
        )
    if result.val:
        lines.append(f"for validation, in place of the dataset's own: {', '.join(result.val)}")
    if result.holdout:
        groups = ", ".join(result.params["holdout"])
        lines.append(f"held out, neither labelled nor unlabelled: {groups} ({len(result.holdout):,} scans)")
    return lines
