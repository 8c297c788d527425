"""``ssl3d eval``: scores of runs over every original point, side by side. What is already evaluated is not computed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ssl3d.cli import confidence as surest
from ssl3d.cli import console, options
from ssl3d.data.errors import Ssl3dError, UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ssl3d.benchmarks.compare import Line
    from ssl3d.pipeline.evaluation.folds import Fold
    from ssl3d.pipeline.evaluation.passes import Passes
    from ssl3d.pipeline.evaluation.report import Report
    from ssl3d.pipeline.evaluation.result import EvalResult
    from ssl3d.pipeline.evaluation.subject import Datasets
    from ssl3d.pipeline.training.run import RunDirectory
    from ssl3d.pipeline.workspace import Workspace

Weights = Literal["auto", "own", "ema"]
Format = Literal["table", "json", "csv", "markdown", "latex", "html"]

EPILOG = """\
[bold]Example[/]

  ssl3d eval                        every finished run of the dataset
  ssl3d eval RUN_A RUN_B --report markdown --out report.md
  ssl3d eval --report json | jq '.runs\\[] | {run, miou}'
  ssl3d eval --compare paper        and what papers report for the same method
  ssl3d eval RUN --pictures 3       and three scans as PNG
  ssl3d eval --weights ema          the average that train.ema keeps
  ssl3d eval RUN --subset holdout   what `ssl3d split --holdout` kept out
  ssl3d eval RUN --subset unlabelled --confidence 0.9
                                    what its surest predictions are worth as pseudo labels
  ssl3d eval RUN --tta flip,rotate  eight copies of every scan vote
  ssl3d eval --protocol s3dis-6fold one row of six runs, each without an area
                                    (ssl3d split --val Area_3 ...)
  ssl3d eval --predictions DIR      files of any program
  ssl3d eval RUN --predictions theirs.zip       beside a run

Predictions lie in a folder or a zip in the format of the dataset's server: sequences/SS/predictions/FFFFFF.label \
(semantickitti, semanticposs), lidarseg/val/TOKEN_lidarseg.bin (nuscenes), SCAN.txt with a class a line (scannet) or \
with `mask.txt label confidence` a line (scannet-instance), CLOUD.labels (semantic3d); SCAN.npz, .ply, .las for any \
dataset. Every scan of the subset needs its file. ScanNet's instances, and those of runs that predict any, are scored \
with AP, AP50 and AP25.

With --compare paper, numbers that papers report for the method, dataset and ratio of a run follow the report (csv: \
they alone are written), with backbone, split and protocol of both sides. A line is comparable only where all of that \
is known and equal; what a paper does not say is called not known.

