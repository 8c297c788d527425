"""``prepare``: a published dataset becomes shards, ``<unit>.points.h5``, ``<unit>.labels.h5``, ``<unit>.scribbles.h5``.

Labels lie in files of their own, so that training never opens them. Nothing is ever written below the dataset's root.
"""

from __future__ import annotations

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
    from ssl3d.data.datasets.layout import Layout, LayoutUnit

_UNIT_OVERHEAD = 64 << 10  # HDF5 structures and per-scan arrays


class PrepareParams(Params):
    """Parameters of ``prepare``."""

    label_set: Literal["labels", "scribbles"] = Field(
        "labels", description="what training may see: all labels, or ScribbleKITTI's"
    )
    classes: str = Field("single", description="class list of the dataset, e.g. single or multiscan")
    compress: Literal["lzf", "gzip"] | None = Field(None, description="smaller shards, slower reading")
    allow_partial: bool = Field(False, exclude=True, description="take an incomplete dataset as it is (not in the key)")


class PrepareStage(Stage):
    """One unit: the frames of a sequence within 64 frame numbers."""

    name = "prepare"
    version = 1
    counts = "scan"
    command = "ssl3d prepare semantickitti --root DIR"
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
                work=(self.layout.reader, unit),
                source=unit.signature(),
                size=_product_bytes(unit),
                weight=len(unit.frames),
            )
            for unit in self.layout.units
        ]

    def identity(self, upstream: Upstream) -> Mapping[str, Any]:
        return {"reader": self.layout.reader, "root": str(self.layout.root)}

    def about(self) -> Mapping[str, Any]:
        words = ["ssl3d", "prepare", self.layout.reader, "--root", str(self.layout.root)]
        words += ["--labels", "scribbles"] if self.params.label_set == "scribbles" else []
        words += ["--classes", self.params.classes] if self.params.classes != "single" else []
        words += ["--compress"] if self.params.compress else []
        words += ["--name", self.dataset] if self.dataset != self.layout.reader else []
        words += ["--allow-partial"] if self.params.allow_partial else []
        warnings = [warning_text(item) for item in self.layout.warnings]
        return {"command": shlex.join(words), "warnings": warnings}

    def watched(self) -> Mapping[str, int | None]:
        """Folders of scans and labels, the sequences' folders, calibrations and poses."""
        paths: set[Path] = set()
        for unit in self.layout.units:
            first = unit.frames[0]
            folders = {Path(name).parent for name in (first.points, first.label, first.scribble) if name}
            paths |= folders | {folder.parent for folder in folders} | {Path(first.points).parents[2]}
            paths |= {Path(name) for name in (unit.shared.calib, unit.shared.poses) if name}
        return {str(path): path.stat().st_mtime_ns for path in sorted(paths)}

    @staticmethod
    def run(unit: Unit, params: PrepareParams, inputs: UnitInputs, out: Path) -> Mapping[str, Any]:
        from ssl3d.data.datasets.layout import ConvertParams
        from ssl3d.data.datasets.registry import get_reader

        name, source = unit.work
        reader = get_reader(name)
        files = {product: out / f"{unit.id}.{product}.h5" for product in source.products()}
        how = ConvertParams(classes=params.classes, compress=params.compress, sync=False)  # run_stage syncs
        info = reader.convert_unit(source, files, how)
        return {**asdict(info), "scribbled": [frame.scribble is not None for frame in source.frames]}


def _product_bytes(unit: LayoutUnit) -> int:
    """Points take 16 bytes, labels 6 (class, instance, moving), scribbles 1."""
    per_point = {"points": 16, "labels": 6, "scribbles": 1}
    return unit.num_points * sum(per_point[name] for name in unit.products()) + _UNIT_OVERHEAD


def warning_text(problem: Any) -> str:
    """A ``Problem`` as one line."""
    place = ", ".join(f"{name} {value}" for name, value in problem.where.items())
    return problem.what + (f" ({place})" if place else "") + (f"; {problem.hint}" if problem.hint else "")


@dataclass(frozen=True)
class SequenceCount:
    """What was prepared of one sequence."""

    sequence: str
    subset: str
    scans: int
    labelled: int
    points: int


@dataclass(frozen=True)
class PrepareResult:
    """What ``prepare`` did.

    Attributes:
        dataset: its name in the workspace.
        sequences: counts per sequence, in order.
        bytes: of all shards; ``seconds``: of this call.
        fresh, cached: units made now, and found done. ``rebuilt``: those of ``fresh`` that had been damaged.
        warnings: of the folder and of single scans.
    """

    dataset: str
    key: str
    folder: Path
    sequences: tuple[SequenceCount, ...]
    bytes: int
    seconds: float
    fresh: int
    cached: int
    rebuilt: int
    warnings: tuple[str, ...]

    @property
    def scans(self) -> int:
        return sum(item.scans for item in self.sequences)

    @property
    def points(self) -> int:
        return sum(item.points for item in self.sequences)

    def subsets(self) -> dict[str, SequenceCount]:
        """Sums per subset (``sequence`` is then the list of them)."""
        found: dict[str, SequenceCount] = {}
        for subset in ("train", "val", "test"):
            items = [item for item in self.sequences if item.subset == subset]
            if items:
                found[subset] = SequenceCount(
                    " ".join(item.sequence for item in items),
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
    name: str | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> PrepareResult:
    """Converts a published dataset; only what is not done yet. It becomes the current dataset of the workspace.

    Args:
        reader_name: the layout, e.g. ``semantickitti``.
        root: the dataset folder; only read.
        name: what the dataset is called in the workspace (default: the reader's name).
        jobs: worker processes.

    Raises:
        DataError: something in the folder is wrong; finished units are kept.
        UsageError: unknown reader, or the workspace lies inside the dataset folder.
        Ssl3dError: no space, no permission, a killed worker.
    """
    from ssl3d.data.datasets.registry import get_reader

    params, progress = params or PrepareParams(), progress or Silent()
    reader = get_reader(reader_name)
    _refuse_inside(workspace, Path(root))
    handle = DatasetHandle(workspace, check_dataset_name(name or reader.name))
    reader.spec(params.classes)  # an unknown class list is an error before anything is looked for
    with progress.task("looking", total=None):
        layout = reader.discover(root, params.label_set, params.allow_partial)
    stage = PrepareStage(params, layout, handle.name)
    with workspace.lock(f"data-{handle.name}", progress):
        previous = handle.product("prepare")
        if previous is not None and (other := previous.manifest.identity.get("root")) != str(layout.root):
            progress.say(f"'{handle.name}' was prepared from {other} before; it now stands for {layout.root}")
        run = run_stage(handle, stage, jobs=jobs, progress=progress)
    workspace.set_current(handle.name)
    result = _result(handle, run)
    for warning in result.warnings:
        progress.say(f"warning: {warning}")
    return result


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
        sequences=count_sequences(product),
        bytes=product.bytes,
        seconds=run.seconds,
        fresh=len(run.fresh),
        cached=run.cached,
        rebuilt=len(run.rebuilt),
        warnings=tuple(warnings),
    )


def count_sequences(product: Product) -> tuple[SequenceCount, ...]:
    """Counts per sequence of a prepare product, from its journal."""
    infos: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for unit in sorted(product.done):
        infos[product.done[unit].info["sequence"]].append(product.done[unit].info)
    return tuple(
        SequenceCount(
            sequence,
            items[0]["subset"],
            sum(len(info["scan_ids"]) for info in items),
            sum(sum(info["labelled"]) for info in items),
            sum(sum(info["num_points"]) for info in items),
        )
        for sequence, items in sorted(infos.items())
    )
