"""spconv 2 (Yan Yan, https://github.com/traveller59/spconv) as the library that convolves: inference on the CPU,
training on CUDA.

Its functions take pair lists, which are made from our kernel maps, so its rows are our rows; its products and gradients
are its own. Its weights are (O, K, I), ours (K, I, O).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ssl3d.data.errors import UsageError
from ssl3d.models.sparse import functional
from ssl3d.models.sparse.backends.base import Link, result_type
from ssl3d.models.sparse.derived import derived
from ssl3d.models.sparse.kernel_map import KernelMap

INSTALL = "pip install spconv (CPU, inference only); with a GPU the wheel of torch's CUDA, as spconv-cu126"


@lru_cache(maxsize=1)
def library() -> Any:
    """spconv and what is used of it, imported. Raises ``UsageError`` when it is missing or does not load."""
    try:
        import spconv
        from spconv.core import ConvAlgo
        from spconv.pytorch import functional as functions
        from spconv.pytorch import ops
    except ModuleNotFoundError as error:
        if error.name != "spconv":
            raise _unusable(error) from error
        raise UsageError("spconv is not installed in this environment", hint=INSTALL) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise _unusable(error) from error
    return _Library(spconv.__version__, ops.indice_conv, functions, ConvAlgo.Native)


def _unusable(error: Exception) -> UsageError:
    return UsageError(f"spconv is installed, but does not load: {error}", hint=INSTALL)


@dataclass(frozen=True, slots=True)
class _Library:
    version: str
    indice_conv: Any
    functions: Any
    native: Any


@dataclass(slots=True)
class PairLists:
    """A kernel map as spconv keeps one.

    Attributes:
        pairs: (2, K, longest) int32, input rows and output rows, -1 behind the last of an offset.
        counts: (K,) int32, pairs of each offset.
        submanifold: the offset in the middle maps every row to itself, and offset K - 1 - k is offset k seen from the
            other end; spconv then makes one product of the first, and reads no counts behind it.
    """

    pairs: Tensor
    counts: Tensor
    submanifold: bool


def pair_lists(kernel_map: KernelMap, device: torch.device) -> PairLists:
    """The pairs of a kernel map."""
    volume, identity = kernel_map.volume, kernel_map.identity
    lists = {pair.offset: (pair.source, pair.target) for pair in kernel_map.pairs}
    submanifold = identity is not None and volume % 2 == 1  # then every axis is odd, and the identity in the middle
    if identity is not None and not submanifold:
        rows = torch.arange(kernel_map.num_in, dtype=torch.int32, device=device)
        lists[identity] = rows, rows
    longest = max((len(source) for source, _ in lists.values()), default=0)
    pairs = torch.full((2, volume, max(1, longest)), -1, dtype=torch.int32, device=device)
    counts = [0] * volume
    for offset, (source, target) in lists.items():
        pairs[0, offset, : len(source)], pairs[1, offset, : len(target)] = source, target
        counts[offset] = len(source)
    return PairLists(pairs, torch.tensor(counts, dtype=torch.int32, device=device), submanifold)


class Spconv:
    """The adapter; ``load`` makes it."""

    name = "spconv"

    def __init__(self) -> None:
        self._engine: _Library = library()
        self.library = f"spconv {self._engine.version}"

    def check(self, device: torch.device, training: bool) -> None:
        """``UsageError`` for training on the CPU: spconv has no gradients there."""
        if device.type == "cpu" and training:
            raise UsageError(
                "spconv computes no gradients on the CPU",
                where={"device": device},
                hint="train with --sparse-backend native or minkowski, or with --device cuda; evaluate with spconv",
            )

    def convolution(self, features: Tensor, weight: Tensor, link: Link) -> Tensor:
        """On the CPU half types are computed in float32, and by one thread; on CUDA bfloat16 is."""
        device = features.device
        self.check(device, torch.is_grad_enabled() and (features.requires_grad or weight.requires_grad))
        kernel_map = link.kernel_map
        if not kernel_map.num_pairs:  # it fails on a map without a pair
            return functional.convolution(features, weight, kernel_map)
        wanted = result_type(features)
        wide = wanted == torch.bfloat16 or (wanted == torch.float16 and device.type == "cpu")
        dtype = torch.float32 if wide else wanted
        name = ("spconv", link.in_key, link.out_key, link.kernel_size, link.dilation, link.transposed)
        lists = derived(link.manager, name, lambda: pair_lists(kernel_map, device))
        filters = weight.to(dtype).permute(2, 0, 1).contiguous()
        with torch.autocast(device.type, enabled=False):
            out = self._apply(features.to(dtype).contiguous(), filters, lists, kernel_map.num_out)
        return out.to(wanted)

    def _apply(self, features: Tensor, filters: Tensor, lists: PairLists, rows: int) -> Tensor:
        if features.device.type == "cpu":
            with _one_thread():
                out: Tensor = self._engine.indice_conv(
                    features, filters.detach(), lists.pairs, lists.counts, rows, subm=lists.submanifold
                )
            return out
        functions = self._engine.functions
        function = functions.SubMConvFunction if lists.submanifold else functions.SparseConvFunction
        out = function.apply(features, filters, lists.pairs, lists.counts, rows, self._engine.native)
        return out


@contextmanager
def _one_thread() -> Iterator[None]:
    """With more threads spconv 2.3.8 adds to some rows on the CPU twice or not at all, others in every run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@lru_cache(maxsize=1)
def load() -> Spconv:
    """Raises ``UsageError`` when spconv is missing or does not load."""
    return Spconv()
