"""``ssl3d runs``: lists runs, or shows one. The list reads a few JSON files a run and imports no torch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl3d.cli import console, options
from ssl3d.data.errors import Ssl3dError

if TYPE_CHECKING:
    from ssl3d.pipeline.training.run import RunDirectory
    from ssl3d.pipeline.workspace import Workspace

EPILOG = """\
[bold]Example[/]

  ssl3d runs                      every run: state, steps, mIoU
  ssl3d runs show RUN             one: parameters, results, curves
  ssl3d runs --json | jq -r '.\\[] | select(.state == "finished") | .run'

RUN is the name, or a beginning or an ending that only one run has."""

_COLORS = {"finished": "green", "running": "cyan", "failed": "red"}

app = typer.Typer(add_completion=False, invoke_without_command=True, epilog=EPILOG)


@app.callback()
def runs(
    ctx: typer.Context,
    as_json: options.Json = False,
    workspace: options.Workspace = options.DEFAULT_WORKSPACE,
    debug: options.Debug = False,
) -> None:
    """List runs, or show one."""
    if ctx.invoked_subcommand is not None:
        return
    found = summaries(options.open_workspace(workspace, create=False))
    if as_json:
        options.print_json(found)
    elif found:
        draw_runs(found)
    else:
        console.out().print("There are no runs yet. Make one:")
        console.out().print(f"  {options.command_line('train', 'supervised')}", markup=False, style="cyan")


@app.command(epilog=EPILOG)
def show(
    run: Annotated[str, typer.Argument(metavar="RUN", autocompletion=options.complete_run, help="Its name.")],
    as_json: options.Json = False,
    workspace: options.Workspace = options.DEFAULT_WORKSPACE,
    debug: options.Debug = False,
) -> None:
    """Show one run: parameters, results, what its method says of itself, and its learning curves as a picture."""
    from ssl3d.pipeline.training.run import RunDirectory

    space = options.open_workspace(workspace, create=False)
    directory = RunDirectory.open(space, run)
    facts = summary(directory)
    facts["config"] = directory.record()
    facts["diagnostics"] = diagnostics(directory)
    if as_json:
        options.print_json(facts)
        return
    _draw_run(directory, facts)


# ---------------------------------------------------------------- facts


def summaries(space: Workspace) -> list[dict[str, Any]]:
    """One object per run, the oldest first."""
    from ssl3d.pipeline.training.run import RunDirectory

    return [summary(directory) for directory in RunDirectory.list(space)]


def summary(directory: RunDirectory) -> dict[str, Any]:
    """What the list shows of a run, JSON."""
    record, status = directory.record(), directory.status()
    protocol = str((record.get("dataset") or {}).get("protocol", "nanmean"))
    return {
        "run": directory.name,
        "state": directory.state,
        "method": record.get("method"),
        "backbone": record.get("backbone"),
        "dataset": (record.get("dataset") or {}).get("name"),
        "split": (record.get("split") or {}).get("name"),
        "seed": record.get("seed"),
        "step": status.get("step", 0),
        "steps": status.get("steps", (record.get("train") or {}).get("steps")),
        "seconds": status.get("seconds"),
        "updated": status.get("updated", record.get("created")),
        "protocol": protocol,
        "miou": evaluations(directory, protocol),
        "folder": str(directory.path),
    }


def evaluations(directory: RunDirectory, protocol: str) -> dict[str, float]:
    """Subset -> mIoU in percent of the evaluations kept in the run; ``val ema`` is that of the averaged weights.

    One that the protocol refuses is left out: `ssl3d eval` says why."""
    from ssl3d.pipeline.evaluation.result import EvalResult, how

    found = {}
    for path in sorted((directory.path / "eval").glob("*.json")):
        result = EvalResult.load(path)
        if result is not None:
            with suppress(Ssl3dError):
                name = " ".join([result.subset, *how(result.weights, result.augment)])
                found[name] = 100 * result.scores(protocol).miou
    return found


def diagnostics(directory: RunDirectory) -> dict[str, Any]:
    """The last that the method of a run has logged about itself: ``step``, ``pseudo_labels`` and ``measures``, as far
    as it counts them; empty when it counts nothing."""
    for line in reversed(directory.metrics()):
        found = {name: line[name] for name in ("pseudo_labels", "measures") if isinstance(line.get(name), dict)}
        if "measures" in found and not _counted(found["measures"]):
            del found["measures"]  # of a phase that counts nothing
        if found:
            return {"step": line["step"], **found}
    return {}


def _counted(measures: Mapping[str, Any]) -> bool:
    """Whether any class or mean of ``measures`` has a value."""
    values = [*measures.get("means", {}).values(), *(v for row in measures.get("classes", {}).values() for v in row)]
    return any(value is not None for value in values)


# ---------------------------------------------------------------- drawing


def draw_runs(found: Sequence[Mapping[str, Any]]) -> None:
    """A table: run, state, steps, mIoU, when."""
    from rich.markup import escape

    rows = []
    protocols = list(dict.fromkeys(item["protocol"] for item in found))
    for item in found:
        color = _COLORS.get(item["state"], "yellow")
        miou = ", ".join(
            f"{value:.1f}{'' if subset == 'val' else f' ({subset})'}" for subset, value in item["miou"].items()
        )
        rows.append(
            (
                escape(item["run"]),
                f"[{color}]{item['state']}[/]",
                f"{item['step']}/{item['steps']}",
                (miou + (f" {item['protocol']}" if len(protocols) > 1 else "")) if miou else "[dim]-[/]",
                "" if item["seconds"] is None else console.time_text(item["seconds"]),
                _age(item["updated"]),
            )
        )
    columns: list[console.Column] = [
        "run",
        "state",
        ("steps", "right"),
        (f"mIoU ({', '.join(protocols)})", "right"),
        ("took", "right"),
        "last",
    ]
    console.out().print(console.table(columns, rows))


def _age(moment: float | None) -> str:
    if moment is None:
        return ""
    seconds = max(0.0, time.time() - moment)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' * (count > 1)} ago"
    return "just now"


def _draw_run(directory: RunDirectory, facts: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    paper = console.out()
    paper.print(directory.name, style="bold", markup=False)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in _facts(directory, facts).items():
        grid.add_row(f"  {name}", Text(value))
    paper.print(grid)
    draw_diagnostics(facts["diagnostics"], (facts["config"].get("dataset") or {}).get("classes", ()))
    draw_settings(facts["config"])


def _facts(directory: RunDirectory, facts: Mapping[str, Any]) -> dict[str, str]:
    status = directory.status()
    shown = {
        "state": f"{facts['state']}, step {facts['step']} of {facts['steps']}",
        "trained": f"{facts['method']} on {facts['backbone']}, seed {facts['seed']}",
        "data": f"{facts['dataset']}, split {facts['split']}",
    }
    if facts["seconds"] is not None:
        shown["took"] = console.time_text(facts["seconds"])
    for subset, value in facts["miou"].items():
        shown[f"mIoU, {subset} ({facts['protocol']})"] = f"{value:.2f}%"
    if losses := status.get("losses"):
        shown["last losses"] = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
    command = directory.path / "command.txt"
    if command.exists():
        shown["command"] = command.read_text(encoding="utf-8").strip().splitlines()[-1]
    shown["folder"] = str(directory.path)
    if metrics := directory.metrics():
        from ssl3d.pipeline.evaluation.curves import learning_curves

        try:
            shown["curves"] = str(learning_curves({directory.name: metrics}, directory.path / "curves.png"))
        except OSError as error:  # somebody else's workspace can still be looked at
            shown["curves"] = f"not drawn: {error.strerror}"
    return shown


def draw_diagnostics(found: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Pseudo labels and measures: a line a class, then plain means. Shares are of the last stretch of the log."""
    from rich.markup import escape

    if not found:
        return
    pseudo, measures = found.get("pseudo_labels", {}), found.get("measures", {})
    shares = {
        **({"pseudo labels %": pseudo["classes"], "visible %": pseudo["visible"]} if pseudo else {}),
        **{f"{name} %": values for name, values in measures.get("classes", {}).items()},
    }
    console.out().print(f"\nat step {found['step']}", style="bold")
    if pseudo:
        used = f"{100 * pseudo['share']:.1f}% of the unlabelled elements are used"
        console.out().print(f"  {used}; by class beside the visible labels:", markup=False)
    if shares:
        columns: list[console.Column] = ["class", *((escape(name), "right") for name in shares)]
        rows = [
            (escape(name), *(_share(values, index) for values in shares.values())) for index, name in enumerate(classes)
        ]
        console.out().print(console.table(columns, rows))
    if means := measures.get("means", {}):
        text = ", ".join(f"{name} {'-' if value is None else f'{value:.4g}'}" for name, value in means.items())
        console.out().print(f"  {text}\n", markup=False)


def _share(values: Sequence[float | None], index: int) -> str:
    value = values[index] if index < len(values) else None
    return "[dim]-[/]" if value is None else f"{100 * value:.1f}"


def draw_settings(config: Mapping[str, Any]) -> None:
    """The resolved parameters, a line per section."""
    from rich.markup import escape

    rows = [
        (escape(section), escape(", ".join(f"{key}={value}" for key, value in values.items())))
        for section, values in config.items()
        if isinstance(values, dict) and section not in ("dataset", "split", "init_from")
    ]
    console.out().print(console.table(["section", "parameters"], rows))
