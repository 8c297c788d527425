"""CBST, class-balanced self-training (Zou et al., ECCV 2018), carried over to scans.

The network learns from the visible labels; then, in rounds, it predicts everything else, the most confident share of
*every class* becomes its labels, and it learns from both. So frequent, easy classes do not take all pseudo labels.
LASS3D, DDSemi and LaserMix report it as a baseline from images, without details.

Each round predicts the target twice: for the thresholds (12 000 counts a class), and, once these are known, for one
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
from ssl3d.models.losses.lovasz import lovasz_softmax
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
        partial, bins = ctx.partial, len(EDGES)
        counts = np.zeros(self.num_classes * bins, np.int64)

        def count(view: View, prediction: Prediction) -> Stored:
            assert prediction.scores is not None
            chosen = targeted(view, partial) & (prediction.label != IGNORE)
            cells, number = confidences(prediction.scores[chosen])
            return Stored(facts={"cells": cells, "count": number})

        for _, stored in ctx.predict_train(count, group=None if partial else "unlabelled", scores=True):
            counts[stored.facts["cells"]] += stored.facts["count"]
        portion = self.params.portion(ctx.progress.phase - 1)
        limits = thresholds(counts.reshape(self.num_classes, bins), portion, self.params.policy)

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
        losses = {"ce": cross_entropy(logits, target)}
        if self.params.lambda_lov:
            losses["lovasz"] = self.params.lambda_lov * lovasz_softmax(logits.float().softmax(1), target)
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

BINS = 10_000
_COARSE = (np.arange(BINS) / BINS).astype(np.float32)
_ONE = 2**24
"""The numbers of float32 in [0.5, 1] are multiples of 1 / this."""

EDGES = np.concatenate([_COARSE, (np.arange(int(_COARSE[-1] * _ONE) + 1, _ONE + 1) / _ONE).astype(np.float32)])
"""(B,) float32 lower edges of the bins of confidences: 10 000 equal ones, of which the last has a bin for each float32.

A trained network is surer than 0.9999 of most points of easy classes: one bin of these would be kept as a whole,
however small the share that is wanted.
"""


def targeted(view: View, partial: bool) -> npt.NDArray[np.bool_]:
    """(n,) bool, the points that want a pseudo label: those of unlabelled scans, and where a split hides points of
    labelled scans, these; else the points without a label in a labelled scan belong to no class."""
    hidden: npt.NDArray[np.bool_] = view.label == IGNORE
    return hidden if partial or bool(hidden.all()) else np.zeros_like(hidden)


def confidences(scores: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """How many points are predicted as class c with a confidence ``m = max_c p`` in bin b, for the (c, b) that occur.

    Args:
        scores: (n, C) float32 probabilities.

    Returns:
        (K,) int32 cells ``c B + b``, rising, and (K,) int32 counts.
    """
    confidence = scores.max(1, initial=0.0)
    place = np.searchsorted(EDGES, confidence, side="right") - 1
    cells, count = np.unique(scores.argmax(1) * len(EDGES) + place, return_counts=True)
    return cells.astype(np.int32), count.astype(np.int32)


def thresholds(counts: npt.NDArray[np.int64], portion: float, policy: Policy) -> npt.NDArray[np.float32]:
    """``t_c``: of the confidences of class c in descending order, number ``floor(q N_c)``; 1 where that is number 0.

    At most 1e-4 below the exact one, and exact above 0.9999.

    Args:
        counts: (C, B) of ``confidences``.
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
    place = len(EDGES) - 1 - (at_or_above >= rank[:, None]).argmax(1)
    limits = np.where(rank > 0, EDGES[place], np.float32(1))
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
    ratio = scores.astype(np.float64) / limits  # of float32 numbers: no order changes, no tie appears
    label = (ratio if ratio_relabel else scores).argmax(1)
    sure = np.take_along_axis(ratio, label[:, None], 1)[:, 0] >= 1
    return np.where(sure, label, IGNORE).astype(np.uint8)


__all__ = ["CBST", "CBSTParams", "confidences", "pseudo_labels", "targeted", "thresholds"]
