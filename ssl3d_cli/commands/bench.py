"""``ssl3d bench``: speed claims, each as a ratio against a named rival measured in the same run."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ssl3d.cli import console, options
from ssl3d.cli.commands import bench_gains, bench_parity, bench_sparse, bench_tta
from ssl3d.pipeline.machine import package_versions, processor_name, usable_cores

EPILOG = """\
[bold]Example[/]

  ssl3d bench stages --json stages.json
  ssl3d bench sparse --quick          smaller inputs: a look, not a claim
  ssl3d bench gains --dry-run         the plan, and how long it takes
  ssl3d bench tta                     gains of test-time augmentation

Of speeds the file of --json holds "results", a list of {"name", "rival", "ours", "theirs", "ratio", "unit"} \
(a ratio above 1: ours is better), and "machine", with the versions of everything that was measured."""

STAGES_EPILOG = """\
[bold]Example[/]

  ssl3d bench stages --json stages.json
  ssl3d bench stages --quick          smaller inputs: a look, not a claim
  ssl3d bench stages --only density   parts, separated by commas

Parts: chain, density, and the other stages by their names."""

FORMATS_EPILOG = """\
[bold]Example[/]

  ssl3d bench formats --json formats.json
  ssl3d bench formats --quick         smaller files: a look, not a claim

For text the fastest of polars, pyarrow, pandas and numpy that is installed is the rival: `pip install polars` first."""

METHODS_EPILOG = """\
[bold]Example[/]

  ssl3d bench methods --json methods.json
  ssl3d bench methods --methods mean_teacher --steps 10   a look, not a claim"""

STREETS_EPILOG = """\
[bold]Example[/]

  ssl3d bench streets --json streets.json
  ssl3d bench streets --streets DIR --real /data/kitti --json streets.json

Only means over scans are written, never a recording. What --picture draws with --real is for your eyes only."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    epilog=EPILOG,
    help="Measure ssl3d against other libraries, and methods against the baseline.\n\nThe rival is named, and both are "
    "measured in the same run on this machine.",
)

JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures there.", show_default=False)
]


@app.callback()
def bench() -> None:
    pass


@app.command(epilog=STAGES_EPILOG)
def stages(
    json_file: JsonFile = None,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller inputs.")] = False,
    only: Annotated[
        str | None, typer.Option("--only", metavar="A,B", help="Only these parts.", show_default=False)
    ] = None,
    jobs: options.Jobs = 0,
    debug: options.Debug = False,
) -> None:
    """Conversion, reading, the command line, the share of a training step that computes, and each stage."""
    from ssl3d.benchmarks import stages as measured

    start = time.monotonic()
    names = None if only is None else [name.strip() for name in only.split(",")]
    rows = measured.run(progress=console.ConsoleProgress(), jobs=jobs, quick=quick, only=names)
    given = f"{' --quick' if quick else ''}{f' --only {only}' if only else ''}"
    machine = describe_machine(f"ssl3d bench stages{given} --jobs {jobs}")
    finish(rows, machine, json_file, start)


@app.command(epilog=FORMATS_EPILOG)
def formats(
    json_file: JsonFile = None,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller files.")] = False,
    debug: options.Debug = False,
) -> None:
    """Reading loose files and published layouts, against cp of the same bytes and the installed CSV readers."""
    from ssl3d.benchmarks import formats as measured

    start = time.monotonic()
    points, repeats = (200_000, 3) if quick else (5_000_000, 5)
    with tempfile.TemporaryDirectory(prefix="ssl3d-bench-") as temporary:
        rows = measured.formats(Path(temporary), points=points, repeats=repeats)
    finish(rows, describe_machine(f"ssl3d bench formats{' --quick' if quick else ''}"), json_file, start)


