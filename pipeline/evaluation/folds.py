"""Runs that held out one part of a dataset each, scored as one: S3DIS's 6-fold scores.

Counts are summed over the parts and scored once (a mean of six scores is another number), so that every room counts
as often as it has points, and each is predicted by a network that has not seen its building's area.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ssl3d.data.errors import UsageError
from ssl3d.pipeline.evaluation.protocols import PROTOCOLS, six_fold
from ssl3d.pipeline.evaluation.result import EvalResult, without_seed
from ssl3d.pipeline.files import digest_value

if TYPE_CHECKING:
    from ssl3d.pipeline.dataset import PreparedDataset
    from ssl3d.pipeline.training.run import RunDirectory


@dataclass(frozen=True, slots=True)
class Fold:
    """A run as one of several that make a whole.

    Attributes:
        run: its name.
        held: the groups (areas) that it is evaluated on, sorted.
        name: what the runs of one whole have in common, for people: method, backbone, split.
        alike: all that was chosen for it, beside what is held out: only runs that are alike make a whole.
        draw: the seeds of training and split.
    """

    run: str
    held: tuple[str, ...]
    name: str
    alike: str
    draw: str


def fold_of(run: RunDirectory, dataset: PreparedDataset) -> Fold:
    """The place of a run among folds. ``dataset``: its scans, see ``dataset_of``."""
    config = run.config
    held = tuple(sorted({scan.group for scan in dataset.subset("val") if scan.labelled}))
    split = "all"
    if config.split is not None:
        split = config.split.name.removesuffix(f"-val-{'-'.join(config.split.val)}")
    name = f"{config.method}-{config.backbone}-{split}"
    alike = digest_value([config.data.name, config.recipe, without_seed(split)])
    return Fold(run.name, held, name, alike, f"s{config.seed} {split}")


def whole(folds: Sequence[Fold], protocol: str) -> tuple[list[list[Fold]], list[str]]:
    """The folds that make a whole, each in order of its parts; and, of those that make none, why.

    Runs that are alike in all that was chosen belong together. Where several of them hold out the same part, only
    those with the same seeds do.

    Args:
        protocol: the name of one with ``folds``.
    """
    wholes, lacking = [], []
    parts = PROTOCOLS[protocol].held
    strange = [fold for fold in folds if len(fold.held) != 1 or fold.held[0] not in parts]
    lacking += [
        f"{fold.run} held out {', '.join(fold.held) or 'nothing'}, not one of {parts[0]} .. {parts[-1]}"
        for fold in strange
    ]
    for members in _together([fold for fold in folds if fold not in strange]):
        by_part: dict[str, list[str]] = {}
        for fold in members:
            by_part.setdefault(fold.held[0], []).append(fold.run)
        twice = [f"{part} is held out by {' and '.join(runs)}" for part, runs in by_part.items() if len(runs) > 1]
        missing = [part for part in parts if part not in by_part]
        if twice:
            lacking.append(f"{members[0].name}: {'; '.join(twice)}")
        elif missing:
            lacking.append(f"{members[0].name}: no run holds out {', '.join(missing)}")
        else:
            wholes.append(sorted(members, key=lambda fold: parts.index(fold.held[0])))
    return wholes, lacking


def _together(folds: Sequence[Fold]) -> list[list[Fold]]:
    same: dict[str, list[Fold]] = {}
    for fold in folds:
        same.setdefault(fold.alike, []).append(fold)
    found: list[list[Fold]] = []
    for members in same.values():
        if len({fold.held for fold in members}) == len(members):
            found.append(members)
            continue
        drawn: dict[str, list[Fold]] = {}
        for fold in members:
            drawn.setdefault(fold.draw, []).append(fold)
        found += drawn.values()
    return found


def summed(folds: Sequence[Fold], results: Sequence[EvalResult]) -> EvalResult:
    """The results of the folds of a whole as one, whose counts are the sums of theirs.

    Args:
        folds: see ``whole``.
        results: with those of the folds among them, of the subset ``val``.

    Raises:
        UsageError: the networks were trained for different numbers of steps, or their weights are of different kinds.
    """
    by_run = {result.run: result for result in results}
    parts = [by_run[fold.run] for fold in folds]
    for what in ("step", "checkpoint", "weights"):
        if len(found := {str(getattr(part, what)): part.run for part in parts}) > 1:
            raise UsageError(
                f"the folds differ in their {what}, so their scores are those of different networks",
                where=dict(list({run: value for value, run in found.items()}.items())[:3]),
                hint="train each to its end in the same way, and evaluate them with the same --weights",
            )
    return replace(
        parts[0],
        run=f"{folds[0].name}-{len(folds)}fold",
        split=folds[0].name.removeprefix(f"{parts[0].method}-{parts[0].backbone}-"),
        confusion=six_fold({fold.held[0]: part.confusion for fold, part in zip(folds, parts, strict=True)}),
        scans=sum(part.scans for part in parts),
        key=digest_value([part.key for part in parts]),
        held=tuple(fold.held[0] for fold in folds),
        folds=tuple(part.run for part in parts),
        instances=None,  # average precisions are no sums
    )
