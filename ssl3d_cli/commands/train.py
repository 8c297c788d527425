"""``ssl3d train``: trains a method, or goes on with an unfinished run of the same parameters."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl3d.cli import console, options
from ssl3d.data.errors import Ssl3dError, UsageError

if TYPE_CHECKING:
    from ssl3d.pipeline.training.config import RunConfig
    from ssl3d.pipeline.training.run import RunDirectory

DEFAULT_BACKBONE = "minkunet18"
_OF_A_RUN = {
    "method": "METHOD",
    "backbone": "--backbone",
    "steps": "--steps",
    "seed": "--seed",
    "settings": "--set",
    "split": "--split",
    "dataset": "--dataset",
    "init_from": "--init-from",
    "overwrite": "--overwrite",
    "sparse_backend": "--sparse-backend",
}
"""What a run knows of itself; parameter -> the word of the command line."""

EPILOG = """\
[bold]Example[/]

  ssl3d train supervised --backbone minkunet18 --steps 2000 --seed 0
  ssl3d train supervised --set train.batch=4 --set optimizer.lr=0.002
  ssl3d train supervised --list-keys           every key of --set
  ssl3d train --list                           every method and backbone

Three words: [bold]--resume[/] goes on with an unfinished run (the same command does it too); [bold]--init-from[/] \
begins a new run from the weights of another; [bold]--overwrite[/] begins the same run again."""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def train(
    ctx: typer.Context,
    method: Annotated[
        str | None,
        typer.Argument(
            metavar="METHOD", autocompletion=options.complete_method, help="As --list names it.", show_default=False
        ),
    ] = None,
    backbone: Annotated[
        str, typer.Option("--backbone", metavar="NAME", autocompletion=options.complete_backbone, help="The network.")
    ] = DEFAULT_BACKBONE,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, metavar="N", help="Iterations, all phases together; else as --list-keys says."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of weights, batches, augmentation.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other parameter; may be repeated.", show_default=False),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="NAME", help="Which split; else the one chosen last.", show_default=False),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume",
            metavar="RUN",
            autocompletion=options.complete_run,
            help="Go on with this run, whatever its parameters.",
            show_default=False,
        ),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            "--init-from",
            metavar="RUN|FILE",
            autocompletion=options.complete_run,
            help="Begin a new run from these weights.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin the run again, even a finished one.")] = False,
    list_methods: Annotated[bool, typer.Option("--list", help="Only list methods and backbones.")] = False,
    list_keys: Annotated[bool, typer.Option("--list-keys", help="Only list the keys of --set.")] = False,
    dataset: options.Dataset = None,
    workspace: options.Workspace = options.DEFAULT_WORKSPACE,
    jobs: options.Jobs = 0,
    device: options.Device = "auto",
    sparse_backend: options.SparseBackend = "native",
    debug: options.Debug = False,
) -> None:
    """Train a method, or go on with an unfinished run.

    Sees the labels of the split and no others. Killed at any time, the same command goes on.
    """
    if list_methods:
        draw_methods()
        return
    if resume is not None:
        ignored = [word for name, word in _OF_A_RUN.items() if _typed(ctx, name)]
        if ignored:
            raise UsageError(
                f"--resume RUN takes everything from the run: it does not go with {', '.join(ignored)}.",
                hint="Leave that out; or begin a new run with it, from the weights of this one: --init-from RUN.",
            )
        start(workspace, None, resume=resume, jobs=jobs, device=device)
        return
    if method is None:
        raise UsageError("Which method?", hint="Type `ssl3d train supervised`; `ssl3d train --list` names them all.")
    from ssl3d.pipeline.training.config import resolve

    overrides = list(settings or [])
    if _typed(ctx, "sparse_backend"):
        overrides.append(f"train.sparse_backend={sparse_backend}")
    defaults = defaults_of(workspace, dataset)
    config = resolve(method, backbone=backbone, seed=seed, steps=steps, overrides=overrides, defaults=defaults)
    if list_keys:
        draw_keys(config)
        return
    start(
        workspace,
        config,
        dataset=dataset,
        split=split,
        init_from=init_from,
        overwrite=overwrite,
        jobs=jobs,
        device=device,
    )


def defaults_of(workspace: Path, dataset: str | None) -> tuple[str, ...]:
    """What training begins with on the dataset; nothing when there is none yet (which is an error later)."""
    from ssl3d.pipeline.dataset import PreparedDataset

    try:
        space = options.open_workspace(workspace, create=False)
        return PreparedDataset(space.dataset(dataset)).spec.defaults
    except Ssl3dError:
        return ()


def _typed(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


# ---------------------------------------------------------------- lists


def draw_methods() -> None:
    """Every method: on which backbones and scans it works, what it needs, what it is; the backbones by kind."""
    import inspect

    from rich.markup import escape

    from ssl3d.models.backbones.registry import get_backbone, list_backbones
    from ssl3d.models.methods import registry

    rows = []
    for name in registry.list_methods():
        method = registry.get_method(name)
        first = (inspect.getdoc(inspect.getmodule(method)) or inspect.getdoc(method) or "").split("\n\n")[0]
        rows.append(
            (
                f"[bold]{escape(name)}[/]",
                escape(", ".join(method.elements)) or "any",
                "no" if method.needs_sensor else "yes",
                "yes" if method.uses_unlabelled else "no",
                ", ".join(method.needs) or "-",
                escape(" ".join(first.split())),
            )
        )
    columns = ["method", "backbones", "rooms", "unlabelled", "stages", "what it does"]
    console.out().print(console.table(columns, rows))
    kinds: dict[str, list[str]] = {}
    for name in list_backbones():
        kinds.setdefault(get_backbone(name).elements, []).append(escape(name))
    backbones = [(escape(kind), ", ".join(names)) for kind, names in kinds.items()]
    console.out().print(console.table(["backbones that compute on", "--backbone"], backbones))
    console.out().print(
        "rooms: also scans that no spinning sensor took; unlabelled: learns from what has no label; "
        "stages: whose products it reads (ssl3d train runs those that are missing)"
    )


def draw_keys(config: RunConfig) -> None:
    """Every key of ``--set`` with its value; changed ones stand out."""
    from rich.markup import escape

    rows = [
        (
            escape(row.key),
            escape(str(row.value)) if row.default else f"[bold yellow]{escape(str(row.value))}[/]",
            escape(row.expects),
            escape(row.doc),
        )
        for row in config.describe()
    ]
    console.out().print(console.table(["key", "value", "expects", "what it is"], rows))


# ---------------------------------------------------------------- training


def start(workspace: Path, config: RunConfig | None, *, jobs: int, device: str, **words: Any) -> RunDirectory:
    """Trains ``config``, or goes on with its unfinished run (or the run ``resume``), and says what was made.

    Args:
        words: ``resume``, ``overwrite``, ``init_from``, ``dataset``, ``split`` of the trainer.
    """
    from ssl3d.cli.live import TrainingView
    from ssl3d.pipeline.launch import launched
    from ssl3d.pipeline.training.trainer import train as run

    space = options.open_workspace(workspace, create=False)
    place = options.resolve_device(device)
    progress = console.ConsoleProgress()
    begun = time.monotonic()
    with TrainingView(progress) as view:
        directory = run(space, config, device=place, jobs=jobs, progress=progress, display=view, **words)
    if not launched().first:
        return directory
    status = directory.status()
    facts: dict[str, object] = {"run": directory.name, "where": directory.path}
    if view.last is None:
        facts["training"] = "finished before; nothing was done (--overwrite begins again)"
    else:
        facts["training"] = f"{status['step']} steps in {console.time_text(status['seconds'])}"
        if view.last.visible_miou is not None:
            facts["mIoU"] = f"{view.last.visible_miou:.1f}% on visible labels, while training"
        facts["took"] = console.time_text(time.monotonic() - begun)
    console.done(f"trained {directory.config.method}", facts, then=[options.command_line("eval", "--report", "table")])
    return directory
