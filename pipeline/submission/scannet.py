"""ScanNet: semantic labels of the 100 test scans, and instances, as the evaluation scripts read them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ssl3d.data.datasets.source import Problem
from ssl3d.data.official import list_family
from ssl3d.pipeline.submission.archive import Archive
from ssl3d.pipeline.submission.rules import NOT_TEXT, WRONG_LENGTH, WRONG_VALUE, Expected, Rules, lines_of, strange

BAD_LINE = "a line is not `relative/mask.txt label_id confidence`"
NO_MASK = "a mask that is named is not in the archive"
STRUCTURE = ("wall", "floor")
"""Classes of the benchmark that have no instances."""


class ScanNetRules(Rules):
    """``<scan>.txt`` in the root of the archive, one NYU40 id a line and vertex; masks of instances in sub-folders."""

    name = "scannet"

    def official(self) -> Expected:
        scans = list_family("scannet", "v2").ids("test")
        return Expected({f"{scan}.txt": None for scan in scans}, f"the {len(scans)} test scans")

    def looks_like(self, archive: Archive) -> bool:
        return any(name.split("/")[-1].startswith("scene") and name.endswith(".txt") for name in archive.entries)

    def layout(self, archive: Archive, expected: Expected) -> Iterator[Problem]:
        deep = [name for name in archive.entries if "/" in name and name.rpartition("/")[2] in expected.points]
        if deep:
            yield Problem(
                "error",
                "the files lie in a folder of the archive, not in its root",
                {"first": deep[0]},
                "zip the files themselves, or let `ssl3d predict ... --submit FILE.zip` pack them",
            )
        masks = {mask for name in expected.points if name in archive.entries for mask in _masks(archive.read(name))}
        missing = sorted(masks - set(archive.entries))
        if missing:
            yield Problem("error", NO_MASK, {"first": missing[0], "missing": len(missing)})

    def content(self, entry: str, content: bytes, points: int | None) -> Iterator[tuple[str, str]]:
        if _is_instances(content):
            yield from self._instances(entry, content)
            return
        ids = lines_of(content)
        if ids is None:
            yield NOT_TEXT, entry
        elif not len(ids) or (points is not None and len(ids) != points):
            yield WRONG_LENGTH, f"{entry}: {len(ids)} lines" + (f" for {points} vertices" if points else "")
        elif wrong := strange(ids, np.array([0, *self.spec().learning_map_inv.values()])):
            yield WRONG_VALUE, f"{entry}: {wrong}"

    def extra(self, entry: str) -> bool:
        return "/" in entry and entry.endswith(".txt")  # masks

    def _instances(self, entry: str, content: bytes) -> Iterator[tuple[str, str]]:
        spec = self.spec()
        valid = [spec.learning_map_inv[k] for k, name in enumerate(spec.classes) if name not in STRUCTURE]
        for number, line in enumerate(content.splitlines(), start=1):
            words = line.decode(errors="replace").split(" ")
            try:
                mask, label, confidence = words
                fine = int(label) in valid and np.isfinite(float(confidence))
            except ValueError:
                fine = False
            if not fine or mask.startswith("/") or ".." in mask.split("/"):
                yield BAD_LINE, f"{entry} line {number}: {line[:80].decode(errors='replace')}"
                return


def _is_instances(content: bytes) -> bool:
    return len(content.partition(b"\n")[0].split()) == 3


def _masks(content: bytes) -> Iterator[str]:
    if _is_instances(content):
        yield from (line.split()[0].decode(errors="replace") for line in content.splitlines() if line.split())
