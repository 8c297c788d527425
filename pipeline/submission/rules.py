"""What a benchmark's server asks of a submission. One module a benchmark holds its ``Rules``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ssl3d.data.datasets.source import Problem
from ssl3d.data.spec import DatasetSpec, load_spec
from ssl3d.pipeline.submission.archive import Archive

SHOWN = 3
"""So many files are named for each kind of problem."""


@dataclass(frozen=True)
class Expected:
    """The files of a complete submission.

    Attributes:
        points: name in the archive -> points of the scan, None where it is not known here.
        source: where that is known from, for messages.
    """

    points: Mapping[str, int | None]
    source: str


class Rules(ABC):
    """The rules of one benchmark.

    Class attributes:
        name: of the benchmark, and of its dataset and prediction format.
        official: files of a complete submission; None where it depends.
    """

    name: ClassVar[str]
    subset: ClassVar[str] = "test"

    def spec(self) -> DatasetSpec:
        return load_spec(self.name)

    @abstractmethod
    def official(self) -> Expected:
        """What the server expects, as far as it is known without the dataset."""

    @abstractmethod
    def looks_like(self, archive: Archive) -> bool:
        """Whether an archive is meant for this benchmark."""

    def layout(self, archive: Archive, expected: Expected) -> Iterator[Problem]:
        """Problems of names and folders, beside missing and unknown files."""
        return iter(())

    def beyond(self, archive: Archive, expected: Expected) -> Iterator[Problem]:
        """Warnings where a prepared dataset is not all that the server asks for."""
        missing = [name for name in self.official().points if name not in expected.points]
        if missing:
            yield Problem(
                "warning",
                f"the server expects {len(self.official().points)} files: {self.official().source}",
                {"compared with": expected.source, "not among them": missing[0]},
                "prepare and predict the complete dataset before you hand in",
            )

    @abstractmethod
    def content(self, entry: str, content: bytes, points: int | None) -> Iterator[tuple[str, str]]:
        """(kind of problem, detail) of one prediction file; a detail says what is wrong in this file.

        Args:
            points: of its scan, None where that is not known.
        """

    def extra(self, entry: str) -> bool:
        """Whether a file that is not among the expected ones may be there."""
        return False

    def is_prediction(self, entry: str) -> bool:
        """Whether an expected file holds predictions, which ``content`` looks at."""
        return True


@dataclass
class Found:
    """Collects problems of single files: one problem for each kind, with the first files that have it."""

    details: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, detail: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        shown = self.details.setdefault(kind, [])
        if len(shown) < SHOWN:
            shown.append(detail)

    def problems(self) -> Iterator[Problem]:
        for kind, count in self.counts.items():
            more = f"; and {count - SHOWN} more" if count > SHOWN else ""
            yield Problem("error", kind, {"files": count, "first": "; ".join(self.details[kind]) + more})


WRONG_LENGTH = "a file does not have one label for each point"
WRONG_VALUE = "a file holds ids that the server does not take"
NOT_TEXT = "a file is not one whole number a line"


def lines_of(content: bytes) -> npt.NDArray[np.int64] | None:
    """Whole numbers, one a line; None when anything else is in there."""
    words = content.split()
    if len(words) != len(content.splitlines()) or not all(word.lstrip(b"-").isdigit() for word in words):
        return None
    return np.array(words, np.int64) if words else np.zeros(0, np.int64)


def strange(values: npt.NDArray[np.integer], allowed: npt.NDArray[np.integer]) -> str:
    """``7 (12 points), 99 (1 points)``: values that are not allowed; "" when there is none."""
    present, counts = np.unique(values, return_counts=True)
    wrong = ~np.isin(present, allowed)
    listed = [f"{value} ({count} points)" for value, count in zip(present[wrong], counts[wrong], strict=True)]
    return ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "")
