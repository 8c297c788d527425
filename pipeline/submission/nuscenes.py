"""nuScenes lidarseg: the rules of the devkit's ``validate_submission.py``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ssl3d.data.datasets.source import Problem
from ssl3d.data.errors import DataError
from ssl3d.pipeline.submission.archive import Archive
from ssl3d.pipeline.submission.rules import WRONG_LENGTH, WRONG_VALUE, Expected, Rules, strange

FLAGS = ("use_camera", "use_lidar", "use_radar", "use_map", "use_external")
COUNTS = {"test": 6008, "val": 6019, "train": 28130}
"""Key frames of the official subsets."""
_FILE = re.compile(r"lidarseg/(test|val|train)/[^/]+_lidarseg\.bin")


class NuScenesRules(Rules):
    """``lidarseg/SUBSET/<token of the lidar's sample_data>_lidarseg.bin``, uint8 1..16; ``SUBSET/submission.json``."""

    name = "nuscenes"

    def official(self) -> Expected:
        return Expected({}, f"{COUNTS['test']} key frames of the test scenes (their tokens stand in the tables)")

    def looks_like(self, archive: Archive) -> bool:
        return any(name.endswith(("_lidarseg.bin", "submission.json")) for name in archive.entries)

    def layout(self, archive: Archive, expected: Expected) -> Iterator[Problem]:
        subsets = {match[1] for name in archive.entries if (match := _FILE.fullmatch(name))}
        subsets |= {name.split("/")[0] for name in archive.entries if name.endswith("/submission.json")}
        found = sorted(subsets & set(COUNTS))
        if len(found) != 1:
            yield Problem(
                "error",
                "a submission is of one subset: lidarseg/test/ and test/submission.json (or val, train)",
                {"subsets found": ", ".join(found) or "none"},
                "zip the content of the results folder, not the folder",
            )
            return
        subset = found[0]
        count = sum(bool(_FILE.fullmatch(name)) for name in archive.entries)
        if count != COUNTS[subset]:
            yield Problem(
                "warning" if expected.points else "error",
                f"{count} prediction files; the {subset} scenes have {COUNTS[subset]} key frames",
                hint="predict all of them; --dataset NAME compares with a prepared dataset and names the missing",
            )
        yield from self._meta(archive, f"{subset}/submission.json")

    def _meta(self, archive: Archive, name: str) -> Iterator[Problem]:
        if name not in archive.entries:
            yield Problem("error", f"{name} is missing", hint=f'it holds {{"meta": {{{", ".join(FLAGS)}}}}}')
            return
        try:
            value = json.loads(archive.read(name))
        except (ValueError, DataError):
            value = None
        meta = value.get("meta") if isinstance(value, dict) else None
        flags = meta if isinstance(meta, dict) else {}
        if set(flags) != set(FLAGS) or not all(isinstance(flag, bool) for flag in flags.values()):
            yield Problem(
                "error",
                f"{name} does not hold exactly the five flags as true or false",
                {"meta": str(meta)[:200]},
                f"the flags are {', '.join(FLAGS)}",
            )

    def content(self, entry: str, content: bytes, points: int | None) -> Iterator[tuple[str, str]]:
        labels = np.frombuffer(content, np.uint8)
        if not len(labels) or (points is not None and len(labels) != points):
            yield WRONG_LENGTH, f"{entry}: {len(labels)} labels" + (f" for {points} points" if points else "")
        elif wrong := strange(labels, np.arange(1, 17)):
            yield WRONG_VALUE, f"{entry}: {wrong}"

    def extra(self, entry: str) -> bool:
        return entry.split("/")[-1] == "submission.json" or bool(_FILE.fullmatch(entry))


def submission_json(uses: Mapping[str, bool]) -> bytes:
    """``submission.json``. ``uses``: flags that are true or false; those not named are false."""
    meta: dict[str, Any] = {"meta": {flag: bool(uses.get(flag, False)) for flag in FLAGS}}
    return (json.dumps(meta, indent=2) + "\n").encode()
