"""The sizes in which streets are generated."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SequencePreset:
    """``every``: frames of the 10 Hz sensor from one kept scan to the next; ``speed``: m/s; ``style``: None = mixed."""

    name: str
    subset: str  # train | dev | val | test
    scans: int
    every: int
    speed: float
    style: str | None = None
    labels: bool = True


@dataclass(frozen=True)
class StreetPreset:
    """``beams`` x ``steps`` rays a scan; images of ``image_scale`` x (1241 x 376) for every ``image_every``-th scan."""

    name: str
    beams: int
    steps: int
    image_scale: float
    image_every: int
    image_samples: int
    ground_cell: float
    sequences: tuple[SequencePreset, ...]


def _drives(
    subset: str, scans: int, every: int, rows: tuple[tuple[str, str | None], ...]
) -> tuple[SequencePreset, ...]:
    return tuple(SequencePreset(name, subset, scans, every, 8.0 + 0.5 * (int(name) % 5), style) for name, style in rows)


_TINY = StreetPreset(
    name="tiny",
    beams=32,
    steps=256,
    image_scale=0.2,
    image_every=1,
    image_samples=1,
    ground_cell=0.4,
    sequences=(
        *_drives("train", 4, 8, (("00", "suburb"), ("01", "inner city"))),
        *_drives("val", 3, 12, (("08", "terrace"),)),
        SequencePreset("11", "test", 3, 8, 8.0, "suburb", labels=False),
    ),
)

_SMALL = StreetPreset(
    name="small",
    beams=32,
    steps=1024,
    image_scale=0.3,
    image_every=2,
    image_samples=1,
    ground_cell=0.25,
    sequences=(
        *_drives(
            "train",
            10,
            8,
            (
                ("00", "suburb"),
                ("01", "inner city"),
                ("02", "terrace"),
                ("03", None),
                ("04", "industrial"),
                ("05", "campus"),
            ),
        ),
        *_drives("val", 18, 15, (("08", None),)),
    ),
)

_BENCH = StreetPreset(
    name="bench",
    beams=64,
    steps=1024,
    image_scale=0.5,
    image_every=5,
    image_samples=1,
    ground_cell=0.2,
    sequences=(
        *_drives(
            "train",
            30,
            20,
            (
                ("00", "suburb"),
                ("01", "highway"),
                ("02", "terrace"),
                ("03", "country"),
                ("04", "inner city"),
                ("05", None),
                ("06", "industrial"),
                ("07", None),
            ),
        ),
        *_drives("dev", 20, 20, (("09", None), ("10", None))),
        *_drives("val", 60, 30, (("08", None),)),
    ),
)

PRESETS = {preset.name: preset for preset in (_TINY, _SMALL, _BENCH)}
