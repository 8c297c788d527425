"""``ssl3d bench``: speed claims, each as a ratio against a named rival measured in the same run."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ssl3d.cli import console, options
from ssl3d.pipeline.machine import package_versions, processor_name, usable_cores

EPILOG = """\
[bold]Example[/]

  ssl3d bench stages --json stages.json
  ssl3d bench stages --quick          smaller inputs: a look, not a claim

The file holds "results", a list of {"name", "rival", "ours", "theirs", "ratio", "unit"} \
(a ratio above 1: ours is better), and "machine", with the versions of everything that was measured."""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def bench(
    what: Annotated[
        Literal["stages"], typer.Argument(metavar="WHAT", help="stages: conversion, reading, the training step.")
    ],
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures there.", show_default=False)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller inputs.")] = False,
    jobs: options.Jobs = 0,
    debug: options.Debug = False,
) -> None:
    """Measure ssl3d against other libraries.

    The rival and its version are named, and both are measured in the same run on this machine.
    """
    from ssl3d.benchmarks import stages

    start = time.monotonic()
    rows: list[dict[str, Any]] = stages.run(progress=console.ConsoleProgress(), jobs=jobs, quick=quick)
    machine = describe_machine(f"ssl3d bench {what}{' --quick' if quick else ''} --jobs {jobs}")
    _draw(rows, machine)
    facts: dict[str, object] = {"took": console.time_text(time.monotonic() - start)}
    if json_file is not None:
        from ssl3d.pipeline.files import write_json

        json_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(json_file, {"results": rows, "machine": machine})
        facts = {"wrote": json_file, **facts}
    console.done(f"measured {len(rows)} things", facts)


def describe_machine(command: str) -> dict[str, Any]:
    """What a figure depends on: processor, cores, memory, system, versions, and the command."""
    import psutil

    return {
        "command": command,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
        "versions": package_versions(),
    }


def _draw(rows: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> None:
    from rich.markup import escape

    cells = [
        (
            escape(str(row["name"])),
            escape(str(row["rival"])),
            f"{row['ours']:.4g} {row['unit']}",
            f"{row['theirs']:.4g} {row['unit']}",
            f"[{'green' if row['ratio'] >= 1 else 'yellow'}]{row['ratio']:.2f}[/]",
        )
        for row in rows
    ]
    columns: list[console.Column] = ["what", "rival", ("ours", "right"), ("theirs", "right"), ("ratio", "right")]
    paper = console.out()
    paper.print(console.table(columns, cells))
    shown = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    paper.print(f" [dim]A ratio above 1: ours is better. {escape(machine['processor'])}; {escape(shown)}[/]")
