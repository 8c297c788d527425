"""Which clouds a description of a folder means, and what lies beside them: by names and headers alone."""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ssl3d.data.datasets.folder_config import FolderConfig, beside, matching
from ssl3d.data.datasets.folder_files import cloud_options, cloud_source, label_column, label_source, wanted_columns
from ssl3d.data.datasets.folder_frames import POSES, files_of_frame, find_image
from ssl3d.data.datasets.root import ARCHIVES, refuse_version, root_names
from ssl3d.data.datasets.source import (
    CheckReport,
    Fields,
    GroupReport,
    Layout,
    Problem,
    ReadOptions,
    Severity,
    SourceFile,
    SourceScan,
    SourceUnit,
)
from ssl3d.data.datasets.spool import SOURCE_ROW, WHOLE
from ssl3d.data.errors import DataError, Ssl3dError
from ssl3d.data.formats.read import coordinate_columns, split_suffix
from ssl3d.data.text import nearest

_PARTIAL = "or go on without with --allow-partial"
_NAMED = 5
"""So many problems of one kind are shown one by one."""


@dataclass(slots=True)
class Cloud:
    """One file of points. ``relative``: its path below the root, with slashes."""

    relative: str
    group: str
    name: str
    file: SourceFile
    rows: int | None = None
    files: dict[str, SourceFile] = field(default_factory=dict)


@dataclass(slots=True)
class Group:
    """Clouds that a split holds out together."""

    name: str
    subset: str
    clouds: list[Cloud] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def survey(config: FolderConfig, text: str, root: Path, options: ReadOptions) -> Layout:
    """All clouds and all problems. See ``DatasetReader.survey``. ``text``: what the reader was made from."""
    refuse_version(options, config.title or config.name)
    root_names(root)
    names = files_below(root)
    problems: list[Problem] = []
    clouds = _clouds(config, root, names, problems)
    groups = _groups(config, clouds, problems)
    for group in groups:
        for cloud in group.clouds:
            _look(config, root, cloud, group, options.allow_partial)
    reports = tuple(_report(config, group) for group in groups)
    units = [unit for group in groups for unit in _units(config, group)]
    problems += _no_images(config, root, clouds)
    report = CheckReport(config.title or config.name, root, reports, tuple(problems))
    return Layout("folder", root, tuple(sorted(units, key=lambda unit: unit.id)), report, text)


def files_below(root: Path) -> list[str]:
    """Paths of all visible files below a folder, with slashes, sorted; links are followed, once."""
    found, seen = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        place = Path(folder).relative_to(root).as_posix()
        found += [name if place == "." else f"{place}/{name}" for name in names if not name.startswith(".")]
    return sorted(found)


def _clouds(config: FolderConfig, root: Path, names: list[str], problems: list[Problem]) -> list[Cloud]:
    chosen: dict[str, None] = {}
    for pattern in config.clouds.files:
        found = matching(pattern, names)
        if not found:
            hint = _no_match(pattern, names)
            problems.append(
                Problem("error", f"no file matches {pattern!r}", {"root": root, "field": "clouds.files"}, hint)
            )
        chosen |= dict.fromkeys(found)
    for pattern in config.clouds.exclude:
        for name in matching(pattern, names):
            chosen.pop(name, None)
    if not chosen:
        raise DataError(
            "no clouds: no file matches the patterns",
            where={"root": root, "clouds.files": ", ".join(config.clouds.files)},
            hint=_no_match(config.clouds.files[0], names),
        )
    clouds, owners = [], dict[tuple[str, str], str]()
    for relative in sorted(chosen):
        group, name = _scan_name(config, relative)
        other = owners.setdefault((group, name), relative)
        if other != relative:
            what = f"two clouds would have the same name {group}/{name}"
            hint = "rename one, or leave one out with clouds.exclude"
            problems.append(Problem("error", what, {"file": root / relative, "other": root / other}, hint))
            continue
        file = SourceFile.find(root / relative)
        if file is None:
            what = "a file cannot be opened: a link that leads nowhere, or no permission"
            problems.append(Problem("error", what, {"file": root / relative}, "fetch it, or leave it out"))
            continue
        clouds.append(Cloud(relative, group, name, file))
    return clouds


def _no_match(pattern: str, names: list[str]) -> str:
    packed = [name for name in names if name.lower().endswith(ARCHIVES)]
    if packed:
        return f"unpack {packed[0]}"
    suffix = pattern.rpartition(".")[2].lower()
    other = [name for name in names if name.lower().endswith(f".{suffix}")]
    if other:
        return f"the folder has {other[0]}: patterns are relative to the root, with upper and lower case as there"
    kinds = sorted({split_suffix(name)[1] for name in names})
    return f"the folder has files of {' '.join(kinds[:8])}" if names else "the folder is empty"


def _scan_name(config: FolderConfig, relative: str) -> tuple[str, str]:
    """Group and name of a cloud."""
    path = split_suffix(relative)[0]
    if config.clouds.group == "cloud":
        return _safe(path), WHOLE
    folder, _, stem = path.rpartition("/")
    return _safe(folder) or "root", _safe(stem)


