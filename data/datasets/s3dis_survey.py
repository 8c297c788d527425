"""What is there of S3DIS, judged by names, sizes and the alignment files: before anything is converted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ssl3d.data.datasets.gather import Gathered
from ssl3d.data.datasets.root import Listing, RootShape, WrongRoot, list_folder
from ssl3d.data.datasets.source import GroupReport, SourceFile, SourceScan, other_case
from ssl3d.data.errors import DataError

EXPECTED = "<root>/Area_1 .. <root>/Area_6, with <room>/Annotations/<class>_<k>.txt and <room>/<room>.txt in each"
ARCHIVES = {"plain": "Stanford3dDataset_v1.2", "aligned": "Stanford3dDataset_v1.2_Aligned_Version"}
"""The two published archives: what they are called here -> the folder in them."""
PARTIAL = "unpack the archive again, or add --allow-partial to go on with what is there"
AREA, ROOM = re.compile(r"Area_\d"), re.compile(r"[A-Za-z]+_\d+")
_OBJECT = re.compile(r"([A-Za-z]+)_\d+\.txt")
_CLUTTER = "clutter"


@dataclass(slots=True)
class AreaSurvey:
    """An area while it is looked at.

    Args:
        folder: ``.../Area_k``.
        subset: train, val or test.
        rooms: its published rooms; None of a generated dataset, whose rooms are those that are there.
        expected: how many rooms it has.
        classes: words that are classes.
        allow_partial: whether missing rooms and annotations are warnings.
    """

    folder: Path
    subset: str
    rooms: Sequence[str] | None
    expected: int
    classes: Sequence[str]
    allow_partial: bool
    scans: list[SourceScan] = field(default_factory=list)
    problems: Gathered = field(default_factory=lambda: Gathered("rooms"))
    alignment: SourceFile | None = None
    angles: dict[str, int] = field(default_factory=dict)

    @property
    def area(self) -> str:
        return self.folder.name

    def run(self) -> GroupReport:
        """Look at everything; ``scans`` are usable only if the report has no errors."""
        listing = list_folder(self.folder) or Listing()
        self._alignment(listing)
        names = [name for name in listing.folders if ROOM.fullmatch(name)]
        known = [name for name in names if self.rooms is None or name in self.rooms]
        for name in known:
            self._room(name)
        self._count(listing, names, known)
        facts = {
            "annotated": sum(scan.labelled for scan in self.scans),
            "objects": sum(len(scan.files) - ("room" in scan.files) for scan in self.scans if scan.labelled),
            "alignment": sum(scan.scan_id.partition("/")[2] in self.angles for scan in self.scans),
        }
        found = tuple(self.problems.problems())
        return GroupReport(self.area, self.subset, len(self.scans), self.expected, facts, found)

    def _partial(self) -> Literal["error", "warning"]:
        return "warning" if self.allow_partial else "error"

    def _count(self, listing: Listing, names: Sequence[str], known: Sequence[str]) -> None:
        absent = [name for name in self.rooms or () if name not in names]
        if absent:
            hints = []
            for name in absent:
                if other := other_case(listing.folders, name):
                    hints.append(f"rename {other} to {name}")
                elif packed := [file for file in listing.files if file.startswith(f"{name}.")]:
                    hints.append(f"unpack {packed[0]}")
            count = "1 room" if len(absent) == 1 else f"{len(absent)} rooms"
            what = f"{count} of the published list {'is' if len(absent) == 1 else 'are'} missing"
            listed = ", ".join(absent[:8]) + (", ..." if len(absent) > 8 else "")
            where = {"folder": self.folder, "missing": listed}
            self.problems.add(self.area, self._partial(), what, where, hints[0] if hints else PARTIAL)
        if self.rooms is None and len(known) != self.expected:
            what = f"{len(known)} rooms are here, the description of this generated dataset says {self.expected}"
            self.problems.add(self.area, self._partial(), what, {"folder": self.folder})
        for name in listing.folders:
            if name not in known:
                what = "a folder left aside that is no room of the published list"
                self.problems.add(name, "warning", what, {"folder": self.folder / name})

    def _alignment(self, listing: Listing) -> None:
        self.alignment = listing.files.get(f"{self.area}_alignmentAngle.txt")
        if self.alignment is None:
            return
        try:
            self.angles = read_angles(self.alignment)
        except DataError as error:
            self.problems.add_error(self.area, error)

    def _room(self, name: str) -> None:
        folder = self.folder / name
        listing = list_folder(folder) or Listing()
        files = self._objects(name, folder, listing)
        labelled = bool(files)
        room = _room_file(name, listing)
        if room is not None:
            files["room"] = room
        elif labelled:
            what = "the file of the whole room is missing (its points come from Annotations)"
            self.problems.add(name, "warning", what, {"folder": folder, "field": f"{name}.txt"})
        if files:
            self.scans.append(SourceScan(f"{self.area}/{name}", files, None, labelled, details=self.angles.get(name)))

    def _objects(self, name: str, folder: Path, listing: Listing) -> dict[str, SourceFile]:
        """Role (the file name) -> file of each object, in order of name."""
        place = folder / "Annotations"
        found = list_folder(place) if "Annotations" in listing.folders else None
        if found is None:
            hint = PARTIAL
            if other := other_case(listing.folders, "Annotations"):
                hint = f"rename {other} to Annotations"
            where = {"folder": place, "room": name}
            self.problems.add(name, self._partial(), "a room without Annotations: its labels are missing", where, hint)
            return {}
        if found.broken:
            self.problems.add(
                name,
                "error",
                "a file cannot be opened: a link that leads nowhere",
                {"file": place / found.broken[0]},
                "fetch what the link points to (a disk that is not mounted), or remove it",
            )
        objects: dict[str, SourceFile] = {}
        strays: list[str] = []
        for file_name, file in found.files.items():
            match = _OBJECT.fullmatch(file_name)
            if match is None:
                strays.append(file_name)
                continue
            objects[file_name] = file
            if match[1] not in self.classes:
                what = f"{match[1]!r} is no class: taken for {_CLUTTER}"
                self.problems.add(name, "warning", what, {"file": file.path})
        if strays:
            what = "files in Annotations left aside: not named <class>_<number>.txt"
            self.problems.add(name, "warning", what, {"folder": place, "found": ", ".join(strays[:5])})
        if not objects:
            what = "an empty folder Annotations: the labels of a room are missing"
            self.problems.add(name, self._partial(), what, {"folder": place, "room": name}, PARTIAL)
        return objects


def class_of(file_name: str, classes: Sequence[str]) -> int:
    """Train id of an object by the word its file begins with; unknown words (``stairs``) are clutter."""
    word = file_name.partition("_")[0]
    return classes.index(word if word in classes else _CLUTTER)


def read_angles(file: SourceFile, content: bytes | None = None) -> dict[str, int]:
    """``Area_k_alignmentAngle.txt``: room -> degrees.

    Raises:
        DataError: it cannot be read, or a line is no room and whole number.
    """
    try:
        text = (Path(file.path).read_bytes() if content is None else content).decode("utf-8", "replace")
    except OSError as error:
        raise DataError("a file cannot be read", where={"file": file.path}, hint="check its permissions") from error
    angles = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if len(words) != 2 or not re.fullmatch(r"-?\d+", words[1]):
            raise DataError(
                "a line of the alignment is not a room and its angle in degrees",
                where={"file": file.path, "line": number, "found": line[:60]},
                hint=f"unpack it from {ARCHIVES['plain']}.zip again, or remove it",
            )
        angles[words[0]] = int(words[1])
    return angles


def _room_file(name: str, listing: Listing) -> SourceFile | None:
    """``copyRoom_1/copy_Room_1.txt`` is called so in the aligned archive."""
    wanted = name.replace("_", "") + ".txt"
    same = [file for file in listing.files if file.replace("_", "") == wanted]
    return listing.files[f"{name}.txt" if f"{name}.txt" in same else same[0]] if same else None


def shape() -> RootShape:
    """How a folder with S3DIS in it is recognized."""
    return RootShape(
        title="S3DIS",
        expected=EXPECTED,
        is_here=lambda folder: any((folder / f"Area_{number}").is_dir() for number in range(1, 7)),
        inner=(ARCHIVES["aligned"], ARCHIVES["plain"]),
        names=tuple(f"Area_{number}" for number in range(1, 7)),
        refuse=_refuse,
    )


def _refuse(folder: Path, names: Sequence[str]) -> None:
    if any(re.fullmatch(r"area_\d[ab]?", name) for name in names) and any(name.startswith("area_5") for name in names):
        split = [name for name in names if name in ("area_5a", "area_5b")]
        if split:
            raise WrongRoot(
                "this is the 2D-3D-S release (areas 5a and 5b), not S3DIS",
                where={"root": folder, "expected": EXPECTED},
                hint=f"unpack {ARCHIVES['plain']}.zip or {ARCHIVES['aligned']}.zip",
            )


def refuse_both(root: Path) -> None:
    """WrongRoot when both archives lie in the root."""
    both = [name for name in ARCHIVES.values() if (root / name).is_dir()]
    if len(both) == 2:
        raise WrongRoot(
            "both archives are here: the same rooms, in different coordinates",
            where={"root": root, "found": ", ".join(both)},
            hint=f"choose one: --root {root / both[0]}",
        )


def archive_of(aligned: Mapping[str, bool]) -> str | None:
    """Which archive this is, by area -> whether it has angles: only the plain one has. None: both are mixed."""
    kinds = set(aligned.values())
    return None if len(kinds) > 1 else "plain" if True in kinds else "aligned"
