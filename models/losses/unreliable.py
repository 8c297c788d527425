"""Contrast with features that a network is unsure of ("Semi-Supervised Semantic Segmentation Using Unreliable
Pseudo-Labels", Wang et al., CVPR 2022; LiM3D, CVPR 2023).

A prediction that is too unsure to be a label still says what an element is not: its feature is a negative for the
classes far down its ranking. Elements are whatever the network computes on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl3d.data.scan import IGNORE
from ssl3d.models.class_bank import ClassRing, draw_per_class
from ssl3d.models.distributed import all_reduce_sum, gather_rows, world_size
from ssl3d.models.elements import ElementMap
from ssl3d.models.rows import random_keys


def entropy(probabilities: Tensor) -> Tensor:
    """(M,) in nats, of (M, C) probabilities; 0 log 0 = 0."""
    return -probabilities.xlogy(probabilities).sum(1)


def percentiles(values: Tensor, shares: tuple[float, ...]) -> Tensor:
    """Quantiles of the values of all processes, interpolated linearly: (len(shares),); NaN without any value.

    Args:
        values: (m,) float, of this process; may be empty.
        shares: in 0..1.
    """
    ordered = gather_rows(values).sort().values
    if not len(ordered):
        return values.new_full((len(shares),), torch.nan)
    place = torch.tensor(shares, dtype=torch.float64, device=values.device) * (len(ordered) - 1)
    below = place.long()
    above = (below + 1).clamp(max=len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], (place - below).to(values.dtype))


class UnreliableContrast(nn.Module):
    """L_C = mean over classes, and over the anchors of a class, of

        -log( exp(cos(a, pos) / tau) / (exp(cos(a, pos) / tau) + sum_j exp(cos(a, neg_j) / tau)) )

    (section 3 of the paper as far as its code tells). Among the elements without a label those are *reliable* whose
    entropy lies below the percentile ``low``, and *unreliable* above ``high``; percentiles are over their points.

    - anchors of class c: student features of reliable elements of predicted class c, and of elements with label c,
      whose p_c exceeds ``sure``; ``anchors`` of a class are drawn;
    - positive: the mean teacher feature of the reliable or labelled elements of class c, sure or not;
    - negatives: teacher features of unreliable elements for which c has a rank in ``ranks`` (0: the likeliest class),
      and of elements with another label for which c is among the first ``ranks[0]``. At most ``push`` of them a step go
      into the bank of class c; each anchor draws ``negatives`` of it, with replacement.

    Classes with an empty bank are left out. With anchors of fewer than two classes the loss is an exact zero.
    All draws are functions of the rows of the points and of ``seed``: the same ones however a batch is shared.

    Args:
        num_classes: C.
        channels: D.
        slots: features that the bank of a class holds.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int,
        slots: int,
        *,
        low: float = 0.4,
        high: float = 0.8,
        sure: float = 0.3,
        ranks: tuple[int, int] = (3, 20),
        anchors: int = 16,
        negatives: int = 50,
        push: int = 256,
        tau: float = 0.5,
    ) -> None:
        super().__init__()
        self.bank = ClassRing(num_classes, slots, channels)
        self.shares, self.sure, self.ranks = (low, high), sure, ranks
        self.anchors, self.negatives, self.push, self.tau = anchors, negatives, push, tau

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        probabilities: Tensor,
        target: Tensor,
        guided: Tensor,
        elements: ElementMap,
        rows: Tensor,
        seed: int,
    ) -> Tensor:
        """This process's share of the loss; updates the bank.

        Args:
            student: (M, D) float, with gradient.
            teacher: (M, D) float, the teacher's features of the same elements.
            probabilities: (M, C) float, the teacher's.
            target: (M,) int64 visible labels of the elements, or IGNORE.
            guided: (M,) bool: whether the teacher has seen the element; the others take no part.
            elements: points (P) to elements (M).
            rows: (P, 2) int64, see ``View.rows``.
            seed: of all draws: another one in each step.

        Returns:
            scalar.
        """
        keys = self._keys(elements, rows, seed)
        with torch.no_grad():
            p, known = probabilities.float(), target != IGNORE
            member, unreliable = self._roles(p, target, guided, elements)
            sure = p.gather(1, member.clamp(max=p.shape[1] - 1)[:, None]).squeeze(1) > self.sure
            self._remember(teacher, self._negatives(p, target, known & guided, unreliable), keys)
            positive = self._positives(teacher.float(), member)
        with torch.autocast(student.device.type, enabled=False):  # similarities in float32
            return self._loss(student, positive, member, sure & (member != IGNORE), keys, seed)

    def _keys(self, elements: ElementMap, rows: Tensor, seed: int) -> Tensor:
        """(M,) int64 by which elements are drawn: the smallest key among their points."""
        covered = elements.point_to_element >= 0
        keys = torch.full((elements.num_elements,), torch.iinfo(torch.int64).max, device=rows.device)
        return keys.scatter_reduce_(0, elements.point_to_element[covered], random_keys(rows[covered], seed), "amin")

    def _roles(self, p: Tensor, target: Tensor, guided: Tensor, elements: ElementMap) -> tuple[Tensor, Tensor]:
        """(M,) class of the reliable and labelled elements, IGNORE of the others; (M,) bool: unreliable."""
        unsure, unlabelled = entropy(p), guided & (target == IGNORE)
        of_points = elements.gather(unsure, fill=torch.nan)[elements.gather(unlabelled, fill=False)]
        low, high = percentiles(of_points, self.shares).unbind()
        reliable = unlabelled & (unsure < low)
        label = torch.where(reliable, p.argmax(1), torch.where(guided, target, IGNORE))
        return label, unlabelled & (unsure > high)

    def _negatives(self, p: Tensor, target: Tensor, known: Tensor, unreliable: Tensor) -> Tensor:
        """(M, C) bool: whether an element is a negative for a class."""
        negative = torch.zeros_like(p, dtype=torch.bool)
        chosen = (known | unreliable).nonzero().squeeze(1)
        first, last = self.ranks
        order = p[chosen].sort(dim=1, descending=True, stable=True).indices
        place = torch.arange(p.shape[1], device=p.device)
        far = (place >= first) & (place < last)
        negative[chosen[:, None], order] = torch.where(unreliable[chosen, None], far, place < first)
        return negative & (torch.where(known, target, -1)[:, None] != place)

    def _remember(self, teacher: Tensor, negative: Tensor, keys: Tensor) -> None:
        """Draws among the negatives of each class, in all processes, and pushes them."""
        most = min(self.push, len(keys))
        last = torch.iinfo(torch.int64).max
        drawn, element = keys.expand(negative.shape[1], -1).masked_fill(~negative.t(), last).topk(most, largest=False)
        label, column = (drawn != last).nonzero(as_tuple=True)
        element = element[label, column]
        order = torch.sort(element, stable=True).indices  # as they lie in the batch
        label, element = label[order], element[order]
        label, features, keys = gather_rows(label), gather_rows(teacher[element].float()), gather_rows(keys[element])
        kept = draw_per_class(label, self.push, negative.shape[1], keys)
        self.bank.push(features[kept], label[kept])

    def _positives(self, teacher: Tensor, member: Tensor) -> Tensor:
        """(C, D) mean teacher feature of each class over all processes; 0 without any."""
        rows = (member != IGNORE).nonzero().squeeze(1)
        sums = teacher.new_zeros(len(self.bank.count), teacher.shape[1] + 1)
        sums.index_add_(0, member[rows], F.pad(teacher[rows], (0, 1), value=1.0))
        sums = all_reduce_sum(sums)
        return sums[:, :-1] / sums[:, -1:].clamp(min=1)

    def _loss(
        self, student: Tensor, positive: Tensor, member: Tensor, anchor: Tensor, keys: Tensor, seed: int
    ) -> Tensor:
        classes = len(self.bank.count)
        rows = anchor.nonzero().squeeze(1)
        rows = rows[draw_per_class(member[rows], self.anchors, classes, keys[rows])]
        label, features, keys = gather_rows(member[rows]), gather_rows(student[rows].float()), gather_rows(keys[rows])
        drawn = draw_per_class(label, self.anchors, classes, keys)
        present = torch.bincount(label[drawn], minlength=classes) > 0
        drawn = drawn[self.bank.count[label[drawn]] > 0]
        label, features = label[drawn], F.normalize(features[drawn], dim=1)
        places = [torch.arange(size, device=label.device) for size in (len(label), self.negatives)]
        number = random_keys(torch.cartesian_prod(*places), ~seed).reshape(len(label), self.negatives)
        slot = number % self.bank.count[label, None]
        other = torch.cat([positive[label, None], self.bank.values[label[:, None], slot]], 1)
        likeness = torch.einsum("ad,akd->ak", features, F.normalize(other, dim=2)) / self.tau
        each = likeness.logsumexp(1) - likeness[:, 0]
        count = torch.bincount(label, minlength=classes)
        mean = (each / count[label]).sum() / (count > 0).sum().clamp(min=1)
        return mean * (present.sum() >= 2) / world_size()


__all__ = ["UnreliableContrast", "entropy", "percentiles"]
