"""Parameters of ``ddsemi``: defaults of the paper where it has them, of the code that it builds on, or ours."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ssl3d.models.config import Params
from ssl3d.models.density_bank import Update
from ssl3d.models.hardness import Scale


class BankParams(Params):
    """The memory bank of each stream."""

    size: int = Field(500, ge=2, description="S, features of a class (paper; Fig. 7a: 50, 100, 500, 1000, 5000)")
    update: Update = Field(
        "both", description="both: half progressive (Eq. 1), half first in, first out; or one of them alone (Table 5)"
    )
    clamp_beta: bool = Field(True, description="beta of Eq. 1 within [0, 1]; false: as printed, unbounded (ours: true)")


class AnchorParams(Params):
    """What an anchor is made of."""

    estimator: Literal["density", "random", "confidence"] = Field(
        "density", description="density: the densest features (Eq. 3); random, confidence: ablations (Table 6)"
    )


class ContrastParams(Params):
    """What points are compared with."""

    mode: Literal["anchor", "point"] = Field(
        "anchor", description="anchor of each class; point: a feature of each, drawn anew (Table 4)"
    )


class LossParams(Params):
    """Which of the two losses are there (Table 3)."""

    inter: bool = Field(True, description="contrast with the anchors of the other stream (Eqs. 4-6)")
    intra: bool = Field(True, description="contrast with the anchors of the own stream, weighted (Eqs. 7, 8, 11)")


class HardnessParams(Params):
    """Which densities make the weights of the intra-contrast (Table 3); none: all weigh 1."""

    geometric: bool = Field(True, description="density of the scan around a point (Eq. 9)")
    feature: bool = Field(True, description="density of the bank around a feature (Eq. 2)")


class DDSEmiParams(Params):
    """Parameters of ``ddsemi``. K and k are two different numbers."""

    bank: BankParams = Field(BankParams(), description="the memory banks")
    anchor: AnchorParams = Field(AnchorParams(), description="the anchors")
    contrast: ContrastParams = Field(ContrastParams(), description="the contrast")
    loss: LossParams = Field(LossParams(), description="its terms")
    hardness: HardnessParams = Field(HardnessParams(), description="its weights")
    k: int = Field(8, ge=1, description="neighbours in a density (paper; Fig. 7c: 2, 4, 8, 16, 32)")
    K: int = Field(16, ge=1, description="features in an anchor (paper; Fig. 7b: 4, 8, 16, 64, 128)")
    gamma_e: float = Field(0.9, ge=0, lt=1, description="least confidence in the inter-contrast (paper)")
    gamma_a: float = Field(0.75, ge=0, lt=1, description="least confidence in the intra-contrast (paper)")
    gamma_bank: float = Field(0.9, ge=0, lt=1, description="least confidence of what enters a bank (ours: gamma_e)")
    tau: float = Field(1.0, gt=0, description="temperature (paper)")
    alpha: float = Field(0.9, ge=0, description="how much density lowers the weight of a point (paper)")
    eps: float = Field(0.1, gt=0, description="least hardness before the weights are divided by their mean (paper)")
    lambda_ter: float = Field(0.1, ge=0, description="weight of the inter-contrast (paper)")
    lambda_tra: float = Field(1.0, ge=0, description="weight of the intra-contrast (paper)")
    proj_dim: int = Field(32, ge=1, description="D, channels of the projector (GPC code)")
    feature_norm: Literal["none", "l2"] = Field(
        "none", description="none: dot products as printed; l2: projected features of length 1 (ours: none)"
    )
    geom_norm: Scale = Field(
        "minmax", description="scale of neighbor counts: as printed (Eq. 9), of their logarithms, or their rank"
    )
    loss_level: Literal["point", "voxel"] = Field(
        "point", description="what counts alike in losses and draws: points (GPC code), or elements of the backbone"
    )
    density_chunk: int = Field(65536, ge=1, description="rows compared with a bank at once: bounds memory (ours)")
    pretrain: float = Field(
        0.5, ge=0, lt=1, description="share of the steps on labels alone (ours: both phases equally long)"
    )
    lr_scale: float = Field(0.1, gt=0, description="factor on the learning rate after pre-training (GPC code)")
    ramp_steps: int = Field(0, ge=0, description="the contrast rises linearly over so many joint steps; 0 = at once")
    lambda_lov: float = Field(0.0, ge=0, description="weight of Lovász-softmax (0 for MinkUNet, LaserMix code)")
    ce_class_weights: tuple[float, ...] | None = Field(
        None, description="one number a class for the cross-entropy; none = all alike"
    )


__all__ = ["DDSEmiParams"]
