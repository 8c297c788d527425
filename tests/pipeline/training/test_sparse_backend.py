"""``--sparse-backend`` of training: recorded, not part of what a run is, and refused before anything is made."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec

import pytest

from ssl3d.data.errors import UsageError
from ssl3d.models.sparse.backends import chosen_backend, minkowski
from ssl3d.pipeline.training.config import resolve
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.trainer import train
from ssl3d.pipeline.workspace import Workspace

TINY = ("train.steps=3", "train.batch=1", "train.log_every=1", "backbone.voxel_size=2")


def test_it_is_not_part_of_what_a_run_is() -> None:
    native = resolve("supervised", backbone="minkunet-micro")
    other = resolve("supervised", backbone="minkunet-micro", overrides=["sparse_backend=minkowski"])
    assert other.train.sparse_backend == "minkowski"
    assert other.hash == native.hash and other.run_name == native.run_name


def test_a_missing_library_leaves_no_run(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "MinkowskiEngine", None)
    for function in (minkowski.library, minkowski.load):
        function.cache_clear()
    with pytest.raises(UsageError, match="MinkowskiEngine is not installed"):
        train(space, resolve("supervised", backbone="pointwise", overrides=["train.sparse_backend=minkowski"]))
    for function in (minkowski.library, minkowski.load):
        function.cache_clear()
    assert RunDirectory.list(space) == []


@pytest.mark.skipif(find_spec("MinkowskiEngine") is None, reason="MinkowskiEngine is not installed (make minkowski)")
def test_the_same_run_with_either_backend(space: Workspace) -> None:
    found = {}
    for name in ("minkowski", "native"):
        config = resolve("supervised", backbone="minkunet-micro", overrides=[*TINY, f"train.sparse_backend={name}"])
        run = train(space, config, overwrite=True, device="cpu", jobs=1)
        assert run.finished and chosen_backend().name == "native"
        (session,) = json.loads((run.path / "environment.json").read_text())["sessions"]
        found[session["sparse_backend"]] = run.path, [line["losses"]["ce"] for line in run.metrics()]
    assert found.keys() == {"MinkowskiEngine 0.5.4", "ssl3d"}
    (one, theirs), (other, ours) = found.values()
    assert one == other and len(ours) == 3
    assert theirs == pytest.approx(ours, rel=1e-3)


@pytest.mark.skipif(find_spec("spconv") is None, reason="spconv is not installed (make minkowski)")
def test_spconv_is_refused_on_the_cpu(space: Workspace) -> None:
    config = resolve("supervised", backbone="minkunet-micro", overrides=["train.sparse_backend=spconv"])
    with pytest.raises(UsageError, match="no gradients on the CPU"):
        train(space, config, device="cpu")
    assert RunDirectory.list(space) == []
