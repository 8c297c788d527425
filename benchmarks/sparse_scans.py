"""What ``ssl3d bench sparse`` computes on: the voxels of full scans, generated or recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssl3d.data.atomic import replacing
from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.synthetic.street import GENERATOR_VERSION

BEAMS, AZIMUTHS = 64, 2250
"""A few more columns than the recordings' sensor has, so that a scan has as many points as theirs: about 120,000."""
STYLES = ("suburb", "inner city", "campus", "terrace")
"""The four scans of a batch come from streets of different styles; a batch of one is the first."""
CLASSES = 19
_KEY, _SECONDS, _SPEED, _CELL, _TIME = 0x5BA5, 40.0, 9.0, 0.2, 20.0

Cloud = npt.NDArray[np.float32]


def street_scan(number: int) -> Cloud:
    """(n, 4) float32 x, y, z, remission of one turn of the whole sensor; n is about 120,000."""
    from ssl3d.data.synthetic.rng import Rng
    from ssl3d.data.synthetic.sensor import make_beams, scan
    from ssl3d.data.synthetic.world import World

    world = World(Rng(_KEY).key, number, _SECONDS, _SPEED, _CELL, STYLES[number % len(STYLES)])
    key = Rng(world.key, 50, 0).child(1).key
    return scan(world.scene(_TIME), world.pose(_TIME), make_beams(BEAMS), AZIMUTHS, key)[0]


def street_scans(folder: Path, count: int, said: Callable[[], None] = lambda: None) -> list[Cloud]:
    """The first ``count`` scans, kept in ``folder``; ``said`` is called after each."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(count):
        path = folder / f"street-v{GENERATOR_VERSION}-{BEAMS}x{AZIMUTHS}-{number}.npy"
        if not path.exists():
            cloud = street_scan(number)
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, cloud)
        found.append(np.load(path))
        said()
    return found


def real_scans(place: Path, count: int) -> list[Cloud]:
    """Up to ``count`` recordings of SemanticKITTI: a ``.bin``, or a folder that holds some (evenly spread).

    Raises:
        UsageError: none is there.
        DataError: a file is no list of four float32 a point.
    """
    files = [place] if place.is_file() else sorted(place.glob("**/*.bin"))
    velodyne = [file for file in files if file.parent.name == "velodyne"] or files
    if not velodyne:
        raise UsageError(
            "there is no recording", where={"--real": place}, hint="name a .bin of SemanticKITTI or a folder of them"
        )
    picked = np.unique(np.linspace(0, len(velodyne) - 1, min(count, len(velodyne))).round().astype(int))
    found = []
    for index in picked:
        values = np.fromfile(velodyne[index], np.float32)
        if not len(values) or len(values) % 4:
            raise DataError("this is no scan of four float32 a point", where={"file": velodyne[index]})
        found.append(values.reshape(-1, 4))
    return found


@dataclass
class Voxels:
    """The voxels of scans as files, which all sides read; made when first asked for.

    Args:
        folder: where the files lie; empty at first.
        scans: clouds by their kind, e.g. ``{"": [...], "real": [...]}``.
    """

    folder: Path
    scans: Mapping[str, Sequence[Cloud]]
    counts: dict[str, int] = field(default_factory=dict)

    def batch(self, kind: str, size: float, batch: int) -> Path:
        """An .npz of coordinates (n, 4) int32, features (n, 4) float32, labels (n,) int64: what MinkUNet reads."""
        path = self.folder / f"{kind or 'street'}-{size:g}-{batch}.npz"
        if not path.exists():
            import torch

            from ssl3d.data.scan import View
            from ssl3d.models.backbones.minkunet import MinkUNetParams
            from ssl3d.models.backbones.voxels import VoxelInputSpec

            default = MinkUNetParams()
            spec = VoxelInputSpec(size, default.features, default.clip)
            views = [
                View(
                    cloud[:, :3].copy(),
                    {"intensity": cloud[:, 3:].copy()},
                    np.zeros((len(cloud), 2), np.int64),
                    np.zeros(len(cloud), np.uint8),
                )
                for cloud in self.scans[kind][:batch]
            ]
            inputs = spec.prepare(views)
            coordinates = inputs.coordinates.to(torch.int32).numpy()
            # any labels will do, if they are the same for all and can be learnt
            labels = (coordinates[:, 1:] // int(4 / size)).astype(np.int64) @ np.array([1, 5, 7]) % CLASSES
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.savez(file, coordinates=coordinates, features=inputs.features.numpy(), labels=labels)
        with np.load(path) as arrays:
            self.counts[path.name] = len(arrays["labels"])
        return path

    def count(self, path: Path) -> int:
        """Voxels of a batch."""
        return self.counts[path.name]
