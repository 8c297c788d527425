"""MinkowskiEngine 0.5.4 (Choy, Gwak, Savarese, CVPR 2019) as the library that convolves. On the CPU: its CUDA code does
not compile with current toolkits.

Its coordinate manager is given our coordinate maps as they are, so its rows are our rows; its kernel maps, its products
and its gradients are its own.
"""

from __future__ import annotations

import collections
import collections.abc
import warnings
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ssl3d.data.errors import UsageError
from ssl3d.models.sparse import functional
from ssl3d.models.sparse.backends.base import Link, result_type
from ssl3d.models.sparse.derived import derived
from ssl3d.models.sparse.manager import CoordinateManager, CoordinateMapKey

_GONE = ("Sequence", "Mapping", "Iterable", "Callable")
"""Names that Python 3.10 took out of ``collections``, and MinkowskiEngine still looks for there."""


@lru_cache(maxsize=1)
def library() -> ModuleType:
    """MinkowskiEngine, imported. Raises ``UsageError`` when it is missing or does not load."""
    for name in _GONE:
        if not hasattr(collections, name):
            setattr(collections, name, getattr(collections.abc, name))
    try:
        with warnings.catch_warnings():  # it says that it was built for the CPU, as it was meant to be
            warnings.simplefilter("ignore")
            import MinkowskiEngine
    except ModuleNotFoundError as error:
        if error.name != "MinkowskiEngine":
            raise _unusable(error) from error
        raise UsageError(
            "MinkowskiEngine is not installed in this environment",
            hint="`make minkowski` builds it in a few minutes; then type .venv-minkowski/bin/ssl3d instead of ssl3d",
        ) from error
    except (ImportError, OSError, AttributeError) as error:
        raise _unusable(error) from error
    module: ModuleType = MinkowskiEngine
    return module


def _unusable(error: Exception) -> UsageError:
    return UsageError(
        f"MinkowskiEngine is installed, but does not load: {error}", hint="`make minkowski` builds one that does"
    )


class _Mirror:
    """MinkowskiEngine's coordinate manager with the maps of one of ours, and the key of each."""

    def __init__(self) -> None:
        self.manager: Any = None
        self.keys: dict[CoordinateMapKey, Any] = {}

    def key(self, ours: CoordinateManager, key: CoordinateMapKey) -> Any:
        if key not in self.keys:
            engine, sites = library(), ours.coordinates(key)
            if self.manager is None:
                self.manager = engine.CoordinateManager(
                    D=sites.shape[1] - 1, coordinate_map_type=engine.CoordinateMapType.CPU
                )
            # unique coordinates keep their order; the text keeps two maps of one stride apart
            made, _ = self.manager.insert_and_map(sites.contiguous(), list(key.stride), f"map{len(self.keys)}")
            self.keys[key] = made
        return self.keys[key]


class Minkowski:
    """The adapter; ``load`` makes it."""

    name = "minkowski"

    def __init__(self) -> None:
        self.engine: Any = library()
        self._mode = import_module("MinkowskiEngineBackend._C").ConvolutionMode.DEFAULT
        self.library = f"MinkowskiEngine {self.engine.__version__}"

    def check(self, device: torch.device, training: bool) -> None:
        """``UsageError`` on anything but the CPU."""
        if device.type != "cpu":
            raise UsageError(
                "the minkowski backend computes on the CPU only",
                where={"device": device},
                hint="choose --device cpu, or --sparse-backend native for the GPU",
            )

    def convolution(self, features: Tensor, weight: Tensor, link: Link) -> Tensor:
        """Half types are computed in float32, as it knows none."""
        self.check(features.device, torch.is_grad_enabled())
        sizes = len(link.manager.map(link.in_key)), len(link.manager.map(link.out_key))
        if not all(sizes):  # it takes no map without sites
            return functional.convolution(features, weight, link.kernel_map)
        mirror = derived(link.manager, "minkowski", _Mirror)
        keys = mirror.key(link.manager, link.in_key), mirror.key(link.manager, link.out_key)
        generator = self.engine.KernelGenerator(
            kernel_size=list(link.kernel_size),
            stride=list(link.stride),
            dilation=list(link.dilation),
            is_transpose=link.transposed,
            dimension=len(link.kernel_size),
        )
        function = (
            self.engine.MinkowskiConvolutionTransposeFunction
            if link.transposed
            else self.engine.MinkowskiConvolutionFunction
        )
        dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
        out: Tensor = function.apply(
            features.to(dtype).contiguous(),
            weight.to(dtype).contiguous(),
            generator,
            self._mode,
            *keys,
            mirror.manager,
        )
        return out.to(result_type(features))


@lru_cache(maxsize=1)
def load() -> Minkowski:
    """Raises ``UsageError`` when MinkowskiEngine is missing or does not load."""
    return Minkowski()
