"""The stages, in order, and what is there of each: cached, stale, missing, partial or damaged.

``graph_status`` reads a few JSON files and asks the system for sizes and times. It opens no shard and no scan, so it
sees what was added, removed, renamed or cut, and not a byte changed in place: the commands that use a file find that.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ssl3d.pipeline.product import Product
from ssl3d.pipeline.stage import Stage
from ssl3d.pipeline.stages.boundary import BoundaryStage
from ssl3d.pipeline.stages.caption import CaptionStage
from ssl3d.pipeline.stages.density import DensityStage
from ssl3d.pipeline.stages.embed import EmbedStage
from ssl3d.pipeline.stages.oversegment import OversegmentStage
from ssl3d.pipeline.stages.pair import PairStage
from ssl3d.pipeline.stages.prepare import PrepareStage
from ssl3d.pipeline.stages.split import SplitStage
from ssl3d.pipeline.stages.subsample import SubsampleStage
from ssl3d.pipeline.workspace import DatasetHandle, Workspace

State = Literal["cached", "stale", "missing", "partial", "damaged"]

STAGES: dict[str, type[Stage]] = {}


def register(stage: type[Stage]) -> None:
    """Adds a stage to the graph. What it needs has to be there already, so the order is one of work."""
    absent = [name for name in stage.needs if name not in STAGES]
    if absent or stage.name in STAGES:
        raise ValueError(f"stage '{stage.name}': " + (f"needs unknown {absent}" if absent else "is there already"))
    STAGES[stage.name] = stage


register(PrepareStage)
register(SplitStage)
register(SubsampleStage)
register(DensityStage)
register(OversegmentStage)
register(BoundaryStage)
register(CaptionStage)
register(EmbedStage)
register(PairStage)


@dataclass(frozen=True, slots=True)
class StageStatus:
    """One stage of one dataset.

    Attributes:
        why: the reason of a state other than ``cached``, and what to type.
        bytes: size of the product; ``seconds``: work that went into it.
        key: key of the current product, None when there is none.
        also: number of other products of this stage that are kept (``ssl3d clean`` lists them).
    """

    name: str
    state: State
    why: str
    units_done: int
    units_total: int
    bytes: int
    seconds: float
    dataset: str
    key: str | None = None
    also: int = 0


def graph_status(workspace: Workspace) -> list[StageStatus]:
    """Every stage of every dataset, the current dataset first."""
    current = workspace.current
    handles = sorted(workspace.datasets(), key=lambda handle: (handle.name != current, handle.name))
    return [status for handle in handles for status in dataset_status(handle)]


def dataset_status(handle: DatasetHandle) -> list[StageStatus]:
    """Every stage of one dataset, in order of work."""
    products = {name: handle.product(name) for name in STAGES}
    found: list[StageStatus] = []
    for name, stage in STAGES.items():
        product = products[name]
        if product is None:
            found.append(StageStatus(name, "missing", f"type: {stage.command}", 0, 0, 0, 0.0, handle.name))
            continue
        before = (*stage.needs, *(name for name in stage.optional if name in product.manifest.needs))
        outdated = [item.name for item in found if item.name in before and item.state != "cached"]
        state, why = _judge(stage, product, products, outdated)
        others = sum(1 for path in handle.folder.glob(f"{name}/*/stage.json") if path.parent != product.folder)
        done, total = len(product.done), len(product.manifest.plan)
        found.append(
            StageStatus(name, state, why, done, total, product.bytes, product.seconds, handle.name, product.key, others)
        )
    return found


def _judge(
    stage: type[Stage], product: Product, products: dict[str, Product | None], outdated: list[str]
) -> tuple[State, str]:
    command = product.manifest.about.get("command", stage.command)
    if why := stale_reason(stage, product, products):
        return "stale", f"{why}; type: {command}"
    if not product.complete:
        done, total = len(product.done), len(product.manifest.plan)
        return "partial", f"{done} of {total} units are done; to go on, type: {command}"
    health = {unit: product.health(entry) for unit, entry in product.done.items()}
    damaged = sorted(unit for unit, state in health.items() if state == "damaged")
    if damaged:
        names = ", ".join(damaged[:3]) + (" ..." if len(damaged) > 3 else "")
        return "damaged", f"files are missing or cut in {names}; made again by: {command}"
    if stage.summary is not None and not (product.folder / stage.summary).exists():
        return "damaged", f"{stage.summary} is missing; made again by: {command}"
    if changed := changed_paths(product):
        names = ", ".join(changed[:2]) + (f" and {len(changed) - 2} more" if len(changed) > 2 else "")
        return "stale", f"the source folder changed: {names}; what changed is made again by: {command}"
    if outdated:
        return "stale", f"what it needs is not up to date: {', '.join(outdated)}; then type: {command}"
    touched = sum(state == "touched" for state in health.values())
    return "cached", f"{touched} units have new file times and are checked at the next run" if touched else ""


def stale_reason(stage: type[Stage], product: Product, products: dict[str, Product | None]) -> str:
    """Why a product no longer fits the code or the current products that it needs; empty when it does."""
    manifest = product.manifest
    if manifest.version != stage.version:
        return f"the stage changed (version {manifest.version} -> {stage.version})"
    for name in (*stage.needs, *stage.optional):
        current, used = products.get(name), manifest.needs.get(name, {})
        if name in stage.optional and not used and (current is None or not current.complete):
            continue
        if name in stage.optional and not used:
            return f"'{name}' has been made since, and belongs to it"
        if current is None or current.key != used.get("key"):
            return f"upstream changed: '{name}' has other parameters or was removed"
        if current.complete and current.content != used.get("content"):
            return f"upstream changed: '{name}' has new or changed units"
    return ""


def changed_paths(product: Product) -> list[str]:
    """Watched folders and files with another modification time; none when all are gone (a disk that is not there)."""
    now = {name: _modified(Path(name)) for name in product.manifest.watched}
    if all(time is None for time in now.values()):
        return []
    return [name for name, then in product.manifest.watched.items() if now[name] != then]


def _modified(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
