"""The process of one run of the gains benchmark: trains it, or goes on with it, and evaluates it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from ssl3d.benchmarks.gains import WEIGHTS
from ssl3d.data.errors import Ssl3dError
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.evaluation.evaluate import evaluate
from ssl3d.pipeline.evaluation.subject import subject_of
from ssl3d.pipeline.progress import Task
from ssl3d.pipeline.training.config import resolve
from ssl3d.pipeline.workspace import Workspace


@dataclass(frozen=True)
class Order:
    """What a process is to do; ``command`` is what a user would type for the training."""

    workspace: str
    dataset: str
    split: str
    method: str
    backbone: str
    steps: int
    seed: int
    overrides: list[str]
    subset: str
    device: str
    command: str

    def words(self) -> list[str]:
        """The arguments of this module."""
        return [json.dumps(asdict(self))]


class _Lines:
    """What is said goes into the log, as lines; nothing is drawn."""

    @contextmanager
    def task(self, name: str, total: float | None, unit: str = "") -> Iterator[Task]:
        yield self

    def advance(self, amount: float = 1) -> None: ...
    def note(self, text: str) -> None: ...

    def say(self, text: str) -> None:
        print(text, flush=True)


def carry_out(order: Order) -> None:
    """Raises what ``train`` and ``evaluate`` raise."""
    from ssl3d.pipeline.training.trainer import train

    space, progress = Workspace.open(order.workspace, create=False), _Lines()
    config = resolve(
        order.method, backbone=order.backbone, seed=order.seed, steps=order.steps, overrides=order.overrides
    )
    run = train(
        space,
        config,
        dataset=order.dataset,
        split=order.split,
        device=order.device,
        jobs=1,
        progress=progress,
        command=order.command,
    )
    dataset = PreparedDataset(space.dataset(order.dataset))
    subject = subject_of(run, weights=WEIGHTS)
    evaluate(dataset, subject, subset=order.subset, device=order.device, jobs=1, progress=progress)


def main() -> int:
    try:
        carry_out(Order(**json.loads(sys.argv[1])))
    except Ssl3dError as error:
        where = "".join(f"; {name}: {value}" for name, value in error.where.items())
        print(f"{error.what}{where}" + (f" ({error.hint})" if error.hint else ""), flush=True)  # one line: the last
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
