"""mIoU is not one number: the named ways in which a confusion matrix becomes scores.

* ``semantickitti``: the official evaluator (semantic-kitti-api, ``evaluate_semantics.py`` with ``np_ioueval.py``). A
  class that occurs neither in the truth nor in the predictions has IoU 0 and stays in the mean.
* ``nanmean``: such a class is left out of the mean (mmdetection3d, WaffleIron, ScribbleKITTI, the nuScenes devkit).

Both count a point predicted as ignored as a miss of its true class, and never count points without a truth. Numbers
of two protocols must not be compared, which is why the name goes with the scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ssl3d.data.errors import UsageError
from ssl3d.data.text import nearest
from ssl3d.pipeline.evaluation.confusion import Confusion

_EPSILON = 1e-15
"""Added to denominators by the official evaluator."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one confusion matrix, as fractions 0..1.

    Attributes:
        protocol: its name.
        miou: mean IoU; NaN when no class can be scored (``nanmean`` of nothing).
        accuracy: the accuracy that the protocol defines. ``semantickitti``: TP / (TP + FP) summed over the classes, so
            that points predicted as ignored are in neither term. ``nanmean``: the same as ``overall_accuracy``.
        overall_accuracy: correct points / points with a truth (OA); NaN without such points.
        iou: per class, in class order; NaN where the protocol leaves the class out.
    """

    protocol: str
    miou: float
    accuracy: float
    overall_accuracy: float
    iou: tuple[float, ...]


def semantickitti(confusion: Confusion) -> Scores:
    """The official arithmetic: IoU = TP / (TP + FP + FN + 1e-15), plain mean over all C classes."""
    tp, fp, fn = _statistics(confusion)
    iou = tp / (tp + fp + fn + _EPSILON)
    accuracy = tp.sum() / (tp.sum() + fp.sum() + _EPSILON)
    return Scores("semantickitti", float(iou.mean()), float(accuracy), _overall(confusion), _floats(iou))


def nanmean(confusion: Confusion) -> Scores:
    """IoU = TP / (TP + FP + FN); classes without any point in truth and predictions are skipped."""
    tp, fp, fn = _statistics(confusion)
    union = tp + fp + fn
    present = union > 0
    iou = np.full(len(tp), np.nan)
    iou[present] = tp[present] / union[present]
    miou = float(iou[present].mean()) if present.any() else float("nan")
    overall = _overall(confusion)
    return Scores("nanmean", miou, overall, overall, _floats(iou))


PROTOCOLS: dict[str, Callable[[Confusion], Scores]] = {"semantickitti": semantickitti, "nanmean": nanmean}
"""By the name that is printed beside every number."""


def score(confusion: Confusion, protocol: str) -> Scores:
    """The scores of ``confusion`` under the protocol of that name. Raises ``UsageError`` for an unknown name."""
    if protocol not in PROTOCOLS:
        near = nearest(protocol, PROTOCOLS)
        raise UsageError(
            f"there is no protocol '{protocol}'",
            hint=(f"did you mean '{near}'? " if near else "") + f"Protocols: {', '.join(PROTOCOLS)}",
        )
    return PROTOCOLS[protocol](confusion)


def _statistics(
    confusion: Confusion,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """TP, FP, FN per class; the row "predicted as ignored" adds to FN only."""
    counts = confusion.counts.astype(np.float64)
    tp = np.diagonal(counts[:-1]).copy()
    return tp, counts[:-1].sum(axis=1) - tp, counts.sum(axis=0) - tp


def _overall(confusion: Confusion) -> float:
    total = int(confusion.counts.sum())
    return int(np.diagonal(confusion.counts[:-1]).sum()) / total if total else float("nan")


def _floats(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
