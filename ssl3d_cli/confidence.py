"""What ``ssl3d eval --confidence P`` prints: how right runs are where they are surer than P."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ssl3d.cli import console, options
from ssl3d.data.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ssl3d.pipeline.evaluation.confidence import Confidence
    from ssl3d.pipeline.evaluation.passes import Passes
    from ssl3d.pipeline.training.run import RunDirectory
    from ssl3d.pipeline.workspace import Workspace


def check_words(report: str, words: Mapping[str, object]) -> None:
    """Raises ``UsageError`` for options (by name: what was typed) that do not go with ``--confidence``."""
    wrong = [word for word, value in words.items() if value]
    wrong += [f"--report {report}"] if report not in ("table", "json") else []
    if wrong:
        raise UsageError(
            f"--confidence does not go with {', '.join(wrong)}: it is a report of its own",
            hint="leave that out; --report is table or json",
        )


def compute(
    space: Workspace,
    runs: list[RunDirectory],
    above: float,
    *,
    subset: str,
    weights: Literal["auto", "own", "ema"],
    passes: Passes,
    jobs: int,
    device: str,
) -> list[Confidence]:
    """One report for each run."""
    from ssl3d.pipeline.evaluation.confidence import confidence
    from ssl3d.pipeline.evaluation.subject import Datasets, subject_of

    datasets, place, progress = Datasets(space), options.resolve_device(device), console.ConsoleProgress()
    found = []
    for run in runs:
        subject = subject_of(run, weights, passes)
        found.append(
            confidence(datasets.of(run), subject, above, subset=subset, device=place, jobs=jobs, progress=progress)
        )
    return found


def show(found: list[Confidence], report: str, out: Path | None) -> None:
    """Prints JSON or tables on stdout, or writes them to ``out``."""
    from rich.console import Group

    from ssl3d.cli.commands.eval import plain, write

    if report == "json":
        text = json.dumps({"confidence": [one.to_json() for one in found]}, indent=2)
        print(text) if out is None else write(out, text + "\n")
        return
    tables = Group(*map(_table, found))
    console.out().print(tables) if out is None else write(out, plain(tables))


def _table(found: Confidence) -> RenderableType:
    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    rows = [(name, f"{points:,}", cell(share), cell(precision)) for name, points, share, precision in found.rows()]
    numbers = ("points", f"surer than {found.above:g}, %", "of these right, %")
    columns: list[console.Column] = ["predicted class", *((name, "right") for name in numbers)]
    title = f"{found.run}: {found.dataset} {found.subset} ({found.scans} scans); a diagnosis, no result"
    return console.table(columns, rows, title=title)
