"""LiM3D (Li, Shum and Breckon: Less is More, CVPR 2023): a teacher labels the training set, a fresh student learns.

Stage 1 is a mean teacher. Stage 2 predicts the training scans with its teacher and keeps the surest half of each class
at each distance as pseudo labels. Stage 3 begins with new weights, on labels and pseudo labels, and in contrast with
features that the teacher is unsure of. What exists only in the paper is a reconstruction: ``docs/methods/lim3d.md``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ssl3d.data.augment import Augmentation
from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.base import Inputs
from ssl3d.models.class_range import ClassRangeCounts, annulus, doubts
from ssl3d.models.config import Params as AnyParams
from ssl3d.models.ema import freeze, keep_rate
from ssl3d.models.intensity_passes import IntensityPasses
from ssl3d.models.losses.consistency import Distance, consistency
from ssl3d.models.losses.cross_entropy import cross_entropy
from ssl3d.models.losses.unreliable import UnreliableContrast
from ssl3d.models.methods.base import Batch, MakeSegmenter, Phase, Progress, Stored, TrainContext
from ssl3d.models.methods.cbst import targeted
from ssl3d.models.methods.mean_teacher import MeanTeacher, MeanTeacherParams, onto_elements
from ssl3d.models.prediction import Prediction
from ssl3d.models.teacher import PUBLISHED_STEPS

if TYPE_CHECKING:
    from typing_extensions import Self

TRAIN, DISTIL = 0, 1
"""Indices of the phases: stage 1, and stage 3 (which begins with stage 2)."""
PUBLISHED_BANK = 30_000


class LiM3DParams(MeanTeacherParams):
    """Parameters of ``lim3d``: those of the mean teacher of both stages, and of what comes between and besides."""

    w: float | None = Field(None, ge=0, description="weight of the consistency; none = 1 (kl, code), 200 (mse)")
    consistency: Distance = Field("kl", description="kl (L_1, code), or mse")
    consistency_on: Literal["all", "unlabelled"] = Field(
        "unlabelled", description="elements that agree (L_1: unlabelled)"
    )
    divide_by: Literal["own", "all"] = Field("all", description="each sum is divided by all elements (L_1), or its own")
    teacher_view: Literal["same", "weak"] = Field(
        "weak", description="what the teacher sees: the scan only turned and mirrored (code), or the student's view"
    )
    lambda_lov: float = Field(1.0, ge=0, description="weight of Lovász-softmax on given labels (L_1: 1)")

    stage1_steps: int | None = Field(
        None, ge=1, description="steps of stage 1; none = half (code: 200 of 275 epochs); all: no other stage"
    )
    from_scratch: bool = Field(
        True, description="stage 3 begins with new weights (paper); false: with those of stage 1"
    )

    crb: bool = Field(
        True, description="stage 3 learns from pseudo labels; false: from the teacher's consistency alone"
    )
    crb_share: float = Field(0.5, gt=0, le=1, description="p: share of each class in each annulus that is kept (code)")
    annuli: int = Field(
        10, ge=1, le=255, description="rings of 5 m, the last one open (code: 10); 1: balance classes only"
    )
    tta: bool = Field(True, description="stage 2 averages over intensities times 0.9, 1.0, 1.1 (reconstructed)")
    lambda_u: float = Field(1.0, ge=0, description="weight of L_U in stage 3: pseudo labels and consistency (code)")

    lambda_c: float = Field(
        0.3, ge=0, description="weight of the contrast L_C (mu_c of the code, which never calls it)"
    )
    anchors: int = Field(16, ge=1, description="n_q: anchors of each class a step (code; a comment says 256)")
    negatives: int = Field(50, ge=1, description="features of the bank that an anchor is held against (code)")
    tau: float = Field(0.5, gt=0, description="temperature of the contrast (code)")
    bank: int | None = Field(None, ge=1, description="features kept by class; none = 30,000 (code) scaled to the steps")
    push: int = Field(256, ge=1, description="new features of each class a step, at most (ours)")
    projection: int = Field(64, ge=1, description="channels of the projected features (ours; not in the code)")
    reliable: float = Field(
        0.4, ge=0, le=1, description="reliable below this percentile of entropy (code; a comment: 0.2)"
    )
    unreliable: float = Field(0.8, ge=0, le=1, description="unreliable above this percentile of entropy (code)")
    sure: float = Field(0.3, ge=0, le=1, description="an anchor's class has at least this probability (code)")
    low_rank: int = Field(
        3, ge=1, description="negatives of a class have it at this rank or lower, counted from 0 (code)"
    )
    high_rank: int = Field(20, ge=1, description="and above this rank (code)")

    def settled(self, steps: int) -> Self:
        stage1 = max(1, steps // 2) if self.stage1_steps is None else min(self.stage1_steps, steps)
        scaled = max(1, round(PUBLISHED_BANK * min(1.0, steps / PUBLISHED_STEPS)))
        return super().settled(steps).model_copy(update={"stage1_steps": stage1, "bank": self.bank or scaled})


class LiM3D(MeanTeacher):
    """``L_1`` = (CE of labels + KL of the others) / N + Lovász; ``L_3 = L_S + lambda_U L_U + lambda_C L_C``."""

    name = "lim3d"
    Params = LiM3DParams
    params: LiM3DParams
    needs_sensor = True
    class_measures = ("precision",)
    mean_measures = ("bank",)
    limit: Tensor
    seed: Tensor

    def __init__(self, params: LiM3DParams, make_segmenter: MakeSegmenter, num_classes: int) -> None:
        super().__init__(params, make_segmenter, num_classes)
        self._make, self._given = make_segmenter, params
        self.register_buffer("seed", torch.randint(1 << 31, ()))
        self.register_buffer("limit", torch.zeros(num_classes, self.params.annuli))
        self.contrast: UnreliableContrast | None = None
        if self.params.lambda_c:
            self._add_contrast(self.params, num_classes)

    def _add_contrast(self, params: LiM3DParams, num_classes: int) -> None:
        width = self.segmenter.backbone.out_channels
        self.projector = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, params.projection))
        self.teacher_projector = copy.deepcopy(self.projector)
        freeze(self.teacher_projector)
        self.contrast = UnreliableContrast(
            num_classes,
            params.projection,
            params.bank or PUBLISHED_BANK,
            low=params.reliable,
            high=params.unreliable,
            sure=params.sure,
            ranks=(params.low_rank, params.high_rank),
            anchors=params.anchors,
            negatives=params.negatives,
            push=params.push,
            tau=params.tau,
        )

    # ------------------------------------------------------------ stages

    def phases(self, steps: int) -> list[Phase]:
        first = self._given.settled(steps).stage1_steps or 0
        learning = [self.segmenter] if self.contrast is None else [self.segmenter, self.projector]
        stages = [Phase("train", first, [self.segmenter])]
        if steps > first:
            restarts = self.params.from_scratch
            stages.append(Phase("distil", steps - first, learning, on_enter=self._label, restarts=restarts))
        return stages

    def _label(self, ctx: TrainContext) -> None:
        """Stage 2, then new weights."""
        if self.params.crb:
            teacher = IntensityPasses(self.teacher) if self.params.tta else self.teacher
            counts = ClassRangeCounts(self.num_classes, self.params.annuli)
            partial = ctx.partial

            def guess(view: View, prediction: Prediction) -> Stored:
                return guess_of(view, prediction, partial)

            for view, stored in ctx.predict_train(guess, segmenter=teacher, scores=True):
                label = np.where(view.label == IGNORE, stored.points["crb_label"], np.uint8(IGNORE))
                counts.add(label, annulus(view.points, self.params.annuli), stored.points["crb_doubt"])
            self.limit.copy_(torch.from_numpy(counts.limits(self.params.crb_share)))
        if self.params.from_scratch:
            self._begin_anew()

    def _begin_anew(self) -> None:
        """The same new weights in every process, and again when a killed run enters the stage again."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(self.seed))
            fresh = self._make().state_dict()
        for network in (self.segmenter, self.teacher):
            network.load_state_dict(fresh)

    # ------------------------------------------------------------ batches

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
        """As the mean teacher; in stage 3 each point knows its annulus, which an augmentation would change."""
        assert isinstance(params, LiM3DParams)
        labelled, unlabelled = (
            [_with_annulus(view, params.annuli) for view in views] for views in (labelled, unlabelled)
        )
        return super().views(params, labelled, unlabelled, augment, rng, phase)

    # ------------------------------------------------------------ steps

    def step(self, batch: Batch, progress: Progress) -> Iterator[dict[str, Tensor]]:
        if progress.phase == TRAIN:
            yield from super().step(batch, progress)
        else:
            yield self._distil(batch["all"], batch.get("teacher"), progress)

    def _distil(self, inputs: Inputs, other: Inputs | None, progress: Progress) -> dict[str, Tensor]:
        """L_3 on the elements of one batch."""
        output = self.segmenter(inputs)
        target = self.segmenter.backbone.labels(inputs, inputs.label)
        self.live.add(output.logits, target)
        losses = self._supervised(output.logits, target)
        pseudo = self._pseudo_labels(inputs, target)
        self.pseudo.add(pseudo[target == IGNORE])
        scores, features, guided = self._guide(inputs, other)
        if self.params.crb:
            losses["pseudo"] = self.params.lambda_u * self._by_elements(cross_entropy(output.logits, pseudo), pseudo)
        agreeing = guided & (pseudo == IGNORE)
        if self.params.consistency_on == "unlabelled":
            agreeing &= target == IGNORE
        everything = len(target) if self.params.divide_by == "all" else None
        agreement = consistency(output.logits[agreeing], scores[agreeing], self.params.consistency, everything)
        losses["consistency"] = self.params.lambda_u * (self.params.w or 0.0) * agreement
        if self.contrast is not None:
            losses["contrast"] = self.params.lambda_c * self.contrast(
                self.projector(output.levels.finest), features, scores, target, guided, inputs.elements, inputs.rows,
                int(self.seed) + progress.total_step,
            )  # fmt: skip
            self.measures.add("bank", self.contrast.bank.valid)
        return losses

    def _pseudo_labels(self, inputs: Inputs, target: Tensor) -> Tensor:
        """(M,) int64: pseudo labels of the elements without a label; IGNORE where there is none."""
        if "crb_label" not in inputs.extras:
            return torch.full_like(target, IGNORE)
        label, to_elements = inputs.extras["crb_label"].long(), self.segmenter.backbone.labels
        ring, doubt = inputs.extras["crb_annulus"].long(), inputs.extras["crb_doubt"].float()
        sure = doubt < self.limit[label.clamp(max=self.num_classes - 1), ring]
        hidden, unlabelled = inputs.label == IGNORE, target == IGNORE
        checked = to_elements(inputs, torch.where(sure & ~hidden, label, IGNORE))[~unlabelled]
        self.measures.add_classes("precision", checked == target[~unlabelled], checked)
        pseudo = to_elements(inputs, torch.where(sure & hidden, label, IGNORE))
        return torch.where(unlabelled, pseudo, IGNORE)

    @torch.no_grad()
    def _guide(self, inputs: Inputs, other: Inputs | None) -> tuple[Tensor, Tensor, Tensor]:
        """Of the teacher, on the student's elements: (M, C) probabilities, (M, D) projected features, (M,) bool."""
        output = self.teacher(inputs if other is None else other)
        scores = output.logits.float().softmax(1)
        features = scores[:, :0] if self.contrast is None else self.teacher_projector(output.levels.finest).float()
        values, guided = onto_elements(inputs, other, torch.cat([scores, features], 1))
        return values[:, : self.num_classes], values[:, self.num_classes :], guided

    def ema_pairs(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        pairs = [*super().ema_pairs()]
        return pairs if self.contrast is None else [*pairs, (self.teacher_projector, self.projector)]

    def ema_keep(self, progress: Progress) -> float:
        """Each stage warms its own teacher up, unless stage 3 goes on with the old one."""
        step = progress.step if self.params.from_scratch else progress.total_step
        return keep_rate(self.params.alpha or 0.0, step, self.params.warm_up)


def guess_of(view: View, prediction: Prediction, partial: bool) -> Stored:
    """Of each point the predicted class, and how unsure it is: of points with a label too, to be compared with it, but
    not of those that a fully labelled scan says to be of no class."""
    assert prediction.scores is not None
    wanted = targeted(view, partial) | (view.label != IGNORE)
    label = np.where(wanted, prediction.label, np.uint8(IGNORE))
    return Stored(points={"crb_label": label, "crb_doubt": doubts(prediction.scores)})


def _with_annulus(view: View, annuli: int) -> View:
    if "crb_label" not in view.extras:
        return view
    return replace(view, extras={**view.extras, "crb_annulus": annulus(view.points, annuli)})


__all__ = ["LiM3D", "LiM3DParams", "guess_of"]
