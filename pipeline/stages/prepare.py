"""``prepare``: a dataset becomes shards, ``<unit>.points.h5``, ``<unit>.labels.h5`` and others; see ``convert_unit``.

Labels lie in files of their own, so that training never opens them. Nothing is ever written below the dataset's root.
"""

from __future__ import annotations

import os
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ssl3d.data.errors import UsageError
from ssl3d.models.config import Params
from ssl3d.pipeline.product import Product
from ssl3d.pipeline.progress import Progress, Silent
from ssl3d.pipeline.stage import Stage, Unit, UnitInputs, Upstream
from ssl3d.pipeline.stage_run import StageRun, run_stage
from ssl3d.pipeline.workspace import DatasetHandle, Workspace, check_dataset_name

if TYPE_CHECKING:
    from ssl3d.data.datasets.source import Layout, SourceUnit

_UNIT_OVERHEAD = 64 << 10  # HDF5 structures and per-scan arrays


class PrepareParams(Params):
    """Parameters of ``prepare``."""

    label_set: Literal["labels", "scribbles"] = Field(
        "labels", description="what training may see: all labels, or ScribbleKITTI's"
    )
    classes: str = Field("single", description="class list of the dataset, e.g. single or multiscan")
    version: str = Field(
        "",
        description="which of several versions (v1.0-mini), or of divisions into train and val (val03)",
    )
    compress: Literal["lzf", "gzip"] | None = Field(None, description="smaller shards, slower reading")
    allow_partial: bool = Field(False, exclude=True, description="take an incomplete dataset as it is (not in the key)")


class PrepareStage(Stage):
    """One unit: a block of scans of a sequence, a room, a scene."""

    name = "prepare"
    version = 3
    counts = "scan"
    command = "ssl3d prepare DATASET --root DIR"
    worker_bytes = 64 << 20
    params: PrepareParams

    def __init__(self, params: PrepareParams, layout: Layout, dataset: str) -> None:
        super().__init__(params)
        self.layout = layout
        self.dataset = dataset

    def units(self, upstream: Upstream) -> Sequence[Unit]:
        return [
            Unit(
                id=unit.id,
                work=(self.layout.reader, self.layout.config, unit),
                source=unit.signature(),
                size=_product_bytes(unit),
                weight=len(unit.scans),
            )
            for unit in self.layout.units
        ]

    def identity(self, upstream: Upstream) -> Mapping[str, Any]:
        config = {"config": self.layout.config} if self.layout.config else {}
        return {"reader": self.layout.reader, "root": str(self.layout.root), **config}

    def about(self) -> Mapping[str, Any]:
        from ssl3d.data.datasets.registry import get_reader

        words = get_reader(self.layout.reader, self.layout.config).command(self.layout.root)
        words += ["--labels", self.params.label_set] if self.params.label_set != "labels" else []
        words += ["--classes", self.params.classes] if self.params.classes != "single" else []
        words += ["--version", self.params.version] if self.params.version else []
        words += ["--compress"] if self.params.compress else []
        words += ["--name", self.dataset] if self.dataset != self.layout.reader else []
        words += ["--allow-partial"] if self.params.allow_partial else []
        warnings = [warning_text(item) for item in self.layout.warnings]
        return {"command": shlex.join(words), "warnings": warnings}

    def watched(self) -> Mapping[str, int | None]:
        """All folders from the files up to the root, and the files that scans share."""
        root, folders = str(self.layout.root), set[str]()
        for unit in self.layout.units:
            for file in unit.files():
                folder = os.path.dirname(file.path)  # noqa: PTH120  once for every file of a dataset
                while folder not in folders:
                    folders.add(folder)
                    if folder.startswith(root + os.sep):
                        folder = os.path.dirname(folder)  # noqa: PTH120
        shared = {file.path: file.stamp[1] for unit in self.layout.units for file in unit.shared.values()}
        return {**{name: Path(name).stat().st_mtime_ns for name in sorted(folders)}, **dict(sorted(shared.items()))}

    @staticmethod
    def run(unit: Unit, params: PrepareParams, inputs: UnitInputs, out: Path) -> Mapping[str, Any]:
        from ssl3d.data.datasets.convert import ConvertParams, convert_unit
        from ssl3d.data.datasets.registry import get_reader

        name, config, found = unit.work
        reader = get_reader(name, config)
        how = ConvertParams(classes=params.classes, compress=params.compress, sync=False)  # run_stage syncs
        with reader.opened(found, reader.spec(params.classes), out) as (reading, source):
            files = {product: out / f"{unit.id}.{product}.h5" for product in source.products()}
            return asdict(convert_unit(reading, source, files, how))


def _product_bytes(unit: SourceUnit) -> int:
    """Points take 12 bytes, labels and scribbles 1, and what else a unit has as much as it says; text is longer."""
    import numpy as np

    if unit.num_points is None:
        return sum(file.size for file in unit.files()) + _UNIT_OVERHEAD
    arrays = {"points": unit.fields.columns, "labels": unit.fields.truths}
    size = 0
    for name in unit.products():
        size += {"points": 12, "labels": 1, "scribbles": 1, "edges": 24}.get(name, 0)  # a vertex has about 3 edges
        size += sum(np.dtype(dtype).itemsize * max(1, width) for dtype, width in arrays.get(name, {}).values())
    return unit.num_points * size + _UNIT_OVERHEAD


def check_version(product: Product) -> None:
    """UsageError when a prepare product was written by another version of ssl3d than this."""
    if product.manifest.version != PrepareStage.version:
        raise UsageError(
            "the scans were prepared by another version of ssl3d, whose shards hold other things",
            where={"folder": product.folder, "version": f"{product.manifest.version}, not {PrepareStage.version}"},
            hint=f"prepare them again: {product.manifest.about.get('command', PrepareStage.command)}",
        )