The report goes to stdout, progress to stderr. RUN is the name, or a beginning or an ending that only one run has."""

app = typer.Typer(add_completion=False)


@app.command(name="eval", epilog=EPILOG)
def evaluate(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...",
            autocompletion=options.complete_run,
            help="Which runs; none: every finished run of the dataset.",
            show_default=False,
        ),
    ] = None,
    subset: Annotated[
        Literal["val", "train", "holdout", "unlabelled"],
        typer.Option(
            "--subset",
            help="Which scans; holdout: those that the run's split kept out of training; unlabelled: what training saw "
            "without a label (a diagnosis, no result).",
        ),
    ] = "val",
    weights: Annotated[
        Weights,
        typer.Option("--weights", help="A run's own, or their average (train.ema); auto: the average if it has one."),
    ] = "auto",
    tta: options.TestTime = "none",
    report: Annotated[Format, typer.Option("--report", help="How to print it.")] = "table",
    protocols: Annotated[
        list[str] | None,
        typer.Option(
            "--protocol",
            metavar="NAME",
            help="The arithmetic: semantickitti, nuscenes, s3dis-6fold, nanmean ...; may be repeated.",
            show_default="the dataset's own",
        ),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            "--confidence",
            metavar="P",
            help="Report instead, by class, how many points a run is surer of than P, and how many of these are right.",
            show_default=False,
        ),
    ] = None,
    predictions: Annotated[
        list[Path] | None,
        typer.Option(
            "--predictions",
            metavar="PATH",
            help="Score files of any program: a folder or a .zip; may be repeated.",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="Of --predictions: semantickitti, nuscenes, scannet, scannet-instance ...",
            show_default="what the names of the files say",
        ),
    ] = None,
    pictures: Annotated[int, typer.Option("--pictures", min=0, metavar="N", help="Also draw N scans of each run.")] = 0,
    against: Annotated[
        Literal["paper"] | None,
        typer.Option(
            "--compare",
            metavar="paper",
            help="Published numbers beside ours, and what keeps the two from being comparable.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the report there.", show_default="stdout")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Compute again what is already evaluated.")] = False,
    dataset: options.Dataset = None,
    workspace: options.Workspace = options.DEFAULT_WORKSPACE,
    jobs: options.Jobs = 0,
    device: options.Device = "auto",
    sparse_backend: options.SparseBackend = "native",
    debug: options.Debug = False,
) -> None:
    """Score runs, and predictions of any program, over every original point, and report them side by side.

    Points that the network left out count too. The name of the protocol stands beside every number.
    """
    from ssl3d.pipeline.evaluation.folds import summed
    from ssl3d.pipeline.evaluation.passes import Passes
    from ssl3d.pipeline.evaluation.protocols import find_protocol

    check_comparison(against, report)
    if confidence is not None:
        others = {"--predictions": predictions, "--protocol": protocols, "--pictures": pictures, "--compare": against}
        surest.check_words(report, others)
    over_folds = [name for name in protocols or [] if find_protocol(name).folds]
    passes = Passes.parse(tta)
    space = options.open_workspace(workspace, create=False)
    check_predictions(predictions or [], runs or [], form, subset, pictures, tta)
    chosen = [] if predictions and not runs else choose_runs(space, runs or [], dataset, subset, weights)
    wholes = choose_wholes(space, chosen, over_folds, subset, every=not runs) if over_folds else []
    if over_folds == protocols:
        parts = {fold.run for folds in wholes for fold in folds}
        chosen = [run for run in chosen if run.name in parts]
    if confidence is not None:
        words: dict[str, Any] = {"subset": subset, "weights": weights, "passes": passes, "jobs": jobs, "device": device}
        with options.sparse_backend(sparse_backend):
            surest.show(surest.compute(space, chosen, confidence, **words), report, out)
        return
    start = time.monotonic()
    whose = dataset or (chosen[0].config.data.name if chosen else None)
    given, theirs = score_predictions(space, predictions or [], whose, form, subset)
    with options.sparse_backend(sparse_backend):
        results, pictured = score(
            space,
            chosen,
            subset=subset,
            weights=weights,
            passes=passes,
            pictures=pictures,
            overwrite=overwrite,
            jobs=jobs,
            device=device,
        )
    if subset == "unlabelled":
        console.say("unlabelled: scans of the training set. This is a diagnosis, no result.")
    named = protocols or list(dict.fromkeys([*theirs, *(run.config.data.protocol for run in chosen)]))
    lines = comparison(space, results, named) if against == "paper" else []
    text = write_report([*given, *results, *(summed(folds, results) for folds in wholes)], named, report, out, lines)
    facts: dict[str, object] = {}
    if out is not None:
        facts["report"] = out
    if pictured:
        facts["pictures"] = "\n".join(map(str, pictured))
    facts["took"] = console.time_text(time.monotonic() - start)
    then = []
    if results:
        best = max(results, key=lambda result: result.scores("nanmean").miou)
        these = [] if weights == "auto" else ["--weights", weights]
        then = [options.command_line("predict", best.run, *these, "--out", "predictions")]
    if text is None or out is not None or pictured:
        console.done(f"evaluated {_counted(len(results), len(given))} on {subset}", facts, then=then)


def _counted(runs: int, predictions: int) -> str:
    parts = [f"{runs} run{'s' * (runs > 1)}"] if runs else []
    parts += [f"{predictions} set{'s' * (predictions > 1)} of predictions"] if predictions else []
    return " and ".join(parts)


def check_predictions(
    predictions: list[Path], runs: list[str], form: str | None, subset: str, pictures: int, tta: str
) -> None:
    """Raises ``UsageError`` for options that need what the command line does not name."""
    if form is not None and not predictions:
        raise UsageError("--format says how predictions are read", hint="name them: --predictions DIR")
    if not predictions:
        return
    if subset in ("holdout", "unlabelled"):
        raise UsageError(
            "what a split holds out or hides belongs to a run, which predictions in files do not name",
            where={"--subset": subset},
            hint="score them on val or train",
        )
    if not runs and (pictures or tta != "none"):
        raise UsageError(
            "--pictures and --tta need a network",
            hint="name a run too, or leave them out: files are scored as they are",
        )


def check_comparison(against: str | None, form: Format) -> None:
    """Raises ``UsageError`` for a format that has no place for published numbers."""
    if against is not None and form in ("latex", "html"):
        raise UsageError(
            f"published numbers are not written as {form}",
            where={"--compare": against, "--report": form},
            hint="choose --report table, markdown, json or csv",
        )


def comparison(space: Workspace, results: list[EvalResult], protocols: list[str]) -> list[Line]:
    """Published numbers beside those of the runs."""
    from ssl3d.benchmarks.compare import compare

    return compare(space, results, protocols)


def score_predictions(
    space: Workspace, predictions: list[Path], dataset: str | None, form: str | None, subset: str
) -> tuple[list[EvalResult], list[str]]:
    """The scores of files, and the dataset's own protocol."""
    if not predictions:
        return [], []
    from ssl3d.pipeline.dataset import PreparedDataset
    from ssl3d.pipeline.evaluation.foreign import protocol_for, score_files

    prepared, progress = PreparedDataset(space.dataset(dataset)), console.ConsoleProgress()
    results = [score_files(prepared, path, form=form, subset=subset, progress=progress) for path in predictions]
    return results, [protocol_for(prepared, subset)]


