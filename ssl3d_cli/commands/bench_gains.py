"""``ssl3d bench gains``: what methods gain over the baseline; a matrix of runs that goes on where it stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ssl3d.cli import console, options
from ssl3d.data.errors import Ssl3dError, UsageError

if TYPE_CHECKING:
    from ssl3d.benchmarks.gains import Job
    from ssl3d.benchmarks.gains_data import Bench
    from ssl3d.benchmarks.gains_plan import Plan
    from ssl3d.benchmarks.gains_runs import Failure
    from ssl3d.pipeline.evaluation.result import EvalResult

DEFAULT_WORKSPACE = Path("workspace-gains")
EPILOG = """\
[bold]Example[/]

  ssl3d bench gains --dry-run           the plan, and how long it takes
  ssl3d bench gains --json gains.json   all of it
  ssl3d bench gains --subset holdout --seeds 2 --set mean_teacher.w=50
  ssl3d bench gains --report-only --json gains.json

Stopped at any time, the same command goes on.
Parameters are chosen on the dev streets (--subset holdout); figures are reported on the test streets."""


def gains(
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods", metavar="A,B", help="Which methods; the baseline is always there.", show_default=False
        ),
    ] = None,
    regimes: Annotated[
        str | None, typer.Option("--regimes", metavar="scan,points", help="What is labelled.", show_default=False)
    ] = None,
    ratios: Annotated[
        str | None,
        typer.Option("--ratios", metavar="1%,10%", help="Shares, or scan:1%,points:0.1%.", show_default=False),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, metavar="N", help="Paired seeds.", show_default="5")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, metavar="N", help="Of each run.", show_default="as the recipe says"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="As for `ssl3d train`; may be repeated.", show_default=False),
    ] = None,
    subset: Annotated[
        Literal["val", "holdout"], typer.Option("--subset", help="val: the test streets; holdout: the dev streets.")
    ] = "val",
    full: Annotated[bool, typer.Option("--full", help="Also the ablations of each method.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan.")] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Train nothing: report the file of --json, else what has run.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures there.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Pictures and gains.md.", show_default="WORKSPACE/report"),
    ] = None,
    docs: Annotated[
        Path | None,
        typer.Option(
            "--docs", metavar="FILE", help="Also replace the marked section of this page.", show_default=False
        ),
    ] = None,
    streets: Annotated[
        Path | None,
        typer.Option("--streets", metavar="DIR", help="Generated streets.", show_default="generates preset bench"),
    ] = None,
    workspace: options.Workspace = DEFAULT_WORKSPACE,
    jobs: options.Jobs = 0,
    device: options.Device = "cpu",
    debug: options.Debug = False,
) -> None:
    """What methods gain over the baseline: paired seeds, equal steps, the same EMA, on the frozen streets.

    --jobs N runs N trainings side by side, of one thread each. Prints the plan first; finished runs are never repeated.
    """
    from ssl3d.benchmarks import gains as recipes

    start = time.monotonic()
    recipe = recipes.choose(
        methods=methods, regimes=regimes, ratios=ratios, seeds=seeds, steps=steps, settings=settings or (), full=full
    )
    if report_only and json_file is not None and json_file.is_file():
        publish(_load(json_file), workspace, None, out, docs, start)
        return
    if not report_only:
        _make_streets(workspace, recipe, streets, jobs, dry_run)
    bench = _open(workspace, recipe, subset)
    if bench is None and report_only:
        raise _nothing_to_report([])
    if bench is None:
        console.say("the streets are not there yet: nothing has run, and nothing tells how long a step takes here")
        console.say(f"{len(recipe.jobs())} runs of {recipe.steps} steps: {', '.join(c.name for c in recipe.cells)}")
        return
    plan, failed = _planned(bench, jobs, dry_run, report_only), list["Failure"]()
    if dry_run:
        return
    done = dict(plan.done)
    if not report_only:
        failed = _run(bench, plan, done, jobs, device)
    value = _figures(bench, done, failed, start)
    publish(value, workspace, json_file, out, docs, start)
    if failed:
        raise Ssl3dError(
            f"{len(failed)} of {value['gains']['planned']} runs failed",
            where={failure.job.name: f"{failure.message} ({failure.log})" for failure in failed[:5]},
            hint="the same command tries them again, and repeats nothing else",
        )


def _open(workspace: Path, recipe: Any, subset: str) -> Bench | None:
    """The benchmark; None while its streets are not prepared."""
    from ssl3d.benchmarks.gains_data import DATASET, Bench

    if not (workspace / "workspace.json").is_file():
        return None
    space = options.open_workspace(workspace, create=False)
    product = space.dataset(DATASET).product("prepare")
    return Bench.open(space, recipe, subset) if product is not None and product.complete else None


def _make_streets(workspace: Path, recipe: Any, streets: Path | None, jobs: int, dry_run: bool) -> None:
    if dry_run:
        return
    from ssl3d.benchmarks.gains_data import make_streets

    space = options.open_workspace(workspace)
    make_streets(space, recipe, streets, jobs, console.ConsoleProgress())


def _planned(bench: Bench, jobs: int, dry_run: bool, report_only: bool) -> Plan:
    """The plan, printed."""
    from ssl3d.benchmarks.gains_plan import calibrate, make_plan

    if dry_run or report_only:
        bench.find_splits()
    else:
        bench.make_splits(bench.recipe.jobs(), jobs, console.ConsoleProgress())
        bench.make_stages(jobs, console.ConsoleProgress())
    plan = make_plan(bench)
    if not report_only:
        calibrate(bench, plan)
    if bench.subset == "holdout":
        console.say("dev streets: to choose parameters on. Figures are reported on the test streets (--subset val).")
    for line in plan.lines(jobs):
        console.say(line)
    return plan


def _run(bench: Bench, plan: Plan, done: dict[Job, EvalResult], jobs: int, device: str) -> list[Failure]:
    """Runs what is left, and puts the results into ``done``."""
    from ssl3d.benchmarks.gains_plan import hours
    from ssl3d.benchmarks.gains_runs import Failure, Runner

    progress, left = console.ConsoleProgress(), list(plan.left)
    total = len(plan.jobs)
    place = options.resolve_device(device)

    with progress.task("gains", len(left), "run") as task:

        def said(job: Job, ended: EvalResult | Failure, wall: float) -> None:
            left.remove(job)
            task.advance()
            if isinstance(ended, Failure):
                progress.say(f"failed: {job.name}: {ended.message} (all of it: {ended.log})")
                return
            done[job] = ended
            plan.pace.learn(bench, job, wall)
            rest = plan.remaining(left)
            score = 100 * ended.scores(bench.dataset.spec.name).miou
            then = f", about {hours(rest / jobs)} left" if left and rest else ""
            count = f"{total - len(left)}/{total}"
            progress.say(f"{count} {job.name}: mIoU {score:.1f} in {console.time_text(wall)}{then}")

        failed = Runner(bench, jobs, place, said, progress.say).run(left.copy())
    return failed


def _figures(bench: Bench, done: Mapping[Job, EvalResult], failed: list[Failure], start: float) -> dict[str, Any]:
    from ssl3d.benchmarks import gains_report
    from ssl3d.cli.commands.bench import describe_machine

    if not done:
        raise _nothing_to_report(failed)
    order = [job for job in bench.recipe.jobs() if job in done]
    value = gains_report.figures(bench, {job: done[job] for job in order}, failed)
    return {
        "results": gains_report.results(value),
        "gains": value,
        "machine": describe_machine(_command(bench)),
    }


def _nothing_to_report(failed: list[Failure]) -> Ssl3dError:
    return Ssl3dError(
        "there is nothing to report: no run has finished",
        where={failure.job.name: failure.message for failure in failed[:3]},
        hint="each run keeps what it said in the folder logs of the workspace" if failed else None,
    )


def _command(bench: Bench) -> str:
    import shlex
    import sys

    words = [word for word in sys.argv[1:] if word not in ("--report-only", "--debug")]
    return shlex.join(["ssl3d", *words]) if words[:2] == ["bench", "gains"] else "ssl3d bench gains"


def publish(
    value: dict[str, Any], workspace: Path, json_file: Path | None, out: Path | None, docs: Path | None, start: float
) -> None:
    """Draws the table; writes the file of figures, the pictures, and the page."""
    from ssl3d.benchmarks import gains_pictures, gains_report

    found = value["gains"]
    _draw(found)
    folder = out or workspace / "report"
    pictures = gains_pictures.draw(found, folder)
    section = gains_report.markdown(found, value["machine"])
    facts: dict[str, object] = {}
    if json_file is not None:
        from ssl3d.cli.commands.bench import write_figures

        write_figures(json_file, value)
        facts["figures"] = json_file
    _write(folder / "gains.md", section)
    facts["report"] = "\n".join(map(str, (folder / "gains.md", *pictures)))
    if docs is not None:
        _replace(docs, value, folder)
        facts["page"] = docs
    facts["took"] = console.time_text(time.monotonic() - start)
    console.done(f"gains: {found['done']} of {found['planned']} runs", facts)


def _draw(found: Mapping[str, Any]) -> None:
    from rich.markup import escape

    from ssl3d.benchmarks import gains_report

    head, rows = gains_report.table(found)
    colors = {"gains": "green", "loses": "red"}
    shown = [
        [*map(escape, row[:-1]), f"[{colors[row[-1]]}]{row[-1]}[/]" if row[-1] in colors else row[-1]] for row in rows
    ]
    columns: list[console.Column] = [head[0], head[1], *((name, "right") for name in head[2:8]), head[8]]
    paper = console.out()
    paper.print(console.table(columns, shown))
    for note in gains_report.notes(found):
        paper.print(" " + escape(note), soft_wrap=True)


def _replace(docs: Path, value: Mapping[str, Any], folder: Path) -> None:
    import os

    from ssl3d.benchmarks import gains_report
    from ssl3d.benchmarks.pages import write_section

    relative = Path(os.path.relpath(folder.resolve(), docs.resolve().parent)).as_posix() + "/"
    write_section(docs, "gains", gains_report.markdown(value["gains"], value["machine"], relative))


def _write(path: Path, text: str) -> None:
    from ssl3d.data.atomic import write_whole
    from ssl3d.pipeline.files import writing

    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())


def _load(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if {"gains", "machine"} <= value.keys():
            return value
    except (OSError, ValueError, AttributeError):
        pass
    raise UsageError("this is no file of figures of `ssl3d bench gains`", where={"file": path})