def warning_text(problem: Any) -> str:
    """A ``Problem`` as one line."""
    place = ", ".join(f"{name} {value}" for name, value in problem.where.items())
    return problem.what + (f" ({place})" if place else "") + (f"; {problem.hint}" if problem.hint else "")


@dataclass(frozen=True)
class GroupCount:
    """What was prepared of one group (sequence, scene, area)."""

    group: str
    subset: str
    scans: int
    labelled: int
    points: int


@dataclass(frozen=True)
class PrepareResult:
    """What ``prepare`` did.

    Attributes:
        dataset: its name in the workspace.
        groups: counts per group, in order.
        bytes: of all shards; ``seconds``: of this call.
        fresh, cached: units made now, and found done. ``rebuilt``: those of ``fresh`` that had been damaged.
        warnings: of the folder and of single scans.
    """

    dataset: str
    key: str
    folder: Path
    groups: tuple[GroupCount, ...]
    bytes: int
    seconds: float
    fresh: int
    cached: int
    rebuilt: int
    warnings: tuple[str, ...]

    @property
    def scans(self) -> int:
        return sum(item.scans for item in self.groups)

    @property
    def points(self) -> int:
        return sum(item.points for item in self.groups)

    def subsets(self) -> dict[str, GroupCount]:
        """Sums per subset (``group`` is then the list of them)."""
        found: dict[str, GroupCount] = {}
        for subset in ("train", "val", "test"):
            items = [item for item in self.groups if item.subset == subset]
            if items:
                found[subset] = GroupCount(
                    ", ".join(item.group for item in items),
                    subset,
                    sum(item.scans for item in items),
                    sum(item.labelled for item in items),
                    sum(item.points for item in items),
                )
        return found


def prepare(
    workspace: Workspace,
    reader_name: str,
    root: Path | str,
    params: PrepareParams | None = None,
    *,
    config: str = "",
    name: str | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> PrepareResult:
    """Converts a dataset; only what is not done yet. It becomes the current dataset of the workspace.

    Args:
        reader_name: the layout, e.g. ``semantickitti``.
        root: the dataset folder; only read.
        config: what the reader is made with, see ``DatasetReader``.
        name: what the dataset is called in the workspace (default: the reader's name).
        jobs: worker processes.

    Raises:
        DataError: something in the folder is wrong; finished units are kept.
        UsageError: unknown reader, or the workspace lies inside the dataset folder.
        Ssl3dError: no space, no permission, a killed worker.
    """
    from ssl3d.data.datasets.registry import get_reader
    from ssl3d.data.datasets.source import ReadOptions

    params, progress = params or PrepareParams(), progress or Silent()
    reader = get_reader(reader_name, config)
    _refuse_inside(workspace, Path(root))
    handle = DatasetHandle(workspace, check_dataset_name(name or reader.name))
    reader.spec(params.classes)  # an unknown class list is an error before anything is looked for
    with progress.task("looking", total=None):
        layout = reader.discover(root, ReadOptions(params.label_set, params.allow_partial, params.version))
    stage = PrepareStage(params, layout, handle.name)
    with workspace.lock(f"data-{handle.name}", progress):
        _tell_previous(handle, layout, progress)
        run = run_stage(handle, stage, jobs=jobs, progress=progress)
    workspace.set_current(handle.name)
    result = _result(handle, run)
    for warning in result.warnings:
        progress.say(f"warning: {warning}")
    return result


def _tell_previous(handle: DatasetHandle, layout: Layout, progress: Progress) -> None:
    previous = handle.product("prepare")
    if previous is None:
        return
    if (other := previous.manifest.identity.get("root")) != str(layout.root):
        progress.say(f"'{handle.name}' was prepared from {other} before; it now stands for {layout.root}")
    if previous.manifest.version != PrepareStage.version:
        progress.say(
            f"'{handle.name}' was prepared by another version of ssl3d, whose shards hold other things: "
            "all scans are converted anew (ssl3d clean shows the old shards)"
        )


def _refuse_inside(workspace: Workspace, root: Path) -> None:
    dataset, place = root.expanduser().resolve(), workspace.root.resolve()
    if place.is_relative_to(dataset):
        raise UsageError(
            "the workspace lies inside the dataset folder, where nothing is ever written",
            where={"workspace": place, "dataset": dataset},
            hint="choose a place outside of it with --workspace DIR",
        )


def _result(handle: DatasetHandle, run: StageRun) -> PrepareResult:
    product = run.product
    warnings = [*product.manifest.about["warnings"]]
    for unit in sorted(product.done):
        warnings += product.done[unit].info["warnings"]
    return PrepareResult(
        dataset=handle.name,
        key=product.key,
        folder=product.folder,
        groups=count_groups(product),
        bytes=product.bytes,
        seconds=run.seconds,
        fresh=len(run.fresh),
        cached=run.cached,
        rebuilt=len(run.rebuilt),
        warnings=tuple(warnings),
    )


def count_groups(product: Product) -> tuple[GroupCount, ...]:
    """Counts per group of a prepare product, from its journal."""
    infos: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for unit in sorted(product.done):
        infos[product.done[unit].info["group"]].append(product.done[unit].info)
    return tuple(
        GroupCount(
            group,
            items[0]["subset"],
            sum(len(info["scan_ids"]) for info in items),
            sum(sum(info["labelled"]) for info in items),
            sum(sum(info["num_points"]) for info in items),
        )
        for group, items in sorted(infos.items())
    )
