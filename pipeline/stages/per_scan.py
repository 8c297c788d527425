"""What stages that look at one scan after the other share: the plan, the parameters, and parallel shards.

Such a stage writes ``<unit>.<kind>.h5`` beside every prepared unit: per-point arrays with the offsets of the points, or
lists of any length per scan (``write_lists``). ``density.py`` is the smallest example.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ssl3d.data.errors import DataError, UsageError
from ssl3d.models.config import Params as AnyParams
from ssl3d.pipeline.progress import Progress, Silent
from ssl3d.pipeline.stage import Stage, Unit, UnitInputs, Upstream
from ssl3d.pipeline.stage_run import StageRun, run_stage
from ssl3d.pipeline.workspace import Workspace

if TYPE_CHECKING:
    import numpy.typing as npt
    from typing_extensions import Self

    from ssl3d.data.spec import DatasetSpec
    from ssl3d.data.store import ShardReader
    from ssl3d.pipeline.dataset import PreparedDataset

    Array = npt.NDArray[Any]

T = TypeVar("T")


class ScanStage(Stage):
    """A stage over the scans of a prepared dataset, one unit for each prepared unit.

    Class attributes: ``Params``; ``kind``, of the file with its per-point arrays; ``bytes_per_point`` that it writes,
    about. What a dataset wants otherwise than ``Params`` stands in ``defaults`` of its .toml: ``density.radius=0.5``.
    """

    needs: ClassVar[tuple[str, ...]] = ("prepare",)
    counts = "scan"
    Params: ClassVar[type[AnyParams]]
    kind: ClassVar[str]
    bytes_per_point: ClassVar[int] = 4

    def __init__(self, params: AnyParams, dataset: PreparedDataset) -> None:
        super().__init__(params)
        self.dataset = dataset
        self.reads = {"prepare": ("points",)}

    @classmethod
    def of(cls, dataset: PreparedDataset, overrides: Sequence[str] = ()) -> Self:
        """The stage with the parameters of the dataset and ``overrides`` (``key=value``, the last one counts).

        Raises:
            UsageError: an unknown key, or a value that it cannot have.
        """
        return cls(stage_params(cls.name, cls.Params, dataset.spec, overrides), dataset)

    @classmethod
    def unasked(cls, dataset: PreparedDataset) -> Stage | None:
        return cls.of(dataset)

    def units(self, upstream: Upstream) -> Sequence[Unit]:
        return [
            Unit(
                id=unit,
                work=self.work(unit),
                size=sum(entry.info["num_points"]) * self.bytes_per_point + (64 << 10),
                weight=len(entry.info["scan_ids"]),
            )
            for unit, entry in sorted(self.dataset.product.done.items())
        ]

    def work(self, unit: str) -> Any:
        """What ``run`` needs to know of a unit besides its files; picklable."""
        return None

    def about(self) -> Mapping[str, Any]:
        usual = stage_params(self.name, self.Params, self.dataset.spec).model_dump(mode="json")
        changed = {key: value for key, value in self.params.model_dump(mode="json").items() if value != usual[key]}
        words = [word for key, value in changed.items() for word in ("--set", f"{key}={value}")]
        words += ["--dataset", self.dataset.name] if self.dataset.name != self.dataset.spec.name else []
        return {"command": shlex.join(["ssl3d", self.name, *words])}


def stage_params(name: str, model: type[AnyParams], spec: DatasetSpec, overrides: Sequence[str] = ()) -> Any:
    """Parameters of the stage ``name``: those of ``model``, of the dataset (``DatasetSpec.defaults``), ``overrides``.

    Raises:
        UsageError: an unknown key (the message names the nearest), or a value that it cannot have.
    """
    from pydantic import ValidationError

    from ssl3d.pipeline.training.keys import KeyTable

    table = KeyTable({name: model}, {})
    usual = [item for item in spec.defaults if item.partition("=")[0] in table.leaves]
    values = table.read([*usual, *overrides]).get(name, {})
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join((name, *(str(part) for part in first["loc"])))
        raise UsageError(f"{key}: {first['msg'].removeprefix('Value error, ')}", where={"field": key}) from None


def run_on(
    workspace: Workspace,
    make: Callable[[PreparedDataset], Stage],
    *,
    dataset: str | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> StageRun:
    """Runs a stage of a prepared dataset (default: the one prepared last); its product becomes the current one.

    Raises:
        UsageError: nothing is prepared, or a parameter is wrong.
        DataError: some units could not be made.
    """
    from ssl3d.pipeline.dataset import PreparedDataset

    progress = progress or Silent()
    handle = workspace.dataset(dataset)
    with workspace.lock(f"data-{handle.name}", progress):
        return run_stage(handle, make(PreparedDataset(handle)), jobs=jobs, progress=progress)


def per_scan(points: ShardReader, inputs: UnitInputs, compute: Callable[[int, int], T]) -> list[T]:
    """``compute(position, threads)`` of every scan of a unit, in order; several scans at a time where threads are left.

    ``compute`` has to spend its time in code that releases the GIL. An error gets the scan's name.
    """
    from ssl3d.data.geometry.threads import in_threads

    at_once = min(inputs.threads, len(points))

    def named(position: int) -> T:
        try:
            return compute(position, max(1, inputs.threads // max(1, at_once)))
        except (DataError, ValueError) as error:
            where = {"scan": str(points.read("scan_id", position))}
            if isinstance(error, DataError):
                error.where.update({**where, **error.where})
                raise
            raise DataError(str(error), where=where) from error

    return in_threads(named, range(len(points)), at_once)


def write_points(
    path: Path,
    points: ShardReader,
    scans: Sequence[Mapping[str, Array]],
    attrs: Mapping[str, Any],
    facts: Mapping[str, Array] | None = None,
) -> None:
    """Per-point arrays of every scan of a unit, with the offsets of its points.

    Args:
        scans: of each scan, name -> (n, ...). The names and types of all are the same.
        facts: name -> (S, ...), of each scan as a whole; methods find them in ``View.scan``.
    """
    import numpy as np

    from ssl3d.data.store import write_shard

    arrays = {name: np.concatenate([scan[name] for scan in scans]) for name in scans[0]}
    facts = facts or {}
    write_shard(path, {"offsets": points.offsets, **arrays, **facts}, attrs, per_scan=tuple(facts), sync=False)


def write_lists(path: Path, scans: Sequence[Mapping[str, Array]], attrs: Mapping[str, Any]) -> None:
    """Arrays whose lengths differ from scan to scan (pairs, edges): the rows of scan i are those of offsets i, i + 1.

    Args:
        scans: of each scan, name -> (e, ...), all of one length e. The names and types of all scans are the same.
    """
    import numpy as np

    from ssl3d.data.store import write_shard

    offsets = np.cumsum([0, *(len(next(iter(scan.values()))) for scan in scans)], dtype=np.int64)
    arrays = {name: np.concatenate([scan[name] for scan in scans]) for name in scans[0]}
    write_shard(path, {"offsets": offsets, **arrays}, attrs, per_scan=(), sync=False)
