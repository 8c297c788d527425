"""CBST, class-balanced self-training (Zou et al., ECCV 2018), carried over to scans.

The network learns from the visible labels; then, in rounds, it predicts everything else, the most confident share of
*every class* becomes its labels, and it learns from both. So frequent, easy classes do not take all pseudo labels.
LASS3D, DDSemi and LaserMix report it as a baseline from images, without details.

Each round predicts the target twice: for the thresholds (17 000 counts a class), and, once these are known, for one
byte a point. The rule that gives a label looks at all classes, so one pass would have to keep all of them on disk
(38 bytes a point with 19 classes in half precision: 87 GB for SemanticKITTI, against 2.3 GB).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from ssl3d.data.augment import Augmentation
from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.base import Inputs, Segmenter
from ssl3d.models.config import Params as AnyParams
from ssl3d.models.losses.cross_entropy import cross_entropy
from ssl3d.models.losses.segmentation import segmentation_losses
from ssl3d.models.methods.base import Batch, MakeSegmenter, Method, Phase, Progress, Stored, TrainContext
from ssl3d.models.prediction import Prediction

Policy = Literal["cb", "global"]
PSEUDO = "pseudo_label"
"""The pseudo labels in ``View.extras``."""


class CBSTParams(AnyParams):
    """Parameters of ``cbst``."""

    supervised_share: float = Field(
        0.5, ge=0, lt=1, description="of the steps, on visible labels alone; the rounds share the rest (ours)"
    )
    rounds: int = Field(3, ge=1, description="how often labels are made anew (readme of the code: 6; ours: 3)")
    q_0: float = Field(0.2, gt=0, le=1, description="share of each class that the first round keeps (code: 0.2, 0.15)")
    dq: float = Field(0.05, ge=0, le=1, description="so much more in each further round (code)")
    q_max: float = Field(0.5, gt=0, le=1, description="never more than this, or than q_0 (code)")
    policy: Policy = Field(
        "cb", description="cb: a threshold for each class; global: one for all, plain self-training (ablation)"
    )
    ratio_relabel: bool = Field(
        True, description="the class is that of the largest p/t; false: of the largest p (ablation)"
    )
    lambda_target: float = Field(1.0, ge=0, description="weight of the loss on pseudo labels (paper, its objective)")
    lr_decay: float = Field(0.5**0.5, gt=0, le=1, description="of the learning rate from round to round (code)")
    lambda_lov: float = Field(0.0, ge=0, description="of Lovász-softmax on visible labels (as in supervised)")

    def portion(self, number: int) -> float:
        """q of a round (from 0): ``q_r = min(q_0 + r dq, q_max)``; never below ``q_0``."""
        return min(self.q_0 + number * self.dq, max(self.q_0, self.q_max))


class CBST(Method):
    """``L = CE(visible labels) + lambda CE(pseudo labels)``; each term is a mean over its own elements."""

    name = "cbst"
    Params = CBSTParams
    class_measures = ("used", "precision")
    params: CBSTParams
    thresholds: Tensor

    def __init__(self, params: CBSTParams, make_segmenter: MakeSegmenter, num_classes: int) -> None:
        super().__init__(params, make_segmenter, num_classes)
        self.segmenter = make_segmenter()
        self.register_buffer("thresholds", torch.ones(num_classes))

    @classmethod
    def views(
        cls,
        params: AnyParams,
        labelled: Sequence[View],
        unlabelled: Sequence[View],
        augment: Augmentation,
        rng: np.random.Generator,
        phase: int = 0,
    ) -> dict[str, list[View]]:
        """One batch ``all``, the labelled views first; before the first round they are all of it."""
        scans = [*labelled, *unlabelled] if phase else labelled
        return {"all": [augment(view, rng) for view in scans]}

    def phases(self, steps: int) -> list[Phase]:
        """The supervised stage, then rounds of equal length (rounds that would have no step are left out)."""
        share = self.params.supervised_share
        alone = max(round(share * steps), 1 if share else 0)
        each, more = divmod(steps - alone, self.params.rounds)
        rounds = [
            Phase(f"round {r + 1}", each + (r < more), lr_scale=self.params.lr_decay**r, on_enter=self._relabel)
            for r in range(self.params.rounds)
        ]
        return [Phase("supervised", alone), *(phase for phase in rounds if phase.steps)]

    def _relabel(self, ctx: TrainContext) -> None:
        """Steps 1 to 3 of a round: histograms of the target, thresholds of them, pseudo labels by them.

        Labelled scans are given pseudo labels too, to be compared with their labels (``precision``).
        """
        partial = ctx.partial
        counts = np.zeros(self.num_classes * BINS, np.int64)

        def count(view: View, prediction: Prediction) -> Stored:
            assert prediction.scores is not None
            chosen = targeted(view, partial) & (prediction.label != IGNORE)
            cells, number = confidences(prediction.scores, chosen)
            return Stored(facts={"cells": cells, "count": number})

        for _, stored in ctx.predict_train(count, group=None if partial else "unlabelled", scores=True):
            counts[stored.facts["cells"]] += stored.facts["count"]
        portion = self.params.portion(ctx.progress.phase - 1)
        limits = thresholds(counts.reshape(self.num_classes, BINS), portion, self.params.policy)

        def label(view: View, prediction: Prediction) -> Stored:
            assert prediction.scores is not None
            found = pseudo_labels(prediction.scores, limits, self.params.ratio_relabel)
            wanted = targeted(view, partial) | (view.label != IGNORE)
            return Stored(points={PSEUDO: np.where(wanted, found, np.uint8(IGNORE))})

        ctx.predict_train(label, scores=True)
        self.thresholds.copy_(torch.from_numpy(limits))

    def step(self, batch: Batch, progress: Progress) -> Iterator[dict[str, Tensor]]:
        inputs = batch["all"]
        logits = self.segmenter(inputs).logits
        target = self.segmenter.backbone.labels(inputs, inputs.label)
        self.live.add(logits, target)
        losses = segmentation_losses(logits, target, self.params.lambda_lov)
        if progress.phase:
            losses["target"] = self.params.lambda_target * cross_entropy(logits, self._guess(inputs, logits, target))
        yield losses

    def _guess(self, inputs: Inputs, logits: Tensor, target: Tensor) -> Tensor:
        """(M,) int64 pseudo labels of the elements without a label, IGNORE elsewhere: no given label is overwritten."""
        to_elements, pseudo = self.segmenter.backbone.labels, inputs.extras[PSEUDO].long()
        hidden, open_ = inputs.label == IGNORE, target == IGNORE
        guess = to_elements(inputs, torch.where(hidden, pseudo, IGNORE))
        self.pseudo.add(guess[open_])
        self.measures.add_classes("used", guess[open_] != IGNORE, logits[open_].argmax(1))
        checked = to_elements(inputs, torch.where(hidden, IGNORE, pseudo))[~open_]
        self.measures.add_classes("precision", checked == target[~open_], checked)
        return torch.where(open_, guess, IGNORE)

    def predictor(self) -> Segmenter:
        return self.segmenter


# ---------------------------------------------------------------- thresholds and labels

_COARSE, _FINE = 1 << 14, 1 << 24
BINS = _COARSE + _FINE // _COARSE
"""Bins of confidences: of the 16 384 equal ones (6e-5 wide), the last is divided into a bin for each float32 (6e-8).

