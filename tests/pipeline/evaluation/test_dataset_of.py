"""A run is scored on the scans that were held out when it was trained, or not at all."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ssl3d.data.errors import DataError
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.evaluation.subject import Datasets, dataset_of
from ssl3d.pipeline.training.config import DatasetRef, SplitRef


def run_on(prepared: PreparedDataset, val: tuple[str, ...] = (), **changes: Any) -> Any:
    """What ``dataset_of`` asks of a run."""
    data = {"name": prepared.name, "key": prepared.product.key, "classes": prepared.spec.classes}
    data |= {"protocol": prepared.protocol, "version": prepared.version}
    split = SplitRef(name="s", hash="h", labelled=1, unlabelled=1, val=val)
    return SimpleNamespace(name="a-run", config=SimpleNamespace(data=DatasetRef(**{**data, **changes}), split=split))


def val_groups(dataset: PreparedDataset) -> set[str]:
    return {scan.group for scan in dataset.subset("val")}


def test_its_own_fold(prepared: PreparedDataset) -> None:
    space = prepared.handle.workspace
    assert val_groups(dataset_of(space, run_on(prepared))) == {"08"}
    assert val_groups(dataset_of(space, run_on(prepared, ("00",)))) == {"00"}
    datasets = Datasets(space)
    one, same, other = (datasets.of(run_on(prepared, val)) for val in ((), (), ("00",)))
    assert one is same and one is not other


def test_scans_that_are_gone(prepared: PreparedDataset) -> None:
    """The current ones, unless they are known to be divided otherwise (Semantic3D's versions share a protocol)."""
    space = prepared.handle.workspace
    for version in ("", None):
        assert val_groups(dataset_of(space, run_on(prepared, key="0123456789ab", version=version))) == {"08"}
    for change in ({"version": "kpconv"}, {"protocol": "semanticposs-val03"}):
        with pytest.raises(DataError, match="other scans for validation") as caught:
            dataset_of(space, run_on(prepared, key="0123456789ab", **change))
        assert next(iter(change.values())) in str(caught.value.where["trained"]) and caught.value.hint
