"""Spherical projection of a LiDAR scan (RangeNet++ and its successors: lidar-bonnetal, SalsaNext, COARSE3D)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.spec import SensorSpec


@dataclass(frozen=True, slots=True)
class RangeProjection:
    """Where every point of a scan falls in a range image.

    Attributes:
        row, col: (n,) int32, pixel of each point; row 0 looks up, column 0 looks back, and columns run clockwise
            seen from above (forward is the middle).
        distance: (n,) float32, meters from the sensor.
        pixel_point: (height, width) int64, the nearest point of each pixel, -1 where there is none.
    """

    row: npt.NDArray[np.int32]
    col: npt.NDArray[np.int32]
    distance: npt.NDArray[np.float32]
    pixel_point: npt.NDArray[np.int64]

    @classmethod
    def of(
        cls,
        points: npt.NDArray[np.floating[Any]],
        sensor: SensorSpec,
        *,
        height: int | None = None,
        width: int | None = None,
    ) -> RangeProjection:
        """Project points onto the sensor's image.

        ``yaw = -atan2(y, x)``, ``pitch = asin(z / (range + 1e-8))``, ``col = floor((yaw / pi + 1) / 2 * width)``,
        ``row = floor((1 - (pitch + |down|) / (up + |down|)) * height)``, both clamped to the image.

        Args:
            points: (n, 3) meters, sensor frame (x forward, y left, z up).
            sensor: its field of view and default size.
            height, width: another size, e.g. 32 x 512 for narrow networks.
        """
        height, width = height or sensor.height, width or sensor.width
        xyz = np.asarray(points, np.float64)
        distance = np.sqrt(np.einsum("ij,ij->i", xyz, xyz))
        down, up = np.radians(abs(sensor.fov_down_deg)), np.radians(sensor.fov_up_deg)
        yaw = -np.arctan2(xyz[:, 1], xyz[:, 0])
        pitch = np.arcsin(np.clip(xyz[:, 2] / (distance + 1e-8), -1.0, 1.0))
        col = np.clip(np.floor((yaw / np.pi + 1.0) / 2.0 * width), 0, width - 1).astype(np.int32)
        row = np.clip(np.floor((1.0 - (pitch + down) / (up + down)) * height), 0, height - 1).astype(np.int32)
        pixel_point = np.full((height, width), -1, np.int64)
        far_first = np.argsort(-distance, kind="stable")
        pixel_point[row[far_first], col[far_first]] = far_first  # the last one written, the nearest, stays
        return cls(row, col, distance.astype(np.float32), pixel_point)

    @property
    def filled(self) -> npt.NDArray[np.bool_]:
        """(height, width) bool: pixels with a point. (The reference code drops the pixel of point 0.)"""
        return self.pixel_point >= 0

    def image(self, values: npt.NDArray[Any], empty: float = 0) -> npt.NDArray[Any]:
        """Values of points (n, ...) as an image (height, width, ...), ``empty`` where there is no point."""
        picture = np.full((*self.pixel_point.shape, *values.shape[1:]), empty, values.dtype)
        picture[self.filled] = values[self.pixel_point[self.filled]]
        return picture

    def at_points(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The pixel of each point: (height, width, ...) -> (n, ...)."""
        sampled: npt.NDArray[Any] = image[self.row, self.col]
        return sampled
