"""ScanNet v2 in its published layout (Dai et al., CVPR 2017)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import xxhash

from ssl3d.data.datasets.raw import map_labels, mend_points, read_bytes
from ssl3d.data.datasets.root import find_root, list_folder, read_manifest, refuse_version, stated_counts
from ssl3d.data.datasets.scannet_frames import LOST, Frames, exported_frames, parse_matrix, sens_frames
from ssl3d.data.datasets.scannet_labels import (
    GET_TABLE,
    HIGHEST,
    TABLE,
    Annotation,
    Categories,
    annotate,
    category_facts,
    read_categories,
    read_objects,
    read_segments,
)
from ssl3d.data.datasets.scannet_mesh import ScanMesh, mesh_edges, read_mesh, vertex_normals
from ssl3d.data.datasets.scannet_survey import FOLDERS, PARTIAL, SCAN, ScanDetails, SubsetSurvey, shape
from ssl3d.data.datasets.source import (
    CheckReport,
    DatasetReader,
    Fields,
    GroupReport,
    Layout,
    Problem,
    RawScan,
    ReadOptions,
    SourceFile,
    SourceScan,
    SourceUnit,
    other_case,
)
from ssl3d.data.errors import DataError
from ssl3d.data.spec import SUBSETS, DatasetSpec

_COLUMNS = {"color": ("u1", 3), "normal": ("<f4", 3), "segment": ("<i4", 0)}
_FAR = 0.01
"""Meters by which a vertex may differ from the same one in the mesh with labels."""
_MANY = 0.01
"""Share of vertices that differ by more in a mesh whose vertices were put into another order."""


class ScanNet(DatasetReader):
    """Reads ``<root>/{scans,scans_test}/sceneSSSS_NN/`` and ``<root>/scannetv2-labels.combined.tsv``.

    A unit is one scan, which is a group of its own: the published subsets name scans. Points are those of the decimated
    mesh in its own frame; ``pose`` is ``axisAlignment``, which turns walls parallel to the axes. Labels come from the
    objects in file order (where two share a segment, the last one has it), or, where those files are missing, from
    ``labels.ply``, then without instances.
    """

    name: ClassVar[str] = "scannet"

    def survey(self, root: Path, options: ReadOptions) -> Layout:
        """See ``DatasetReader``."""
        refuse_version(options, self.spec().title)
        base = find_root(root, shape())
        manifest = read_manifest(base)
        categories, table, problems = _categories(base, options.allow_partial, manifest is not None)
        wanted = _wanted(self.spec(), stated_counts(base))
        found, strays = _folders(base)
        problems += strays
        units: list[SourceUnit] = []
        reports: list[GroupReport] = []
        for subset in SUBSETS:
            survey = SubsetSurvey(root, subset, categories, options.allow_partial)
            names = [name for name in found if self.spec().subset_of(name) == subset]
            for name in names:
                survey.add(found[name])
            absent = [name for name in wanted[subset] if name not in found]
            listed = survey.problems.problems()
            listed += _missing(base, subset, absent, options.allow_partial)
            expected = len(wanted[subset])
            reports.append(GroupReport(subset, subset, len(survey.scans), expected, dict(survey.counts), tuple(listed)))
            units += [_unit(scan, subset, table) for scan in survey.scans]
        problems += _foreign(self.spec(), found)
        if not units and not any(problem.severity == "error" for report in reports for problem in report.problems):
            problems.append(Problem("error", "there are no scans here", {"root": root}, PARTIAL))
        report = CheckReport(self.name, root, tuple(reports), tuple(problems))
        return Layout(self.name, root, tuple(sorted(units, key=lambda unit: unit.id)), report)

    def read_scan(
        self, unit: SourceUnit, position: int, spec: DatasetSpec, digest: xxhash.xxh3_128 | None = None
    ) -> RawScan:
        """See ``DatasetReader``."""
        scan = unit.scans[position]
        details: ScanDetails = scan.details
        mesh = read_mesh(scan.files["points"], digest)
        count = len(mesh.points)
        raw = RawScan(mesh.points, {"color": mesh.color, "normal": vertex_normals(mesh.points, mesh.faces)})
        segments = _segments(scan, count, digest)
        raw.columns["segment"] = np.full(count, -1, np.int32) if segments is None else segments
        if details.faces:
            raw.edges = mesh_edges(mesh.faces, count)
        if scan.labelled:
            _label(raw, mesh, unit, scan, spec, segments, digest)
        info = _info(scan.files["info"], digest) if "info" in scan.files else {}
        if unit.fields.pose:
            raw.pose = _alignment(info, scan)
        frames = _frames(scan, info, digest)
        raw.cameras = frames.cameras
        if frames.lost:
            raw.notes[LOST] = frames.lost
        mend_points(raw, zero_is_none=False)
        return raw


def _categories(
    base: Path, allow_partial: bool, generated: bool
) -> tuple[Categories | None, SourceFile | None, list[Problem]]:
    """The category table, where it lies, and what is wrong with it."""
    file = SourceFile.find(base / TABLE)
    if file is None:
        listing = list_folder(base)
        names = listing.files if listing else {}
        other = other_case(names, TABLE)
        hint = f"rename {other} to {TABLE}" if other else GET_TABLE
        if "scannet-labels.combined.tsv" in names:
            hint = f"scannet-labels.combined.tsv is the table of ScanNet v1: {GET_TABLE}"
        hint += "; without it labels come from labels.ply, without instances" if allow_partial else ""
        severity: Literal["error", "warning"] = "warning" if allow_partial else "error"
        return None, None, [Problem(severity, "the category table is missing", {"file": base / TABLE}, hint)]
    try:
        categories = read_categories(file, generated=generated)
    except DataError as error:
        return None, file, [Problem("error", error.what, error.where, error.hint)]
    where, problems = {"file": file.path}, []
    if categories.restored:
        what = f"the category table has lost {', '.join(categories.restored)}: put back"
        problems.append(Problem("warning", what, where, f"a defect of a copy in circulation: {GET_TABLE}"))
    elif categories.rows != category_facts()["rows"] and not generated:
        what = f"the category table has {categories.rows} rows, {category_facts()['rows']} when it was published"
        problems.append(Problem("warning", what, where, GET_TABLE))
    return categories, file, problems


def _wanted(spec: DatasetSpec, stated: Mapping[str, int] | None) -> dict[str, list[str]]:
    """The scans of each subset: the published ones, or those that a generated dataset states."""
    return {subset: [name for name in spec.splits[subset] if stated is None or name in stated] for subset in SUBSETS}


def _folders(base: Path) -> tuple[dict[str, Path], list[Problem]]:
    """Scan -> folder, in order of name; and what else lies there."""
    found: dict[str, Path] = {}
    problems = []
    for place in FOLDERS:
        listing = list_folder(base / place)
        if listing is None:
            continue
        for name in listing.folders:
            if SCAN.fullmatch(name):
                found.setdefault(name, base / place / name)
        strays = [name for name in (*listing.folders, *listing.files, *listing.broken) if name not in found]
        packed = [name for name in strays if SCAN.match(name.lower()) and name not in listing.folders]
        renamed = [name for name in listing.folders if SCAN.fullmatch(name.lower()) and name not in found]
        if renamed:
            what = f"folders of scans in other letters, left aside: {', '.join(renamed[:5])}"
            hint = f"rename {renamed[0]} to {renamed[0].lower()}"
            problems.append(Problem("warning", what, {"folder": base / place}, hint))
        if packed:
            what = f"files or dead links where folders of scans should be, left aside: {', '.join(packed[:5])}"
            problems.append(Problem("warning", what, {"folder": base / place}, f"unpack {packed[0]} into a folder"))
        others = [name for name in strays if name not in packed and name not in renamed]
        if others:
            what = f"left aside, no scans: {', '.join(others[:5])}"
            problems.append(Problem("warning", what, {"folder": base / place}))
    return dict(sorted(found.items())), problems


def _missing(base: Path, subset: str, absent: list[str], allow_partial: bool) -> Iterator[Problem]:
    if not absent:
        return
    tolerated = allow_partial or subset == "test"  # many users never download the test set
    place = FOLDERS[subset == "test"]
    count = "1 scan" if len(absent) == 1 else f"{len(absent)} scans"
    what = f"{count} of the {subset} set {'is' if len(absent) == 1 else 'are'} missing from {place}/"
    listed = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
    hint = None if tolerated else PARTIAL
    yield Problem("warning" if tolerated else "error", what, {"folder": base / place, "missing": listed}, hint)


def _foreign(spec: DatasetSpec, found: Mapping[str, Path]) -> Iterator[Problem]:
    unknown = [name for name in found if spec.subset_of(name) is None]
    if unknown:
        what = f"scans left aside that no list of ScanNet v2 has: {', '.join(unknown[:5])}"
        yield Problem("warning", what, {"folder": found[unknown[0]].parent})
    moved = [
        name for name, path in found.items() if (path.parent.name == FOLDERS[1]) != (spec.subset_of(name) == "test")
    ]
    moved = [name for name in moved if name not in unknown]
    if moved:
        what = f"scans of another subset than their folder says, taken for what the lists say: {', '.join(moved[:5])}"
        yield Problem("warning", what, {"folder": found[moved[0]].parent})


def _unit(scan: SourceScan, subset: str, table: SourceFile | None) -> SourceUnit:
    details: ScanDetails = scan.details
    by_objects = scan.labelled and "objects" in scan.files
    fields = Fields(
        columns=_COLUMNS,
        truths={"instance": ("<u4", 0)} if by_objects else {},
        pose="info" in scan.files,
        edges=details.faces,
        cameras=details.frames is not None or "sens" in scan.files,
    )
    shared = {"categories": table} if by_objects and table is not None else {}
    return SourceUnit(scan.scan_id, scan.scan_id, subset, "labels", (scan,), fields, shared)


def _segments(scan: SourceScan, count: int, digest: xxhash.xxh3_128 | None) -> npt.NDArray[np.int32] | None:
    if "segments" not in scan.files:
        return None
    return read_segments(scan.files["segments"], scan.scan_id, count, digest)


def _label(
    raw: RawScan,
    mesh: ScanMesh,
    unit: SourceUnit,
    scan: SourceScan,
    spec: DatasetSpec,
    segments: npt.NDArray[np.int32] | None,
    digest: xxhash.xxh3_128 | None,
) -> None:
    """Labels and instances by objects, compared with ``labels.ply`` where that is there; or from it alone."""
    twin = _twin(mesh, scan, raw, digest) if "labels" in scan.files else None
    nyu40, path = twin, scan.files["labels"].path if twin is not None else ""
    if segments is not None and "objects" in scan.files:
        file = scan.files["objects"]
        categories = read_categories(unit.shared["categories"], digest, generated=True)  # the survey has checked it
        table = {**category_facts()["restored"], **categories.nyu40}
        found: Annotation = annotate(segments, read_objects(file, scan.scan_id, digest), table, scan.scan_id, file.path)
        raw.truths["instance"] = found.instance
        for label, points in found.unknown.items():
            raw.notes[f"points of objects whose category the table has not ({label!r}), ignored"] = points
        if twin is not None and (other := int(np.count_nonzero(twin != found.nyu40))):
            raw.notes["points whose label differs from labels.ply (objects share segments), taken from objects"] = other
        nyu40, path = found.nyu40, file.path
    if nyu40 is not None:
        raw.label, raw.raw_counts = map_labels(nyu40, spec, scan.scan_id, path)


def _twin(mesh: ScanMesh, scan: SourceScan, raw: RawScan, digest: xxhash.xxh3_128 | None) -> npt.NDArray[np.int64]:
    """(n,) nyu40 ids of the mesh with labels; impossible ones, which some scans have, are 0."""
    file = scan.files["labels"]
    twin = read_mesh(file, digest, faces_too=False)
    if twin.label is None:
        where = {"file": file.path, "field": "label"}
        raise DataError("the mesh with labels has none", where=where, hint="download it again")
    if not _same_vertices(twin, mesh):
        raise DataError(
            "the vertices of the mesh are not those of its labels.ply: one of them was saved anew in another order",
            where={"file": scan.files["points"].path, "scan": scan.scan_id, "labels": file.path},
            hint="labels and predictions follow the order of vertices: download both again",
        )
    nyu40 = twin.label.astype(np.int64)
    wrong = (nyu40 < 0) | (nyu40 > HIGHEST)
    if wrong.any():
        ids = ", ".join(map(str, np.unique(nyu40[wrong])[:4].tolist()))
        raw.notes[f"points with ids above {HIGHEST} in labels.ply ({ids}), ignored"] = int(np.count_nonzero(wrong))
        nyu40[wrong] = 0
    return nyu40


def _same_vertices(twin: ScanMesh, mesh: ScanMesh) -> bool:
    if np.array_equal(twin.points, mesh.points):
        return True
    if len(twin.points) != len(mesh.points):
        return False
    with np.errstate(all="ignore"):  # coordinates that are not finite are nowhere
        far = np.logical_or.reduce(np.abs(twin.points - mesh.points) > _FAR, axis=1)
    return int(np.count_nonzero(far)) <= _MANY * len(far)


def _info(file: SourceFile, digest: xxhash.xxh3_128 | None) -> dict[str, str]:
    """``<scan>.txt``: key -> text."""
    lines = read_bytes(file, digest).decode("utf-8", "replace").splitlines()
    pairs = [line.partition("=") for line in lines]
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def _alignment(info: Mapping[str, str], scan: SourceScan) -> npt.NDArray[np.float64]:
    """``axisAlignment``; scans of the test set have none, which stands for the identity."""
    if "axisAlignment" not in info:
        return np.eye(4)
    words = info["axisAlignment"].split()
    matrix = parse_matrix(words) if len(words) == 16 else None
    if matrix is None or not np.isfinite(matrix).all():
        raise DataError(
            "the alignment of a scan is not 16 numbers",
            where={"file": scan.files["info"].path, "scan": scan.scan_id, "field": "axisAlignment"},
            hint=f"download {scan.scan_id}.txt again",
        )
    return matrix


def _frames(scan: SourceScan, info: Mapping[str, str], digest: xxhash.xxh3_128 | None) -> Frames:
    details: ScanDetails = scan.details
    folder = Path(scan.files["points"].path).parent
    root = folder.parents[len(Path(details.folder).parts) - 1]
    if details.frames is not None:
        return exported_frames(details.frames._replace(path=str(root / details.frames.path)), root, info, digest)
    return sens_frames(scan.files["sens"], root, digest) if "sens" in scan.files else Frames([], 0)
