"""How right a network is where it is sure: what its predictions would be worth as pseudo labels.

A diagnosis after training, for data whose hidden labels exist; no training reads it, and it is no result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.errors import UsageError
from ssl3d.data.scan import IGNORE
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.evaluation.evaluate import labeled_scans, truth_of
from ssl3d.pipeline.evaluation.subject import Subject, predicting
from ssl3d.pipeline.progress import Progress, Silent

if TYPE_CHECKING:
    from ssl3d.models.prediction import Prediction


@dataclass
class Confidence:
    """Counts over points that have a class (and, of ``unlabelled``, none that training saw).

    Attributes:
        run, method, backbone, dataset, split, weights: see ``EvalResult``.
        subset: ``unlabelled``, ``val``, ...
        above: the confidence (largest probability) that a point has to exceed to count as sure.
        classes: C names.
        counts: (3, C) int64 by *predicted* class: predicted; of these sure; of these right.
        scans: number of scans.
    """

    run: str
    method: str
    backbone: str
    dataset: str
    split: str
    weights: str
    subset: str
    above: float
    classes: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    scans: int

    def add(self, prediction: Prediction, truth: npt.NDArray[np.uint8]) -> None:
        """Counts one scan: ``truth`` (n,) uint8 with IGNORE; the prediction has scores."""
        assert prediction.scores is not None
        known = (truth != IGNORE) & (prediction.label != IGNORE)
        label, right = prediction.label[known], (prediction.label == truth)[known]
        sure = prediction.scores[known].max(1, initial=0) > self.above
        for row, chosen in enumerate((label, label[sure], label[sure & right])):
            self.counts[row] += np.bincount(chosen, minlength=len(self.classes))

    def rows(self) -> list[tuple[str, int, float | None, float | None]]:
        """(class, points predicted as it, % of them sure, % of these right), all classes last; None: no such point."""
        columns = np.column_stack([self.counts, self.counts.sum(1)]).T.tolist()
        return [
            (name, predicted, _percent(sure, predicted), _percent(right, sure))
            for name, (predicted, sure, right) in zip((*self.classes, "all"), columns, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """Names, and for each class and ``all`` its ``predicted`` points, ``share`` and ``precision`` in percent."""
        names = ("run", "method", "backbone", "dataset", "split", "weights", "subset", "above", "scans")
        told = {name: {"predicted": n, "share": s, "precision": p} for name, n, s, p in self.rows()}
        return {**{name: getattr(self, name) for name in names}, "all": told.pop("all"), "classes": told}


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def confidence(
    dataset: PreparedDataset,
    subject: Subject,
    above: float,
    *,
    subset: str = "unlabelled",
    device: str = "cpu",
    jobs: int = 1,
    progress: Progress | None = None,
) -> Confidence:
    """Predicts the labeled scans of ``subset`` and compares what is surer than ``above`` with the labels.

    Raises:
        UsageError: ``above`` is no probability; or as ``evaluate``.
    """
    if not 0 <= above < 1:
        raise UsageError(f"a confidence lies in 0..1, and {above:g} does not", hint="type for example 0.9")
    progress = progress or Silent()
    subject.check_classes(dataset)
    scans = labeled_scans(dataset, subject, subset, progress)
    source, truth = dataset.source(), truth_of(dataset, subject, subset)
    classes = dataset.spec.classes
    found = Confidence(
        *(subject.run, subject.method, subject.backbone, dataset.name, subject.split, subject.weights, subset, above),
        classes,
        np.zeros((3, len(classes)), np.int64),
        len(scans),
    )
    with (
        predicting(dataset, subject, device, jobs, progress) as predictor,
        progress.task(f"predict {subject.name}", total=len(scans), unit="scan") as task,
    ):
        for scan, prediction in predictor.predictions(scans, lambda scan: source.view(scan.index), scores=True):
            found.add(prediction, truth.label(scan.index))
            task.advance()
    return found


__all__ = ["Confidence", "confidence"]
