"""``ssl3d predict``: predictions in the dataset's own format, for every point of every scan."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from ssl3d.cli import console, options

EPILOG = """\
[bold]Example[/]

  ssl3d predict RUN --format semantickitti --out predictions
  ssl3d predict RUN --subset val --subset test --out predictions

Writes sequences/SS/predictions/FFFFFF.label with original ids, as the official tools read them, the validation \
sequences too. Typed again, the command writes only what is missing."""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def predict(
    run: Annotated[str, typer.Argument(metavar="RUN", autocompletion=options.complete_run, help="Its name.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write; not inside the dataset.")],
    form: Annotated[str, typer.Option("--format", metavar="semantickitti", help="The layout.")] = "semantickitti",
    subsets: Annotated[
        list[str] | None,
        typer.Option(
            "--subset",
            metavar="train|val|test",
            help="Which scans; may be repeated.",
            show_default="val and test, as far as there are any",
        ),
    ] = None,
    weights: Annotated[
        Literal["auto", "own", "ema"],
        typer.Option("--weights", help="Its own, or their average (train.ema); auto: the average if it has one."),
    ] = "auto",
    tta: options.TestTime = "none",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace predictions of another run.")] = False,
    workspace: options.Workspace = options.DEFAULT_WORKSPACE,
    jobs: options.Jobs = 0,
    device: options.Device = "auto",
    sparse_backend: options.SparseBackend = "native",
    debug: options.Debug = False,
) -> None:
    """Write predictions in the dataset's own format."""
    from ssl3d.pipeline.dataset import PreparedDataset
    from ssl3d.pipeline.evaluation.passes import Passes
    from ssl3d.pipeline.evaluation.subject import subject_of
    from ssl3d.pipeline.evaluation.write import predict as write
    from ssl3d.pipeline.training.run import RunDirectory

    start = time.monotonic()
    space = options.open_workspace(workspace, create=False)
    directory = RunDirectory.open(space, run)
    subject = subject_of(directory, weights, Passes.parse(tta))
    with options.sparse_backend(sparse_backend):
        result = write(
            PreparedDataset(space.dataset(directory.config.data.name)),
            subject,
            out,
            format=form,
            subsets=subsets or None,
            device=options.resolve_device(device),
            jobs=jobs,
            progress=console.ConsoleProgress(),
            overwrite=overwrite,
        )
    kept = f", {result.kept} were there already" if result.kept else ""
    points = f"{console.count_text(result.points)} points of {', '.join(result.subsets)}"
    facts = {
        "wrote": f"{result.written} files{kept}; {points}",
        "where": result.out,
        "took": console.time_text(time.monotonic() - start),
    }
    console.done(f"predicted with {subject.name}", facts)
