"""What is counted scan after scan: classes of points, and where instances are predicted, their overlaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.errors import DataError
from ssl3d.pipeline.dataset import ScanRef, TruthSource
from ssl3d.pipeline.evaluation.confusion import Confusion
from ssl3d.pipeline.evaluation.instance_ap import InstanceAP

if TYPE_CHECKING:
    from ssl3d.models.prediction import Instances


@dataclass
class Counts:
    """The counts of some scans.

    Attributes:
        confusion: of all points; without any where only instances are scored.
        instance_classes: ids of the classes whose instances are scored.
        instances: of the scans with true instances; None: none were predicted, or no scan has true ones.
        without: scans whose predicted instances cannot be scored, for want of true ones.
    """

    confusion: Confusion
    instance_classes: tuple[int, ...]
    instances: InstanceAP | None = None
    without: int = 0

    @classmethod
    def of(cls, num_classes: int, instance_classes: Sequence[int]) -> Counts:
        return cls(Confusion(num_classes), tuple(instance_classes))

    def add(self, scan: ScanRef, label: npt.NDArray[np.uint8], instances: Instances | None, truth: TruthSource) -> None:
        """Counts one scan: (n,) uint8 classes, and instances whose ``point`` are its rows.

        Raises:
            DataError: the scan has another number of labels.
        """
        target = truth.label(scan.index)
        if len(target) != len(label):
            raise DataError(
                f"the scan has {len(label)} points and {len(target)} labels",
                where={"scan": scan.scan_id},
                hint="prepare the dataset again",
            )
        self.confusion.add(label, target)
        if instances is None:
            return
        if not truth.has_instance(scan.index):
            self.without += 1
            return
        self.collected().add(instances, target, truth.instance(scan.index))

    def collected(self) -> InstanceAP:
        """``instances``, begun when there are none yet."""
        if self.instances is None:
            self.instances = InstanceAP(self.instance_classes)
        return self.instances

    def merge(self, other: Counts) -> Counts:
        """Adds the counts of ``other`` to these and returns these."""
        self.confusion.merge(other.confusion)
        self.without += other.without
        if other.instances is not None:
            self.collected().merge(other.instances)
        return self

    def to_json(self) -> dict[str, Any]:
        plain = self.confusion.to_json()
        found = {} if self.instances is None else {"instances": self.instances.to_json()}
        return {**plain, **found, **({"without": self.without} if self.without else {})}

    @classmethod
    def from_json(cls, value: dict[str, Any], instance_classes: Sequence[int]) -> Counts:
        """The inverse of ``to_json``. Raises ``ValueError``, ``KeyError`` or ``TypeError`` for anything else."""
        found = InstanceAP.from_json(value["instances"]) if "instances" in value else None
        if found is not None and found.classes != tuple(instance_classes):
            raise ValueError("instances of other classes")
        return cls(Confusion.from_json(value), tuple(instance_classes), found, int(value.get("without", 0)))


__all__ = ["Counts"]
