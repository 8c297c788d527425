"""``ssl3d synth``: a generated dataset in a published layout."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from ssl3d.cli import console, options
from ssl3d.data.errors import UsageError

LAYOUTS = {
    "street": ("semantickitti", "nuscenes", "nuscenes-test", "semanticposs", "semantic3d"),
    "rooms": ("scannet", "s3dis"),
}
"""Of every kind; the first is the one that is written when nobody asks for another."""
_NAMES = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in LAYOUTS.items())

EPILOG = """\
[bold]Example[/]

  ssl3d synth street --preset tiny --seed 0 --out streets
  ssl3d prepare semantickitti --root streets
  ssl3d synth street --layout nuscenes --preset tiny --out nuscenes
  ssl3d synth street --layout nuscenes-test --preset tiny --out test-set
  ssl3d synth rooms --layout scannet --preset tiny --out rooms

tiny: seconds, for tests. small: minutes, for the demo. bench: frozen, for figures. The same preset and seed give the \
same files on any machine; typed again, the command goes on where it stopped."""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def synth(
    kind: Annotated[
        Literal["street", "rooms"],
        typer.Argument(metavar="street|rooms", help="street: drives through a town. rooms: furnished rooms."),
    ],
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout",
            metavar="NAME",
            autocompletion=lambda: [name for names in LAYOUTS.values() for name in names],
            help=f"Whose files it looks like: {_NAMES}.",
            show_default="the first of its kind",
        ),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            "--preset", metavar="tiny|small|bench", autocompletion=lambda: ["tiny", "small", "bench"], help="How much."
        ),
    ] = "small",
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Another seed, other streets or rooms.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where to write.", show_default="LAYOUT-PRESET-SEED"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace generated data of another preset or seed.")
    ] = False,
    jobs: options.Jobs = 0,
    debug: options.Debug = False,
) -> None:
    """Generate a dataset in a published layout.

    A laser scanner drives through procedural streets: scans, labels with instances and moving classes, camera images,
    calibration and poses, as SemanticKITTI, nuScenes and SemanticPOSS publish them; or stands there on a tripod, as
    Semantic3D's does. Or someone films furnished rooms with a depth camera: meshes, segments, instances, frames and
    captions as ScanNet publishes them; or scans them as S3DIS does. The ordinary readers read them.
    """
    chosen = _layout(kind, layout)
    place = out or Path(f"{layout or kind}-{preset}-{seed}")
    make = generate if kind == "street" else generate_interiors
    make(preset, seed, place, layout=chosen, overwrite=overwrite, jobs=jobs)


def _layout(kind: str, layout: str | None) -> str:
    names = LAYOUTS[kind]
    if layout is not None and layout not in names:
        raise UsageError(f"There is no layout {layout!r} of kind {kind}.", hint=f"Use one of: {', '.join(names)}.")
    return layout or names[0]


def generate(
    preset: str, seed: int, out: Path, *, overwrite: bool, jobs: int, layout: str = LAYOUTS["street"][0]
) -> None:
    """Generates streets and says what was made."""
    from ssl3d.pipeline.workspace import ensure_numba_cache

    ensure_numba_cache(None)
    from ssl3d.data.synthetic.street import generate_street, planned_scans

    start = time.monotonic()
    with console.ConsoleProgress().task("generating", planned_scans(preset, layout), "scan") as task:
        summary = generate_street(
            out, preset, seed, layout=layout, jobs=jobs, on_scan=task.advance, overwrite=overwrite
        )
    made = f"{summary.scans} scans, {_points_text(summary.points)}, {console.size_text(summary.bytes)}"
    _say("street", layout, preset, seed, out, made, start)


def generate_interiors(preset: str, seed: int, out: Path, *, overwrite: bool, jobs: int, layout: str) -> None:
    """Generates rooms and says what was made."""
    from ssl3d.pipeline.workspace import ensure_numba_cache

    ensure_numba_cache(None)
    from ssl3d.data.synthetic.rooms.generate import generate_rooms, planned_rooms

    start = time.monotonic()
    with console.ConsoleProgress().task("generating", planned_rooms(preset, layout), "room") as task:
        summary = generate_rooms(out, preset, seed, layout=layout, jobs=jobs, on_room=task.advance, overwrite=overwrite)
    made = f"{summary.rooms} rooms, {_points_text(summary.points)}, {console.size_text(summary.bytes)}"
    _say("rooms", layout, preset, seed, out, made, start)


def _points_text(points: dict[str, int]) -> str:
    classes = sum(count > 0 for name, count in points.items() if name not in ("unlabeled", "ignored"))
    return f"{console.count_text(sum(points.values()))} labelled points of {classes} classes"


def _say(kind: str, layout: str, preset: str, seed: int, out: Path, made: str, start: float) -> None:
    facts = {"made": made, "where": out, "took": console.time_text(time.monotonic() - start)}
    reader = ("nuscenes", "--version", "v1.0-test") if layout == "nuscenes-test" else (layout,)
    then = [options.command_line("prepare", *reader, "--root", out)]
    console.done(f"{kind} {preset}, seed {seed}, as {layout}", facts, then=then)
