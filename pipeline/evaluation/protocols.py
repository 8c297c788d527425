"""mIoU is not one number: the named ways in which a confusion matrix becomes scores.

======================  =================  ========================  =====================================
protocol                a class without    a point predicted as      arithmetic of
                        any point          ignored
======================  =================  ========================  =====================================
``semantickitti``       IoU 0, in the      a miss of its class       semantic-kitti-api, ``np_ioueval.py``
                        mean
``nanmean``             left out           a miss of its class       mmdetection3d, WaffleIron, ...
``nuscenes``            left out           refused                   nuscenes-devkit, lidarseg ``utils.py``
``scannet``             left out           a miss of its class       ``evaluate_semantic_label.py``
``s3dis-area1`` to      IoU and recall 0,  a miss of its class       no server; mean over 13 classes of one
``-area6``, ``-6fold``  in the mean                                  area, or of the summed counts of all six
``semantic3d``          left out           a miss of its class       the server's published description
``semanticposs-val02``  IoU 0, in the      a miss of its class       SemanticKITTI's evaluator
``semanticposs-val03``  mean
``semanticposs-``       IoU 0, in the      dropped                   COARSE3D's copy of it
``coarse3d``            mean
======================  =================  ========================  =====================================

None of them counts points without a truth. Numbers of two protocols must not be compared, which is why the name goes
with the scores; two names may stand for one arithmetic on other scans (SemanticPOSS is held out as 02 or as 03).
Instances have a module of their own, ``instance_ap``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.text import nearest
from ssl3d.pipeline.evaluation.confusion import Confusion

_EPSILON = 1e-15
"""Added to denominators by the official evaluator of SemanticKITTI."""
S3DIS_AREAS = tuple(f"Area_{number}" for number in range(1, 7))


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one confusion matrix, as fractions 0..1.

    Attributes:
        protocol: its name.
        miou: mean IoU; NaN when no class can be scored (``nanmean`` of nothing).
        accuracy: the accuracy that the protocol defines. ``semantickitti``: TP / (TP + FP) summed over the classes, so
            that points predicted as ignored are in neither term. Without one of its own: ``overall_accuracy``.
        overall_accuracy: correct points / points with a truth (OA); NaN without such points.
        iou: per class, in class order; NaN where the protocol leaves the class out.
        others: further numbers, in the order of ``Protocol.others``.
    """

    protocol: str
    miou: float
    accuracy: float
    overall_accuracy: float
    iou: tuple[float, ...]
    others: tuple[float, ...] = ()


def semantickitti(confusion: Confusion) -> Scores:
    """The official arithmetic: IoU = TP / (TP + FP + FN + 1e-15), plain mean over all C classes."""
    tp, fp, fn = _statistics(confusion)
    iou = tp / (tp + fp + fn + _EPSILON)
    accuracy = tp.sum() / (tp.sum() + fp.sum() + _EPSILON)
    return Scores("semantickitti", float(iou.mean()), float(accuracy), _overall(confusion), _floats(iou))


def nanmean(confusion: Confusion) -> Scores:
    """IoU = TP / (TP + FP + FN); classes without any point in truth and predictions are skipped."""
    tp, fp, fn = _statistics(confusion)
    iou = _ratio(tp, tp + fp + fn)
    overall = _overall(confusion)
    return Scores("nanmean", _mean_of_numbers(iou), overall, overall, _floats(iou))


def nuscenes(confusion: Confusion) -> Scores:
    """The devkit's arithmetic: ``nanmean`` with unions rounded to float32, and fwIoU = sum n_c IoU_c / sum n_c.

    n_c are the points whose truth is c.

    Raises:
        DataError: a point is predicted as ignored: the devkit takes no other predictions than the 16 classes.
    """
    if refused := int(confusion.counts[-1].sum()):
        raise DataError(
            f"{refused} points are predicted as ignored, which the evaluation of nuScenes refuses",
            where={"points with a truth": int(confusion.counts.sum())},
            hint="count them as misses: ssl3d eval --protocol nanmean",
        )
    tp, fp, fn = _statistics(confusion)
    iou = _ratio(tp, (tp + fp + fn).astype(np.float32).astype(np.float64))
    weight = tp + fn
    total = float(weight.sum())
    frequency_weighted = float(np.nansum(weight * iou)) / total if total else float("nan")
    overall = _overall(confusion)
    return Scores("nuscenes", _mean_of_numbers(iou), overall, overall, _floats(iou), (frequency_weighted,))


def s3dis(confusion: Confusion) -> Scores:
    """mIoU and mAcc are plain means over all C classes (IoU, recall), 0 for a class without a point."""
    tp, fp, fn = _statistics(confusion)
    iou, recall = (np.nan_to_num(_ratio(tp, points)) for points in (tp + fp + fn, tp + fn))
    overall = _overall(confusion)
    return Scores("s3dis", float(iou.mean()), overall, overall, _floats(iou), (float(recall.mean()),))


def semanticposs_coarse3d(confusion: Confusion) -> Scores:
    """``semantickitti`` on the points that are predicted as a class; OA is over all points with a truth."""
    kept = Confusion(confusion.num_classes)
    kept.counts[:-1] = confusion.counts[:-1]
    return replace(semantickitti(kept), overall_accuracy=_overall(confusion))


