"""From a thinned cloud back to every original point, whose label is that of its nearest point among the thinned ones.

So RandLA-Net, KPConv, SPG and SQN answer for the original clouds of Semantic3D and S3DIS. Whoever hands views to a
``Predictor`` needs none of this: it answers for every row of the view by itself.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class BackProjection:
    """One thinned cloud with labels; the original cloud may be asked for piece by piece.

    Args:
        points: (m, 3) float32 meters, m at least 1.
        label: (m,) uint8.

    Raises:
        ValueError: another shape or dtype, no point, or coordinates that are not finite.
    """

    def __init__(self, points: npt.NDArray[np.float32], label: npt.NDArray[np.uint8]) -> None:
        from pykdtree.kdtree import KDTree

        _check("the thinned cloud", points)
        if not len(points):
            raise ValueError("the thinned cloud has no point to take a label from")
        if label.shape != (len(points),) or label.dtype != np.uint8:
            raise ValueError(f"labels are {label.shape} {label.dtype}, not ({len(points)},) uint8")
        self.label = label
        self._tree = KDTree(np.ascontiguousarray(points))

    def __call__(self, points: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """(n,) uint8 labels of (n, 3) float32 original points, relative to the origin of the thinned ones.

        Raises:
            ValueError: another shape or dtype, or coordinates that are not finite.
        """
        _check("the cloud", points)
        if not len(points):
            return np.zeros(0, np.uint8)
        return self.label[self._tree.query(np.ascontiguousarray(points), k=1)[1]]


def _check(what: str, points: npt.NDArray[np.float32]) -> None:
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype != np.float32:
        raise ValueError(f"{what} is {points.shape} {points.dtype}, not (n, 3) float32")
    if not np.isfinite(points).all():
        raise ValueError(f"{what} has coordinates that are not finite: point {_first_bad(points)}")


def _first_bad(points: npt.NDArray[np.float32]) -> int:
    return int((~np.isfinite(points).all(axis=1)).argmax())
