"""``ssl3d synth``: a generated dataset in a published layout."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from ssl3d.cli import console, options

EPILOG = """\
[bold]Example[/]

  ssl3d synth street --preset tiny --seed 0 --out streets
  ssl3d prepare semantickitti --root streets

tiny: seconds, for tests. small: minutes, for the demo. bench: frozen, for figures. The same preset and seed give the \
same files on any machine; typed again, the command goes on where it stopped."""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def synth(
    kind: Annotated[Literal["street"], typer.Argument(metavar="street", help="street: SemanticKITTI's layout.")],
    preset: Annotated[
        str,
        typer.Option(
            "--preset", metavar="tiny|small|bench", autocompletion=lambda: ["tiny", "small", "bench"], help="How much."
        ),
    ] = "small",
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Another seed, other streets.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where to write.", show_default="KIND-PRESET-SEED"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace generated data of another preset or seed.")
    ] = False,
    jobs: options.Jobs = 0,
    debug: options.Debug = False,
) -> None:
    """Generate a dataset in a published layout.

    A 64-beam-like sensor drives through procedural streets: scans, labels with instances and moving classes, camera
    images, calibration and poses, as SemanticKITTI publishes them. The ordinary reader reads them.
    """
    generate(preset, seed, out or Path(f"{kind}-{preset}-{seed}"), overwrite=overwrite, jobs=jobs)


def generate(preset: str, seed: int, out: Path, *, overwrite: bool, jobs: int) -> None:
    """Generates streets and says what was made."""
    from ssl3d.pipeline.workspace import ensure_numba_cache

    ensure_numba_cache(None)
    from ssl3d.data.synthetic.street import generate_street, planned_scans

    start = time.monotonic()
    with console.ConsoleProgress().task("generating", planned_scans(preset), "scan") as task:
        summary = generate_street(out, preset, seed, jobs=jobs, on_scan=task.advance, overwrite=overwrite)
    classes = sum(points > 0 for name, points in summary.points.items() if name != "unlabeled")
    total = console.count_text(sum(summary.points.values()))
    size = console.size_text(summary.bytes)
    facts = {
        "made": f"{summary.scans} scans, {total} labelled points of {classes} classes, {size}",
        "where": out,
        "took": console.time_text(time.monotonic() - start),
    }
    then = [options.command_line("prepare", "semantickitti", "--root", out)]
    console.done(f"street {preset}, seed {seed}", facts, then=then)
