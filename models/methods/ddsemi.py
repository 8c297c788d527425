"""DDSEmi (Density-Guided Semi-Supervised 3D Semantic Segmentation with Dual-Space Hardness Sampling, CVPR 2024).

After pre-training on the labels, every confidently predicted point of an unlabelled scan is pulled towards one anchor
of its class, made of the densest features of a memory bank, and away from the other anchors; in one of the two losses
points weigh more that lie in sparse places, of the scan and of the feature space.

There is no official code. Where the paper is silent or its print is in doubt (denominators of Eqs. 4, 5, 7, 8; names of
the two losses; the range of beta), ``docs/methods/ddsemi.md`` says what is done here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl3d.data.augment import Augmentation
from ssl3d.data.errors import UsageError
from ssl3d.data.scan import IGNORE, View
from ssl3d.data.spec import DatasetSpec
from ssl3d.models.anchors import SMALL_DENSITY, bank_density, class_density, point_to_anchor, weighted_anchors
from ssl3d.models.backbones.base import Inputs, Output, Segmenter
from ssl3d.models.class_bank import shared_rand
from ssl3d.models.config import Params as AnyParams
from ssl3d.models.density_bank import DensityBank, candidates_of, draw_candidates, merge_candidates
from ssl3d.models.distributed import exchange_device, global_mean, total
from ssl3d.models.hardness import Scale, geometric_density, hardness
from ssl3d.models.losses.segmentation import segmentation_losses
from ssl3d.models.methods._ddsemi_params import DDSEmiParams
from ssl3d.models.methods.base import Batch, MakeSegmenter, Method, Phase, Progress, TrainContext

SURE = "confident (predicted)"
RIGHT = "precision of confident labels (visible)"
NEAREST = "nearest anchor right (visible)"
NORM, DENSITY, SPREAD = "feature norm", "density of anchor features", "hardness deviation"


@dataclass(slots=True)
class Stream:
    """The elements of one of the two versions of all unlabelled scans of a batch.

    Attributes:
        features: (N, D) projected.
        label, confidence: (N,) pseudo label and its probability; constants.
        visible: (N,) int64 visible labels: IGNORE but where the split shows some points of every scan.
        points: (N,) float, what an element counts: its points, or 1.
        element, geometric: (P,) element 0..N-1 and geometric density d_g of each point (or element).
    """

    features: Tensor
    label: Tensor
    confidence: Tensor
    visible: Tensor
    points: Tensor
    element: Tensor
    geometric: Tensor


@dataclass(frozen=True, slots=True)
class Anchors:
    """``values`` (C, D); ``there`` (C,) bool, classes that have one; ``density`` of the features they are made of."""

    values: Tensor
    there: Tensor
    density: Tensor | None


class DDSEmi(Method):
    """``L = L_CE + lambda_ter L_ter + lambda_tra L_tra`` (Eq. 12), after a phase of ``L_CE`` alone.

    The labelled views and both streams go through the network as one batch, as in the other methods here: batch norm
    sees two thirds unlabelled scans, and its running statistics are those that it trained with.
    """

    name = "ddsemi"
    Params = DDSEmiParams
    needs = ("density",)
    class_measures = (SURE, RIGHT, NEAREST)
    mean_measures = (NORM, DENSITY, SPREAD)
    params: DDSEmiParams

    def __init__(self, params: DDSEmiParams, make_segmenter: MakeSegmenter, num_classes: int) -> None:
        super().__init__(params, make_segmenter, num_classes)
        self.segmenter = make_segmenter()
        self.projector = nn.Linear(self.segmenter.backbone.out_channels, params.proj_dim)
        bank = params.bank
        self.banks = nn.ModuleList(
            DensityBank(num_classes, bank.size, params.proj_dim, bank.update, bank.clamp_beta) for _ in range(2)
        )

    @classmethod
    def check(cls, params: AnyParams, spec: DatasetSpec) -> None:
        super().check(params, spec)
        assert isinstance(params, DDSEmiParams)
        weights = params.ce_class_weights
        if weights is not None and (len(weights) != len(spec.classes) or min(weights) < 0):
            raise UsageError(
                f"ce_class_weights has {len(weights)} numbers, and {spec.title} has {len(spec.classes)} classes",
                where={"field": "ddsemi.ce_class_weights"},
                hint="give one number a class, none of them negative",
            )

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
        """One batch ``all``: the labelled views; in the joint phase also two independent augmentations of each
        unlabelled scan. ``extras["stream"]`` says which of 0, 1, 2 a point belongs to, ``extras["d_g"]`` is Eq. 9.

        Without unlabelled scans (every scan shows some labels) the streams are those of the labelled scans, and the
        labels are learned from there too.
        """
        assert isinstance(params, DDSEmiParams)
        if phase == 0:
            return {"all": [augment(replace(view, extras={}), rng) for view in labelled]}
        sources = [_with_density(_blind(view), params.geom_norm) for view in unlabelled]
        supervised = [_with_density(view, params.geom_norm) for view in labelled]
        if not sources:
            sources, supervised = supervised, []
        streams = ((0, supervised), (1, sources), (2, sources))
        return {"all": [_of_stream(augment(view, rng), number) for number, views in streams for view in views]}

    def phases(self, steps: int) -> list[Phase]:
        alone = min(round(self.params.pretrain * steps), steps - 1)
        return [
            Phase("pre-train", alone, trainable=[self.segmenter]),
            Phase("joint", steps - alone, lr_scale=self.params.lr_scale, on_enter=self._fill_banks),
        ]

    def _fill_banks(self, ctx: TrainContext) -> None:
        """Both banks begin with the same features of the labelled scans, seen as they are."""
        projector = copy.deepcopy(self.projector).cpu()
        p = self.params
        write = partial(
            candidates_of,
            project=lambda features: self._normalized(projector(features)),
            most=p.bank.size,
            gamma=p.gamma_bank,
            seed=int(shared_rand(1, device=exchange_device()) * 2**24),
            by_points=p.loss_level == "point",
        )
        kept = ctx.predict_train(write, segmenter=self.segmenter, group="labelled", scores=True, features=True)
        rows, label = merge_candidates((stored.facts for _, stored in kept), p.bank.size)
        for bank in self.banks:
            assert isinstance(bank, DensityBank)
            bank.fill(rows.to(bank.confidence.device), label.to(bank.confidence.device))

    # ------------------------------------------------------------ a step

    def step(self, batch: Batch, progress: Progress) -> Iterator[dict[str, Tensor]]:
        inputs = batch["all"]
        output = self.segmenter(inputs)
        target = self.segmenter.backbone.labels(inputs, inputs.label)
        self.live.add(output.logits, target)
        losses = self._supervised(output.logits, target)
        if "stream" in inputs.extras:
            losses |= self._contrast(inputs, output, target, progress)
        yield losses

    def _supervised(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        weights = self.params.ce_class_weights
        given = None if weights is None else logits.new_tensor(weights)
        return segmentation_losses(logits, target, self.params.lambda_lov, given)

    def _contrast(self, inputs: Inputs, output: Output, target: Tensor, progress: Progress) -> dict[str, Tensor]:
        p = self.params
        with torch.autocast(target.device.type, enabled=False):
            features = self._normalized(self.projector(output.levels.finest.float()))
        streams = self._streams(inputs, features, output.logits, target)
        banks = [bank for bank in self.banks if isinstance(bank, DensityBank)]
        for stream, bank in zip(streams, banks, strict=True):
            self._update(bank, stream)
        anchors = [self._anchors(bank) for bank in banks]
        losses: dict[str, Tensor] = {}
        ramp = min((progress.step + 1) / p.ramp_steps, 1.0) if p.ramp_steps else 1.0
        if p.loss.inter:
            each = [self._inter(streams[v], banks[1 - v], anchors[1 - v]) for v in range(2)]
            losses["inter"] = ramp * p.lambda_ter * (each[0] + each[1])
        if p.loss.intra:
            each = [self._intra(streams[v], banks[v], anchors[v]) for v in range(2)]
            losses["intra"] = ramp * p.lambda_tra * (each[0] + each[1])
        self._observe(streams, anchors, features, output.logits, target)
        return losses

    def _normalized(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=1) if self.params.feature_norm == "l2" else features

    def _streams(self, inputs: Inputs, features: Tensor, logits: Tensor, target: Tensor) -> list[Stream]:
        element, d_g, stream = inputs.elements.point_to_element, inputs.extras["d_g"], inputs.extras["stream"].long()
        seen = element >= 0
        element, d_g, stream = element[seen], d_g[seen], stream[seen]
        of_element = element.new_zeros(len(features))
        of_element[element] = stream
        points = torch.bincount(element, minlength=len(features)).float()
        if self.params.loss_level == "voxel":
            d_g = torch.zeros_like(points).index_add_(0, element, d_g) / points.clamp(min=1)
            element, stream, points = (
                torch.arange(len(features), device=d_g.device),
                of_element,
                torch.ones_like(points),
            )
        confidence, label = logits.detach().float().softmax(1).max(1)
        place, out = torch.empty_like(of_element), []
        for number in (1, 2):
            rows, mine = (of_element == number).nonzero().squeeze(1), stream == number
            place[rows] = torch.arange(len(rows), device=rows.device)
            out.append(
                Stream(
                    features[rows], label[rows], confidence[rows], target[rows], points[rows],
                    place[element[mine]], d_g[mine],
                )
            )  # fmt: skip
        return out

    @torch.no_grad()
    def _update(self, bank: DensityBank, stream: Stream) -> None:
        """Eq. 1 with the local part of the iteration before, then the sure features of this one."""
        sure = stream.confidence > self.params.gamma_bank
        rows = torch.cat([stream.features.detach(), stream.confidence[:, None]], 1)[sure]
        new, label = draw_candidates(rows, stream.label[sure], stream.points[sure], bank.pool, self.num_classes)
        bank.update(new, label, shared_rand(self.num_classes, bank.global_part.slots, device=rows.device))

    @torch.no_grad()
    def _anchors(self, bank: DensityBank) -> Anchors:
        """Eqs. 2 and 3, or what takes their place."""
        p, features, valid = self.params, bank.features, bank.valid
        density = None
        if p.anchor.estimator == "density":
            density = bank_density(features, valid, p.k, p.density_chunk)
            values, chosen = weighted_anchors(features, valid, density, density.clamp(min=SMALL_DENSITY), p.K)
            density = density.gather(1, chosen)[valid.gather(1, chosen)]
        elif p.anchor.estimator == "random":
            score = shared_rand(*valid.shape, device=features.device)
            values, _ = weighted_anchors(features, valid, score, torch.ones_like(score), p.K)
        else:
            values, _ = weighted_anchors(features, valid, bank.confidence, bank.confidence, p.K)
        return Anchors(values, valid.any(1), density)

    def _inter(self, stream: Stream, bank: DensityBank, anchors: Anchors) -> Tensor:
        """One stream's term of Eq. 6."""
        used = (stream.confidence > self.params.gamma_e) & anchors.there[stream.label]
        return global_mean(self._pull(stream, used, bank, anchors), weights=stream.points[used])

    def _intra(self, stream: Stream, bank: DensityBank, anchors: Anchors) -> Tensor:
        """One stream's term of Eq. 11. Points of an element differ in r alone: its sum over them is what counts."""
        used = (stream.confidence > self.params.gamma_a) & anchors.there[stream.label]
        weight = self._weights(stream, bank, anchors.there)
        if self.params.hardness.geometric or self.params.hardness.feature:
            known = anchors.there[stream.label]
            self.measures.add(SPREAD, (weight[known] / stream.points[known] - 1).abs())
        return (weight[used] * self._pull(stream, used, bank, anchors)).sum() / total(stream.points[used].sum()).clamp(
            min=1
        )

    def _pull(self, stream: Stream, used: Tensor, bank: DensityBank, anchors: Anchors) -> Tensor:
        """Eqs. 4, 5, 7, 8 of the elements that are used."""
        features, label, tau = stream.features[used], stream.label[used], self.params.tau
        if self.params.contrast.mode == "anchor":
            return point_to_anchor(features, label, anchors.values, anchors.there, tau)
        parts = []
        for feature, own in zip(*(value.split(self.params.density_chunk) for value in (features, label)), strict=True):
            drawn = bank.draw(torch.rand(self.num_classes, device=feature.device))
            parts.append(point_to_anchor(feature, own, drawn, anchors.there, tau))
        return torch.cat(parts)

    @torch.no_grad()
    def _weights(self, stream: Stream, bank: DensityBank, there: Tensor) -> Tensor:
        """(N,) sum of r (Eq. 10) over the points of each element; the mean of h is that of the global batch."""
        p, known = self.params, there[stream.label]
        if not (p.hardness.geometric or p.hardness.feature):
            return stream.points
        feature = None
        if p.hardness.feature:
            density = class_density(
                stream.features.detach(), stream.label, bank.features, bank.valid, p.k, chunk=p.density_chunk
            )
            feature = density[stream.element]
        each = hardness(stream.geometric if p.hardness.geometric else None, feature, p.alpha, p.eps)
        sums = torch.zeros_like(stream.points).index_add_(0, stream.element, each)
        whole, count = total(torch.stack([sums[known].double().sum(), stream.points[known].double().sum()]))
        return sums / (whole / count.clamp(min=1)).clamp(min=torch.finfo(sums.dtype).tiny).to(sums.dtype)

    @torch.no_grad()
    def _observe(
        self, streams: Sequence[Stream], anchors: Sequence[Anchors], features: Tensor, logits: Tensor, target: Tensor
    ) -> None:
        """What is logged; no loss depends on it."""
        least = self.params.gamma_a if self.params.loss.intra else self.params.gamma_e
        for stream, own in zip(streams, anchors, strict=True):
            hidden = stream.visible == IGNORE
            used = (stream.confidence > least) & own.there[stream.label]
            self.pseudo.add(stream.label[hidden], used[hidden])
            self.measures.add_classes(SURE, stream.confidence > self.params.gamma_e, stream.label)
            self.measures.add(NORM, stream.features.norm(dim=1))
            if own.density is not None:
                self.measures.add(DENSITY, own.density)
        shown = target != IGNORE
        visible = target[shown]
        confidence, predicted = logits[shown].float().softmax(1).max(1)
        sure = confidence > self.params.gamma_e
        self.measures.add_classes(RIGHT, (predicted == visible)[sure], predicted[sure])
        similarity = (features[shown] @ anchors[0].values.T).masked_fill(~anchors[0].there, -torch.inf)
        self.measures.add_classes(NEAREST, similarity.argmax(1) == visible, visible)

    def predictor(self) -> Segmenter:
        return self.segmenter


def _blind(view: View) -> View:
    """No label of an unlabelled scan is looked at, whatever it is."""
    return replace(view, label=np.full(len(view), IGNORE, np.uint8))


def _with_density(view: View, scale: Scale) -> View:
    least, most = int(view.scan["geom_min"]), int(view.scan["geom_max"])
    return replace(view, extras={"d_g": geometric_density(view.extras["geom_count"], least, most, scale)})


def _of_stream(view: View, number: int) -> View:
    view.extras = {**view.extras, "stream": np.full(len(view), number, np.uint8)}
    return view


__all__ = ["DDSEmi", "DDSEmiParams"]
