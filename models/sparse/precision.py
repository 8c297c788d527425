"""Half types are stored and multiplied, but never summed."""

from __future__ import annotations

import torch


def wider(dtype: torch.dtype) -> torch.dtype:
    """The type of sums: float32 for the half types, else the type itself."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
