"""What the methods of these tests saw while they trained in this process."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

TRACE: list[SimpleNamespace] = []


def note(**seen: Any) -> None:
    """Remembers tensors (detached copies) and whatever else is given."""
    kept = {name: value.detach().clone() if isinstance(value, Tensor) else value for name, value in seen.items()}
    TRACE.append(SimpleNamespace(**kept))


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