A trained network is surer than 0.9999 of most points of easy classes: one bin of these would be kept as a whole,
however small the share that is wanted. Powers of two, so that no bin is missed by rounding.
"""


def bins_of(confidence: Tensor) -> Tensor:
    """(n,) float32 in 0..1 -> (n,) int64 bins."""
    coarse = (confidence * _COARSE).long()
    fine = (confidence * _FINE).long() - (_FINE - _FINE // _COARSE)  # counted from the beginning of the last equal one
    return torch.where(fine > 0, _COARSE - 1 + fine, coarse).clamp_(max=BINS - 1)


def edges() -> npt.NDArray[np.float32]:
    """(BINS,) lower edges of the bins; the last is 1 itself."""
    coarse = np.arange(_COARSE) / _COARSE
    fine = np.arange(_FINE - _FINE // _COARSE + 1, _FINE + 1) / _FINE
    return np.concatenate([coarse, fine]).astype(np.float32)


def targeted(view: View, partial: bool) -> npt.NDArray[np.bool_]:
    """(n,) bool, the points that want a pseudo label: those of unlabelled scans, and where a split hides points of
    labelled scans, these; else the points without a label in a labelled scan belong to no class."""
    hidden: npt.NDArray[np.bool_] = view.label == IGNORE
    return hidden if partial or bool(hidden.all()) else np.zeros_like(hidden)


def confidences(
    scores: npt.NDArray[np.float32], chosen: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """How many points are predicted as class c with a confidence ``m = max_c p`` in bin b, for the (c, b) that occur.

    Args:
        scores: (n, C) float32 probabilities.
        chosen: (n,) bool, the points that count.

    Returns:
        (K,) int32 cells ``c BINS + b``, rising, and (K,) int32 counts.
    """
    confidence, label = torch.from_numpy(scores).max(1)
    count = torch.bincount((label * BINS + bins_of(confidence))[torch.from_numpy(chosen)])
    cells = count.nonzero().squeeze(1)
    return cells.numpy().astype(np.int32), count[cells].numpy().astype(np.int32)


def thresholds(counts: npt.NDArray[np.int64], portion: float, policy: Policy) -> npt.NDArray[np.float32]:
    """``t_c``: of the confidences of class c in descending order, number ``floor(q N_c)``; 1 where that is number 0.

    At most 6.2e-5 below the exact one, and exact above 0.99994.

    Args:
        counts: (C, BINS) of ``confidences``.
        portion: q.
        policy: ``global`` takes the classes together: one threshold for all.

    Returns:
        (C,) float32.
    """
    classes = len(counts)
    if policy == "global":
        counts = counts.sum(0, keepdims=True)
    rank = np.floor(counts.sum(1) * portion * (1 + 1e-12))  # 0.29 * 100 is 28.999999999999996
    at_or_above = counts[:, ::-1].cumsum(1)
    place = BINS - 1 - (at_or_above >= rank[:, None]).argmax(1)
    limits = np.where(rank > 0, edges()[place], np.float32(1))
    return np.broadcast_to(limits, (classes,)).astype(np.float32)


def pseudo_labels(
    scores: npt.NDArray[np.float32], limits: npt.NDArray[np.float32], ratio_relabel: bool = True
) -> npt.NDArray[np.uint8]:
    """The minimizer of the paper's objective for fixed weights: ``argmax_c p_c / t_c`` where that is at least 1.

    Args:
        scores: (n, C) probabilities.
        limits: (C,) t.
        ratio_relabel: false: ``argmax_c p_c`` where its ratio is at least 1.

    Returns:
        (n,) uint8, IGNORE where none is given.
    """
    given = torch.from_numpy(scores)
    ratio = given.double() / torch.from_numpy(limits)  # of float32 numbers: no order changes, no tie appears
    if ratio_relabel:
        largest, label = ratio.max(1)
    else:
        label = given.argmax(1)
        largest = ratio.gather(1, label[:, None]).squeeze(1)
    return torch.where(largest >= 1, label, IGNORE).to(torch.uint8).numpy()


__all__ = ["BINS", "CBST", "CBSTParams", "bins_of", "confidences", "edges", "pseudo_labels", "targeted", "thresholds"]
