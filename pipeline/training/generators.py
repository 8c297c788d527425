"""The random generators that a network draws from (dropout, initial weights): torch's of this process."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """``cpu`` and, on a GPU, ``cuda``: uint8 tensors."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generators(states: dict[str, Tensor], device: torch.device) -> None:
    """Goes back to ``generator_states``; what another device had is left out."""
    torch.set_rng_state(states["cpu"].clone())  # of a row of a larger tensor torch reads wrong memory, and crashes
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].clone(), device)


def own_generators(seed: int, rank: int, step: int = 0) -> None:
    """Lets process ``rank`` draw other numbers than the first one, which goes on with what it has."""
    if rank:
        drawn = np.random.SeedSequence([seed, rank, step]).generate_state(2, np.uint32)
        torch.manual_seed(int(drawn[0]) << 31 ^ int(drawn[1]))


__all__ = ["generator_states", "own_generators", "set_generators"]
