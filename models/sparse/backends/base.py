"""What a backend is, and ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ssl3d.models.sparse import functional
from ssl3d.models.sparse.kernel_map import Ints, KernelMap
from ssl3d.models.sparse.manager import CoordinateManager, CoordinateMapKey


@dataclass(frozen=True, slots=True)
class Link:
    """What a convolution connects: two coordinate maps of a manager, and how.

    ``kernel_size``, ``stride`` and ``dilation`` have one number for each axis. ``stride`` is the layer's; the two keys
    hold the tensor strides.
    """

    manager: CoordinateManager
    in_key: CoordinateMapKey
    out_key: CoordinateMapKey
    kernel_size: Ints
    stride: Ints
    dilation: Ints
    transposed: bool

    @property
    def kernel_map(self) -> KernelMap:
        return self.manager.kernel_map(self.in_key, self.out_key, self.kernel_size, self.dilation, self.transposed)


class Backend(Protocol):
    """A library that computes sparse convolutions.

    Attributes:
        name: as ``--sparse-backend`` calls it.
        library: name and version, for records.
    """

    name: str
    library: str

    def check(self, device: torch.device, training: bool) -> None:
        """Raises ``UsageError`` when it cannot compute there, or not the gradients."""

    def convolution(self, features: Tensor, weight: Tensor, link: Link) -> Tensor:
        """(num_in, I), (K, I, O) in the order of ``kernel_offsets`` -> (num_out, O), in the rows of ``link``'s maps."""
        ...


def result_type(features: Tensor) -> torch.dtype:
    """What a convolution of these features gives: under autocast its type, else that of the features."""
    device = features.device.type
    if torch.is_autocast_enabled(device) and features.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return features.dtype


class Native:
    """The engine of this package: any device, any precision."""

    name = "native"
    library = "ssl3d"

    def check(self, device: torch.device, training: bool) -> None:
        """Computes everywhere."""

    def convolution(self, features: Tensor, weight: Tensor, link: Link) -> Tensor:
        return functional.convolution(features, weight, link.kernel_map)
