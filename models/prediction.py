"""What a network says about a scan, for every original row of it, and how the passes over a scan are put together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssl3d.data.scan import IGNORE


@dataclass(frozen=True, slots=True)
class Instances:
    """K instances as pairs of point and instance. They may overlap, and a point may belong to none.

    Attributes:
        point: (E,) int64, >= 0; what is counted (points of a batch, original rows) is said where they are handed over.
        instance: (E,) int64, 0..K-1. No pair stands twice; an instance without a point is allowed.
        label: (K,) uint8 class of each instance.
        score: (K,) float32 confidence, finite; larger is surer.

    Raises:
        ValueError: another shape or dtype, ids out of range, a pair that stands twice, a score that is no number.
    """

    point: npt.NDArray[np.int64]
    instance: npt.NDArray[np.int64]
    label: npt.NDArray[np.uint8]
    score: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        wanted: dict[str, type[np.generic]] = {
            "point": np.int64,
            "instance": np.int64,
            "label": np.uint8,
            "score": np.float32,
        }
        for name, dtype in wanted.items():
            _check(f"instances: {name}", getattr(self, name), dtype, 1)
        if len(self.point) != len(self.instance):
            raise ValueError(f"instances: {len(self.point)} points and {len(self.instance)} instances are no pairs")
        if len(self.label) != len(self.score):
            raise ValueError(f"instances: {len(self.label)} labels and {len(self.score)} scores")
        if len(self.point) and self.point.min() < 0:
            raise ValueError(f"instances: point {self.point.min()} is negative")
        if len(self.instance) and not 0 <= self.instance.min() <= self.instance.max() < len(self):
            found = f"{self.instance.min()}..{self.instance.max()}"
            raise ValueError(f"instances: ids {found} are not within 0..{len(self) - 1} (as many as labels)")
        if (self.label == IGNORE).any():
            raise ValueError(f"instances: instance {int((self.label == IGNORE).argmax())} has the ignore label")
        if not np.isfinite(self.score).all():
            raise ValueError(
                f"instances: the score of instance {int((~np.isfinite(self.score)).argmax())} is no number"
            )
        if len(_pairs(self.point, self.instance)[0]) != len(self.point):
            raise ValueError("instances: a pair of point and instance stands twice")

    def __len__(self) -> int:
        """K."""
        return len(self.label)

    @classmethod
    def from_masks(
        cls, masks: npt.NDArray[np.bool_], label: npt.NDArray[np.uint8], score: npt.NDArray[np.float32]
    ) -> Instances:
        """From (K, n) bool: whether point i belongs to instance k."""
        if masks.ndim != 2 or masks.dtype != np.bool_ or len(masks) != len(label):
            raise ValueError(f"instances: masks are {masks.shape} {masks.dtype}, not ({len(label)}, n) bool")
        instance, point = np.nonzero(masks)
        return cls(point.astype(np.int64), instance.astype(np.int64), label, score)

    def masks(self, num_points: int) -> npt.NDArray[np.bool_]:
        """(K, num_points) bool, the inverse of ``from_masks``. ``ValueError`` when a point is beyond ``num_points``."""
        self.check_points(num_points)
        masks = np.zeros((len(self), num_points), np.bool_)
        masks[self.instance, self.point] = True
        return masks

    def points_of(self, instance: int) -> npt.NDArray[np.int64]:
        """The points of one instance, in the order of the pairs."""
        return self.point[self.instance == instance]

    def moved(self, rows: npt.NDArray[np.int64]) -> Instances:
        """The same instances of points that are called otherwise: point i becomes ``rows[i]``.

        Points of one row (a pass that was padded with repetitions) become one.
        """
        self.check_points(len(rows))
        return Instances(*_pairs(rows[self.point], self.instance), self.label, self.score)

    def check_points(self, num_points: int) -> None:
        """Raises ``ValueError`` when a point is not one of 0..num_points-1."""
        if len(self.point) and self.point.max() >= num_points:
            raise ValueError(f"instances: point {self.point.max()} is not one of {num_points} points")


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is predicted for the n original rows of one scan.

    Attributes:
        label: (n,) uint8 classes; IGNORE throughout where the network sees none of the scan.
        scores: (n, C) float32 class probabilities, rows sum to 1 (to 0 where the network sees none of the scan).
        features: (n, D) float32 of the finest level.
        instances: their ``point`` are original rows.

    Raises:
        ValueError: another shape or dtype, or another number of points.
    """

    label: npt.NDArray[np.uint8]
    scores: npt.NDArray[np.float32] | None = None
    features: npt.NDArray[np.float32] | None = None
    instances: Instances | None = None

    def __post_init__(self) -> None:
        _check("prediction: label", self.label, np.uint8, 1)
        for name, value in (("scores", self.scores), ("features", self.features)):
            if value is not None:
                _check(f"prediction: {name}", value, np.float32, 2)
                if len(value) != len(self.label):
                    raise ValueError(f"prediction: {len(value)} {name} for {len(self.label)} points")
        if self.instances is not None:
            self.instances.check_points(len(self.label))

    def __len__(self) -> int:
        """n."""
        return len(self.label)