@app.command(epilog=METHODS_EPILOG)
def methods(
    json_file: JsonFile = None,
    names: Annotated[
        str | None, typer.Option("--methods", metavar="A,B", help="Which methods.", show_default="all")
    ] = None,
    backbone: Annotated[
        str, typer.Option("--backbone", metavar="NAME", autocompletion=options.complete_backbone, help="The network.")
    ] = "minkunet18",
    steps: Annotated[int, typer.Option("--steps", min=1, metavar="N", help="Measured steps of each run.")] = 40,
    folder: Annotated[
        Path | None,
        typer.Option("--streets", metavar="DIR", help="Generated streets.", show_default="generates preset small"),
    ] = None,
    jobs: options.Jobs = 0,
    debug: options.Debug = False,
) -> None:
    """What every method costs beyond its passes, and what the trainer adds to a loop in plain torch."""
    from ssl3d.benchmarks import methods as measured
    from ssl3d.models.methods.registry import get_method, list_methods

    start = time.monotonic()
    chosen = [name.strip() for name in names.split(",")] if names else list_methods()
    for name in chosen:
        get_method(name)  # an unknown one is an error before anything is generated
    given = f"{f' --methods {names}' if names else ''}{' --streets DIR' if folder else ''}"
    machine = describe_machine(f"ssl3d bench methods{given} --backbone {backbone} --steps {steps} --jobs {jobs}")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="ssl3d-bench-") as temporary:
        for measured_now in measured.run(
            Path(temporary), methods=chosen, backbone=backbone, jobs=jobs, steps=steps, streets=folder, preset="small",
            progress=console.ConsoleProgress(),
        ):  # fmt: skip
            rows += measured_now
            if json_file is not None:  # all of them take an hour: what is measured is not lost
                write_figures(json_file, {"results": rows, "machine": machine})
    finish(rows, machine, json_file, start)


@app.command(epilog=STREETS_EPILOG)
def streets(
    folder: Annotated[
        Path | None,
        typer.Option("--streets", metavar="DIR", help="Generated streets.", show_default="generates preset bench"),
    ] = None,
    real: Annotated[
        Path | None,
        typer.Option("--real", metavar="DIR", help="Recordings in SemanticKITTI's layout.", show_default=False),
    ] = None,
    json_file: JsonFile = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="Draw a scan there (PNG).", show_default=False)
    ] = None,
    jobs: options.Jobs = 0,
    debug: options.Debug = False,
) -> None:
    """What the streets are made of on which methods are compared: classes and density, beside recordings."""
    from ssl3d.benchmarks import street_picture
    from ssl3d.benchmarks import streets as measured
    from ssl3d.cli.commands.synth import generate

    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ssl3d-bench-") as temporary:
        root = folder or Path(temporary) / "streets"
        if folder is None:
            generate("bench", 0, root, overwrite=False, jobs=jobs)
        found = measured.run(root, real, progress=console.ConsoleProgress())
        if picture is not None:
            street_picture.draw(root, real, picture)
    columns, rows = measured.table(found)
    console.out().print(console.table([columns[0], *((name, "right") for name in columns[1:])], rows))
    facts: dict[str, object] = {"streets": measured.describe(found)}
    if json_file is not None:
        write_figures(
            json_file, {**found, "machine": describe_machine(f"ssl3d bench streets{' --real DIR' if real else ''}")}
        )
        facts["wrote"] = json_file
    console.done("measured streets", {**facts, "took": console.time_text(time.monotonic() - start)})


app.command(epilog=bench_gains.EPILOG)(bench_gains.gains)
app.command(epilog=bench_sparse.EPILOG)(bench_sparse.sparse)
app.command(epilog=bench_parity.EPILOG)(bench_parity.parity)
app.command(epilog=bench_tta.EPILOG)(bench_tta.tta)


def finish(rows: list[dict[str, Any]], machine: dict[str, Any], json_file: Path | None, start: float) -> None:
    """Draws the rows of a benchmark of speed, writes them, and says what was done."""
    draw(rows, machine)
    facts: dict[str, object] = {"took": console.time_text(time.monotonic() - start)}
    if json_file is not None:
        write_figures(json_file, {"results": rows, "machine": machine})
        facts = {"wrote": json_file, **facts}
    console.done(f"measured {len(rows)} things", facts)


def write_figures(path: Path, value: Mapping[str, Any]) -> None:
    from ssl3d.pipeline.files import write_json

    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, value)


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


def draw(rows: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> None:
    from rich.markup import escape

    cells = [
        (
            escape(str(row["name"])),
            escape(str(row["rival"])),
            f"{row['ours']:.4g} {row['unit']}",
            "-" if row["theirs"] is None else f"{row['theirs']:.4g} {row['unit']}",
            "-" if row["ratio"] is None else f"[{'green' if row['ratio'] >= 1 else 'yellow'}]{row['ratio']:.2f}[/]",
        )
        for row in rows
    ]
    columns: list[console.Column] = ["what", "rival", ("ours", "right"), ("theirs", "right"), ("ratio", "right")]
    paper = console.out()
    paper.print(console.table(columns, cells))
    shown = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    paper.print(f" [dim]A ratio above 1: ours is better. {escape(machine['processor'])}; {escape(shown)}[/]")
