"""Parameters of ``boundary``: those of its product here, those of its network beside the network."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ssl3d.models.config import Params

if TYPE_CHECKING:
    from pydantic import BaseModel

    from ssl3d.data.spec import DatasetSpec
    from ssl3d.pipeline.training.config import RunConfig
    from ssl3d.pipeline.training.keys import KeyTable

BACKBONE = "spunet16"
EPOCHS = 100
LEAST_STEPS, MOST_STEPS = 1_000, 40_000
"""What 100 epochs (WS3D's specification) become for a handful of scans, and for the many that a split of points has."""
_USUAL = ("optimizer.lr=0.001", "optimizer.weight_decay=0", "schedule.name=cosine")
"""Adam and a cosine."""


class BoundaryParams(Params):
    """What becomes of the probabilities of the network. Others need no new training."""

    threshold: float = Field(0.5, gt=0, lt=1, description="a point is a boundary point above this probability")
    min_points: int = Field(1, ge=1, description="so many boundary points make a region one of a pair (WS3D: 1)")
    rule: Literal["region", "interface"] = Field(
        "region", description="which of its boundary points count for a pair: all, or those near the other region"
    )
    interface_radius: float = Field(
        0.5, gt=0, description="meters; how near that is for rule=interface; indoors 0.06, as regions are adjacent"
    )


@dataclass(frozen=True)
class Choice:
    """The parameters of a product and of the network that it comes from.

    Attributes:
        steps: None when nobody has said how many: ``network`` has some number then.
        settings: as given after ``--set``.
        command: what to type to say the same again.
    """

    params: BoundaryParams
    network: RunConfig
    steps: int | None
    settings: tuple[str, ...]
    command: str

    def again(self, spec: DatasetSpec, steps: int) -> Choice:
        """The same with so many steps."""
        network = self.network
        return choose(spec, self.settings, backbone=network.backbone, steps=steps, seed=network.seed)

    def describe(self) -> list[tuple[str, Any, str, str]]:
        """Every settable key with its value, what it expects and what it means."""
        from ssl3d.pipeline.training.keys import expected

        values = self.network.model_dump()
        values |= {"backbone": values["backbone_params"], "boundary": values["method_params"]}
        values["boundary"] |= self.params.model_dump()
        if self.steps is None:
            values["train"]["steps"] = f"{EPOCHS} epochs"
        rows = []
        for leaf in boundary_keys(self.network.backbone).leaves.values():
            value = values[leaf.section]
            for name in leaf.path:
                value = value[name]
            rows.append((leaf.key, value, expected(leaf.field), leaf.field.description or ""))
        return rows


def choose(
    spec: DatasetSpec,
    overrides: Sequence[str] = (),
    *,
    backbone: str | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> Choice:
    """Defaults, those of the dataset, then ``overrides`` (``key=value``: of ``boundary``, and any key of training).

    Raises:
        UsageError: an unknown key (names the nearest) or backbone, or a value that does not fit its key.
    """
    from ssl3d.pipeline.training.config import resolve

    name = backbone or BACKBONE
    table = boundary_keys(name)
    usual = [*_USUAL, *(["backbone.scene=outdoor"] if spec.sensor is not None else []), *spec.defaults]
    usual = [item for item in usual if item.partition("=")[0] in table.leaves]
    given = table.read([*usual, *overrides])
    own = {key: value for key, value in given.get("boundary", {}).items() if key in BoundaryParams.model_fields}
    others = [item for item in overrides if not _is_own(table, item)]
    network = resolve("boundary", backbone=name, seed=seed, steps=steps, overrides=others, defaults=usual)
    wanted = network.train.steps if "steps" in given.get("train", {}) else steps
    words = [] if backbone in (None, BACKBONE) else ["--backbone", name]
    words += ["--steps", str(steps)] if steps is not None else []
    words += ["--seed", str(seed)] if seed else []
    words += [word for item in overrides for word in ("--set", item)]
    command = shlex.join(["ssl3d", "boundary", *words])
    return Choice(BoundaryParams(**own), network, wanted, tuple(overrides), command)


def boundary_keys(backbone: str) -> KeyTable:
    """Every key after ``ssl3d boundary --set``."""
    from ssl3d.models.backbones.registry import get_backbone
    from ssl3d.models.boundary.method import NetworkParams
    from ssl3d.pipeline.training.config import ALIASES, SECTIONS
    from ssl3d.pipeline.training.keys import KeyTable

    class All(NetworkParams, BoundaryParams):
        pass

    sections: dict[str, type[BaseModel]] = {"boundary": All, **SECTIONS, "backbone": get_backbone(backbone).Params}
    return KeyTable(sections, {**ALIASES, backbone: "backbone"})


def _is_own(table: KeyTable, item: str) -> bool:
    leaf = table.find(item.partition("=")[0].strip())
    return leaf.section == "boundary" and leaf.path[0] in BoundaryParams.model_fields


def usual_steps(scans: int, batch: int) -> int:
    """100 epochs, within reason."""
    return min(max(math.ceil(EPOCHS * scans / batch), LEAST_STEPS), MOST_STEPS)
