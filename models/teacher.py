"""What methods with a mean teacher share (Tarvainen and Valpola, NIPS 2017): a student, and its average."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from torch import nn

from ssl3d.models.backbones.base import Segmenter
from ssl3d.models.config import Params
from ssl3d.models.ema import BufferPolicy, freeze, keep_rate, scaled_keep
from ssl3d.models.methods.base import MakeSegmenter, Method, Progress

if TYPE_CHECKING:
    from typing_extensions import Self

PUBLISHED_STEPS = 25_000
"""The schedule that alpha = 0.99 was published for (LaserMix code, MinkUNet on SemanticKITTI)."""


class TeacherParams(Params):
    """Parameters of the average."""

    alpha: float | None = Field(
        None, ge=0, lt=1, description="EMA keep rate; none = 0.99, its half-life scaled to the steps"
    )
    warm_up: bool = Field(True, description="the first averages are plain means: alpha_k = min(1 - 1/(k+1), alpha)")
    bn_buffers: BufferPolicy = Field(
        "own",
        description="running statistics of the teacher: own (by its own passes), ema, or copy (then in eval mode)",
    )
    evaluate_on: Literal["teacher", "student"] = Field("teacher", description="student: for analysis")

    def settled(self, steps: int) -> Self:
        alpha = scaled_keep(0.99, PUBLISHED_STEPS, steps) if self.alpha is None else self.alpha
        return self.model_copy(update={"alpha": alpha})


class TeacherMethod(Method):
    """A method whose predictor is the average of the network that learns. It begins as a copy of it."""

    params: TeacherParams

    def __init__(self, params: TeacherParams, make_segmenter: MakeSegmenter, num_classes: int) -> None:
        super().__init__(params.settled(PUBLISHED_STEPS), make_segmenter, num_classes)
        self.ema_buffers = params.bn_buffers
        self.segmenter = make_segmenter()
        self.teacher = copy.deepcopy(self.segmenter)
        freeze(self.teacher)

    def train(self, mode: bool = True) -> Self:
        """Averaged or copied statistics are used as they are; a teacher with its own has to gather them."""
        super().train(mode)
        if self.ema_buffers != "own":
            self.teacher.eval()
        return self

    def ema_pairs(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        return [(self.teacher, self.segmenter)]

    def ema_keep(self, progress: Progress) -> float:
        return keep_rate(self.params.alpha or 0.0, progress.total_step, self.params.warm_up)

    def predictor(self) -> Segmenter:
        return self.teacher if self.params.evaluate_on == "teacher" else self.segmenter

    def student(self) -> Segmenter:
        return self.segmenter


__all__ = ["PUBLISHED_STEPS", "TeacherMethod", "TeacherParams"]
