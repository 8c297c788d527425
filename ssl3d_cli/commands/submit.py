"""``ssl3d submit``: checks an archive by the rules of a benchmark's server, before it costs one of few attempts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssl3d.cli import console, options

if TYPE_CHECKING:
    from ssl3d.pipeline.submission.check import SubmissionReport
    from ssl3d.pipeline.submission.rules import Expected

EPILOG = """\
[bold]Example[/]

  ssl3d predict RUN --subset test --out predictions --submit ours.zip
  ssl3d submit --check ours.zip
  ssl3d submit --check ours.zip --dataset NAME    against your prepared scans

Checked are names, folders, counts, lengths, ids and flags, as the official validators of SemanticKITTI, nuScenes \
lidarseg, ScanNet and Semantic3D do, and what their servers assert beyond these. Exit code 0: nothing is wrong, 1: an \
error. Nothing is uploaded; the servers have forms for that."""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def submit(
    check: Annotated[Path, typer.Option("--check", metavar="FILE.zip", help="The archive to check.")],
    benchmark: Annotated[
        str | None,
        typer.Option(
            "--benchmark",
            metavar="semantickitti|nuscenes|scannet|semantic3d",
            help="Whose rules.",
            show_default="what the names in the archive say",
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            metavar="NAME",
            autocompletion=options.complete_dataset,
            help="A prepared dataset: every file is compared with its scan.",
            show_default="official names and counts only",
        ),
    ] = None,
    subset: Annotated[
        str, typer.Option("--subset", metavar="test|val|train", help="Of the prepared dataset: what was predicted.")
    ] = "test",
    as_json: options.Json = False,
    workspace: options.Workspace = options.DEFAULT_WORKSPACE,
    debug: options.Debug = False,
) -> None:
    """Check an archive before a benchmark's server does."""
    from ssl3d.pipeline.submission.check import check_submission

    expected = expected_of(workspace, dataset, subset) if dataset is not None else None
    report = check_submission(check, benchmark, expected, progress=console.ConsoleProgress())
    if as_json:
        options.print_json(facts_of(report))
    else:
        draw(report)
    raise typer.Exit(0 if report.ok else 1)


def expected_of(workspace: Path, dataset: str, subset: str) -> Expected:
    """The files that the prepared scans of a subset need."""
    from ssl3d.pipeline.dataset import PreparedDataset
    from ssl3d.pipeline.submission.formats import expected_files

    space = options.open_workspace(workspace, create=False)
    return expected_files(PreparedDataset(space.dataset(dataset)), subset)


def facts_of(report: SubmissionReport) -> dict[str, object]:
    problems = [
        {"severity": p.severity, "what": p.what, "where": {k: str(v) for k, v in p.where.items()}, "hint": p.hint}
        for p in report.problems
    ]
    return {
        "file": str(report.path),
        "benchmark": report.benchmark,
        "ok": report.ok,
        "files": report.files,
        "compared_with": report.measure,
        "problems": problems,
    }


def draw(report: SubmissionReport) -> None:
    """What was checked, and each problem with what to do about it."""
    paper = console.out()
    state = "[green]nothing is wrong[/]" if report.ok else "[red]the server would refuse it[/]"
    paper.print(f"{report.path.name}: {report.files} files for {report.benchmark}, {state}")
    paper.print(f"compared with {report.measure}", style="dim")
    for problem in report.problems:
        console.problem(problem)
