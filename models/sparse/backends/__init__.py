"""Which library computes the sparse convolutions: ours (``native``), MinkowskiEngine or spconv.

Only the convolution itself is exchanged: layers, parameters, state dicts, coordinates and their rows, norms and pooling
stay ours, so a network trained with one library goes on with another. A library is imported when it is chosen.

    with use_backend("minkowski"):
        levels = network(inputs)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Literal, get_args

import torch
from torch import Tensor

from ssl3d.data.errors import UsageError
from ssl3d.models.sparse.backends.base import Backend, Link, Native

BackendName = Literal["native", "minkowski", "spconv"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)

_NATIVE = Native()
_chosen: Backend = _NATIVE


def chosen_backend() -> Backend:
    """The one that computes now."""
    return _chosen


def set_backend(name: BackendName) -> Backend:
    """Convolutions are computed by this one from now on, in the whole process. Returns it.

    Raises:
        UsageError: there is none of this name, or its library is not installed or does not load.
    """
    global _chosen
    _chosen = load_backend(name)
    return _chosen


@contextmanager
def use_backend(name: BackendName) -> Iterator[Backend]:
    """``set_backend`` while the block lasts. What was computed in the block is differentiated by the same library."""
    before = _chosen
    try:
        yield set_backend(name)
    finally:
        globals()["_chosen"] = before


def load_backend(name: str) -> Backend:
    """Imports the library behind a name, without choosing it. Raises as ``set_backend`` does."""
    if name not in BACKENDS:
        raise UsageError(f"there is no sparse backend {name!r}", hint=f"choose {', '.join(BACKENDS)}")
    if name == "native":
        return _NATIVE
    backend: Backend = import_module(f"{__name__}.{name}").load()
    return backend


def check_backend(name: str, device: torch.device | str, training: bool) -> None:
    """Raises ``UsageError`` unless this backend can do that here."""
    load_backend(name).check(torch.device(device), training)


def convolution(features: Tensor, weight: Tensor, link: Link) -> Tensor:
    """(num_in, I), (K, I, O) -> (num_out, O), computed by the chosen backend."""
    return _chosen.convolution(features, weight, link)


__all__ = [
    "BACKENDS",
    "Backend",
    "BackendName",
    "Link",
    "check_backend",
    "chosen_backend",
    "convolution",
    "load_backend",
    "set_backend",
    "use_backend",
]
