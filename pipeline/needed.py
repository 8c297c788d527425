"""Running the stages that a method needs and that were never run, so that ``ssl3d train`` is all that has to be typed.

Only stages that can be run without asking (``Stage.unasked``): captioning by large models, or anything whose
parameters are the user's to choose, is never begun here.
"""

from __future__ import annotations

from collections.abc import Iterable

from ssl3d.pipeline.graph import STAGES
from ssl3d.pipeline.progress import Progress
from ssl3d.pipeline.stage_run import run_stage
from ssl3d.pipeline.workspace import Workspace


def make_missing(
    workspace: Workspace, dataset: str | None, needs: Iterable[str], *, jobs: int, progress: Progress
) -> list[str]:
    """Runs, in order of work and with the parameters of the dataset, the stages ``needs`` and what they need.

    A product that is there is left alone, also one that is stale or was interrupted: its parameters were chosen, and
    what reads it says what to type. Returns the names of the stages that were run.

    Raises:
        UsageError: nothing is prepared.
        Ssl3dError: a stage failed.
    """
    from ssl3d.pipeline.dataset import PreparedDataset

    handle, made = workspace.dataset(dataset), []
    for name in _in_order(needs):
        with workspace.lock(f"data-{handle.name}", progress):
            if handle.product(name) is not None:
                continue
            stage = STAGES[name].unasked(PreparedDataset(handle))
            if stage is None:
                continue
            progress.say(f"the method needs '{name}', which is run now")
            run_stage(handle, stage, jobs=jobs, progress=progress)
            made.append(name)
    return made


def _in_order(needs: Iterable[str]) -> list[str]:
    wanted, left = set[str](), list(needs)
    while left:
        name = left.pop()
        if name in STAGES and name not in wanted:
            wanted.add(name)
            left += STAGES[name].needs
    return [name for name in STAGES if name in wanted]


__all__ = ["make_missing"]