def _safe(path: str) -> str:
    return re.sub(r"[^\w.+-]", "_", path.strip("/").replace("/", "-"), flags=re.ASCII)


# ---------------------------------------------------------------- groups and subsets


def _groups(config: FolderConfig, clouds: list[Cloud], problems: list[Problem]) -> list[Group]:
    members = defaultdict(list)
    for cloud in clouds:
        members[cloud.group].append(cloud)
    subsets = _shared_out(config, sorted(members)) or _by_patterns(config, members, problems)
    groups = [Group(name, subsets[name], members[name]) for name in sorted(members)]
    if not any(group.subset == "val" for group in groups):
        what = "no cloud is held out for validation: a run cannot be judged"
        hint = "name some in [subsets] (val = [...]), or say val_share = 0.2"
        problems.append(Problem("warning", what, {"field": "subsets"}, hint))
    if not any(group.subset == "train" for group in groups):
        problems.append(Problem("error", "no cloud is left to train with", {"field": "subsets"}, "name fewer for val"))
    return groups


def _shared_out(config: FolderConfig, names: list[str]) -> dict[str, str] | None:
    """The groups in an order that only their names and the seed decide: so many to val, so many to test."""
    rule = config.subsets
    if not rule.val_share and not rule.test_share:
        return None
    order = sorted(names, key=lambda name: hashlib.blake2b(f"{rule.seed}:{name}".encode()).digest())
    counts = [max(1, round(share * len(names))) if share else 0 for share in (rule.val_share, rule.test_share)]
    kinds = ["val"] * counts[0] + ["test"] * counts[1]
    return dict(zip(order, kinds + ["train"] * len(order), strict=False))


def _by_patterns(config: FolderConfig, members: Mapping[str, list[Cloud]], problems: list[Problem]) -> dict[str, str]:
    """``train`` where no pattern says otherwise; a problem for groups in two subsets and for patterns of nothing."""
    owner = {cloud.relative: group for group, clouds in members.items() for cloud in clouds}
    names = [*owner, *members, *(split_suffix(name)[0] for name in owner)]
    groups = {**owner, **{split_suffix(name)[0]: group for name, group in owner.items()}}
    found: dict[str, set[str]] = defaultdict(set)
    touched: dict[str, set[str]] = defaultdict(set)
    for subset in ("train", "val", "test"):
        for pattern in getattr(config.subsets, subset):
            hits = matching(pattern, names)
            if not hits:
                near = nearest(pattern, names, 0.5)
                hint = f"did you mean {near}?" if near else "patterns name clouds (relative to the root) or groups"
                where = {"field": f"subsets.{subset}"}
                problems.append(Problem("error", f"no cloud matches {pattern!r}", where, hint))
            for hit in hits:
                group = groups.get(hit, hit)
                found[group].add(subset)
                touched[group] |= {cloud.relative for cloud in members[group] if hit == group} or {hit}
    for group, subsets in sorted(found.items()):
        held_apart = len(subsets) > 1
        if held_apart:
            where = {"group": group, "field": "subsets"}
            hint = 'make the patterns disjoint; or clouds.group = "cloud" where the clouds of a folder lie apart'
            what = f"clouds of one group are in {' and '.join(sorted(subsets))}"
            problems.append(Problem("error", what, where, hint))
    return {group: min(found[group], default="train") for group in members}


# ---------------------------------------------------------------- one cloud


def _look(config: FolderConfig, root: Path, cloud: Cloud, group: Group, partial: bool) -> None:
    """Opens the headers of a cloud and of its labels, and finds what else lies beside it."""
    cloud.files["points"] = cloud.file
    try:
        source = cloud_source(config, cloud.file.path)
        cloud.rows = source.count
        coordinate_columns(source, cloud_options(config))
        for role, name in wanted_columns(config).items():
            if name not in source.columns:
                near = nearest(name, source.columns)
                hint = f"did you mean {near!r}? " if near else ""
                hint += f"the file has {', '.join(source.columns)}"
                where = {"file": cloud.file.path, "field": f"columns.{role}"}
                group.problems.append(Problem("error", f"there is no column {name!r}", where, hint))
    except Ssl3dError as error:
        group.problems.append(Problem("error", error.what, error.where, error.hint))
        return
    if config.labels is not None:
        _find_labels(config, root, cloud, group, partial)
    if config.clouds.keep:
        cloud.rows = None  # only reading tells how many are kept
    for role, place in files_of_frame(config, root, cloud.relative).items():
        found = SourceFile.find(place)
        if found is None:
            what = "a cloud has no poses" if role == POSES else f"an image has no {role.rpartition('.')[2]}"
            hint = f"correct the pattern of {role}"
            group.problems.append(Problem("error", what, {"file": place, "cloud": cloud.relative}, hint))
        else:
            cloud.files[role] = found


