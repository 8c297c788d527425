"""Cross pseudo supervision (Chen et al., CVPR 2021): two networks, each with the other's predictions as its labels.

Two networks of one architecture begin differently. Where they disagree, each is pulled towards what the other predicts;
the first one is evaluated. LASS3D, DDSemi and LaserMix report it as a method carried over from images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ssl3d.data.augment import Augmentation
from ssl3d.data.errors import UsageError
from ssl3d.data.scan import IGNORE, View
from ssl3d.data.spec import DatasetSpec
from ssl3d.models.backbones.base import Inputs, Segmenter
from ssl3d.models.config import Params as AnyParams
from ssl3d.models.losses.cross_entropy import cross_entropy
from ssl3d.models.losses.segmentation import segmentation_losses
from ssl3d.models.methods.base import Batch, MakeSegmenter, Method, Progress
from ssl3d.models.methods.mean_teacher import ramp
from ssl3d.models.mixed import BandParams, carried, halves, mix_pairs, numbered, origins


class CPSParams(BandParams):
    """Parameters of ``cps``. ``fov_up``, ``fov_down`` and ``m`` concern ``mix=lasermix`` only."""

    lambda_cps: float = Field(
        1.5, ge=0, description="weight of the cross supervision (TorchSemiSeg: VOC 1.5, Cityscapes 6, with CutMix 1, 5)"
    )
    cps_on: Literal["all", "unlabelled"] = Field(
        "all", description="elements it looks at: all, or those without a label"
    )
    ramp_steps: int = Field(
        0, ge=0, description="the cross supervision rises over so many steps (exp(-5 (1 - k/K)^2)); 0 = at once (CPS)"
    )
    mix: Literal["none", "lasermix"] = Field(
        "none", description="lasermix: on unlabelled scans that are mixed by inclination (as CutMix in TorchSemiSeg)"
    )
    lambda_lov: float = Field(0.0, ge=0, description="weight of Lovász-softmax on labels (not in CPS; LaserMix code)")


class CPS(Method):
    """``L = L_sup(a) + L_sup(b) + lambda (CE(z_a, h_b) + CE(z_b, h_a))``, h = argmax z without gradient."""

    name = "cps"
    Params = CPSParams
    params: CPSParams
    class_measures = ("agreement", "precision")

    def __init__(self, params: CPSParams, make_segmenter: MakeSegmenter, num_classes: int) -> None:
        super().__init__(params, make_segmenter, num_classes)
        self.segmenter = make_segmenter()
        self.other = make_segmenter()
        if all(map(torch.equal, self.segmenter.parameters(), self.other.parameters())):
            # they would stay equal, and each would be its own teacher
            raise ValueError("cps needs two networks that begin differently, and got the same weights twice")

    @classmethod
    def check(cls, params: AnyParams, spec: DatasetSpec) -> None:
        super().check(params, spec)
        assert isinstance(params, CPSParams)
        if params.mix == "lasermix" and spec.sensor is None:
            raise UsageError(
                f"cps.mix=lasermix needs scans of a spinning sensor, and {spec.title} has none",
                where={"field": "cps.mix"},
                hint="leave it out: cps itself suits any dataset",
            )

    @classmethod
    def item_scans(cls, params: AnyParams, unlabelled: bool) -> int:
        assert isinstance(params, CPSParams)
        return 1 if params.mix == "none" else 2

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
        """One batch ``all``, the labelled views first; or, to be mixed, ``labelled``, ``unlabelled`` (if there are any)
        and what is ``mixed`` of these (of labelled ones if not)."""
        assert isinstance(params, CPSParams)
        if params.mix == "none":
            return {"all": [augment(view, rng) for view in (*labelled, *unlabelled)]}
        groups = super().views(params, labelled, unlabelled, augment, rng, phase)
        clean = "unlabelled" if unlabelled else "labelled"
        groups[clean] = numbered(groups[clean], rng)
        return {**groups, "mixed": mix_pairs(*halves(groups[clean]), params, rng)}

    def step(self, batch: Batch, progress: Progress) -> Iterator[dict[str, Tensor]]:
        to_elements = self.segmenter.backbone.labels
        inputs = batch["all"] if "all" in batch else batch["labelled"]
        logits, target = self._both(inputs), to_elements(inputs, inputs.label)
        self.live.add(logits[0], target)
        losses = {
            f"{name}_{which}": loss
            for which, z in zip("ab", logits, strict=True)
            for name, loss in segmentation_losses(z, target, self.params.lambda_lov).items()
        }
        known = target != IGNORE
        predicted = logits[0][known].argmax(1)
        self.measures.add_classes("precision", predicted == target[known], predicted)

        clean = batch.get("unlabelled", inputs)
        with torch.no_grad():
            guesses = [z.argmax(1) for z in (logits if clean is inputs else self._both(clean))]
        seen = clean.elements.reduce(torch.ones_like(clean.label, dtype=torch.bool), "any")  # not an empty pixel
        guesses = [torch.where(seen, guess, IGNORE) for guess in guesses]
        a, b = (guess[seen & (to_elements(clean, clean.label) == IGNORE)] for guess in guesses)
        self.measures.add_classes("agreement", a == b, a)
        if weight := self.params.lambda_cps * ramp(progress.total_step, self.params.ramp_steps):
            self.pseudo.add(a)
            if "mixed" in batch:
                inputs = batch["mixed"]
                logits, guesses = self._both(inputs), _onto(inputs, clean, guesses, to_elements)
            if self.params.cps_on == "unlabelled":
                hidden = to_elements(inputs, inputs.label) == IGNORE
                guesses = [torch.where(hidden, guess, IGNORE) for guess in guesses]
            losses["cps_a"] = weight * cross_entropy(logits[0], guesses[1])
            losses["cps_b"] = weight * cross_entropy(logits[1], guesses[0])
        yield losses

    def _both(self, inputs: Inputs) -> list[Tensor]:
        return [network(inputs).logits for network in (self.segmenter, self.other)]

    def predictor(self) -> Segmenter:
        return self.segmenter


def _onto(
    mixed: Inputs, clean: Inputs, guesses: Sequence[Tensor], to_elements: Callable[[Inputs, Tensor], Tensor]
) -> list[Tensor]:
    """Predictions for the elements of ``clean`` as targets of the elements of ``mixed``, point by point."""
    origin = origins(mixed, clean)
    points = [carried(clean.elements.gather(guess, fill=IGNORE), origin, IGNORE) for guess in guesses]
    return [to_elements(mixed, label) for label in points]


__all__ = ["CPS", "CPSParams"]