def choose_runs(
    space: Workspace, names: list[str], dataset: str | None, subset: str = "val", weights: Weights = "auto"
) -> list[RunDirectory]:
    """The named runs, or every finished run of a dataset (default: the one prepared last) that can be scored so."""
    from ssl3d.pipeline.dataset import PreparedDataset
    from ssl3d.pipeline.evaluation.subject import Datasets
    from ssl3d.pipeline.training.run import RunDirectory

    if names:
        return list({run.name: run for run in (RunDirectory.open(space, name) for name in names)}.values())
    handle = space.dataset(dataset)
    known = [run for run in RunDirectory.list(space) if (run.record().get("dataset") or {}).get("name") == handle.name]
    finished = [run for run in known if run.finished]
    if not finished:
        unfinished = f" ({len(known)} unfinished: name one to evaluate it as it is)" if known else ""
        raise UsageError(
            f"No run on '{handle.name}' has finished{unfinished}.",
            hint=f"Type: {options.command_line('train', 'supervised')}",
        )
    if len(finished) < len(known):
        console.say(f"left out: {len(known) - len(finished)} unfinished (ssl3d runs lists them)")
    PreparedDataset(handle)  # what is not prepared is one error, not one for each run
    datasets = Datasets(space)
    obstacles = {run.name: _obstacle(datasets, run, subset, weights) for run in finished}
    for name, why in obstacles.items():  # one bad run, which nobody named, does not stop the others
        if why is not None:
            console.say(f"left out: {name}: {why}")
    chosen = [run for run in finished if obstacles[run.name] is None]
    if not chosen:
        raise UsageError(f"No finished run on '{handle.name}' can be evaluated.", hint="Name one to see why.")
    return chosen


def choose_wholes(
    space: Workspace, runs: list[RunDirectory], protocols: list[str], subset: str, *, every: bool
) -> list[list[Fold]]:
    """The runs that held out one part each, as far as they make a whole; before anything is computed.

    Args:
        every: nobody named the runs, so those that make no whole are left out as long as others do.
    """
    from ssl3d.pipeline.evaluation.folds import fold_of, whole
    from ssl3d.pipeline.evaluation.subject import Datasets

    if subset != "val":
        raise UsageError(f"--protocol {protocols[0]} is about what each run held out.", hint="Leave out --subset.")
    datasets = Datasets(space)
    wholes, lacking = whole([fold_of(run, datasets.of(run)) for run in runs], protocols[0])
    if lacking and not (every and wholes):
        raise UsageError(
            f"These runs make no {protocols[0]}.",
            where={"why": "; ".join(lacking[:4])},
            hint="Train one for each part, and name them all: ssl3d split --val Area_3 --ratio 10%; ssl3d train ...",
        )
    for why in lacking:
        console.say(f"left out: {why}")
    return wholes


