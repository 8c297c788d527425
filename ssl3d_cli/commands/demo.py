"""``ssl3d demo``: the whole chain on generated streets. Every step is a command that you could type, and is shown."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssl3d.cli import console, options
from ssl3d.data.errors import UsageError

if TYPE_CHECKING:
    from ssl3d.pipeline.evaluation.result import EvalResult
    from ssl3d.pipeline.training.run import RunDirectory

METHODS = ("supervised",)
BACKBONE = "minkunet-micro"
RATIOS = {"tiny": ("50%", "100%"), "small": ("5%", "100%"), "bench": ("5%", "100%")}
"""Preset -> the low and the full ratio. The low one labels at least three scans."""
STEPS = {"tiny": 40, "small": 700, "bench": 1000}
"""Preset -> steps of each run, when --steps does not say."""
PICTURES = 2
SEED = 0

EPILOG = """\
[bold]Example[/]

  ssl3d demo                                  about ten minutes on two cores
  ssl3d demo --preset tiny --out quick        a minute, for a first look

Stopped at any time, the same command goes on. It writes only to --out."""

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Places:
    """Where the demo writes."""

    out: Path

    @property
    def streets(self) -> Path:
        return self.out / "streets"

    @property
    def workspace(self) -> Path:
        return self.out / "workspace"


@app.command(epilog=EPILOG)
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where everything is written.")] = Path("demo"),
    preset: Annotated[str, typer.Option("--preset", metavar="tiny|small|bench", help="How many streets.")] = "small",
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, metavar="N", help="Of each run.", show_default="by preset"),
    ] = None,
    jobs: options.Jobs = 0,
    device: options.Device = "auto",
    debug: options.Debug = False,
) -> None:
    """Run the whole chain on generated street scans.

    Generates streets, prepares and splits them, trains with few and with all labels, evaluates, and writes a report, \
pictures and learning curves.
    """
    if preset not in STEPS:
        raise UsageError(f"There is no street preset '{preset}'.", hint=f"Use one of: {', '.join(STEPS)}.")
    start = time.monotonic()
    places = Places(out)
    options.STATE.workspace = places.workspace
    with console.inside_demo():
        _make_data(places, preset, jobs)
        runs = _train(places, preset, steps or STEPS[preset], jobs, device)
        results, files = _report(places, runs, jobs, device)
    _goodbye(places, results, files, time.monotonic() - start)


def _typed(*words: object, workspace: bool = True) -> str:
    """Shows the command that a step stands for, and returns it."""
    import shlex

    line = options.command_line(*words) if workspace else shlex.join(["ssl3d", *map(str, words)])
    paper = console.err()
    paper.print()
    paper.print(f"$ {line}", style="bold cyan", markup=False, soft_wrap=True)
    return line


def _make_data(places: Places, preset: str, jobs: int) -> None:
    from ssl3d.cli.commands.prepare import convert
    from ssl3d.cli.commands.synth import generate

    _typed("synth", "street", "--preset", preset, "--seed", SEED, "--out", places.streets, workspace=False)
    generate(preset, SEED, places.streets, overwrite=False, jobs=jobs)
    _typed("prepare", "semantickitti", "--root", places.streets, "--name", "streets")
    convert(
        "semantickitti",
        places.streets,
        name="streets",
        labels="labels",
        classes="single",
        version="",
        allow_partial=False,
        compress=False,
        workspace=places.workspace,
        jobs=jobs,
    )


def _train(places: Places, preset: str, steps: int, jobs: int, device: str) -> list[RunDirectory]:
    """Every method at the low ratio, then the baseline with all labels."""
    from ssl3d.cli.commands.split import choose, look
    from ssl3d.cli.commands.train import start
    from ssl3d.pipeline.training.config import resolve

    low, full = RATIOS[preset]
    runs = []
    for ratio, methods in ((low, METHODS), (full, METHODS[:1])):
        _typed("split", "--ratio", ratio)
        key = choose(places.workspace, "streets", {"ratio": ratio}, jobs=jobs)
        split = look(places.workspace, "streets", key).split
        share = console.percent_text(split.budget.share)
        train_scans = split.budget.train_scans
        console.say(f"{len(split.labelled)} of {train_scans} train scans show their labels: {share} of the points")
        for method in methods:
            command = _typed("train", method, "--backbone", BACKBONE, "--steps", steps)
            config = resolve(method, backbone=BACKBONE, steps=steps)
            words = {"dataset": "streets", "split": key, "command": command}
            runs.append(start(places.workspace, config, jobs=jobs, device=device, **words))
    return runs


def _report(
    places: Places, runs: list[RunDirectory], jobs: int, device: str
) -> tuple[list[EvalResult], dict[str, list[Path]]]:
    """Evaluates, prints the table, and writes report, pictures and curves."""
    from ssl3d.cli.commands.eval import score, write_report
    from ssl3d.pipeline.evaluation.curves import class_bars, learning_curves

    _typed("eval", "--report", "table", "--pictures", PICTURES)
    space = options.open_workspace(places.workspace)
    folder = places.out / "pictures"
    results, pictures = score(
        space, runs, subset="val", pictures=PICTURES, folder=folder, overwrite=False, jobs=jobs, device=device
    )
    protocols = list(dict.fromkeys(run.config.data.protocol for run in runs))
    write_report(results, protocols, "table", None)
    for form in ("html", "markdown", "json"):
        write_report(results, protocols, form, places.out / f"report.{'md' if form == 'markdown' else form}")
    curves = learning_curves({run.name: run.metrics() for run in runs}, places.out / "curves.png")
    bars = class_bars(results, protocols[0], places.out / "classes.png")
    return results, {
        "report": [places.out / "report.html", places.out / "report.md", places.out / "report.json"],
        "pictures": pictures,
        "curves": [curves],
        "classes": [bars],
    }


def _goodbye(places: Places, results: list[EvalResult], files: dict[str, list[Path]], seconds: float) -> None:
    facts: dict[str, object] = {name: "\n".join(map(str, paths)) for name, paths in files.items()}
    facts["everything"] = places.out
    facts["took"] = console.time_text(seconds)
    console.err().print()
    console.done(
        f"the demo: {len(results)} runs compared",
        facts,
        then=[
            "ssl3d prepare semantickitti --root /your/kitti --check",
            "ssl3d prepare semantickitti --root /your/kitti",
            "ssl3d split --ratio 1%",
            "ssl3d train supervised --backbone minkunet18",
            "ssl3d eval --report table",
        ],
    )
