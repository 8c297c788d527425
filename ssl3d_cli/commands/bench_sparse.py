"""``ssl3d bench sparse``: the sparse-convolution engine against MinkowskiEngine and spconv."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ssl3d.cli import console, options
from ssl3d.data.errors import Ssl3dError, UsageError

DEFAULT_FOLDER = Path("workspace-sparse")
EPILOG = """\
[bold]Example[/]

  make minkowski                        builds the rival, once
  ssl3d bench sparse --quick            smaller inputs: a look, not a claim
  ssl3d bench sparse --json sparse.json
  ssl3d bench sparse --only 'op conv3 64ch'
  ssl3d bench sparse --real /data/kitti --json sparse.json --resume

Without a rival only our own figures are measured. The file of --json is written after every row."""


def sparse(
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures there.", show_default=False)
    ] = None,
    only: Annotated[
        str, typer.Option("--only", metavar="TEXT", help="Rows whose name contains this.", show_default=False)
    ] = "",
    quick: Annotated[bool, typer.Option("--quick", help="Smaller inputs.")] = False,
    names: Annotated[bool, typer.Option("--list", help="Only print the names of the rows.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the rows of --json that this code measured on this machine.")
    ] = False,
    real: Annotated[
        Path | None,
        typer.Option("--real", metavar="PATH", help="A .bin of SemanticKITTI, or a folder.", show_default=False),
    ] = None,
    minkowski: Annotated[
        str | None,
        typer.Option("--minkowski", metavar="PYTHON", help="Has MinkowskiEngine.", show_default=".venv-minkowski"),
    ] = None,
    spconv: Annotated[
        str | None, typer.Option("--spconv", metavar="PYTHON", help="Has spconv.", show_default=".venv-minkowski")
    ] = None,
    folder: Annotated[
        Path, typer.Option("--folder", metavar="DIR", help="Keeps the generated scans.")
    ] = DEFAULT_FOLDER,
    docs: Annotated[
        list[Path] | None,
        typer.Option("--docs", metavar="FILE", help="Also replace the marked table of this page.", show_default=False),
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Measure nothing: report the file of --json.")
    ] = False,
    jobs: options.Jobs = 0,
    debug: options.Debug = False,
) -> None:
    """Training steps, inference, maps and operators of the sparse engine, in turns with MinkowskiEngine and spconv."""
    from ssl3d.benchmarks import sparse as measured
    from ssl3d.benchmarks.pages import write_section
    from ssl3d.benchmarks.sparse_plan import measurements
    from ssl3d.benchmarks.sparse_report import markdown
    from ssl3d.cli.commands.bench import describe_machine, draw, write_figures

    start = time.monotonic()
    if names:
        for measurement in measurements(quick, 4 if real else 0):
            console.out().print("\n".join(measurement.names), markup=False, highlight=False)
        return
    kept = _kept(json_file, needed=report_only) if resume or report_only else None
    if report_only:
        assert kept is not None
        rows, machine = kept["results"], kept["machine"]
    else:
        asked = {"minkowski": minkowski, "spconv": spconv}
        found = {engine: python or measured.default_python(engine) for engine, python in asked.items()}
        bench = measured.Bench(
            folder, {engine: python for engine, python in found.items() if python}, jobs, console.ConsoleProgress(),
            quick, guessed=frozenset(engine for engine, python in asked.items() if not python),
        )  # fmt: skip
        machine = describe_machine(_command())

        def write(rows: list[dict[str, Any]]) -> None:
            if json_file is not None:
                write_figures(json_file, {"results": rows, "machine": {**machine, "rivals": bench.rivals()}})

        rows = measured.run(bench, only=only, real=real, kept=kept["results"] if kept else (), done=write)
        machine["rivals"] = bench.rivals()
        write(rows)
    if rows:
        draw(rows, machine)
    facts: dict[str, object] = {"took": console.time_text(time.monotonic() - start)}
    for page in docs or ():
        write_section(page, "sparse", markdown(rows, machine))
        facts["page"] = page
    if json_file is not None and not report_only:
        facts = {"wrote": json_file, **facts}
    console.done(f"{len(rows)} rows", facts)
    if not report_only and bench.failed:
        raise Ssl3dError(
            f"{len(bench.failed)} measurements failed",
            where={name: error.what for name, error in list(bench.failed.items())[:5]},
            hint="--resume with --json keeps the others and tries these again",
        )


def _kept(path: Path | None, needed: bool) -> dict[str, Any] | None:
    """The figures of an earlier run; None when there is none yet."""
    if path is None:
        raise UsageError("there is nothing to go on with", hint="name the file of figures with --json FILE")
    if not path.exists() and not needed:
        return None
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value["machine"], dict) and all("name" in row for row in value["results"]):
            return value
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UsageError("this is no file of figures of `ssl3d bench sparse`", where={"--json": path})


def _command() -> str:
    words = [word for word in sys.argv[1:] if word not in ("--resume", "--debug")]
    return shlex.join(["ssl3d", *words]) if words[:2] == ["bench", "sparse"] else "ssl3d bench sparse"
