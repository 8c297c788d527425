from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

MakeSites = Callable[..., torch.Tensor]


@pytest.fixture
def random_sites() -> MakeSites:
    """(size, share, seed, batches, low) -> unique coordinates (n, 4) int32 in random order, at least one."""

    def make(size: int = 8, share: float = 0.3, seed: int = 0, batches: int = 1, low: int = 0) -> torch.Tensor:
        rng = np.random.default_rng(seed)
        active = rng.random((batches, size, size, size)) < share
        active[0, 0, 0, 0] = True
        sites = np.argwhere(active)
        sites[:, 1:] += low
        return torch.from_numpy(rng.permutation(sites).astype(np.int32))

    return make
