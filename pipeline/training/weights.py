"""Which weights of a run are meant. Imports no torch."""

from __future__ import annotations

from typing import Literal

from ssl3d.data.errors import UsageError
from ssl3d.pipeline.training.run import RunDirectory

Weights = Literal["auto", "own", "ema"]
"""``own``: of the network that the method predicts with. ``ema``: the average of its student that ``train.ema`` keeps,
made in the same way for every method. ``auto``: the average where the run has one, else its own."""

Resolved = Literal["own", "ema"]


def resolve_weights(run: RunDirectory, weights: Weights) -> Resolved:
    """What ``weights`` means for this run. ``UsageError`` when it is asked for an average that it does not keep."""
    averaged = run.config.train.ema is not None
    if weights == "ema" and not averaged:
        raise UsageError(
            "the run keeps no average of its weights",
            where={"run": run.name},
            hint="train one with --set train.ema=0.99, or evaluate its own weights with --weights own",
        )
    return "ema" if averaged and weights != "own" else "own"


__all__ = ["Resolved", "Weights", "resolve_weights"]
