"""Methods in miniature whose training goes through phases, several steps, partial averages, or rounds of labels."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from ssl3d_test_pairs import OneNetwork
from ssl3d_test_trace import note, state_of
from torch import Tensor, nn

from ssl3d.data.scan import IGNORE, View
from ssl3d.models.config import Params
from ssl3d.models.ema import BufferPolicy, freeze, keep_rate
from ssl3d.models.losses.cross_entropy import cross_entropy
from ssl3d.models.methods.base import Batch, Phase, Progress, Stored, TrainContext
from ssl3d.models.prediction import Prediction


class PartsParams(Params):
    buffers: BufferPolicy = Field("ema", description="what becomes of the teacher's running statistics")
    alpha: float = Field(0.8, description="keep rate")


class Parts(OneNetwork):
    """LASS3D's way: backbone and classifier of the teacher are averages, the adapter between them is its own."""

    name = "parts"
    Params = PartsParams

    def __init__(self, params: Any, make_segmenter: Any, num_classes: int) -> None:
        super().__init__(params, make_segmenter, num_classes)
        self.ema_buffers = params.buffers
        width = self.segmenter.backbone.out_channels
        self.adapter = nn.Linear(width, width)
        self.teacher = copy.deepcopy(self.segmenter)
        self.teacher_adapter = copy.deepcopy(self.adapter)
        freeze(self.teacher)
        freeze(self.teacher_adapter)

    def train(self, mode: bool = True) -> Parts:
        super().train(mode)
        if self.ema_buffers != "own":
            self.teacher.eval()
        return self

    def step(self, batch: Batch, progress: Progress) -> Iterator[dict[str, Tensor]]:
        inputs = batch["unlabelled"]
        mine = self.segmenter.head(self.adapter(self.segmenter.backbone(inputs).finest))
        with torch.no_grad():
            guide = self.teacher.head(self.teacher_adapter(self.teacher.backbone(inputs).finest)).softmax(1)
        yield {"ce": self.supervised(batch), "agree": (mine.softmax(1) - guide).square().mean()}

    def ema_pairs(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        return [(self.teacher.backbone, self.segmenter.backbone), (self.teacher.head, self.segmenter.head)]

    def ema_keep(self, progress: Progress) -> float:
        return keep_rate(self.params.alpha, progress.total_step)

    def after_step(self, progress: Progress) -> None:
        super().after_step(progress)
        note(step=progress.total_step, state=state_of(self))


class Pull(nn.Module):
    """A number whose loss has the gradient 1."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))


class Several(OneNetwork):
    """1 + step % 3 optimizer steps an iteration: one with the labels, the others pull a number down."""

    name = "several"
    uses_unlabelled = False

    def __init__(self, params: Any, make_segmenter: Any, num_classes: int) -> None:
        super().__init__(params, make_segmenter, num_classes)
        self.pull = Pull()

    def step(self, batch: Batch, progress: Progress) -> Iterator[dict[str, Tensor]]:
        yield {"ce": self.supervised(batch)}
        for number in range(progress.total_step % 3):
            note(step=progress.total_step, number=number, value=self.pull.value)
            yield {"pull": self.pull.value * 1.0}


class Staged(OneNetwork):
    """All; then nothing, but ``on_enter``; then the backbone with frozen statistics; then the classifier alone."""

    name = "staged"
    uses_unlabelled = False

    def __init__(self, params: Any, make_segmenter: Any, num_classes: int) -> None:
        super().__init__(params, make_segmenter, num_classes)
        self.pull = Pull()
        self.entered: Tensor
        self.register_buffer("entered", torch.zeros(2, dtype=torch.int64))

    def phases(self, steps: int) -> list[Phase]:
        backbone, head = self.segmenter.backbone, self.segmenter.head
        third = steps // 3
        sgd = {"name": "sgd", "lr": 0.02, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0}
        return [
            Phase("all", third, optimizer=sgd, schedule={"name": "constant", "warmup_steps": 0}),
            Phase("between", 0, on_enter=self.enter),
            Phase(
                "backbone",
                third,
                [backbone, self.pull],
                [backbone],
                optimizer=sgd,
                schedule={"name": "poly", "power": 1.0, "min_lr": 0.0, "warmup_steps": 0},
            ),
            Phase("head", steps - 2 * third, [head], [backbone], on_enter=self.enter),
        ]

    def enter(self, ctx: TrainContext) -> None:
        self.entered += torch.tensor([1, ctx.progress.total_step])
        note(entered=ctx.progress, state=state_of(self))

    def step(self, batch: Batch, progress: Progress) -> Iterator[dict[str, Tensor]]:
        yield {"ce": self.supervised(batch), "pull": self.pull.value * 1.0}

    def after_step(self, progress: Progress) -> None:
        note(phase=progress.phase, step=progress.step, progress=progress, state=state_of(self))


class Nothing(OneNetwork):
    """Phases, all of no steps."""

    name = "nothing"
    uses_unlabelled = False

    def phases(self, steps: int) -> list[Phase]:
        return [Phase("first", 0), Phase("second", 0)]


class RoundsParams(Params):
    rounds: int = Field(2, ge=1, description="how often labels are made anew")
    still: bool = Field(False, description="batch norm is frozen while warming up")


class Rounds(OneNetwork):
    """CBST's way: rounds that begin with pseudo labels of the training set, streamed to disk, and thresholds of them.

    Entering a round also lets batch norm look at random points: state that depends on modules' modes and on torch's
    generator.
    """

    name = "rounds"
    Params = RoundsParams

    def __init__(self, params: Any, make_segmenter: Any, num_classes: int) -> None:
        super().__init__(params, make_segmenter, num_classes)
        self.thresholds: Tensor
        self.register_buffer("thresholds", torch.zeros(num_classes))

    def phases(self, steps: int) -> list[Phase]:
        each = steps // (self.params.rounds + 1)
        still = [self.segmenter.backbone] if self.params.still else []
        rounds = [Phase(f"round {i}", each, on_enter=self.relabel) for i in range(self.params.rounds)]
        return [Phase("warm up", steps - each * self.params.rounds, eval_modules=still), *rounds]

    def relabel(self, ctx: TrainContext) -> None:
        self.recalibrate()
        note(entered=ctx.progress.phase, state=state_of(self))
        total, count = np.zeros(self.num_classes), np.zeros(self.num_classes)
        scans = []
        for view, stored in ctx.predict_train(keep_labels, scores=True):
            scans.append(str(view.scan["scan_id"]))
            total += stored.facts["sum"]
            count += stored.facts["count"]
            assert len(stored.points["pseudo"]) == len(view)
        self.thresholds.copy_(torch.from_numpy(total / count.clip(min=1)))
        note(scans=scans, thresholds=self.thresholds, count=count)
        self.recalibrate()

    @torch.no_grad()
    def recalibrate(self) -> None:
        self.segmenter.backbone.layers(torch.randn(50, 4))

    def step(self, batch: Batch, progress: Progress) -> Iterator[dict[str, Tensor]]:
        losses = {"ce": self.supervised(batch)}
        inputs = batch.get("unlabelled", batch["labelled"])
        if "pseudo" in inputs.extras:
            pseudo, confidence = inputs.extras["pseudo"].long(), inputs.extras["confidence"]
            note(phase=progress.phase, rows=inputs.rows, pseudo=pseudo, confidence=confidence)
            sure = (confidence >= self.thresholds[pseudo]) & (inputs.label == IGNORE)
            label = torch.where(sure, pseudo, IGNORE)
            self.pseudo.add(label)
            target = self.segmenter.backbone.labels(inputs, label)
            losses["self"] = cross_entropy(self.segmenter(inputs).logits, target)
        yield losses


def keep_labels(view: View, prediction: Prediction) -> Stored:
    assert prediction.scores is not None
    confidence = prediction.scores.max(axis=1)
    classes = prediction.scores.shape[1]
    facts = {
        "sum": np.bincount(prediction.label, confidence, minlength=classes),
        "count": np.bincount(prediction.label, minlength=classes),
    }
    return Stored({"pseudo": prediction.label, "confidence": confidence}, facts)
