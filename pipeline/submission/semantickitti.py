"""SemanticKITTI, single and multiple scans: the official validator's rules, and what its server asserts."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from ssl3d.data.datasets.source import Problem
from ssl3d.pipeline.submission.archive import Archive
from ssl3d.pipeline.submission.rules import WRONG_LENGTH, WRONG_VALUE, Expected, Rules, strange

_FILE = re.compile(r"sequences/\d\d/predictions/\d{6}\.label")
_LARGE = 250_000_000


class SemanticKittiRules(Rules):
    """``sequences/NN/predictions/FFFFFF.label`` of the sequences 11 to 21, uint32 original ids."""

    name = "semantickitti"

    def official(self) -> Expected:
        spec = self.spec()
        names = [
            f"sequences/{sequence}/predictions/{frame:06d}.label"
            for sequence in spec.splits["test"]
            for frame in range(spec.scans_per_sequence[sequence])
        ]
        return Expected(dict.fromkeys(names), f"the {len(names)} scans of the sequences 11 to 21")

    def looks_like(self, archive: Archive) -> bool:
        return any(name.endswith(".label") or name.startswith("sequences/") for name in archive.entries)

    def layout(self, archive: Archive, expected: Expected) -> Iterator[Problem]:
        wanted = {parent for name in expected.points for parent in _parents(name)}
        missing = sorted(wanted - archive.folders)
        if missing and any(_FILE.fullmatch(name) for name in archive.entries):
            yield Problem(
                "error",
                "the archive has no entries for its folders, which the official validator asks for",
                {"first": f"{missing[0]}/", "missing": len(missing)},
                "zip the folder itself (zip -r), or let `ssl3d predict ... --submit FILE.zip` pack it",
            )
        if archive.size > _LARGE:
            yield Problem(
                "warning",
                f"the archive has {archive.size / 1e6:.0f} MB: the server has refused more than the usual 150",
            )

    def content(self, entry: str, content: bytes, points: int | None) -> Iterator[tuple[str, str]]:
        if len(content) % 4 or (points is not None and len(content) != 4 * points):
            many = "" if points is None else f", {4 * points} expected for {points} points"
            yield WRONG_LENGTH, f"{entry}: {len(content)} bytes{many}"
            return
        ids = np.frombuffer(content, "<u4")
        if wrong := strange(ids, np.array([0, *self.spec().learning_map_inv.values(), *self.spec().moving])):
            yield WRONG_VALUE, f"{entry}: {wrong}"

    def extra(self, entry: str) -> bool:
        return entry == "description.txt"


def _parents(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name
