"""``ssl3d predict RUN FILE...``: loose files, labelled without any dataset."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssl3d.cli import console

if TYPE_CHECKING:
    from ssl3d.pipeline.evaluation.subject import Subject
    from ssl3d.pipeline.workspace import Workspace

_MOST_NAMED = 8


def predict_loose(
    space: Workspace,
    subject: Subject,
    dataset: str,
    files: Sequence[Path],
    out: Path,
    *,
    form: str | None,
    config: Path | None,
    overwrite: bool,
    device: str,
    jobs: int,
) -> None:
    """Labels the files and says what was written. Raises: as ``predict_files``."""
    from ssl3d.data.datasets.folder_config import read_config
    from ssl3d.pipeline.evaluation.loose import LEGEND, predict_files

    start = time.monotonic()
    described = None if config is None else read_config(config)
    done = predict_files(
        space,
        subject,
        dataset,
        files,
        out,
        form=form,
        config=described,
        overwrite=overwrite,
        device=device,
        jobs=jobs,
        progress=console.ConsoleProgress(),
    )
    names = [item.out.name for item in done]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    facts: dict[str, object] = {
        "wrote": ", ".join(names[:_MOST_NAMED]) + more,
        "points": console.count_text(sum(item.points for item in done)),
        "where": f"{out} (what the labels mean: {LEGEND})",
        "took": console.time_text(time.monotonic() - start),
    }
    console.done(f"predicted with {subject.name}", facts)
