"""Per-point products that a method reads from ``View.extras``: of other stages, and of its own predictions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.scan import View
from ssl3d.pipeline.dataset import Places, Shards
from ssl3d.pipeline.graph import STAGES, stale_reason

if TYPE_CHECKING:
    from ssl3d.pipeline.workspace import DatasetHandle

Arrays = dict[str, npt.NDArray[Any]]
PREDICTIONS = "predictions"


class ExtraSource(Protocol):
    """Arrays of a scan by its index in the dataset. Picklable; opens its files in the process that reads."""

    def arrays(self, index: int) -> Arrays:
        """Per point; they become ``View.extras``."""
        ...

    def facts(self, index: int) -> Arrays:
        """Of the scan as a whole; they become part of ``View.scan``."""
        ...


class ViewSource(Protocol):
    """Scans by their index in the dataset. Picklable; opens its files in the process that reads."""

    def view(self, index: int) -> View: ...


@dataclass(frozen=True)
class WithExtras:
    """The scans of ``source`` with the arrays of ``extras``; of arrays of one name the later source counts."""

    source: ViewSource
    extras: tuple[ExtraSource, ...]

    def view(self, index: int) -> View:
        """Raises ``DataError`` when an array does not belong to the scan."""
        view = self.source.view(index)
        for extra in self.extras:
            for name, values in extra.arrays(index).items():
                if len(values) != len(view):
                    raise DataError(
                        f"the scan has {len(view)} points, and {len(values)} values of '{name}'",
                        where={"scan": view.scan.get("scan_id", index)},
                        hint="run the stage that makes it again",
                    )
                view.extras[name] = values
            view.scan.update(extra.facts(index))
        return view


class StageExtras:
    """A stage's parallel shards ``<unit>.<kind>.h5``: every array of them."""

    def __init__(self, folder: Path, kind: str, places: Places) -> None:
        self._shards, self._places = Shards(str(folder), kind), places

    def arrays(self, index: int) -> Arrays:
        return self._read(index, whole=False)

    def facts(self, index: int) -> Arrays:
        return self._read(index, whole=True)

    def _read(self, index: int, whole: bool) -> Arrays:
        reader = self._shards[self._places.units[self._places.unit[index]]]
        names = [name for name in reader.names if reader.is_per_scan(name) == whole]
        return reader.read_many(names, int(self._places.position[index])) if names else {}


class StageLists:
    """A stage's lists of any length per scan, ``<unit>.<kind>.h5``: every array of them is a fact of the scan."""

    def __init__(self, folder: Path, kind: str, places: Places) -> None:
        self._shards, self._places = Shards(str(folder), kind), places

    def arrays(self, index: int) -> Arrays:
        return {}

    def facts(self, index: int) -> Arrays:
        reader = self._shards[self._places.units[self._places.unit[index]]]
        return reader.read_many(reader.names, int(self._places.position[index]))


class KeptPredictions:
    """What ``predict_train`` has kept of some scans of each unit: ``scan_index`` says which."""

    def __init__(self, folder: Path, places: Places) -> None:
        self._shards, self._places = Shards(str(folder), PREDICTIONS), places

    def arrays(self, index: int) -> Arrays:
        """Empty for a scan of which nothing was kept."""
        unit, position = self._places.units[self._places.unit[index]], int(self._places.position[index])
        if not self._shards.path(unit).exists():
            return {}
        reader = self._shards[unit]
        positions = reader.array("scan_index")
        row = int(np.searchsorted(positions, position))
        if row == len(positions) or positions[row] != position:
            return {}
        return reader.read_many([name for name in reader.names if not reader.is_per_scan(name)], row)

    def facts(self, index: int) -> Arrays:
        return {}


def stage_extras(
    handle: DatasetHandle, needs: Iterable[str], places: Places, split: str | None = None
) -> tuple[dict[str, str], list[ExtraSource]]:
    """The products of the stages ``needs``: their keys by stage, and where to read them.

    Args:
        split: key of the split that is trained on (default: the current one). What was learned from the labels of
            another split is refused: it may have seen labels that this one hides.

    Raises:
        UsageError: a stage is unknown, has not been run, was interrupted, or its product belongs to other scans,
            another split or an earlier version; says what to type.
    """
    upstream = {name: handle.product(name) for name in STAGES}
    if split is not None:
        upstream["split"] = handle.product("split", split)
    keys: dict[str, str] = {}
    found: list[ExtraSource] = []
    for name in needs:
        stage, product = STAGES.get(name), handle.product(name)
        if stage is None or product is None or not product.complete:
            raise UsageError(
                f"the method needs the product of '{name}', which is not there yet",
                where={"dataset": handle.name},
                hint=f"type: {stage.command}" if stage else f"no stage of this name is installed: {', '.join(STAGES)}",
            )
        if why := stale_reason(stage, product, upstream):
            raise UsageError(
                f"the product of '{name}' does not fit what is trained on: {why}",
                where={"dataset": handle.name},
                hint=f"type: {product.manifest.about.get('command') or stage.command}",
            )
        product.trust((*stage.extras, *stage.lists))
        keys[name] = product.key
        found += [StageExtras(product.folder, kind, places) for kind in stage.extras]
        found += [StageLists(product.folder, kind, places) for kind in stage.lists]
    return keys, found


def with_extras(source: ViewSource, extras: Sequence[ExtraSource]) -> ViewSource:
    """``source`` itself when there is nothing to add."""
    return WithExtras(source, tuple(extras)) if extras else source


__all__ = [
    "PREDICTIONS",
    "Arrays",
    "ExtraSource",
    "KeptPredictions",
    "StageExtras",
    "StageLists",
    "ViewSource",
    "stage_extras",
    "with_extras",
]
