"""What surfaces are made of, for the laser and for the camera."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Rgb = tuple[float, float, float]

(
    ASPHALT,
    PAVING,
    MARKING,
    GRASS,
    GRAVEL,
    PLASTER,
    BRICK,
    GLASS,
    CAR_PAINT,
    RUBBER,
    RETRO,
    LEAF,
    BARK,
    METAL,
    CLOTH,
    ROOF,
    WOOD,
    CONCRETE,
) = range(18)

LASER = np.array(
    [  # share of intensity that follows the cosine of incidence, texture, base dropout, grazing dropout
        [0.30, 0.16, 0.01, 0.55],  # asphalt
        [0.25, 0.12, 0.01, 0.40],  # paving
        [0.25, 0.20, 0.01, 0.30],  # marking
        [0.10, 0.25, 0.01, 0.15],  # grass
        [0.15, 0.22, 0.01, 0.25],  # gravel
        [0.30, 0.10, 0.01, 0.25],  # plaster
        [0.25, 0.16, 0.01, 0.25],  # brick
        [0.90, 0.30, 0.76, 0.35],  # glass
        [0.85, 0.15, 0.06, 0.70],  # car paint
        [0.40, 0.20, 0.20, 0.40],  # rubber
        [0.10, 0.05, 0.00, 0.10],  # retro-reflector
        [0.10, 0.35, 0.03, 0.10],  # leaf
        [0.30, 0.30, 0.02, 0.20],  # bark
        [0.60, 0.30, 0.05, 0.30],  # metal
        [0.20, 0.25, 0.02, 0.10],  # cloth
        [0.30, 0.15, 0.01, 0.30],  # roof
        [0.25, 0.22, 0.01, 0.20],  # wood
        [0.25, 0.12, 0.01, 0.25],  # concrete
    ]
)


class Paint(NamedTuple):
    """A material with its brightness for the laser (0..1) and its color for the camera (0..1)."""

    material: int
    reflectance: float
    rgb: Rgb


RUBBER_PAINT = Paint(RUBBER, 0.08, (0.06, 0.06, 0.06))
GLASS_PAINT = Paint(GLASS, 0.06, (0.10, 0.13, 0.16))
PLATE_PAINT = Paint(RETRO, 0.98, (0.92, 0.92, 0.86))
LAMP_PAINT = Paint(RETRO, 0.75, (0.75, 0.18, 0.12))
STEEL_PAINT = Paint(METAL, 0.24, (0.45, 0.47, 0.48))

# Ground covers: code -> raw SemanticKITTI id, material, reflectance, color
ROAD, LANE, PARKING, SIDEWALK, OTHER_GROUND, TERRAIN, SOIL, COBBLE, TRACK, BED = range(10)
COVER_LABEL = np.array([40, 60, 44, 48, 49, 72, 72, 48, 49, 70], np.uint16)
COVER_MATERIAL = np.array([ASPHALT, MARKING, PAVING, PAVING, GRAVEL, GRASS, GRAVEL, PAVING, PAVING, LEAF], np.uint8)
COVER_REFLECTANCE = np.array([0.30, 0.58, 0.38, 0.40, 0.34, 0.37, 0.31, 0.37, 0.28, 0.36])
COVER_RGB = np.array(
    [
        [0.33, 0.33, 0.34],
        [0.82, 0.82, 0.80],
        [0.42, 0.40, 0.39],
        [0.55, 0.53, 0.50],
        [0.52, 0.47, 0.39],
        [0.28, 0.40, 0.16],
        [0.40, 0.32, 0.22],
        [0.44, 0.42, 0.41],
        [0.38, 0.36, 0.36],
        [0.20, 0.32, 0.12],
    ]
)
