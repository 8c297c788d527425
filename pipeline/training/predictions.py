"""Predictions over the training set, streamed to disk: what ``Phase.on_enter`` may ask for.

``<run>/predictions/phase<i>-<call>/<unit>.predictions.h5`` holds the per-point arrays that a method keeps of the scans
of a unit, ``<unit>.facts.npz`` the rest. A file with the right name is whole; a run that was killed goes on with the
first unit that has none, which is right because its weights are the same ones again. ``files.json`` says what batches
have to find later, when those weights are gone.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ssl3d.data.atomic import write_whole
from ssl3d.data.errors import DataError
from ssl3d.data.scan import View
from ssl3d.data.store import DamagedShard, ShardReader, write_shard
from ssl3d.models.backbones.base import Segmenter
from ssl3d.models.methods.base import Group, Method, Stored, Writer
from ssl3d.models.methods.base import Progress as StepProgress
from ssl3d.pipeline.dataset import Places
from ssl3d.pipeline.files import digest_file, read_json, remove_tree, write_json, writing
from ssl3d.pipeline.progress import Progress
from ssl3d.pipeline.training.extras import PREDICTIONS, KeptPredictions, ViewSource

if TYPE_CHECKING:
    from ssl3d.pipeline.training.build import TrainingData
    from ssl3d.pipeline.training.distributed import Team

FOLDER = "predictions"
FILES = "files.json"
_DAMAGE = (DamagedShard, FileNotFoundError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError)


class PhaseContext:
    """The ``TrainContext`` of the beginning of one phase.

    Attributes:
        kept: name of the folder of the last call that kept per-point arrays; None when no call did.
    """

    def __init__(
        self,
        folder: Path,
        data: TrainingData,
        method: Method,
        device: torch.device,
        step: StepProgress,
        progress: Progress,
        team: Team,
    ) -> None:
        self.team = team
        self.folder, self.data, self.source = folder, data, data.source
        self.method, self.device, self.progress = method, device, step
        self.partial = data.split.partial
        self.kept: str | None = None
        self._say = progress
        self._calls = 0

    def predict_train(
        self,
        writer: Writer,
        *,
        segmenter: Segmenter | None = None,
        group: Group | None = None,
        scores: bool = False,
        features: bool = False,
    ) -> KeptScans:
        """See ``TrainContext``."""
        name = f"phase{self.progress.phase}-{self._calls}"
        self._calls += 1
        chosen = {"labelled": self.data.labelled, "unlabelled": self.data.unlabelled}
        indices = sorted(index for key in chosen if group in (None, key) for index in chosen[key])
        kept = KeptScans(self.folder / name, self.data.places, self.source, indices)
        wanted = {"scores": scores, "features": features}
        mine = self.team.share(list(kept.units))
        scans = sum(len(kept.units[unit]) for unit in mine)
        with writing(self.folder), self._say.task("predict the training set", total=scans, unit="scan") as task:
            kept.folder.mkdir(parents=True, exist_ok=True)
            pending = []
            for unit in mine:
                if kept.sound(unit):
                    task.advance(len(kept.units[unit]))
                else:
                    pending.append(unit)
            self._predict(kept, pending, writer, segmenter or self.method.predictor(), wanted, task.advance)
        self.team.barrier()
        if any(kept.has_points(unit) for unit in kept.units):
            self.kept = name
            if self.team.first:
                kept.remember()
        return kept

    def _predict(
        self,
        kept: KeptScans,
        units: Sequence[str],
        writer: Writer,
        segmenter: Segmenter,
        wanted: Mapping[str, bool],
        advance: Callable[[float], None],
    ) -> None:
        from ssl3d.pipeline.evaluation.predictor import Predictor

        if not units:
            return
        indices = [index for unit in units for index in kept.units[unit]]
        stored: list[Stored] = []
        # whether units were there already must change nothing: neither the generator nor a mode
        with torch.random.fork_rng(devices=[]), modes_kept(segmenter):
            predictor = Predictor(segmenter, self.device, prefetch=False, progress=self._say)
            for index, prediction in predictor.predictions(indices, lambda i: _whole(self.source.view(i)), **wanted):
                stored.append(writer(self.source.view(index), prediction))
                advance(1)
                unit = kept.unit_of(index)
                if index == kept.units[unit][-1]:
                    kept.write(unit, stored)
                    stored = []


def _whole(view: View) -> View:
    """The points of a part of a scan as a scan of its own, whose rows are counted from 0."""
    if not len(view) or int(view.rows[-1, 1]) == len(view) - 1:
        return view
    rows = view.rows.copy()
    rows[:, 1] = np.arange(len(view))
    return replace(view, rows=rows)


@dataclass
class KeptScans:
    """What ``predict_train`` has kept, scan by scan; read from disk while it is iterated."""

    folder: Path
    places: Places
    source: ViewSource
    indices: Sequence[int]

    def __post_init__(self) -> None:
        self.units = {unit: list(group) for unit, group in groupby(self.indices, key=self.unit_of)}

    def unit_of(self, index: int) -> str:
        return self.places.units[self.places.unit[index]]

    def __iter__(self) -> Iterator[tuple[View, Stored]]:
        points = KeptPredictions(self.folder, self.places)
        for unit, indices in self.units.items():
            facts = self._facts(unit, len(indices))
            for row, index in enumerate(indices):
                yield self.source.view(index), Stored(points.arrays(index), facts[row])

    def sound(self, unit: str) -> bool:
        """Whether the unit is there; one that is damaged is removed."""
        path, scans = self._path(unit), len(self.units[unit])
        try:
            return path.exists() and len(ShardReader(path)) == scans == len(self._facts(unit, scans))
        except _DAMAGE:
            path.unlink()
            return False

    def has_points(self, unit: str) -> bool:
        reader = ShardReader(self._path(unit))
        return any(not reader.is_per_scan(name) for name in reader.names)

    def write(self, unit: str, stored: Sequence[Stored]) -> None:
        """Raises ``ValueError`` when the scans of a unit differ in what is kept of them, or it is not per point."""
        indices = self.units[unit]
        sizes = [len(self.source.view(index)) for index in indices]
        names = sorted(stored[0].points)
        if any(sorted(item.points) != names for item in stored):
            raise ValueError(f"of every scan the same arrays have to be kept, not {', '.join(names) or 'none'} of some")
        arrays: dict[str, npt.NDArray[Any]] = {
            "offsets": np.cumsum([0, *sizes], dtype=np.int64),
            "scan_index": np.array([self.places.position[index] for index in indices], np.int32),
        }
        for name in names:
            columns = [item.points[name] for item in stored]
            if [len(column) for column in columns] != sizes or len({column.dtype for column in columns}) > 1:
                raise ValueError(f"'{name}' has to be kept for every point of every scan, in one dtype")
            arrays[name] = np.concatenate(columns)
        facts = {f"{row}:{name}": value for row, item in enumerate(stored) for name, value in item.facts.items()}
        buffer = io.BytesIO()
        np.savez(buffer, **facts)  # type: ignore[arg-type]  # its own keywords come first for mypy
        write_whole(self.folder / f"{unit}.facts.npz", buffer.getvalue())
        write_shard(self._path(unit), arrays, per_scan=("scan_index",))  # the last: it says that the unit is done

    def remember(self) -> None:
        """Notes what the files hold (``kept_predictions``)."""
        with writing(self.folder):
            paths = [self._path(unit) for unit in self.units]
            write_json(self.folder / FILES, {path.name: digest_file(path) for path in paths})

    def _facts(self, unit: str, scans: int) -> list[dict[str, npt.NDArray[Any]]]:
        facts: list[dict[str, npt.NDArray[Any]]] = [{} for _ in range(scans)]
        with np.load(self.folder / f"{unit}.facts.npz", allow_pickle=False) as stored:
            for key in stored.files:
                row, name = key.split(":", 1)
                facts[int(row)][name] = stored[key]
        return facts

    def _path(self, unit: str) -> Path:
        return self.folder / f"{unit}.{PREDICTIONS}.h5"


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Afterwards every part of ``module`` is in training or eval mode as it was."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def kept_predictions(folder: Path, kept: str | None, places: Places, check: bool) -> list[KeptPredictions]:
    """What batches read of the call ``kept``. ``DataError`` when ``check`` finds a file missing or altered."""
    if kept is None:
        return []
    files = read_json(folder / kept / FILES) if check else {}
    spoiled = [FILES] if files is None else [name for name in files if not _holds(folder / kept / name, files[name])]
    if spoiled:
        raise DataError(
            "predictions that this phase learns from are missing or damaged",
            where={"folder": folder / kept, "files": ", ".join(spoiled[:3])},
            hint="restore them, or train the run again with --overwrite: the weights that made them are gone",
        )
    return [KeptPredictions(folder / kept, places)]


def _holds(path: Path, digest: str) -> bool:
    return path.is_file() and digest_file(path) == digest


def remove_others(folder: Path, kept: str | None) -> None:
    """Removes the predictions that no batch reads any more."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name != kept:
            remove_tree(path)


__all__ = ["FOLDER", "KeptScans", "PhaseContext", "kept_predictions", "remove_others"]
