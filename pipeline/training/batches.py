"""From scans to the inputs of one step. Runs in loader workers; a pure function of (run seed, step).

A step consists of *items*, each with the same number of scans and random numbers of its own: so a batch that several
processes share is the batch that one process would make.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import gcd
from typing import Any

import torch
from torch import Tensor

from ssl3d.data.augment import Augmentation, drop_to
from ssl3d.data.errors import Ssl3dError
from ssl3d.data.loader import step_items, step_rng
from ssl3d.data.scan import View
from ssl3d.models.backbones.base import Inputs, InputSpec, NoElementsError
from ssl3d.models.config import Params
from ssl3d.models.elements import ElementMap
from ssl3d.models.methods.base import Method
from ssl3d.pipeline.training.extras import ViewSource

LABELLED, UNLABELLED, MAKING = 0, 1, 2
"""Random streams of a run: the order of labelled scans, of unlabelled scans, and all that happens to a batch."""

MIN_ELEMENTS = 2
"""Batch norm cannot train on a single voxel, pixel or point."""


@dataclass(frozen=True)
class Stream:
    """What a batch draws from: ``indices`` in the dataset with their ``scan_ids``, ``batch`` of them a step."""

    source: ViewSource
    indices: Sequence[int]
    scan_ids: Sequence[str]
    batch: int


@dataclass(slots=True)
class StepBatch:
    """The inputs of one step.

    Attributes:
        groups: what ``Method.step`` gets; None when a group is too small to train on (``why`` names it).
        scans: ids of the scans that were drawn, labelled ones first.
    """

    step: int
    groups: dict[str, Inputs] | None
    scans: list[str]
    why: str = ""

    def to(self, device: torch.device) -> dict[str, Inputs]:
        return {name: inputs.to(device, non_blocking=True) for name, inputs in (self.groups or {}).items()}

    def pin_memory(self) -> StepBatch:
        """In page-locked memory, from which copies to a GPU do not stop the host (called by torch's DataLoader)."""
        groups = self.groups and {name: inputs.map(Tensor.pin_memory) for name, inputs in self.groups.items()}
        return replace(self, groups=groups)


def batch_items(method: type[Method], params: Params, labelled: int, unlabelled: int | None) -> int:
    """Items of a batch of so many scans: each has as many of both, and as many together as the method wants."""
    most, mixed = (gcd(labelled, unlabelled), unlabelled) if unlabelled else (labelled, labelled)
    fewest = method.item_scans(params, unlabelled is not None)
    return next((n for n in range(most, 1, -1) if most % n == 0 and mixed // n >= fewest), 1)


@dataclass(frozen=True)
class BatchMaker:
    """Makes the batch of a step, or the share of one of several processes. Picklable: it is sent to loader workers."""

    method: type[Method]
    params: Params
    input_spec: InputSpec
    augmentation: Augmentation
    labelled: Stream
    unlabelled: Stream | None
    seed: int
    max_points: int | None = None
    process: int = 0
    processes: int = 1
    phase_ends: Sequence[int] = ()

    def __call__(self, step: int) -> StepBatch:
        """Raises ``Ssl3dError`` naming the scan that cannot be read, or all scans when they cannot be combined."""
        groups: dict[str, list[View]] = {}
        scans: list[str] = []
        try:
            share = self.items // self.processes
            for item in range(self.process * share, (self.process + 1) * share):
                for name, views in self._item(step, item, scans).items():
                    groups.setdefault(name, []).extend(views)
            if not groups:
                return StepBatch(step, None, scans, "no scan of a group has a point")
            return self._prepared(step, groups, scans)
        except Ssl3dError:
            raise
        except Exception as error:
            what = f"the scans of a batch cannot be prepared: {type(error).__name__}: {error}"
            raise Ssl3dError(what, where={"step": step, "scans": ", ".join(scans)}) from error

    @property
    def items(self) -> int:
        """Items of a step."""
        unlabelled = self.unlabelled.batch if self.unlabelled else None
        return batch_items(self.method, self.params, self.labelled.batch, unlabelled)

    def _item(self, step: int, item: int, scans: list[str]) -> dict[str, list[View]]:
        """The groups of views of one item; none when its labelled or its unlabelled scans have no point."""
        rng = step_rng(self.seed, step, MAKING, item)
        drawn: list[list[View]] = []
        for number, stream in ((LABELLED, self.labelled), (UNLABELLED, self.unlabelled)):
            if stream is None:
                drawn.append([])
                continue
            batch = step_items(self.seed, step, number, len(stream.indices), stream.batch)
            share = stream.batch // self.items
            positions = batch[item * share : (item + 1) * share]
            scans += [stream.scan_ids[position] for position in positions]
            views = [self._read(stream, position, step) for position in positions]
            # A scan without points can be in no group; it is left out before a method pairs views with each other.
            full = [view for view in views if len(view)]
            drawn.append([drop_to(view, self.max_points, rng) if self.max_points else view for view in full])
        if not drawn[0] or (self.unlabelled and not drawn[1]):
            return {}
        phase = bisect_right(self.phase_ends, step)
        return self.method.views(self.params, drawn[0], drawn[1], self.augmentation, rng, phase)

    def _read(self, stream: Stream, item: int, step: int) -> View:
        try:
            return self.input_spec.derive(stream.source.view(stream.indices[item]))
        except Ssl3dError as error:
            error.where.setdefault("scan", stream.scan_ids[item])
            raise
        except Exception as error:
            what = f"a scan cannot be read: {type(error).__name__}: {error}"
            raise Ssl3dError(what, where={"scan": stream.scan_ids[item], "step": step}) from error

    def _prepared(self, step: int, groups: dict[str, list[View]], scans: list[str]) -> StepBatch:
        prepared: dict[str, Inputs] = {}
        for name, views in groups.items():
            if not sum(map(len, views)):
                return StepBatch(step, None, scans, f"the group '{name}' has no point")
            try:
                prepared[name] = self.input_spec.prepare(views)
            except NoElementsError:
                return StepBatch(step, None, scans, f"no point of the group '{name}' is within the range")
            if prepared[name].elements.num_elements < MIN_ELEMENTS:
                return StepBatch(step, None, scans, f"the group '{name}' has a single element")
        return StepBatch(step, prepared, scans)


def plain(inputs: Inputs) -> dict[str, Any]:
    """The tensors of ``inputs`` in a plain dictionary on the CPU: ``torch.load(weights_only=True)`` opens that."""
    out: dict[str, Any] = {}
    for item in fields(inputs):
        value = getattr(inputs, item.name)
        if isinstance(value, Tensor):
            out[item.name] = value.detach().cpu()
        elif isinstance(value, ElementMap):
            out["point_to_element"] = value.point_to_element.cpu()
            out["num_elements"] = value.num_elements
        elif isinstance(value, dict):
            out[item.name] = {k: v.detach().cpu() for k, v in value.items() if isinstance(v, Tensor)}
    return out


__all__ = ["BatchMaker", "StepBatch", "Stream", "batch_items", "plain"]
