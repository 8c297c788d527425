"""What an evaluation leaves behind: the counts and where they come from. Scores are computed when asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ssl3d.data.errors import DataError
from ssl3d.data.spec import DatasetSpec
from ssl3d.pipeline.evaluation.confusion import Confusion
from ssl3d.pipeline.evaluation.instance_ap import InstanceScores
from ssl3d.pipeline.evaluation.protocols import Scores, score
from ssl3d.pipeline.files import read_json, write_json

SCHEMA = 1


def how(weights: str, augment: Sequence[str]) -> list[str]:
    """What is not as usual about an evaluation: ``["ema", "tta flip rotate"]``."""
    return ([] if weights == "own" else [weights]) + ([f"tta {' '.join(augment)}"] if augment else [])


def display_name(run: str, weights: str, augment: Sequence[str]) -> str:
    """``RUN``, ``RUN (ema)``, ``RUN (ema, tta flip rotate)``."""
    notes = how(weights, augment)
    return f"{run} ({', '.join(notes)})" if notes else run


def without_seed(split: str) -> str:
    """ "scan-1pct-seed0" -> "scan-1pct": another draw of the labeled scans is another seed of the same split."""
    return re.sub(r"-seed\d+(?=-|$)", "", split)


def hex_colors(spec: DatasetSpec) -> tuple[str, ...]:
    """Colors of the classes as "#rrggbb"."""
    return tuple("#{:02x}{:02x}{:02x}".format(*color) for color in spec.colors.tolist())


@dataclass(frozen=True)
class EvalResult:
    """One run, or predictions that somebody else's program wrote, evaluated on every original point of one subset.

    Attributes:
        run, method, backbone, dataset: names.
        split: which labels the run was trained with, for people ("1%").
        seed: of the training.
        recipe: digest of everything else that was chosen; only runs of one recipe are averaged over seeds.
        subset: ``val``, ``train``, or of the run's split: ``holdout`` (scans that it keeps out of training),
            ``unlabelled`` (what training saw without a label).
        checkpoint: ``last``, or what ``best`` was selected on.
        step: optimizer steps of that checkpoint.
        classes, colors: C names and "#rrggbb" colors, in class order.
        tail: names of the rare classes (the others are head classes).
        confusion: counts over all original points.
        scans: number of scans.
        key: digest of all that the counts depend on (checkpoint, dataset, list of scans).
        weights: ``own``, or ``ema``: the average of the network's weights (results from before there was one: own).
        augment: words of ``--tta``: which copies of a scan voted beside it.
        held: the sequences (scenes, areas) that the scans belong to, sorted (results from before it was noted: none).
        folds: of summed results: the run of each of ``held``.
        instances: average precisions of predicted instances; None where none were predicted.
    """

    run: str
    method: str
    backbone: str
    dataset: str
    split: str
    seed: int
    recipe: str
    subset: str
    checkpoint: str
    step: int
    classes: tuple[str, ...]
    colors: tuple[str, ...]
    tail: tuple[str, ...]
    confusion: Confusion
    scans: int
    key: str
    weights: str = "own"
    augment: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    folds: tuple[str, ...] = ()
    instances: InstanceScores | None = None

    @property
    def name(self) -> str:
        """The run, its weights where they are not its own, and test-time augmentation; for people."""
        return display_name(self.run, self.weights, self.augment)

    @property
    def head(self) -> tuple[str, ...]:
        """Names of the classes that are not rare."""
        return tuple(name for name in self.classes if name not in self.tail)

    @property
    def points(self) -> int:
        return self.confusion.points

    @property
    def semantic(self) -> bool:
        """Whether classes of points were predicted, and not instances alone."""
        return self.points > 0 or self.instances is None

    def scores(self, protocol: str) -> Scores:
        """The scores under the protocol of that name. ``DataError`` names the run whose predictions it refuses."""
        try:
            return score(self.confusion, protocol)
        except DataError as error:
            raise DataError(error.what, where={"run": self.name, **error.where}, hint=error.hint) from error

    def save(self, path: Path) -> None:
        """Writes JSON, whole or not at all."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        plain["confusion"] = self.confusion.to_json()
        plain["instances"] = self.instances.to_json() if self.instances is not None else None
        write_json(path, {**plain, "schema": SCHEMA}, indent=None)

    @classmethod
    def load(cls, path: Path) -> EvalResult | None:
        """The result in ``path``; None when there is none, or it is damaged or of another schema."""
        value = read_json(path)
        if value is None or value.pop("schema", None) != SCHEMA:
            return None
        return cls._from(value)

    @classmethod
    def _from(cls, value: dict[str, Any]) -> EvalResult | None:
        try:
            value["confusion"] = Confusion.from_json(value["confusion"])
            lists = {name: tuple(value[name]) for name in ("classes", "colors", "tail")}
            lists |= {name: tuple(value.get(name, ())) for name in ("augment", "held", "folds")}
            found = value.get("instances")
            value["instances"] = InstanceScores.from_json(found) if found is not None else None
            return cls(**{**value, **lists})
        except (KeyError, TypeError, ValueError):
            return None