def _obstacle(datasets: Datasets, run: RunDirectory, subset: str, weights: Weights) -> str | None:
    """Why a finished run cannot be scored on its dataset; None when it can."""
    from ssl3d.pipeline.evaluation.evaluate import subset_scans
    from ssl3d.pipeline.evaluation.subject import subject_of

    try:
        dataset = datasets.of(run)
        if run.config.data.classes != dataset.spec.classes:
            return "trained for other classes than the dataset has now"
        subset_scans(dataset, subject_of(run, weights), subset)
    except Ssl3dError as error:
        return error.what
    return None


def score(
    space: Workspace,
    runs: list[RunDirectory],
    *,
    subset: str,
    pictures: int,
    overwrite: bool,
    jobs: int,
    device: str,
    folder: Path | None = None,
    weights: Weights = "auto",
    passes: Passes | None = None,
) -> tuple[list[EvalResult], list[Path]]:
    """Evaluates what is not evaluated yet, and draws ``pictures`` scans of each run (into a folder of ``folder``)."""
    from ssl3d.pipeline.evaluation.evaluate import evaluate as run_evaluation
    from ssl3d.pipeline.evaluation.gallery import draw_scans
    from ssl3d.pipeline.evaluation.subject import Datasets, subject_of

    place = options.resolve_device(device)
    progress = console.ConsoleProgress()
    results, drawn, datasets = [], [], Datasets(space)
    for run in runs:
        dataset = datasets.of(run)
        subject = subject_of(run, weights, passes)
        results.append(
            run_evaluation(
                dataset, subject, subset=subset, device=place, jobs=jobs, progress=progress, overwrite=overwrite
            )
        )
        if pictures:
            drawn += draw_scans(
                dataset,
                subject,
                pictures,
                subset=subset,
                folder=folder / f"{subject.method}-{subject.split}" if folder else None,
                device=place,
                jobs=jobs,
                progress=progress,
            )
    return results, drawn


def write_report(
    results: list[EvalResult], protocols: list[str], form: Format, out: Path | None, lines: Sequence[Line] = ()
) -> str | None:
    """Prints the report on stdout, or writes it to ``out``. Returns the text of the machine-readable formats.

    Args:
        lines: published numbers beside ours, to be put behind the report.
    """
    from ssl3d.pipeline.evaluation.report import FORMATS, Report

    report = Report(results, protocols)
    if form == "table":
        if out is None:
            paper = console.out()
            paper.print(report.table(paper.width))
            if lines:
                paper.print()
                paper.print(_compared(lines, paper.width))
        else:
            write(out, plain_table(report, lines=lines))
        return None
    text = FORMATS[form](report)
    if lines:
        text = _with_lines(text, form, lines)
    if out is None:
        print(text, end="" if text.endswith("\n") else "\n")
    else:
        write(out, text)
    return text


def _with_lines(text: str, form: Format, lines: Sequence[Line]) -> str:
    from ssl3d.benchmarks import compare

    if form == "json":
        return compare.with_json(text, lines)
    return compare.csv_text(lines) if form == "csv" else f"{text}\n{compare.markdown(lines)}"


def _compared(lines: Sequence[Line], width: int) -> RenderableType:
    from ssl3d.benchmarks.compare import table

    return table(lines, width)


def plain_table(report: Report, width: int = 120, lines: Sequence[Line] = ()) -> str:
    """The table as text without colors."""
    return plain(report.table(width), *(["", _compared(lines, width)] if lines else []), width=width)


def plain(*parts: RenderableType, width: int = 120) -> str:
    """Text without colors."""
    import io

    from rich.console import Console

    paper = Console(file=io.StringIO(), width=width, no_color=True, highlight=False)
    for part in parts:
        paper.print(part)
    return paper.file.getvalue()  # type: ignore[attr-defined]


def write(path: Path, text: str) -> None:
    from ssl3d.data.atomic import write_whole
    from ssl3d.pipeline.files import writing

    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        content = text if text.endswith("\n") else text + "\n"
        if path.exists() and not path.is_file():  # /dev/stdout, a named pipe
            path.write_text(content, encoding="utf-8")
        else:
            write_whole(path, content.encode())
