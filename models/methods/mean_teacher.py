"""MeanTeacher (Tarvainen and Valpola, NIPS 2017) for segmentation, as in the LaserMix and ScribbleKITTI code.

A student learns from the labels, and on every element agrees with a teacher: a moving average of its own weights, which
is what is evaluated. LASS3D and DDSemi report this baseline with the numbers of the LaserMix benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ssl3d.data.augment import Augmentation
from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.base import Inputs
from ssl3d.models.config import Params as AnyParams
from ssl3d.models.distributed import total
from ssl3d.models.elements import ElementMap
from ssl3d.models.losses.consistency import Distance, consistency
from ssl3d.models.losses.segmentation import segmentation_losses
from ssl3d.models.methods.base import Batch, Progress
from ssl3d.models.rows import match_points
from ssl3d.models.teacher import TeacherMethod, TeacherParams

if TYPE_CHECKING:
    from typing_extensions import Self


class MeanTeacherParams(TeacherParams):
    """Parameters of ``mean_teacher``."""

    w: float | None = Field(
        None, ge=0, description="weight of the consistency; none = 200 (mse, LaserMix MinkUNet), 1 (kl)"
    )
    consistency: Distance = Field("mse", description="mse (reference, LaserMix), or kl (ScribbleKITTI)")
    consistency_on: Literal["all", "unlabelled"] = Field(
        "all", description="elements that have to agree: all, or those without a label (ScribbleKITTI)"
    )
    divide_by: Literal["own", "all"] = Field(
        "own", description="each sum is divided by its own elements, or (ScribbleKITTI) by all of them"
    )
    ramp_steps: int = Field(
        0, ge=0, description="K_r: the consistency rises over so many steps; 0 = at once (LaserMix)"
    )
    teacher_view: Literal["same", "weak"] = Field(
        "same", description="what the teacher sees: the student's view (LaserMix), or one only turned and mirrored"
    )
    lambda_lov: float = Field(0.0, ge=0, description="weight of Lovász-softmax (0 for MinkUNet, LaserMix code)")

    def settled(self, steps: int) -> Self:
        w = (200.0 if self.consistency == "mse" else 1.0) if self.w is None else self.w
        return super().settled(steps).model_copy(update={"w": w})


class MeanTeacher(TeacherMethod):
    """``L = L_sup + w r(k) L_con`` on labelled and unlabelled scans in one batch."""

    name = "mean_teacher"
    Params = MeanTeacherParams
    params: MeanTeacherParams

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
        """One batch ``all``, the labelled views first; ``teacher`` holds the same scans in the teacher's view."""
        assert isinstance(params, MeanTeacherParams)
        scans = [*labelled, *unlabelled]
        groups = {"all": [augment(view, rng) for view in scans]}
        if params.teacher_view == "weak":
            weak = augment.weak()
            groups["teacher"] = [weak(view, rng) for view in scans]
        return groups

    def step(self, batch: Batch, progress: Progress) -> Iterator[dict[str, Tensor]]:
        inputs = batch["all"]
        student = self.segmenter(inputs).logits
        target = self.segmenter.backbone.labels(inputs, inputs.label)
        self.live.add(student, target)
        losses = self._supervised(student, target)
        guide, guided = self._teacher_scores(inputs, batch.get("teacher"))
        unlabelled = target == IGNORE
        self.pseudo.add(guide.argmax(1)[unlabelled], guided[unlabelled])
        if self.params.consistency_on == "unlabelled":
            guided = guided & unlabelled
        if weight := (self.params.w or 0.0) * ramp(progress.total_step, self.params.ramp_steps):
            everything = len(target) if self.params.divide_by == "all" else None
            agreement = consistency(student[guided], guide[guided], self.params.consistency, everything)
            losses["consistency"] = weight * agreement
        yield losses

    def _supervised(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        losses = segmentation_losses(logits, target, self.params.lambda_lov)
        return losses | {"ce": self._by_elements(losses["ce"], target)}

    def _by_elements(self, loss: Tensor, target: Tensor) -> Tensor:
        """A mean over the elements with a label, or (``divide_by``) its sum over the number of all elements."""
        if self.params.divide_by == "own":
            return loss
        labelled = total((target != IGNORE).sum())
        return loss * (labelled / total(len(target)).to(labelled.device))

    @torch.no_grad()
    def _teacher_scores(self, inputs: Inputs, other: Inputs | None) -> tuple[Tensor, Tensor]:
        """(M, C) probabilities of the teacher on the student's elements, (M,) bool where it has any."""
        seen = inputs if other is None else other
        return onto_elements(inputs, other, self.teacher(seen).logits.float().softmax(1))


def onto_elements(inputs: Inputs, other: Inputs | None, values: Tensor) -> tuple[Tensor, Tensor]:
    """What was computed on the elements of another view of the same scans, on the elements of this one.

    Args:
        other: the same scans in the same order; None: ``values`` are of ``inputs`` already.
        values: (M', K) float of the elements of ``other``.

    Returns:
        (M, K) means over the common points of each element of ``inputs`` (0 without any), (M,) bool: there are any.
    """
    if other is None:
        return values, torch.ones(len(values), dtype=torch.bool, device=values.device)
    mine, theirs = match_points(inputs, other)
    element = other.elements.point_to_element[theirs]
    mine, element = mine[element >= 0], element[element >= 0]
    index = torch.full((len(inputs.rows),), -1, device=mine.device)
    index[mine] = element
    common = ElementMap(torch.where(index >= 0, inputs.elements.point_to_element, -1), inputs.elements.num_elements)
    points = ElementMap(index, len(values)).gather(values)
    guided = common.reduce(index >= 0, "any")
    return common.reduce(points, "mean"), guided


def ramp(step: int, length: int) -> float:
    """``exp(-5 (1 - min(k / K_r, 1))^2)``; 1 without a ramp."""
    return math.exp(-5 * (1 - min(step / length, 1.0)) ** 2) if length else 1.0


__all__ = ["MeanTeacher", "MeanTeacherParams", "onto_elements", "ramp"]
