"""How hard a point is: it lies where points are sparse, in space and among the features of its class.

DDSEmi (CVPR 2024), Eqs. 9 and 10.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Scale = Literal["minmax", "log-minmax", "rank"]


def geometric_density(
    count: npt.NDArray[Any], least: int, most: int, scale: Scale = "minmax"
) -> npt.NDArray[np.float32]:
    """Eq. 9: d_g of the points of a scan from how many neighbors each has; 0 throughout if all have equally many.

    ``minmax``: ``(n - min) / (max - min)``, as the paper has it. ``log-minmax``: of ``log n`` instead: the counts near
    a LiDAR are 10 to 100 times the median. ``rank``: the share of the points that have fewer neighbors, of the points
    that the view has (a scan that is thinned has fewer); the others do not depend on what is left out.

    Args:
        count: (n,) integer, 0 for a point without coordinates.
        least, most: of the whole scan, over its points with coordinates.

    Returns:
        (n,) in [0, 1].
    """
    if most <= least:
        return np.zeros(len(count), np.float32)
    if scale == "rank":
        size = np.bincount(count)
        fewer = (size.cumsum() - size)[count]
        value = fewer / max(int(fewer.max(initial=0)), 1)
    elif scale == "log-minmax":
        low, high = np.log([max(least, 1), most])
        value = (np.log(np.maximum(count, 1)) - low) / (high - low)
    else:
        value = (count - np.float64(least)) / (most - least)
    return np.clip(value, 0, 1).astype(np.float32)


def hardness(geometric: Tensor | None, feature: Tensor | None, alpha: float = 0.9, eps: float = 0.1) -> Tensor:
    """h of Eq. 10: ``max(1 - alpha / 2 (d_g + d), eps)``; of one density alone ``max(1 - alpha d, eps)``.

    Args:
        geometric, feature: (N,) float, the densities of the points; at most one is None.
    """
    known = [density for density in (geometric, feature) if density is not None]
    return (1 - alpha * torch.stack(known).mean(0)).clamp(min=eps)


__all__ = ["Scale", "geometric_density", "hardness"]
