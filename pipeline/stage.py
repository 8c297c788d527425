"""A stage: a named, versioned, pure function per unit of work, whose products are cached under a key.

The key hashes the stage's name, version, parameters, further identity (seed, chosen ids) and the keys of the products
that it needs; each unit is also tied to a signature of its own sources. Change a parameter and this stage and what
depends on it run again; change one source file and one unit runs again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ssl3d.models.config import Params
from ssl3d.pipeline.files import digest_value, read_json
from ssl3d.pipeline.product import KEY_LENGTH, Product
from ssl3d.pipeline.progress import Progress

if TYPE_CHECKING:
    from ssl3d.data.store import ShardReader
    from ssl3d.pipeline.dataset import PreparedDataset

Upstream = Mapping[str, Product]


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of work.

    Attributes:
        id: also the first part of the names of its files, ``<id>.<kind>.h5``.
        work: what the function needs beyond its inputs; picklable.
        source: signature of what it is made from (empty: of the files of the same unit in the needed stages).
        size: estimated bytes that it will write.
        weight: its share of the progress bar (e.g. scans).
    """

    id: str
    work: Any = None
    source: str = ""
    size: int = 0
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class UnitInputs:
    """The products of the needed stages, as seen by one unit.

    Attributes:
        threads: that the unit may use (several where fewer units than ``--jobs`` are under way).
        product: the folder of the stage's own product, where ``Stage.begin`` has left what all units read.
    """

    unit: str
    folders: Mapping[str, Path]
    threads: int = 1
    product: Path = Path()

    def shard(self, stage: str, kind: str) -> ShardReader:
        """The parallel shard of this unit. Raises ``DamagedShard`` when it cannot be read."""
        from ssl3d.data.store import ShardReader

        return ShardReader(self.folders[stage] / f"{self.unit}.{kind}.h5")


class Stage(ABC):
    """A kind of work, with its parameters.

    Class attributes: ``name`` as typed; ``version``, to be raised when results change; ``needs``, names of stages;
    ``optional``, names of stages whose products it uses where they are complete (its own is stale once they come);
    ``counts``, what a unit of progress is called; ``command``, how a user runs it; ``summary``, the JSON file that
    ``finish`` writes; ``extras``, the kinds of its files whose per-point arrays methods read from ``View.extras``;
    ``lists``, the kinds whose arrays, of any length per scan, methods read from ``View.scan``;
    ``worker_bytes``, how much a worker process has to write to be worth its start; ``in_threads``, whether its work
    releases the interpreter's lock, so that threads do until then. Attributes: ``reads``, the kinds of files that it
    reads of a needed stage (default: all; decides what makes a unit stale); ``one_process``, whether its units share
    something that processes cannot (a GPU).
    """

    name: ClassVar[str]
    version: ClassVar[int]
    needs: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ()
    counts: ClassVar[str] = "unit"
    command: ClassVar[str]
    summary: ClassVar[str | None] = None
    extras: ClassVar[tuple[str, ...]] = ()
    lists: ClassVar[tuple[str, ...]] = ()
    worker_bytes: ClassVar[int] = 0
    in_threads: ClassVar[bool] = False

    def __init__(self, params: Params) -> None:
        self.params = params
        self.reads: Mapping[str, tuple[str, ...]] = {}
        self.one_process = False

    @classmethod
    def unasked(cls, dataset: PreparedDataset) -> Stage | None:
        """The stage as ``ssl3d train`` runs it where a method needs it; None: the user has to type its command."""
        return None

    @abstractmethod
    def units(self, upstream: Upstream) -> Sequence[Unit]:
        """The plan. Cheap: called each time, also when everything is cached."""

    @staticmethod
    @abstractmethod
    def run(unit: Unit, params: Any, inputs: UnitInputs, out: Path) -> Mapping[str, Any]:
        """Writes the files of ``unit`` into the empty folder ``out``; returns small facts for the journal (JSON).

        Pure, and byte for byte reproducible: no time stamps, no randomness that does not come from ``params``.
        """

    def identity(self, upstream: Upstream) -> Mapping[str, Any]:
        """What belongs into the key besides the parameters (JSON), e.g. the seed of a trained stage."""
        return {}

    def watched(self) -> Mapping[str, int | None]:
        """Paths outside the workspace whose modification time ``status`` compares."""
        return {}

    def about(self) -> Mapping[str, Any]:
        """Facts kept in the manifest (JSON); ``command``: what to type to make this very product."""
        return {}

    def begin(self, folder: Path, jobs: int, progress: Progress) -> None:  # noqa: B027  most stages need nothing
        """Called before units are run, if there are any to run: makes what all of them read, such as a trained network.

        It keeps what it makes below ``folder``, the product's, under names without ``.tmp`` and ``.h5``; killed at any
        instant, the next call has to go on. ``jobs``: threads in all.
        """

    def finish(self, product: Product) -> None:  # noqa: B027  most stages have nothing to add
        """Called when all units are done, before the product counts as complete (e.g. to write a summary)."""

    def finished(self, product: Product) -> bool:
        """Whether what ``finish`` left is still there and right; if not, it is called again."""
        return self.summary is None or read_json(product.folder / self.summary) is not None


class TrainedStage(Stage):
    """A stage that trains a model in ``begin``: keyed also by the seed of its training and, through ``needs``, by the
    split.

    Attribute ``seed``, to be set before ``identity`` is asked.
    """

    seed: int

    def identity(self, upstream: Upstream) -> Mapping[str, Any]:
        return {"seed": self.seed}

    @abstractmethod
    def begin(self, folder: Path, jobs: int, progress: Progress) -> None: ...


def stage_key(
    name: str, version: int, params: Mapping[str, Any], identity: Mapping[str, Any], needs: Mapping[str, str]
) -> str:
    """The cache key. ``needs``: stage -> key of the product that is needed."""
    return digest_value([name, version, dict(params), dict(identity), dict(needs)])[:KEY_LENGTH]