@dataclass(frozen=True, slots=True)
class Protocol:
    """A named arithmetic, and what people are told about it.

    Attributes:
        compute: counts -> scores.
        absent: what becomes of "a class without any point", for the line below a table.
        columns: what the columns mean, for the same line.
        others: heads of the columns that only this protocol has.
        dataset: name of the dataset whose numbers it computes unless another one is asked for; "" for none.
        held: the sequences (areas) that this holds for; () for any.
        folds: its counts are summed over runs that held out one of ``held`` each, see ``evaluation.folds``.
    """

    compute: Callable[[Confusion], Scores]
    absent: str = "is left out of the mean (-)"
    columns: str = "Acc = OA = correct / all labeled points"
    others: tuple[str, ...] = ()
    dataset: str = ""
    held: tuple[str, ...] = ()
    folds: bool = False


_ZERO = "counts as 0"
_KITTI = "Acc = TP / (TP + FP) as the official evaluator, OA = correct / all labeled points"
_NUSCENES = "Acc = OA = correct / all labeled points, fwIoU = IoU weighted by the labeled points of the classes"
_S3DIS = "Acc = OA = correct / all labeled points, mAcc = mean recall of the classes"

PROTOCOLS: Mapping[str, Protocol] = {
    "semantickitti": Protocol(semantickitti, _ZERO, _KITTI, dataset="semantickitti"),
    "nanmean": Protocol(nanmean),
    "nuscenes": Protocol(nuscenes, columns=_NUSCENES, others=("fwIoU",), dataset="nuscenes"),
    "scannet": Protocol(nanmean, dataset="scannet"),
    **{
        f"s3dis-area{area[-1]}": Protocol(s3dis, _ZERO, _S3DIS, ("mAcc",), dataset="s3dis", held=(area,))
        for area in S3DIS_AREAS
    },
    "s3dis-6fold": Protocol(s3dis, _ZERO, _S3DIS, ("mAcc",), dataset="s3dis", held=S3DIS_AREAS, folds=True),
    "semantic3d": Protocol(nanmean, dataset="semantic3d"),
    "semanticposs-val02": Protocol(semantickitti, _ZERO, _KITTI, dataset="semanticposs", held=("02",)),
    "semanticposs-val03": Protocol(semantickitti, _ZERO, _KITTI, dataset="semanticposs", held=("03",)),
    "semanticposs-coarse3d": Protocol(
        semanticposs_coarse3d, _ZERO, f"points predicted as ignored count only in OA; {_KITTI}"
    ),
}
"""By the name that is printed beside every number."""


def find_protocol(name: str) -> Protocol:
    """The protocol of that name. ``UsageError`` names the nearest one, and all."""
    if name not in PROTOCOLS:
        near = nearest(name, PROTOCOLS)
        raise UsageError(
            f"there is no protocol '{name}'",
            hint=(f"did you mean '{near}'? " if near else "") + f"Protocols: {', '.join(PROTOCOLS)}",
        )
    return PROTOCOLS[name]


def score(confusion: Confusion, protocol: str) -> Scores:
    """The scores of ``confusion`` under the protocol of that name.

    Raises:
        UsageError: an unknown name.
        DataError: the protocol refuses such predictions.
    """
    return replace(find_protocol(protocol).compute(confusion), protocol=protocol)


def protocol_of(dataset: str, held: Sequence[str] = ()) -> str:
    """The protocol of a dataset's numbers unless another one is asked for; ``nanmean`` where it has none.

    Args:
        dataset: name of its specification.
        held: the sequences (areas) that are evaluated: where the field disagrees about them, the name says which.
    """
    for name, protocol in PROTOCOLS.items():
        if protocol.dataset == dataset and protocol.held in ((), tuple(sorted(held))):
            return name
    return "nanmean"


def six_fold(areas: Mapping[str, Confusion]) -> Confusion:
    """The counts of S3DIS's six test areas, to be scored once: a mean of six scores is another number.

    Args:
        areas: ``Area_1`` .. ``Area_6`` -> the counts of a network that was trained on the other five.

    Raises:
        UsageError: other areas than these six.
    """
    if set(areas) != set(S3DIS_AREAS):
        missing, strange = (", ".join(sorted(names)) or "none" for names in _differences(areas))
        raise UsageError(
            "6-fold scores need the counts of all six areas",
            where={"missing": missing, "unknown": strange},
            hint="evaluate a run for each area, or report one area by itself: --protocol s3dis-area5",
        )
    total = Confusion(areas[S3DIS_AREAS[0]].num_classes)
    for area in S3DIS_AREAS:
        total.merge(areas[area])
    return total


def _differences(areas: Mapping[str, Confusion]) -> tuple[set[str], set[str]]:
    return set(S3DIS_AREAS) - set(areas), set(areas) - set(S3DIS_AREAS)


def _statistics(
    confusion: Confusion,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """TP, FP, FN per class; the row "predicted as ignored" adds to FN only."""
    counts = confusion.counts.astype(np.float64)
    tp = np.diagonal(counts[:-1]).copy()
    return tp, counts[:-1].sum(axis=1) - tp, counts.sum(axis=0) - tp


def _ratio(part: npt.NDArray[np.float64], whole: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """NaN for nothing of nothing."""
    result = np.full(len(part), np.nan)
    np.divide(part, whole, out=result, where=whole > 0)
    return result


def _mean_of_numbers(values: npt.NDArray[np.float64]) -> float:
    numbers = values[~np.isnan(values)]
    return float(numbers.mean()) if len(numbers) else float("nan")


def _overall(confusion: Confusion) -> float:
    total = int(confusion.counts.sum())
    return int(np.diagonal(confusion.counts[:-1]).sum()) / total if total else float("nan")


def _floats(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
