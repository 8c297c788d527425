"""DDSEmi's memory bank: features of each class in a global part that moves slowly and a local one that is a queue.

DDSEmi (CVPR 2024), Eq. 1, and how the bank is filled from the labelled scans when pre-training ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl3d.data.scan import IGNORE, View
from ssl3d.models.anchors import SMALL_NORM
from ssl3d.models.class_bank import ClassRing, draw_per_class, rank_in_class, shared_rand
from ssl3d.models.distributed import gather_rows, rank
from ssl3d.models.methods.base import Stored
from ssl3d.models.prediction import Prediction

Update = Literal["both", "progressive", "fifo"]


class DensityBank(nn.Module):
    """The features of each class that one stream has met, each with the confidence of its prediction.

    Args:
        size: S, slots of a class. ``both``: half global (more by one if odd), half local; ``progressive``: all global,
            moved by the features of the batch itself; ``fifo``: all local.
        clamp_beta: beta of Eq. 1 is kept within [0, 1]. A negative one would push a stored feature away from its class
            and make it grow.

    Attributes:
        global_part, local_part: rings of D + 1 channels, the last one the confidence.
    """

    def __init__(
        self, num_classes: int, size: int, channels: int, update: Update = "both", clamp_beta: bool = True
    ) -> None:
        super().__init__()
        local = {"both": size // 2, "progressive": 0, "fifo": size}[update]
        self.global_part = ClassRing(num_classes, size - local, channels + 1)
        self.local_part = ClassRing(num_classes, local, channels + 1)
        self.clamp_beta = clamp_beta

    @property
    def features(self) -> Tensor:
        """(C, S, D): global slots first."""
        return torch.cat([self.global_part.values, self.local_part.values], 1)[..., :-1]

    @property
    def confidence(self) -> Tensor:
        """(C, S)."""
        return torch.cat([self.global_part.values, self.local_part.values], 1)[..., -1]

    @property
    def valid(self) -> Tensor:
        """(C, S) bool: slots that were ever written. Validity decides, not zeros."""
        return torch.cat([self.global_part.valid, self.local_part.valid], 1)

    @property
    def pool(self) -> int:
        """How many new features of a class an iteration can take in."""
        return self.local_part.slots or self.global_part.slots

    @torch.no_grad()
    def fill(self, rows: Tensor, label: Tensor) -> None:
        """Starts anew from at most S features of each class: the first half becomes global, the second local.

        Args:
            rows: (M, D + 1) features and their confidence.
            label: (M,) int64.
        """
        for part in (self.global_part, self.local_part):
            for buffer in part.buffers():
                buffer.zero_()
        if self.local_part.slots and self.global_part.slots:
            share = (torch.bincount(label, minlength=len(self.valid)) + 1) // 2
            first = rank_in_class(label, len(share)) < share[label]
        else:
            first = torch.full_like(label, self.global_part.slots > 0, dtype=torch.bool)
        if self.global_part.slots:
            self.global_part.push(rows[first], label[first])
        if self.local_part.slots:
            self.local_part.push(rows[~first], label[~first])

    @torch.no_grad()
    def update(self, rows: Tensor, label: Tensor, draws: Tensor) -> None:
        """One iteration: the global part follows the local one as it stands (Eq. 1), then the local one takes the new
        features in. What it forgets fills global slots that were never written.

        Args:
            rows: (M, D + 1) new features and their confidence, at most ``pool`` of a class; the same in every process.
            label: (M,) int64.
            draws: (C, global slots) in [0, 1), which local slot each global one looks at.
        """
        if not self.local_part.slots:
            batch = ClassRing(len(self.valid), self.pool, rows.shape[1]).to(self.global_part.values)
            batch.push(rows, label)
            self._progress(batch, draws)
            self._fill_up(rows, label)
            return
        if self.global_part.slots:
            self._progress(self.local_part, draws)
        before, written = self.local_part.values.clone(), self.local_part.valid
        slot = self.local_part.push(rows, label)
        if self.global_part.slots:
            forgotten = (slot >= 0) & written[label, slot]
            self._fill_up(before[label, slot][forgotten], label[forgotten])

    def _progress(self, source: ClassRing, draws: Tensor) -> None:
        """Eq. 1: ``f <- (1 - beta) f + beta g``, g a feature of the class in ``source``, beta their cosine."""
        moving = self.global_part.valid & (source.count > 0)[:, None]
        slot = (draws * source.count[:, None]).long().minimum((source.count - 1)[:, None]).clamp(min=0)
        old = self.global_part.values
        new = source.values[torch.arange(len(slot), device=slot.device)[:, None], slot]
        unit_old, unit_new = (F.normalize(rows[..., :-1], dim=-1, eps=SMALL_NORM) for rows in (old, new))
        beta = (unit_old * unit_new).sum(-1, keepdim=True)
        if self.clamp_beta:
            beta = beta.clamp(0, 1)
        self.global_part.values.copy_(torch.where(moving[..., None], (1 - beta) * old + beta * new, old))

    def _fill_up(self, rows: Tensor, label: Tensor) -> None:
        """Writes rows into global slots that were never written, in their order; the others are dropped."""
        free = self.global_part.slots - self.global_part.count
        fits = rank_in_class(label, len(free)) < free[label]
        self.global_part.push(rows[fits], label[fits])

    def draw(self, draws: Tensor) -> Tensor:
        """(C, D): a valid feature of each class, drawn uniformly by ``draws`` (C,) in [0, 1); zeros without any."""
        stored, count = self.global_part.count, self.global_part.count + self.local_part.count
        number = (draws * count).long().minimum(count - 1).clamp(min=0)
        slot = torch.where(number < stored, number, number - stored + self.global_part.slots)
        return self.features[torch.arange(len(slot), device=slot.device), slot]


@torch.no_grad()
def draw_candidates(rows: Tensor, label: Tensor, points: Tensor, most: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """At most ``most`` elements of each class, of those of all processes: as if points were drawn one after the other,
    each alike, and the element of each were taken that is not there yet. The same in every process.

    Args:
        rows: (M, D) what is known of each element.
        label: (M,) int64.
        points: (M,) how many points each has, above 0.

    Returns:
        (K, D) rows and (K,) labels, in the order of the global batch.
    """
    own = torch.stack([label, points.long(), torch.full_like(label, rank())], 1)
    every = gather_rows(own)
    if not len(every):
        return rows, label
    # the order in which waiting times of rate ``points`` end is that of these draws (Efraimidis and Spirakis, 2006)
    keys = -torch.log1p(-shared_rand(len(every), device=rows.device)) / every[:, 1]
    chosen = draw_per_class(every[:, 0], most, num_classes, keys)
    mine = chosen[every[chosen, 2] == rank()] - (every[:, 2] < rank()).sum()
    return gather_rows(rows[mine]), every[chosen, 0]


# ---------------------------------------------------------------- filling


def candidates_of(
    view: View,
    prediction: Prediction,
    project: Callable[[Tensor], Tensor],
    most: int,
    gamma: float,
    seed: int,
    by_points: bool = True,
) -> Stored:
    """What a bank may be filled with of one labelled scan: of each class ``most`` of the visibly labelled elements, no
    feature twice, drawn uniformly (by their points) from those that are predicted right and with a confidence above
    ``gamma``, then right, then from the others.

    A pure function of its arguments. Facts: ``feature`` (M, D), ``label``, ``tier`` (0, 1, 2), ``key`` (the smaller,
    the earlier drawn) and ``confidence``, of the class of the label.
    """
    assert prediction.features is not None and prediction.scores is not None
    seen = np.flatnonzero((view.label != IGNORE) & (prediction.label != IGNORE))
    rng = np.random.default_rng([seed, int(view.rows[0, 0]) if len(view) else 0])
    key = rng.random(len(view))[seen]  # of points, not of features: these differ by rounding between machines
    if by_points:  # an element is drawn when the first of its points is
        order = np.argsort(key, kind="stable")
        seen, key = seen[order], key[order]
    label = view.label[seen].astype(np.int64)
    # an element is told by its feature: points of one have the same bits
    first = np.unique(_fingerprints(prediction.features[seen], label), return_index=True)[1]
    seen, label, key = seen[first], label[first], key[first]
    scores = prediction.scores[seen]
    right, sure = prediction.label[seen] == label, scores.max(1, initial=0) > gamma
    tier = np.where(right, np.where(sure, 0, 1), 2)
    chosen = _first_of_class(label, tier, key, most)
    with torch.no_grad():
        feature = project(torch.from_numpy(prediction.features[seen[chosen]])).numpy()
    facts: dict[str, npt.NDArray[Any]] = {
        "feature": feature.astype(np.float32),
        "label": label[chosen],
        "tier": tier[chosen],
        "key": key[chosen],
        "confidence": scores[chosen, label[chosen]].astype(np.float32),
    }
    return Stored(facts=facts)


def merge_candidates(scans: Iterable[Mapping[str, npt.NDArray[Any]]], most: int) -> tuple[Tensor, Tensor]:
    """The draw from all scans together: at most ``most`` of a class, in a random order that does not tell the tiers.

    Args:
        scans: the facts of ``candidates_of``.

    Returns:
        (M, D + 1) float32 features and their confidence; (M,) int64 labels.
    """
    kept: dict[str, npt.NDArray[Any]] = {}
    for facts in scans:
        together = {name: np.concatenate([kept[name], value]) if kept else value for name, value in facts.items()}
        chosen = _first_of_class(together["label"], together["tier"], together["key"], most)
        kept = {name: value[chosen] for name, value in together.items()}
    order = np.argsort(kept["key"], kind="stable")
    rows = np.concatenate([kept["feature"], kept["confidence"][:, None]], 1)[order]
    return torch.from_numpy(rows), torch.from_numpy(kept["label"][order])


def _fingerprints(features: npt.NDArray[np.float32], label: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """(n,) sums of the bits of each row (n, D) and of its label (n,), times random numbers, modulo 2^64: different for
    different rows, but for a chance that is smaller than that of a memory error."""
    factors = np.random.default_rng(0).integers(1, 2**64, features.shape[1] + 1, np.uint64, endpoint=False)
    bits = np.ascontiguousarray(features).view(np.uint32).astype(np.uint64)
    bits *= factors[:-1]
    return bits.sum(1) + label.astype(np.uint64) * factors[-1]


def _first_of_class(
    label: npt.NDArray[np.int64], tier: npt.NDArray[np.int64], key: npt.NDArray[np.float64], most: int
) -> npt.NDArray[np.int64]:
    """Rows of the ``most`` smallest (tier, key) of each class."""
    order = np.lexsort((key, tier, label))
    begins = np.searchsorted(label[order], label[order])
    return order[np.arange(len(order)) - begins < most]


__all__ = ["DensityBank", "Update", "candidates_of", "draw_candidates", "merge_candidates"]
