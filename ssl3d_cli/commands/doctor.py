"""``ssl3d doctor``: does this machine have what ssl3d needs, and if not, what to type."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import typer

from ssl3d.cli import console, options
from ssl3d.cli.checks import Check, all_checks
from ssl3d.pipeline.machine import usable_cores

EPILOG = """\
[bold]Example[/]

  ssl3d doctor                    what was found, and what to type
  ssl3d doctor --json | jq '.checks\\[] | select(.state != "ok")'

The exit code is 1 when a required part does not work. Optional parts are each tried in a process of their own."""

_STATES = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[bold red]fail[/]", "absent": "[dim]-[/]"}

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def doctor(
    workspace: options.Workspace = options.DEFAULT_WORKSPACE,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Check this machine, and say what to type for each problem.

    Looks at Python, PyTorch and CUDA, HDF5, numba, threads, memory, disk, and the optional engines and libraries.
    """
    checks = _run(workspace)
    failed = [check for check in checks if check.state == "fail"]
    if as_json:
        options.print_json({"ok": not failed, "checks": [asdict(check) for check in checks]})
    else:
        _draw(checks)
    if failed:
        raise typer.Exit(1)


def _run(workspace: Path) -> list[Check]:
    """All checks; those that start processes run beside each other."""
    progress = console.ConsoleProgress()
    todo = all_checks(workspace)
    with progress.task("checking", len(todo), "part") as task, ThreadPoolExecutor(usable_cores()) as pool:
        futures = [pool.submit(check) for check in todo]
        results = []
        for future in futures:
            results.append(future.result())
            task.note(results[-1].name)
            task.advance()
    return results


def _draw(checks: list[Check]) -> None:
    from rich.markup import escape
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for check in checks:
        text = escape(check.found)
        if check.fix and check.state != "absent":
            text += f"\n[cyan]{escape(check.fix)}[/]"
        elif check.fix:
            text += f"  [dim]{escape(check.fix)}[/]"
        grid.add_row(_STATES[check.state], check.name, text)
    paper = console.out()
    paper.print(grid)
    bad = sum(check.state == "fail" for check in checks)
    odd = sum(check.state == "warn" for check in checks)
    if bad:
        paper.print(f"\n[bold red]{bad} required part{'s do' if bad > 1 else ' does'} not work.[/]")
    elif odd:
        paper.print(f"\nEverything required works; {odd} thing{'s' if odd > 1 else ''} could be better.")
    else:
        paper.print("\n[green]Everything required works.[/]")
