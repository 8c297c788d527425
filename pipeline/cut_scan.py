"""A scan that a split has cut: its two parts in training, each a scan of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ssl3d.data.scan import View
from ssl3d.pipeline.dataset import Places, ScanSource, VisibleSource, outdated

if TYPE_CHECKING:
    from ssl3d.pipeline.training.extras import Arrays, ExtraSource


class CutSource(VisibleSource):
    """The scans of a split that has cut one of them.

    The parts follow the last scan of the dataset: ``len(scans)`` is the labelled one, the next the other. Their
    ``rows`` are those of the scan that they were cut from, whose index and rows products of stages go by.

    Args:
        whole: index of the scan that is cut.
        parts: ids of its parts.
    """

    def __init__(
        self,
        scans: ScanSource,
        folder: str,
        labelled: npt.NDArray[np.int64],
        unlabelled: npt.NDArray[np.int64],
        row: npt.NDArray[np.int32],
        whole: int,
        parts: Sequence[str],
    ) -> None:
        super().__init__(scans, folder, labelled, unlabelled, row)
        self.whole, self.parts = whole, tuple(parts)

    def __len__(self) -> int:
        return len(self.scans) + len(self.parts)

    @property
    def places(self) -> Places:
        """The parts have a unit of their own, so that what is kept of one does not take the place of the other's."""
        places, count = self.scans.places, len(self.parts)
        return Places(
            (*places.units, f"{places.units[places.unit[self.whole]]}+cut"),
            np.append(places.unit, np.full(count, len(places.units), np.int32)),
            np.append(places.position, np.arange(count, dtype=np.int32)),
        )

    def points_of(self, index: int) -> npt.NDArray[np.bool_] | None:
        """(n,) which of the n points of the whole scan part ``index`` has; None for a scan that is no part."""
        if index < len(self.scans):
            return None
        part: npt.NDArray[np.uint8] = self.reader_of(self.whole).read("part", int(self._row[self.whole]))
        return part == index - len(self.scans)

    def view(self, index: int) -> View:
        """Scan or part ``index``; see ``VisibleSource``."""
        chosen = self.points_of(index)
        if chosen is None:
            return super().view(index)
        view = super().view(self.whole)
        if len(view) != len(chosen):
            raise outdated(self.reader_of(self.whole))
        return replace(view.select(chosen), scan={**view.scan, "scan_id": self.parts[index - len(self.scans)]})

    def label(self, index: int) -> npt.NDArray[np.uint8]:
        """(n,) uint8 visible labels of a *labelled* scan, or of a part."""
        chosen = self.points_of(index)
        return super().label(index) if chosen is None else super().label(self.whole)[chosen]


@dataclass(frozen=True)
class ExtrasOfParts:
    """``extra``, also for the parts of a scan that is cut: what it has of that scan, at their points."""

    extra: ExtraSource
    source: CutSource

    def arrays(self, index: int) -> Arrays:
        chosen = self.source.points_of(index)
        if chosen is None:
            return self.extra.arrays(index)
        values = self.extra.arrays(self.source.whole)
        # an array that does not fit the scan is left as it is: it does not fit the part either, which is reported
        return {name: value[chosen] if len(value) == len(chosen) else value for name, value in values.items()}

    def facts(self, index: int) -> Arrays:
        """Those of the whole scan."""
        return self.extra.facts(self.source.whole if index >= len(self.source.scans) else index)
