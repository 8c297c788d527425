"""GPC: guided point contrastive learning (Jiang et al., ICCV 2021), after its official code.

Two crops of an unlabelled scan overlap; a point has to look alike in both, and unlike points of other classes. Pseudo
labels guide it: they say which points are of other classes, which pairs are sure enough, and balance what is sampled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ssl3d.data.augment import Augmentation
from ssl3d.data.crops import Column, Crops, Fan, Whole
from ssl3d.data.errors import UsageError
from ssl3d.data.scan import IGNORE, View
from ssl3d.data.spec import DatasetSpec
from ssl3d.models.backbones.base import Inputs, Segmenter
from ssl3d.models.class_bank import ClassRing, draw_per_class, shared_rand
from ssl3d.models.config import Params as AnyParams
from ssl3d.models.distributed import gather_rows, global_mean, rank
from ssl3d.models.losses.info_nce import info_nce
from ssl3d.models.losses.segmentation import segmentation_losses
from ssl3d.models.methods.base import Batch, MakeSegmenter, Method, Phase, Progress
from ssl3d.models.rows import match_pairs, point_to_view

PUBLISHED_STEPS = 8_000
"""The shortest published schedule with a warm-up of 200 steps (S3DIS)."""

PRETRAINING, GUIDED = 0, 1
"""Phases."""

SEMANTICKITTI_WEIGHTS = {
    "car": 3.1557,
    "bicycle": 8.7029,
    "motorcycle": 7.8281,
    "truck": 6.1354,
    "other-vehicle": 6.3161,
    "person": 7.9937,
    "bicyclist": 8.9704,
    "motorcyclist": 10.1922,
    "road": 1.6155,
    "parking": 4.2187,
    "sidewalk": 1.9385,
    "other-ground": 5.5455,
    "building": 2.0198,
    "fence": 2.6261,
    "vegetation": 1.3212,
    "trunk": 5.1102,
    "terrain": 2.5492,
    "pole": 5.8585,
    "traffic-sign": 7.3929,
}
"""Class weights of the official code for SemanticKITTI."""

Weight = Annotated[float, Field(ge=0)]


class BankParams(AnyParams):
    """The memory banks of negatives, one ring for each class and view."""

    enabled: bool = Field(True, description="false: negatives come from the batch alone (ablation)")
    slots: int = Field(10_000, ge=1, description="embeddings kept of each class and view (GPC code)")
    enqueue: int = Field(1000, ge=1, description="of each class and view, at most so many join in a step (GPC code)")
    mask_unwritten: bool = Field(
        False, description="true: slots never written are no negatives; false: random unit vectors are (GPC code)"
    )


class GPCParams(AnyParams):
    """Parameters of ``gpc``."""

    crop: Literal["column", "fan", "none"] = Field(
        "none", description="column: squares of the ground, indoors; fan: sectors, for LiDAR; none: the scan twice"
    )
    crop_size: float = Field(3.5, gt=0.05, description="edge of a column in meters (GPC code)")
    fan_narrowest: float = Field(120.0, gt=0, le=360, description="smallest opening of a fan, degrees (GPC code)")
    fan_widest: float = Field(360.0, gt=0, le=360, description="largest opening of a fan, degrees (GPC code)")
    crop_labelled: bool = Field(True, description="labelled scans are cropped too (GPC code); false: seen whole")
    crop_min_points: int = Field(
        3000, ge=0, description="a labelled crop has more points, as far as 50 draws find one (GPC code, S3DIS)"
    )
    crop_min_overlap: int = Field(
        1000, ge=0, description="a pair shares more points, as far as 50 draws find one (GPC code, S3DIS)"
    )
    pretrain: float = Field(
        0.0, ge=0, lt=1, description="share of the steps on labelled scans alone, uncropped; LiDAR 0.47 (GPC code)"
    )
    lr_scale: float | None = Field(
        None, gt=0, description="on the rate after pre-training; none = 0.1 after one, else 1 (GPC code)"
    )
    prepare_iter: int | None = Field(
        None, ge=0, description="first steps without contrast; none = 2.5% of all, at most 200; 0 after pre-training"
    )
    lambda_sup: float = Field(1.0, ge=0, description="weight of the cross-entropy (GPC code)")
    lambda_unsup: float = Field(0.1, ge=0, description="weight of the contrast (GPC code)")
    temperature: float = Field(0.1, gt=0.01, description="t of the contrast (GPC code)")
    embedding: int = Field(32, ge=1, description="channels that are contrasted (GPC code)")
    num_pos: int = Field(1000, ge=1, description="pairs of each scan (GPC code)")
    num_neg: int = Field(10_000, ge=1, description="negatives of each view; floor(num_neg / C) a class (GPC code)")
    conf_thresh: float = Field(0.75, ge=0, le=1, description="a pair counts if its positive is as sure (GPC code)")
    pseudo_guidance: bool = Field(
        True, description="false: negatives of the anchor's own pseudo label count (ablation)"
    )
    conf_guidance: bool = Field(True, description="false: every pair counts (ablation)")
    balanced_positives: bool = Field(True, description="false: pairs are drawn evenly from the overlap (ablation)")
    balanced_negatives: bool = Field(True, description="false: negatives are drawn evenly from all classes (ablation)")
    stopgrad_positive: bool = Field(True, description="false: the positive moves to its anchor too (ablation)")
    hard_point_ce: float | None = Field(
        None,
        gt=0,
        le=1,
        description="in the guided phase only labels predicted less surely count; LiDAR 0.9 (GPC code)",
    )
    ce_class_weights: Literal["semantickitti"] | tuple[Weight, ...] | None = Field(
        None, description="of the cross-entropy, in the order of the classes; semantickitti = those of the GPC code"
    )
    lambda_lov: float = Field(0.0, ge=0, description="weight of Lovász-softmax on labels (not in GPC; LaserMix code)")
    bank: BankParams = BankParams()

    def settled(self, steps: int) -> GPCParams:
        update: dict[str, float] = {}
        if self.prepare_iter is None:
            update["prepare_iter"] = 0 if self.pretrain else min(200, round(200 * steps / PUBLISHED_STEPS))
        if self.lr_scale is None:
            update["lr_scale"] = 0.1 if self.pretrain else 1.0
        return self.model_copy(update=update)

    @property
    def crops(self) -> Crops:
        enough = (self.crop_min_points, self.crop_min_overlap)
        if self.crop == "column":
            return Column(*enough, size=self.crop_size)
        if self.crop == "fan":
            narrowest, widest = sorted((self.fan_narrowest, self.fan_widest))
            return Fan(*enough, narrowest=narrowest, widest=widest)
        return Whole()

    @property
    def class_weights(self) -> tuple[float, ...] | None:
        if self.ce_class_weights == "semantickitti":
            return tuple(SEMANTICKITTI_WEIGHTS.values())
        return self.ce_class_weights


@dataclass(frozen=True, slots=True)
class Negatives:
    """N negatives of one view, the same ones in every process.

    Attributes:
        embedding: (N, D) float32.
        label: (N,) int64, their pseudo labels when they were pushed.
        point: (N,) int64, the point of this process's batch that each is, -1 for all others.
    """

    embedding: Tensor
    label: Tensor
    point: Tensor


class GPC(Method):
    """``L = lambda_sup L_sup + lambda_unsup (L_1 + L_2)``: cross-entropy, and the contrast in both directions."""

    name = "gpc"
    Params = GPCParams
    params: GPCParams
    class_measures = ("confident", "precision")
    mean_measures = ("pairs", "gated")
    class_weights: Tensor | None

    def __init__(self, params: GPCParams, make_segmenter: MakeSegmenter, num_classes: int) -> None:
        super().__init__(params.settled(PUBLISHED_STEPS), make_segmenter, num_classes)
        weights = params.class_weights
        if weights is not None and len(weights) != num_classes:
            raise ValueError(f"{len(weights)} class weights do not fit {num_classes} classes")
        self.register_buffer("class_weights", None if weights is None else torch.tensor(weights), persistent=False)
        self.segmenter = make_segmenter()
        self.projector = nn.Linear(self.segmenter.backbone.out_channels, params.embedding)
        self.bank: ClassRing | None = None
        if params.bank.enabled:  # classes of view 1, then of view 2
            self.bank = ClassRing(2 * num_classes, params.bank.slots, params.embedding)
            self.bank.values.copy_(F.normalize(torch.randn_like(self.bank.values), dim=2))

    @classmethod
    def check(cls, params: AnyParams, spec: DatasetSpec) -> None:
        super().check(params, spec)
        assert isinstance(params, GPCParams)
        if params.crop == "fan" and spec.sensor is None:
            raise UsageError(
                f"fans are cut around a spinning sensor, and {spec.title} has none",
                where={"field": "gpc.crop"},
                hint="--set gpc.crop=column",
            )
        weights = params.class_weights
        named = params.ce_class_weights == "semantickitti"
        if weights is not None and (len(weights) != spec.num_classes or (named and not _weighs(spec))):
            raise UsageError(
                f"the class weights do not fit the {spec.num_classes} classes of {spec.title}",
                where={"field": "gpc.ce_class_weights"},
                hint="give one weight for each class, in their order, or none",
            )

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
        """``labelled``: a crop of each, or while pre-training, all of it. ``crops``: pairs of views of one scan each,
        which overlap and are augmented each for itself; with labels on some points of every scan, of the labelled."""
        assert isinstance(params, GPCParams)
        if phase == PRETRAINING:
            return {"labelled": [augment(view, rng) for view in labelled]}
        crops = params.crops
        seen = [crops.one(view, rng) for view in labelled] if params.crop_labelled else labelled
        pairs = [crop for view in unlabelled or labelled for crop in crops.pair(view, rng)]
        return {"labelled": [augment(view, rng) for view in seen], "crops": [augment(crop, rng) for crop in pairs]}

    def phases(self, steps: int) -> list[Phase]:
        """Pre-training (0 steps by default) leaves the projector alone: it begins from scratch afterwards."""
        settled = self.params.settled(steps)
        first = int(steps * settled.pretrain)
        return [
            Phase("pre-training", first, trainable=[self.segmenter]),
            Phase("guided contrast", steps - first, lr_scale=settled.lr_scale or 1.0),
        ]

    def step(self, batch: Batch, progress: Progress) -> Iterator[dict[str, Tensor]]:
        inputs = batch["labelled"]
        logits = self.segmenter(inputs).logits
        target = self.segmenter.backbone.labels(inputs, inputs.label)
        self.live.add(logits, target)
        self._measure_labels(logits, target)
        if self.params.hard_point_ce is not None and progress.phase == GUIDED:
            target = hard_targets(logits, target, self.params.hard_point_ce)
        of_labels = segmentation_losses(logits, target, self.params.lambda_lov, self.class_weights)
        losses = {name: self.params.lambda_sup * loss for name, loss in of_labels.items()}
        if "crops" in batch and progress.step >= (self.params.prepare_iter or 0):
            losses["contrast"] = self.params.lambda_unsup * self._contrast(batch["crops"])
        yield losses

    def _contrast(self, crops: Inputs) -> Tensor:
        """``L_unsup = L_1 + L_2`` on pairs of views of one batch (this process's share of it)."""
        p = self.params
        output = self.segmenter(crops)
        with torch.no_grad():
            confidence, label = output.logits.float().softmax(1).max(1)
        embedding = self._embed(output.levels.finest)
        self._measure_crops(crops, confidence, label)

        element, view = crops.elements.point_to_element, point_to_view(crops)
        one, two = match_pairs(crops)
        seen = (element[one] >= 0) & (element[two] >= 0)
        one, two = one[seen], two[seen]
        scans = (len(crops.view_offsets) - 1) // 2
        scan = view[one] // 2
        chosen = draw_pairs(scan, label[element[one]], p.num_pos, scans, self.num_classes, p.balanced_positives)
        self.measures.add("pairs", torch.bincount(scan[chosen], minlength=scans))
        points = (one[chosen], two[chosen])
        rows = (element[points[0]], element[points[1]])
        negatives = self._negatives(embedding, label, element, view)

        loss = embedding.new_zeros(())
        for anchor, positive in ((0, 1), (1, 0)):  # L_1, L_2; their negatives are of the positive's view
            gate = confidence[rows[positive]] >= p.conf_thresh
            self.measures.add("gated", gate)
            if not p.conf_guidance:
                gate = torch.ones_like(gate)
            others = negatives[positive]
            known = (others.point >= 0).nonzero().squeeze(1)
            number = torch.full_like(element, -1)
            number[others.point[known]] = known
            pulled = embedding[rows[positive][gate]]
            each = info_nce(
                embedding[rows[anchor][gate]],
                pulled.detach() if p.stopgrad_positive else pulled,
                others.embedding,
                p.temperature,
                label[rows[anchor][gate]] if p.pseudo_guidance else None,
                others.label,
                number[points[positive][gate]],
            )
            loss = loss + global_mean(each)
        return loss

    def _embed(self, features: Tensor) -> Tensor:
        """(M, D) unit rows. In float32: cosines are divided by a small temperature."""
        with torch.autocast(features.device.type, enabled=False):
            return F.normalize(self.projector(features.to(self.projector.weight.dtype)), dim=1)

    @torch.no_grad()
    def _negatives(self, embedding: Tensor, label: Tensor, element: Tensor, view: Tensor) -> list[Negatives]:
        """Those of view 1 and of view 2. First the batch of all processes joins the bank; then they are drawn."""
        p, classes = self.params, self.num_classes
        quota = max(1, p.num_neg // classes)
        point = (element >= 0).nonzero().squeeze(1)
        row = element[point]
        cell = view[point] % 2 * classes + label[row]
        if self.bank is None:
            group, most = (cell, quota) if p.balanced_negatives else (view[point] % 2, p.num_neg)
            features, cell, point = _draw_together(group, most, 2 * classes, embedding, row, cell, point)
        else:
            features, cell, point = _draw_together(cell, p.bank.enqueue, 2 * classes, embedding, row, cell, point)
            slot = self.bank.push(features, cell)
            where = torch.full((2 * classes, p.bank.slots), -1, device=cell.device)
            where[cell[slot >= 0], slot[slot >= 0]] = point[slot >= 0]
            cell, slot = draw_slots(self.bank, p.num_neg, quota if p.balanced_negatives else None)
            if p.bank.mask_unwritten:
                written = slot < self.bank.count[cell]
                cell, slot = cell[written], slot[written]
            features, point = self.bank.values[cell, slot], where[cell, slot]
        sides = [(cell // classes == side).nonzero().squeeze(1) for side in (0, 1)]
        return [Negatives(features[chosen], cell[chosen] % classes, point[chosen]) for chosen in sides]

    @torch.no_grad()
    def _measure_labels(self, logits: Tensor, target: Tensor) -> None:
        """``precision``: of the confident predictions of a class, how many are right (where a label is visible)."""
        confidence, label = logits.float().softmax(1).max(1)
        counted = (target != IGNORE) & (confidence >= self.params.conf_thresh)
        self.measures.add_classes("precision", (label == target)[counted], label[counted])

    @torch.no_grad()
    def _measure_crops(self, crops: Inputs, confidence: Tensor, label: Tensor) -> None:
        """``confident``: of the unlabelled predictions of a class, how many are confident."""
        unlabelled = self.segmenter.backbone.labels(crops, crops.label) == IGNORE
        sure = confidence[unlabelled] >= self.params.conf_thresh
        self.pseudo.add(label[unlabelled], sure)
        self.measures.add_classes("confident", sure, label[unlabelled])

    def predictor(self) -> Segmenter:
        return self.segmenter


def draw_pairs(scan: Tensor, label: Tensor, count: int, scans: int, num_classes: int, balanced: bool = True) -> Tensor:
    """``count`` of the overlap points of each scan: floor(count / C) of each class, the rest evenly from all of them.

    What is drawn for the rest may have been drawn for its class already. A scan with fewer points than that rest gives
    all of them for it.

    Args:
        scan: (K,) int64 in 0..scans-1, of each overlap point.
        label: (K,) int64 in 0..C-1, its pseudo label in the first crop.
        balanced: false: all are drawn evenly.

    Returns:
        indices into the K points.
    """
    if not balanced:
        return draw_per_class(scan, count, scans)
    first = draw_per_class(scan * num_classes + label, count // num_classes, scans * num_classes)
    rest = count - torch.bincount(scan[first], minlength=scans)
    return torch.cat([first, draw_per_class(scan, rest, scans)])


def draw_slots(bank: ClassRing, count: int, quota: int | None) -> tuple[Tensor, Tensor]:
    """Slots of the two halves of a bank's rings, drawn evenly without replacement, the same in every process.

    Written slots come first; where there are too few, unwritten ones follow in their order.

    Args:
        bank: of 2C rings.
        count: of each half, if ``quota`` is None.
        quota: of each ring.

    Returns:
        (K,) int64 rings and (K,) int64 slots.
    """
    rings, slots = bank.values.shape[:2]
    device = bank.values.device
    order = torch.arange(slots, device=device)
    keys = torch.where(bank.valid, shared_rand(rings, slots, device=device), 1 + order)
    if quota is not None:
        slot = keys.topk(min(quota, slots), largest=False).indices
        return torch.arange(rings, device=device).repeat_interleave(slot.shape[1]), slot.reshape(-1)
    half = keys.view(2, -1)
    place = half.topk(min(count, half.shape[1]), largest=False).indices
    place = (place + torch.arange(2, device=device)[:, None] * half.shape[1]).reshape(-1)
    return place // slots, place % slots


def hard_targets(logits: Tensor, target: Tensor, below: float) -> Tensor:
    """Targets of the labelled elements whose largest probability is below ``below``, IGNORE elsewhere.

    If no element of the global batch is as hard, its first labelled one stays.

    Args:
        logits: (M, C).
        target: (M,) int64 or IGNORE.
    """
    labelled = target != IGNORE
    with torch.no_grad():
        hard = labelled & (logits.float().softmax(1).amax(1) < below)
    counts = gather_rows(torch.stack([hard.sum(), labelled.sum()])[None])
    stays = (counts[:, 0].sum() == 0) & ((counts[:, 1] > 0).long().argmax() == rank())
    first = labelled & (labelled.cumsum(0) == 1)
    return torch.where(hard | (first & stays), target, IGNORE)


def _draw_together(
    group: Tensor, most: int, groups: int, embedding: Tensor, row: Tensor, cell: Tensor, point: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """At most ``most`` points of each group, drawn evenly from the batch of all processes.

    Args:
        group, row, cell, point: (P,) int64, of each point of this process: what it is drawn as, its row of
            ``embedding`` (M, D), and two numbers that go with it.

    Returns:
        (K, D) embeddings, (K,) cells and (K,) points, -1 for those of other processes.
    """
    keys = torch.rand(len(group), device=group.device)
    mine = draw_per_class(group, most, groups, keys)  # no other point can be among those of all processes
    about = torch.stack([group, cell, point, torch.full_like(point, rank())], 1)[mine]
    about, keys, embedding = gather_rows(about), gather_rows(keys[mine]), gather_rows(embedding[row[mine]])
    drawn = draw_per_class(about[:, 0], most, groups, keys)
    group, cell, point, owner = about[drawn].unbind(1)
    return embedding[drawn], cell, torch.where(owner == rank(), point, -1)


def _weighs(spec: DatasetSpec) -> bool:
    return tuple(SEMANTICKITTI_WEIGHTS) == spec.classes


__all__ = ["GPC", "BankParams", "GPCParams", "Negatives", "draw_pairs", "draw_slots", "hard_targets"]
