"""LaserMix (Kong et al., CVPR 2023): a mean teacher, and scans mixed by bands of inclination, as in its public code.

What stands where in a driving scene depends on the laser's inclination. A student learns from scans in which bands of a
labelled scan, with its labels, alternate with bands of an unlabelled one, with what the teacher is sure of there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ssl3d.data.augment import Augmentation
from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.base import Inputs
from ssl3d.models.config import Params as AnyParams
from ssl3d.models.losses.consistency import consistency
from ssl3d.models.losses.segmentation import segmentation_losses
from ssl3d.models.methods.base import Batch, Progress
from ssl3d.models.mixed import BandParams, carried, halves, mix_pairs, numbered, origins
from ssl3d.models.teacher import TeacherMethod, TeacherParams

GUESSED = "guessed"
"""The extra that says which points take the teacher's label."""


class LaserMixParams(TeacherParams, BandParams):
    """Parameters of ``lasermix``. Defaults: the LaserMix code for MinkUNet on SemanticKITTI."""

    warm_up: bool = Field(
        False, description="the first averages are plain means: alpha_k = min(1 - 1/(k+1), alpha) (LaserMix code: no)"
    )
    threshold: float = Field(
        0.9, ge=0, le=1, description="T: the teacher's label counts from this probability on (nuScenes 0.95)"
    )
    w_sup: float = Field(1.0, ge=0, description="weight of the loss on labelled scans")
    w_mix: float = Field(1.0, ge=0, description="weight of the loss on mixed scans; 0 = mean_teacher, nothing is mixed")
    w_mt: float = Field(
        200.0,
        ge=0,
        description="weight of the consistency (MinkUNet 200; Cylinder3D: SemanticKITTI 250, nuScenes 500)",
    )
    lambda_lov: float = Field(
        0.0, ge=0, description="weight of Lovász-softmax (MinkUNet 0; Cylinder3D: SemanticKITTI 3, nuScenes 2)"
    )
    mix: Literal["inclination", "none"] = Field(
        "inclination", description="none: the scans as they are, the unlabelled ones with the teacher's labels (m = 1)"
    )
    guess: Literal["scans", "points"] = Field(
        "scans", description="what takes the teacher's labels: unlabelled scans, or also points without a label (ours)"
    )


class LaserMix(TeacherMethod):
    """``L = w_sup L_sup + w_mix L_mix + w_mt L_mt``."""

    name = "lasermix"
    Params = LaserMixParams
    params: LaserMixParams
    needs_sensor = True
    class_measures = ("used", "precision")
    mean_measures = ("mixed_with_target",)

    @classmethod
    def item_scans(cls, params: AnyParams, unlabelled: bool) -> int:
        """Without unlabelled scans, labelled ones are mixed with each other."""
        assert isinstance(params, LaserMixParams)
        return 1 if unlabelled or not params.w_mix else 2

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
        """``all``: the scans, labelled ones first; ``mixed``: two scans of each pair, of the same augmented points."""
        assert isinstance(params, LaserMixParams)
        scans = [augment(view, rng) for view in (*labelled, *unlabelled)]
        if not params.w_mix:
            return {"all": scans}
        split, every_point = len(labelled), params.guess == "points" or not unlabelled
        guessed = [{GUESSED: (view.label == IGNORE) & (every_point or i >= split)} for i, view in enumerate(scans)]
        scans = numbered(scans, rng, guessed)
        first, second = (scans[:split], scans[split:]) if unlabelled else halves(scans)
        bands = 1 if params.mix == "none" else None
        return {"all": scans, "mixed": mix_pairs(first, second, params, rng, bands)}

    def step(self, batch: Batch, progress: Progress) -> Iterator[dict[str, Tensor]]:
        p, inputs, mixed = self.params, batch["all"], batch.get("mixed")
        to_elements = self.segmenter.backbone.labels
        logits = self.segmenter(inputs).logits
        target = to_elements(inputs, inputs.label)
        self.live.add(logits, target)
        losses = _weighted("", p.w_sup, segmentation_losses(logits, target, p.lambda_lov))
        with torch.no_grad():
            scores = self.teacher(inputs).logits.float().softmax(1)
            guess = confident_labels(scores, p.threshold)
        self._measure(inputs, target, scores, guess)
        if mixed is not None:
            label = filled(mixed, inputs, guess)
            mixed_target = to_elements(mixed, label)
            self.measures.add("mixed_with_target", mixed_target != IGNORE)
            of_mixed = segmentation_losses(self.segmenter(mixed).logits, mixed_target, p.lambda_lov)
            losses |= _weighted("mixed_", p.w_mix, of_mixed)
        if p.w_mt:
            losses["consistency"] = p.w_mt * consistency(logits, scores)
        yield losses

    @torch.no_grad()
    def _measure(self, inputs: Inputs, target: Tensor, scores: Tensor, guess: Tensor) -> None:
        """Which share of the elements that could take a teacher's label does, and how right it is where that shows."""
        known, sure, predicted = target != IGNORE, guess != IGNORE, scores.argmax(1)
        open_ = ~known
        if GUESSED in inputs.extras:
            open_ &= inputs.elements.reduce(inputs.extras[GUESSED], "any")
        self.pseudo.add(guess[open_])
        self.measures.add_classes("used", sure[open_], predicted[open_])
        seen = known & sure
        self.measures.add_classes("precision", (guess == target)[seen], guess[seen])


def confident_labels(scores: Tensor, threshold: float) -> Tensor:
    """(M,) int64: the class of the highest probability (M, C) where that is at least ``threshold``, else IGNORE."""
    highest, label = scores.max(1)
    return torch.where(highest >= threshold, label, IGNORE)


def filled(mixed: Inputs, scans: Inputs, guess: Tensor) -> Tensor:
    """(Q,) int64 labels of the points of ``mixed``: visible ones, and where ``GUESSED`` says so those of ``guess``.

    Args:
        mixed, scans: groups of ``LaserMix.views``.
        guess: (M,) int64 of each element of ``scans``, IGNORE where there is none.
    """
    of_points = carried(scans.elements.gather(guess, fill=IGNORE), origins(mixed, scans), IGNORE)
    return torch.where(mixed.extras[GUESSED], of_points, mixed.label)


def _weighted(prefix: str, weight: float, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": weight * loss for name, loss in losses.items()}


__all__ = ["LaserMix", "LaserMixParams", "confident_labels", "filled"]
