"""``ssl3d clean``: lists what can go, and removes it when told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssl3d.cli import console, options
from ssl3d.data.errors import Ssl3dError, UsageError

if TYPE_CHECKING:
    from ssl3d.pipeline.workspace import Workspace

EPILOG = """\
[bold]Example[/]

  ssl3d clean                     lists what is stale, and asks
  ssl3d clean --stale --yes       removes it without asking
  ssl3d clean --stage split       every split
  ssl3d clean --runs              every run
  ssl3d clean --all               everything in this workspace

Only the workspace is touched, never the dataset itself. What is removed from the data can be made again by the same \
commands; runs cannot."""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def clean(
    stale: Annotated[bool, typer.Option("--stale", help="What no current command would use (the default).")] = False,
    stage: Annotated[
        str | None,
        typer.Option("--stage", metavar="NAME", help="All products of one stage: prepare, split.", show_default=False),
    ] = None,
    runs: Annotated[bool, typer.Option("--runs", help="All runs, their checkpoints and results.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Everything in the workspace.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
    workspace: options.Workspace = options.DEFAULT_WORKSPACE,
    debug: options.Debug = False,
) -> None:
    """Remove what is stale, or what you name.

    Always lists first. Without a terminal and without --yes it only lists.
    """
    from ssl3d.pipeline.clean import clean as remove

    asked = [bool(stale), stage is not None, runs, everything]
    if sum(asked) > 1:
        raise UsageError("Only one of --stale, --stage, --runs and --all at a time.")
    what = stage or ("runs" if runs else "all" if everything else "stale")
    space = options.open_workspace(workspace, create=False)
    found = remove(space, what=what, dry_run=True)
    _draw(found, space.root)
    if not found:
        return
    if not yes and not _confirmed():
        console.say("nothing was removed (--yes removes it without asking)")
        return
    _refuse_while_training(space)
    removed = remove(space, what=what, progress=console.ConsoleProgress())
    total = console.size_text(sum(size for _, size in removed))
    console.done(f"removed {len(removed)} of {len(found)} things, {total}", {})


def _refuse_while_training(space: Workspace) -> None:
    """A training reads its split and writes its run until it ends."""
    from ssl3d.pipeline.training.run import RunDirectory

    busy = [run.name for run in RunDirectory.list(space) if run.is_locked()]
    if busy:
        raise Ssl3dError(
            "A run is being trained in this workspace; nothing was removed.",
            where={"run": ", ".join(busy)},
            hint="Wait for it, or stop it with Ctrl-C, and type this command again.",
        )


def _confirmed() -> bool:
    import sys

    return sys.stdin.isatty() and typer.confirm("Remove?", default=False, err=True)


def _draw(found: list[tuple[Path, int]], root: Path) -> None:
    from rich.markup import escape

    paper = console.out()
    if not found:
        paper.print("nothing to remove")
        return
    rows = [(console.size_text(size), escape(str(path.relative_to(root)))) for path, size in found]
    paper.print(console.table([("size", "right"), f"in {escape(str(root))}"], rows))
    paper.print(f"{len(found)} thing{'s' * (len(found) > 1)}, {console.size_text(sum(size for _, size in found))}")
