"""Semantic3D, reduced-8 and semantic-8: text files of the names that the published pipelines hand in."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ssl3d.data.datasets.source import Problem
from ssl3d.pipeline.submission.archive import Archive
from ssl3d.pipeline.submission.rules import NOT_TEXT, WRONG_LENGTH, WRONG_VALUE, Expected, Rules, lines_of, strange


class Semantic3DRules(Rules):
    """One integer 1..8 a line and point, in the order of the cloud; the four clouds of reduced-8."""

    name = "semantic3d"

    def official(self) -> Expected:
        names = [name for name in self.spec().submission.values() if name.endswith("-reduced.labels")]
        return Expected(dict.fromkeys(names), "the four clouds of reduced-8")

    def looks_like(self, archive: Archive) -> bool:
        return any(name.endswith(".labels") for name in archive.entries)

    def layout(self, archive: Archive, expected: Expected) -> Iterator[Problem]:
        deep = [name for name in archive.entries if "/" in name and name.endswith(".labels")]
        if deep:
            yield Problem("error", "the files lie in a folder of the archive, not in its root", {"first": deep[0]})

    def content(self, entry: str, content: bytes, points: int | None) -> Iterator[tuple[str, str]]:
        ids = lines_of(content)
        if ids is None:
            yield NOT_TEXT, entry
        elif not len(ids) or (points is not None and len(ids) != points):
            yield WRONG_LENGTH, f"{entry}: {len(ids)} lines" + (f" for {points} points" if points else "")
        elif wrong := strange(ids, np.arange(1, 9)):
            yield WRONG_VALUE, f"{entry}: {wrong}"
