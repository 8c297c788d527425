"""``ssl3d bench parity``: how far the sparse engine is from MinkowskiEngine, where that is built."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssl3d.cli import console, options

if TYPE_CHECKING:
    from ssl3d.benchmarks.parity import Row

EPILOG = """\
[bold]Example[/]

  make minkowski
  .venv-minkowski/bin/ssl3d bench parity --json parity.json

The file of --json holds "results", a list of {"case", "quantity", "dtype", "max_abs_difference", "scale", \
"relative", "detail"}, and "machine"."""


def parity(
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures there.", show_default=False)
    ] = None,
    networks: Annotated[bool, typer.Option("--networks/--no-networks", help="Whole MinkUNets too.")] = True,
    jobs: options.Jobs = 0,
    debug: options.Debug = False,
) -> None:
    """Largest differences from MinkowskiEngine: layers, operators, whole networks; outputs and gradients."""
    import torch

    from ssl3d.benchmarks.parity import layer_comparisons
    from ssl3d.benchmarks.parity_networks import network_comparisons
    from ssl3d.benchmarks.parity_operators import operator_comparisons
    from ssl3d.cli.commands.bench import describe_machine, write_figures
    from ssl3d.models.sparse.backends.minkowski import load

    start = time.monotonic()
    library = load().library  # missing is an error before anything is computed
    torch.set_num_threads(jobs)
    comparisons = [*layer_comparisons(), *operator_comparisons(), *(network_comparisons() if networks else ())]
    rows: list[Row] = []
    with console.ConsoleProgress().task("compare", len(comparisons), "cases") as task:
        for comparison in comparisons:
            rows += comparison()
            task.advance()
    machine = describe_machine(f"ssl3d bench parity{'' if networks else ' --no-networks'} --jobs {jobs}")
    name, _, version = library.rpartition(" ")
    machine["versions"][name] = version
    draw(rows)
    facts: dict[str, object] = {"compared": f"{len(rows)} numbers with {library}"}
    if json_file is not None:
        write_figures(json_file, {"results": [row.to_dict() for row in rows], "machine": machine})
        facts["wrote"] = json_file
    facts["took"] = console.time_text(time.monotonic() - start)
    console.done("compared", facts)


def draw(rows: list[Row]) -> None:
    """The worst row of each kind of case, quantity and type; everything is in the file of --json."""
    from rich.markup import escape

    worst: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        key = row.case.partition(", kernel")[0], row.quantity, row.dtype
        if key not in worst or row.relative > worst[key].relative:
            worst[key] = row
    cells = [
        (escape(kind), escape(quantity), dtype, f"{row.difference:.1e}", f"{row.scale:.2g}", f"{row.relative:.1e}")
        for (kind, quantity, dtype), row in worst.items()
    ]
    numbers = ("difference", "scale", "relative")
    columns: list[console.Column] = ["what", "quantity", "type", *((name, "right") for name in numbers)]
    console.out().print(console.table(columns, cells))