def loose_unit(config: FolderConfig, path: Path) -> SourceUnit:
    """One file as a unit, wherever it lies. Ssl3dError where it is not what the description says."""
    file = SourceFile.find(path.absolute())
    if file is None:
        raise DataError("there is no such file", where={"file": path}, hint="check the path")
    group = Group(_safe(path.stem), "test", [Cloud(path.name, _safe(path.stem), WHOLE, file)])
    _look(config, path.absolute().parent, group.clouds[0], group, partial=True)
    for problem in group.problems:
        raise problem.as_error()
    return _units(config, group)[0]


def _find_labels(config: FolderConfig, root: Path, cloud: Cloud, group: Group, partial: bool) -> None:
    assert config.labels is not None
    path = _place(root, config.labels.files, cloud)
    file = SourceFile.find(path)
    if file is None:
        if group.subset != "test":
            severity: Severity = "warning" if partial else "error"
            where = {"file": path, "cloud": cloud.relative}
            hint = None if partial else f"correct labels.files, {_PARTIAL}"
            group.problems.append(Problem(severity, "a cloud has no labels", where, hint))
        return
    cloud.files["labels"] = file
    try:
        source = label_source(config, file.path)
        label_column(config, source)
        rows = source.count
    except Ssl3dError as error:
        group.problems.append(Problem("error", error.what, error.where, error.hint))
        return
    if rows is not None and cloud.rows is not None and rows != cloud.rows:
        where = {"file": file.path, "cloud": cloud.file.path}
        what = f"the cloud has {cloud.rows:,} points, the file beside it {rows:,} labels"
        hint = "one of them is truncated, or they belong to different clouds; or labels.dtype is another"
        group.problems.append(Problem("error", what, where, hint))


def _no_images(config: FolderConfig, root: Path, clouds: list[Cloud]) -> Iterator[Problem]:
    for image in config.images:
        if clouds and not any(find_image(image, root, cloud.relative) for cloud in clouds):
            where = {"root": root, "field": "images.files", "pattern": image.files, "camera": image.name}
            hint = f"the first would be {os.path.normpath(beside(image.files, clouds[0].relative))}"
            yield Problem("warning", "no cloud has an image of this camera", where, hint)


def _place(root: Path, pattern: str, cloud: Cloud) -> Path:
    return Path(os.path.normpath(root / beside(pattern, cloud.relative)))


def _report(config: FolderConfig, group: Group) -> GroupReport:
    facts: dict[str, str | int] = {}
    rows = [cloud.rows for cloud in group.clouds]
    facts["points"] = "-" if None in rows else f"{sum(row for row in rows if row is not None):,}"
    if config.labelled:
        facts["labels"] = sum(config.labels is None or "labels" in cloud.files for cloud in group.clouds)
    if config.poses is not None:
        facts["poses"] = sum("poses" in cloud.files for cloud in group.clouds)
    problems = group.problems[:_NAMED]
    if len(group.problems) > _NAMED:
        more = group.problems[_NAMED:]
        worst: Severity = "error" if any(problem.severity == "error" for problem in more) else "warning"
        problems.append(Problem(worst, f"{len(more)} more problems of this group", {"group": group.name}))
    return GroupReport(group.name, group.subset, len(group.clouds), None, facts, tuple(problems))


# ---------------------------------------------------------------- units


def _units(config: FolderConfig, group: Group) -> list[SourceUnit]:
    """Small clouds of a folder whose names differ in the last two characters are one unit; others are by themselves."""
    buckets: dict[str, list[tuple[int, Cloud]]] = defaultdict(list)
    for line, cloud in enumerate(group.clouds):
        small = cloud.rows is not None and cloud.rows <= config.tiles.points
        stem = f"{cloud.name[:-2]}xx" if small and len(cloud.name) > 2 else cloud.name
        if config.clouds.group == "cloud":
            buckets[group.name].append((line, cloud))
        else:
            buckets[f"{group.name}.{stem}"].append((line, cloud))
    return [_unit(config, unit, group, clouds) for unit, clouds in sorted(buckets.items())]


def _unit(config: FolderConfig, unit: str, group: Group, clouds: list[tuple[int, Cloud]]) -> SourceUnit:
    scans = tuple(
        SourceScan(
            f"{cloud.group}/{cloud.name}",
            cloud.files,
            cloud.rows,
            labelled=config.labelled and (config.labels is None or "labels" in cloud.files),
            details=(cloud.relative, line),
        )
        for line, cloud in clouds
    )
    return SourceUnit(unit, group.name, group.subset, "labels", scans, fields_of(config))


def fields_of(config: FolderConfig) -> Fields:
    """The arrays that every scan of the dataset has."""
    kinds = {"intensity": ("f4", 0), "color": ("u1", 3), "normal": ("f4", 3), "ring": ("u1", 0)}
    columns = {name: kind for name, kind in kinds.items() if getattr(config.columns, name)}
    columns |= {SOURCE_ROW: ("u4", 0)} if config.clouds.keep else {}
    instance = config.columns.instance or (config.labels is not None and config.labels.bits)
    return Fields(
        columns,
        {"instance": ("u4", 0)} if instance else {},
        pose=config.poses is not None,
        cameras=bool(config.images),
    )
