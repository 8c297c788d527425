"""``ssl3d status``: the stage graph and the runs. Reads a few JSON files, asks for sizes and times; opens no shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ssl3d.cli import console, options

if TYPE_CHECKING:
    from ssl3d.pipeline.graph import StageStatus

EPILOG = """\
[bold]Example[/]

  ssl3d status
  ssl3d status --json | jq '.stages\\[] | select(.state != "cached")'

cached: up to date. stale: made, but something it depends on has changed. partial: interrupted, the same command goes \
on. damaged: files are missing or cut, made again by the next run."""

_COLORS = {"cached": "green", "stale": "yellow", "missing": "dim", "partial": "yellow", "damaged": "red"}

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def status(
    as_json: options.Json = False,
    workspace: options.Workspace = options.DEFAULT_WORKSPACE,
    debug: options.Debug = False,
) -> None:
    """Show what is cached, stale or missing, and why.

    For every dataset of the workspace: each stage with its state, reason, units, size and working time; then the runs.
    """
    from ssl3d.pipeline.graph import graph_status

    if not workspace.exists() or (workspace.is_dir() and not any(workspace.iterdir())):
        _empty(workspace, as_json)
        return
    from ssl3d.cli.commands.runs import draw_runs, summaries

    space = options.open_workspace(workspace, create=False)
    stages, runs = graph_status(space), summaries(space)
    if as_json:
        options.print_json(
            {
                "workspace": str(space.root),
                "current": space.current,
                "stages": [asdict(stage) for stage in stages],
                "runs": runs,
            }
        )
        return
    if not stages and not runs:
        _empty(workspace, as_json)
        return
    draw_stages(stages, space.current)
    if runs:
        draw_runs(runs)
    elif all(stage.state == "cached" for stage in stages):
        console.say(f"no runs yet; next: {options.command_line('train', 'supervised')}")


def _empty(workspace: Path, as_json: bool) -> None:
    if as_json:
        options.print_json({"workspace": str(workspace.absolute()), "current": None, "stages": [], "runs": []})
        return
    console.out().print(f"Nothing has been made in {workspace.absolute()} yet.", markup=False)
    console.out().print("Begin with one of:")
    for command in (
        options.command_line("prepare", "semantickitti", "--root", "DIR"),
        "ssl3d demo",
    ):
        console.out().print(f"  {command}", markup=False, style="cyan")


def draw_stages(stages: Sequence[StageStatus], current: str | None) -> None:
    """A table of stages; a dataset's name stands once, the current one is marked."""
    from rich.markup import escape

    paper = console.out()
    narrow = paper.width < 80  # the reasons follow the table
    rows = []
    below: list[str] = []
    seen: set[str] = set()
    for stage in stages:
        color = _COLORS[stage.state]
        name = ""
        if stage.dataset not in seen:
            seen.add(stage.dataset)
            name = f"[bold]{escape(stage.dataset)}[/]{' *' if stage.dataset == current else ''}"
        units = f"{stage.units_done}/{stage.units_total}" if stage.units_total else ""
        more = f"{'; ' if stage.why else ''}{stage.also} more kept" if stage.also else ""
        rows.append(
            (
                name,
                stage.name,
                f"[{color}]{stage.state}[/]",
                units,
                console.size_text(stage.bytes) if stage.bytes else "",
                console.time_text(stage.seconds) if stage.seconds else "",
                f"{escape(stage.why)}[dim]{more}[/]",
            )
        )
        below += [f"{escape(stage.dataset)} {stage.name}: {rows[-1][-1]}"] if narrow and stage.why + more else []
    columns: list[console.Column] = [
        "dataset",
        "stage",
        "state",
        ("units", "right"),
        ("size", "right"),
        ("work", "right"),
        "why",
    ]
    shown = len(columns) - 2 * narrow
    paper.print(console.table(columns[:shown], [row[:shown] for row in rows]))
    for line in below:
        paper.print(line)
    if current in seen:
        paper.print("[dim]* the dataset that commands act on[/]")
