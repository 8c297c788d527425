"""Training in a process that kills itself at a chosen point."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ssl3d.models.methods.registry import get_method
from ssl3d.pipeline.training import checkpoint, loop, predictions
from ssl3d.pipeline.training.config import resolve
from ssl3d.pipeline.training.trainer import train
from ssl3d.pipeline.workspace import Workspace


def train_and_die(root: str, method: str, overrides: Sequence[str], where: str, count: int) -> None:
    """Trains, and is killed the ``count``-th time (from 1) that it passes ``where`` (a name of ``arm``)."""
    arm(method, where, count)
    config = resolve(method, backbone="pointwise", overrides=overrides)
    train(Workspace.open(root), config, device="cpu", jobs=1)


def arm(method: str, where: str, count: int) -> None:
    kind: Any = get_method(method)
    passed = _Count(count)
    if where == "step":  # the weights have moved, the averages have not
        _around(kind, "after_step", passed, before=True)
    elif where == "yield":  # between two optimizer steps of an iteration, or after the last one
        _around_yields(kind, passed)
    elif where == "saved":  # a checkpoint is written
        _around(checkpoint, "save_last", passed)
    elif where == "unit":  # the predictions of a unit are on disk
        _around(predictions.KeptScans, "write", passed)
    elif where == "predicted":  # all predictions are, the method has not read them
        _around(predictions.PhaseContext, "predict_train", passed)
    elif where == "entered":  # a phase is entered and saved, earlier predictions are not removed
        _around(loop, "remove_others", passed, before=True)
    else:
        raise ValueError(where)


class _Count:
    def __init__(self, last: int) -> None:
        self.left = last

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _around(owner: Any, name: str, passed: Callable[[], None], before: bool = False) -> None:
    real = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before:
            passed()
        result = real(*args, **kwargs)
        if not before:
            passed()
        return result

    setattr(owner, name, wrapped)


def _around_yields(kind: Any, passed: Callable[[], None]) -> None:
    real = kind.step

    def step(self: Any, *args: Any) -> Iterator[Any]:
        for losses in real(self, *args):
            yield losses
            passed()

    kind.step = step
