"""The contract of a backbone: how views become network inputs, and what the network returns.

A backbone is two things. Its *encoder of inputs* (``InputSpec``) is a small picklable object that runs in loader
workers and turns views into tensors; the ``Backbone`` itself is a torch module that sees only those tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ssl3d.data.scan import IGNORE, View
from ssl3d.models.config import Params as AnyParams
from ssl3d.models.elements import ElementMap
from ssl3d.models.prediction import Instances, Votes

SomeInputs = TypeVar("SomeInputs", bound="Inputs")


@dataclass(slots=True, kw_only=True)
class Inputs:
    """A batch of V views, ready for a backbone. Subclasses add the tensors that their network reads.

    Attributes:
        elements: points of the batch (P, in view order) -> elements (M).
        rows: (P, 2) int64, see ``View.rows``.
        label: (P,) int64, visible labels, IGNORE where hidden.
        view_offsets: (V + 1,) int64, points of view v are ``view_offsets[v]:view_offsets[v + 1]``.
        extras: per-point products, (P, ...) each.
    """

    elements: ElementMap
    rows: Tensor
    label: Tensor
    view_offsets: Tensor
    extras: dict[str, Tensor]

    def map(self: SomeInputs, change: Callable[[Tensor], Tensor]) -> SomeInputs:
        """A copy with ``change`` applied to every tensor: fields, the element map, and dictionaries of tensors."""
        changed: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                changed[item.name] = change(value)
            elif isinstance(value, ElementMap):
                changed[item.name] = ElementMap(change(value.point_to_element), value.num_elements)
            elif isinstance(value, dict):
                changed[item.name] = {k: change(v) if isinstance(v, Tensor) else v for k, v in value.items()}
        return replace(self, **changed)

    def to(self: SomeInputs, device: torch.device | str, non_blocking: bool = False) -> SomeInputs:
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))


@dataclass(slots=True)
class Level:
    """One tap of a backbone, e.g. ``dec3``.

    Attributes:
        features: (M_l, D) at this resolution.
        point_to_row: (P,) int64 row of ``features`` for each point of the batch, -1 for none.
        stride: tensor stride (1 = finest).
    """

    features: Tensor
    point_to_row: Tensor
    stride: int


@dataclass(slots=True)
class Levels:
    """What a backbone returns: ``finest`` (M, out_channels) per element, and named taps (enc1.., dec1..).

    A backbone may build a tap only when it is read."""

    finest: Tensor
    taps: Mapping[str, Level]


class NoElementsError(ValueError):
    """No point of a batch has an element: all are cropped, clipped or not finite, or there is none."""


class InputSpec(ABC):
    """Turns views into ``Inputs``. Picklable, stateless, no torch module: it is sent to loader workers."""

    def derive(self, view: View) -> View:
        """The view of a whole scan as it was recorded, with features of the network that have to be computed of that:
        before any of its points are left out, moved, or mixed with others'. The default: there are none."""
        return view

    @abstractmethod
    def prepare(self, views: Sequence[View]) -> Inputs:
        """Collates V views. Raises ``NoElementsError`` when no point of any view has an element."""

    @abstractmethod
    def labels(self, inputs: Inputs, y: Tensor) -> Tensor:
        """The training target per element (M,) int64 from per-point labels (P,): the pixel / voxel / point rule."""


class Backbone(nn.Module, ABC):
    """A network from ``Inputs`` to ``Levels``.

    Class attributes: ``name`` as typed after ``--backbone``; ``Params`` the typed parameters; ``elements`` what it
    computes on, in the plural (``Method.elements`` may ask for some kinds).
    Instance attributes: ``out_channels``; ``input_spec``.
    """

    name: ClassVar[str]
    Params: ClassVar[type[AnyParams]]
    elements: ClassVar[str] = "elements"
    out_channels: int
    input_spec: InputSpec

    def prepare(self, views: Sequence[View]) -> Inputs:
        return self.input_spec.prepare(views)

    def labels(self, inputs: Inputs, y: Tensor) -> Tensor:
        return self.input_spec.labels(inputs, y)

    @abstractmethod
    def forward(self, inputs: Any) -> Levels: ...

    @abstractmethod
    def head(self, num_classes: int) -> nn.Module:
        """A fresh classifier: (M, out_channels) -> (M, num_classes). Kept apart so that a method can freeze it.

        It takes bare rows, unless ``classify`` gives it something else."""

    def classify(self, head: nn.Module, features: Tensor, inputs: Any) -> Tensor:
        """(M, C) logits of ``head`` for ``features`` (M, out_channels) of the elements of ``inputs``.

        A backbone whose classifier also looks at neighbors (Cylinder3D: a sparse convolution) gives it their sites."""
        logits: Tensor = head(features)
        return logits

    def chunks(self, view: View) -> Iterator[View]:
        """Cuts a scan into passes for inference; their rows say which points they look at.

        Passes may overlap (``votes`` puts them together) and leave points out (they take the nearest prediction).
        Being a generator, it keeps the state of one scan (RandLA-Net's possibilities) to itself: the network and other
        scans are not touched. It has to be a function of the view alone; what it draws is seeded by the scan, so that
        a scan is predicted the same on its own, after others, and on any machine.

        Args:
            view: the scan, without the points whose coordinates are not finite; at least one point.
        """
        yield view

    def votes(self, num_points: int, num_classes: int, device: torch.device | str) -> Votes:
        """The empty accumulator of the passes over a scan of ``num_points`` rows. Default: mean of probabilities."""
        return Votes(num_points, num_classes, device)


@dataclass(slots=True)
class Output:
    """``logits`` (M, C) per element, and the levels that they came from."""

    logits: Tensor
    levels: Levels


class Segmenter(nn.Module):
    """A backbone and its classifier."""

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = backbone.head(num_classes)
        self.num_classes = num_classes

    def forward(self, inputs: Inputs) -> Output:
        levels = self.backbone(inputs)
        return Output(self.classify(levels.finest, inputs), levels)

    def classify(self, features: Tensor, inputs: Inputs) -> Tensor:
        """(M, C) logits of finest features, as ``forward`` takes them; for a method that changes the features first."""
        return self.backbone.classify(self.head, features, inputs)

    def instances(self, inputs: Inputs, output: Output) -> Instances | None:
        """The instances that are predicted for one view, from its ``output``; None (default): it predicts none.

        Their ``point`` are points of ``inputs`` (0..P-1), which ``inputs.rows`` leads back to original rows."""
        return None


def collate_points(views: Sequence[View]) -> dict[str, Any]:
    """The per-point fields that every ``Inputs`` shares, without ``elements``."""
    sizes = [len(view) for view in views]
    if not sum(sizes):
        raise NoElementsError("no view of this batch has a point")
    names = sorted(views[0].extras)
    for view in views:
        if sorted(view.extras) != names:
            raise ValueError(f"one group has views with the extras {names} and with {sorted(view.extras)}")
    return {
        "rows": torch.from_numpy(np.concatenate([view.rows for view in views])),
        "label": torch.from_numpy(np.concatenate([view.label for view in views]).astype(np.int64)),
        "view_offsets": torch.tensor([0, *np.cumsum(sizes)], dtype=torch.int64),
        "extras": {
            name: torch.from_numpy(np.ascontiguousarray(np.concatenate([view.extras[name] for view in views])))
            for name in names
        },
    }


__all__ = [
    "IGNORE",
    "Backbone",
    "InputSpec",
    "Inputs",
    "Level",
    "Levels",
    "NoElementsError",
    "Output",
    "Segmenter",
    "collate_points",
]
