"""``ssl3d predict``: predictions in the dataset's own format, for every point of every scan."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ssl3d.cli import console, options
from ssl3d.cli.loose import predict_loose
from ssl3d.data.errors import UsageError

if TYPE_CHECKING:
    from ssl3d.pipeline.dataset import PreparedDataset

EPILOG = """\
[bold]Example[/]

  ssl3d predict RUN --out predictions
  ssl3d predict RUN --subset test --out predictions --submit ours.zip
  ssl3d predict RUN scan.laz other.ply --out labelled

Writes what the official tools read: sequences/SS/predictions/FFFFFF.label with original ids (semantickitti), \
lidarseg/SUBSET/TOKEN_lidarseg.bin and submission.json (nuscenes), SCAN.txt (scannet), CLOUD.labels (semantic3d). \
Validation scans too. Typed again, the command writes only what is missing."""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def predict(
    run: Annotated[str, typer.Argument(metavar="RUN", autocompletion=options.complete_run, help="Its name.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write; not inside the dataset.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", help="Loose files to label; no dataset is needed.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="What the columns of loose files are; see prepare folder."),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="semantickitti|nuscenes|scannet|semantic3d|npz|ply|las|laz",
            help="The layout.",
            show_default="the dataset's own",
        ),
    ] = None,
    submit: Annotated[
        Path | None,
        typer.Option("--submit", metavar="FILE.zip", help="Also pack it for the benchmark's server, and check that."),
    ] = None,
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
    from ssl3d.pipeline.evaluation.passes import Passes
    from ssl3d.pipeline.evaluation.subject import dataset_of, subject_of
    from ssl3d.pipeline.evaluation.write import predict as write
    from ssl3d.pipeline.training.run import RunDirectory

    start = time.monotonic()
    space = options.open_workspace(workspace, create=False)
    directory = RunDirectory.open(space, run)
    subject = subject_of(directory, weights, Passes.parse(tta))
    if files:
        if submit is not None or subsets:
            raise UsageError(
                "--submit and --subset are for prepared datasets, not for loose files", hint="leave them out"
            )
        with options.sparse_backend(sparse_backend):
            predict_loose(
                space,
                subject,
                directory.config.data.name,
                files,
                out,
                form=form,
                config=config,
                overwrite=overwrite,
                device=options.resolve_device(device),
                jobs=jobs,
            )
        return
    with options.sparse_backend(sparse_backend):
        prepared = dataset_of(space, directory, test=not subsets or "test" in subsets)
        result = write(
            prepared,
            subject,
            out,
            format=form,
            subsets=subsets or None,
            device=options.resolve_device(device),
            jobs=jobs,
            progress=console.ConsoleProgress(),
            overwrite=overwrite,
            submit=submit,
        )
    kept = f", {result.kept} were there already" if result.kept else ""
    points = f"{console.count_text(result.points)} points of {', '.join(result.subsets)}"
    facts = {
        "wrote": f"{result.written} files{kept}; {points}",
        "where": f"{result.out} (format {result.format})",
        "took": console.time_text(time.monotonic() - start),
    }
    console.done(f"predicted with {subject.name}", facts)
    if submit is not None:
        check_packed(submit, result.format, prepared, result.subsets[0])


def check_packed(path: Path, form: str, dataset: PreparedDataset, subset: str) -> None:
    """Draws what the benchmark's server would say to the archive, for datasets that have one."""
    from ssl3d.cli.commands.submit import draw
    from ssl3d.pipeline.submission.check import BENCHMARKS, check_submission
    from ssl3d.pipeline.submission.formats import expected_files

    if form in BENCHMARKS and dataset.spec.name == form:
        expected = expected_files(dataset, subset)
        draw(check_submission(path, form, expected, progress=console.ConsoleProgress()))