def _pairs(
    point: npt.NDArray[np.int64], instance: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Each pair once, ordered by instance, then by point."""
    if not len(point):
        return point, instance
    width = int(point.max()) + 1
    pairs = np.unique(instance * width + point)
    return pairs % width, pairs // width


def _check(name: str, value: npt.NDArray[np.generic], dtype: type[np.generic], dimensions: int) -> None:
    if value.dtype != dtype or value.ndim != dimensions:
        shape = "(n,)" if dimensions == 1 else "(n, k)"
        raise ValueError(f"{name} is {value.shape} {value.dtype}, not {shape} {np.dtype(dtype).name}")


class Votes:
    """Puts the passes over one scan together: the mean of the class probabilities that a point got.

    Another rule is a subclass that fills ``total`` and ``weight`` otherwise (``SmoothedVotes``); a backbone names its
    rule in ``Backbone.votes``.

    Args:
        num_points: n, rows of the scan.
        num_classes: C.

    Attributes:
        total: (n, C) float32 weighted sum of probabilities.
        weight: (n,) float32 sum of the weights; 0 for a point that no pass has seen.
    """

    def __init__(self, num_points: int, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.total = torch.zeros(num_points, num_classes, device=device)
        self.weight = torch.zeros(num_points, device=device)

    def add(self, rows: Tensor, probabilities: Tensor) -> None:
        """Takes one pass in: ``rows`` (m,) int64 original rows, ``probabilities`` (m, C) float32 of these points.

        A row may stand several times in a pass: here each of them counts.
        """
        self.total.index_add_(0, rows, probabilities)
        self.weight.index_add_(0, rows, self.weight.new_ones(len(rows)))

    @property
    def seen(self) -> Tensor:
        """(n,) bool: points that some pass has seen."""
        return self.weight > 0

    def scores(self) -> Tensor:
        """(n, C) float32 probabilities; 0 throughout for a point that no pass has seen."""
        return self.total / self.weight.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1)

    def labels(self) -> Tensor:
        """(n,) uint8: the class of the largest score (ties: the smaller id); 0 for a point that no pass has seen."""
        return self.total.argmax(dim=1).to(torch.uint8)  # the weight of a point is one for all of its classes


class SmoothedVotes(Votes):
    """RandLA-Net's vote smoothing (its official code): with every pass ``p <- s p + (1 - s) p_new``, from p = 0.

    ``scores`` are p divided by the weight ``1 - s^k`` that k passes have by then, so that they sum to 1.
    A row that stands several times in a pass (a small cloud is filled up with repetitions) counts once, by its mean.

    Args:
        smoothing: s in [0, 1): 0.95 (S3DIS), 0.98 (Semantic3D, SemanticKITTI).
    """

    def __init__(
        self, num_points: int, num_classes: int, device: torch.device | str = "cpu", *, smoothing: float = 0.95
    ) -> None:
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be at least 0 and below 1, not {smoothing}")
        super().__init__(num_points, num_classes, device)
        self.smoothing = smoothing

    def add(self, rows: Tensor, probabilities: Tensor) -> None:
        rows, place = torch.unique(rows, return_inverse=True)
        new = Votes(len(rows), probabilities.shape[1], probabilities.device)
        new.add(place, probabilities)
        self.total[rows] = self.smoothing * self.total[rows] + (1 - self.smoothing) * new.scores()
        self.weight[rows] = self.smoothing * self.weight[rows] + (1 - self.smoothing)


__all__ = ["Instances", "Prediction", "SmoothedVotes", "Votes"]
