"""What is there of ScanNet, judged by names, sizes, headers and the small files: before anything is converted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from ssl3d.data.datasets.gather import Gathered
from ssl3d.data.datasets.root import Listing, RootShape, WrongRoot, list_folder
from ssl3d.data.datasets.scannet_frames import SUBSET, FrameFolder, find_frames
from ssl3d.data.datasets.scannet_labels import Categories, read_objects
from ssl3d.data.datasets.scannet_mesh import MeshHead, read_head
from ssl3d.data.datasets.source import SourceFile, SourceScan, other_case
from ssl3d.data.errors import DataError

FOLDERS = ("scans", "scans_test")
EXPECTED = "<root>/scans/sceneSSSS_NN/sceneSSSS_NN_vh_clean_2.ply, and <root>/scans_test for the test set"
ENDINGS = {
    "points": "_vh_clean_2.ply",
    "segments": "_vh_clean_2.0.010000.segs.json",
    "objects": ".aggregation.json",
    "labels": "_vh_clean_2.labels.ply",
    "info": ".txt",
    "sens": ".sens",
}
"""Role -> how the file of a scan is called behind its id; these are also the file types of the download script."""
PARTIAL = "download and unpack the rest, or add --allow-partial to go on with what is there"
SCAN = re.compile(r"scene\d{4}_\d\d")


class ScanDetails(NamedTuple):
    """What else the reader needs: the folder of the scan below the root, whether it has faces, exported frames."""

    folder: str
    faces: bool
    frames: FrameFolder | None


@dataclass(slots=True)
class SubsetSurvey:
    """The scans of a subset while they are looked at.

    Args:
        root: what frames are named relative to.
        subset: train, val or test.
        categories: the category table; None where it is missing or wrong.
        allow_partial: whether missing labels and unknown categories are warnings.
    """

    root: Path
    subset: str
    categories: Categories | None
    allow_partial: bool
    scans: list[SourceScan] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"labels": 0, "labels.ply only": 0, "frames": 0, ".sens": 0})
    problems: Gathered = field(default_factory=lambda: Gathered("scans"))

    def add(self, folder: Path) -> None:
        """Look at a scan; it is kept unless its mesh is missing or damaged."""
        scan = folder.name
        listing = list_folder(folder) or Listing()
        files = {role: listing.files[scan + end] for role, end in ENDINGS.items() if scan + end in listing.files}
        broken = [name for name in listing.broken if name in {scan + end for end in ENDINGS.values()}]
        if broken:
            self.problems.add(
                scan,
                "error",
                "a file cannot be opened: a link that leads nowhere, or no file",
                {"file": folder / broken[0]},
                "fetch what the link points to (a disk that is not mounted), or remove it",
            )
        head = self._mesh(scan, folder, files, listing)
        if head is None:
            return
        labelled = self._labels(scan, folder, files, listing, head)
        frames = self._frames(folder)
        details = ScanDetails(folder.relative_to(self.root).as_posix(), head.faces > 0, frames)
        self.counts["labels"] += labelled
        self.counts["labels.ply only"] += labelled and "objects" not in files
        self.counts["frames"] += frames is not None
        self.counts[".sens"] += "sens" in files
        self.scans.append(SourceScan(scan, files, head.vertices, labelled, details=details))

    def _mesh(self, scan: str, folder: Path, files: Mapping[str, SourceFile], listing: Listing) -> MeshHead | None:
        if "points" not in files:
            self._absent(scan, "points", folder, listing, "error")
            return None
        try:
            return read_head(files["points"])
        except DataError as error:
            self.problems.add_error(scan, error, scan=scan)
            return None

    def _labels(self, scan: str, folder: Path, files: dict[str, SourceFile], listing: Listing, head: MeshHead) -> bool:
        """Whether the scan has labels; takes those away that cannot be used."""
        if "labels" in files:
            self._check_twin(scan, files, head)
        absent = [role for role in ("segments", "objects") if role not in files]
        if self.subset == "test" and absent:
            files.pop("labels", None)
            return False
        for role in absent:
            severity: Literal["error", "warning"] = "warning" if self.allow_partial or "labels" in files else "error"
            self._absent(scan, role, folder, listing, severity)
        if absent or self.categories is None:
            files.pop("objects", None)
            return "labels" in files
        self._check_objects(scan, files["objects"], self.categories)
        return True

    def _check_twin(self, scan: str, files: dict[str, SourceFile], head: MeshHead) -> None:
        """The mesh with labels tells whether the other one was saved anew."""
        try:
            twin = read_head(files["labels"])
        except DataError as error:
            self.problems.add_error(scan, error, scan=scan)
            return
        if twin.vertices != head.vertices:
            self.problems.add(
                scan,
                "error",
                f"the mesh was saved anew: {head.vertices} vertices, {twin.vertices} in its labels.ply",
                {"file": files["points"].path, "labels": files["labels"].path, "scan": scan},
                f"labels and predictions follow the order of vertices: download {scan}{ENDINGS['points']} again",
            )

    def _check_objects(self, scan: str, file: SourceFile, categories: Categories) -> None:
        try:
            objects = read_objects(file, scan)
        except DataError as error:
            self.problems.add_error(scan, error, scan=scan)
            return
        labels = {group["label"].strip() for group in objects}
        for label in sorted(labels - categories.nyu40.keys()):
            self.problems.add(
                scan,
                "warning" if self.allow_partial else "error",
                f"the category table has no {label!r}",
                {"file": file.path, "scan": scan, "field": "label"},
                "take the current scannetv2-labels.combined.tsv (a copy in circulation has lost `stick`), "
                "or ignore such objects by --allow-partial",
            )

    def _frames(self, folder: Path) -> FrameFolder | None:
        for place in (folder, self.root / SUBSET / folder.name):
            found = find_frames(place)
            if found is not None:
                return found._replace(path=place.relative_to(self.root).as_posix())
        return None

    def _absent(
        self, scan: str, role: str, folder: Path, listing: Listing, severity: Literal["error", "warning"]
    ) -> None:
        """A file is missing; what lies there in its place is named."""
        name = scan + ENDINGS[role]
        hint = f"the download script gets it with --type {ENDINGS[role]}"
        twin = scan + ENDINGS[role].replace("_2.0.010000", "").replace("_2", "")
        twin = scan + "_vh_clean.aggregation.json" if role == "objects" else twin
        if other := other_case(listing.files, name):
            hint = f"rename {other} to {name}"
        elif twin in listing.files:
            hint = f"{twin} belongs to the mesh in full resolution and does not fit; {hint}"
        what = f"{'a mesh is' if role == 'points' else 'labels are'} missing: there is no <scan>{ENDINGS[role]}"
        if severity == "warning":
            hint += "; until then labels come from labels.ply where it is there, without instances"
        self.problems.add(scan, severity, what, {"folder": folder, "scan": scan, "field": name}, hint)


def shape() -> RootShape:
    """How a folder with ScanNet in it is recognized."""
    return RootShape(
        title="ScanNet", expected=EXPECTED, is_here=_is_here, names=(*FOLDERS, SUBSET), refuse=_refuse_flat
    )


def _is_here(folder: Path) -> bool:
    return any(_has_scans(folder / name) for name in FOLDERS)


def _has_scans(folder: Path) -> bool:
    listing = list_folder(folder) if folder.is_dir() else None
    names = [*listing.folders, *listing.files, *listing.broken] if listing else []
    return any(SCAN.match(name.lower()) for name in names)


def _refuse_flat(folder: Path, names: Sequence[str]) -> None:
    """Scans that lie in the root itself."""
    if any(SCAN.fullmatch(name) and (folder / name).is_dir() for name in names) and not _is_here(folder.parent):
        raise WrongRoot(
            "the root is the folder of scans itself",
            where={"root": folder, "expected": EXPECTED},
            hint=f"links restore the published layout without a copy: mkdir DIR; ln -s {folder} DIR/scans; --root DIR",
        )
