"""Training never sees a hidden label: which files it opens, and what happens when every hidden label is another."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl3d.data.errors import DataError
from ssl3d.data.scan import IGNORE
from ssl3d.data.store import ShardReader, write_shard
from ssl3d.models.methods.registry import get_method, list_methods
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.product import Product, remember, stamp_file
from ssl3d.pipeline.splits import find_split
from ssl3d.pipeline.stage_run import StageRun
from ssl3d.pipeline.stages.boundary import BoundaryStage
from ssl3d.pipeline.stages.per_scan import run_on
from ssl3d.pipeline.stages.split import SplitParams, split
from ssl3d.pipeline.training import checkpoint
from ssl3d.pipeline.training.config import resolve
from ssl3d.pipeline.training.trainer import train
from ssl3d.pipeline.workspace import Workspace

REGIMES = {
    "scans": SplitParams(ratio="30%"),
    "points": SplitParams(regime="points", ratio="2%"),
    "limited": SplitParams(ratio="35%", protocol="limited"),  # half of a scan
}

# ---------------------------------------------------------------- which files are opened

IN_OPEN, IN_NONBLOCK = 0x20, 0o4000
EVENT = struct.Struct("iIII")


class OpenedFiles:
    """Names of the files below some folders that any process has opened, by Python, C or HDF5 (Linux: inotify)."""

    def __init__(self, folders: Sequence[Path]) -> None:
        if not sys.platform.startswith("linux"):
            pytest.skip("inotify is Linux only: opened files cannot be watched here")
        self._c = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
        self._handle = self._c.inotify_init1(IN_NONBLOCK)
        if self._handle < 0:
            pytest.skip(f"inotify is not available: {os.strerror(ctypes.get_errno())}")
        for folder in folders:
            if self._c.inotify_add_watch(self._handle, os.fsencode(folder.resolve()), IN_OPEN) < 0:
                pytest.skip(f"{folder} cannot be watched: {os.strerror(ctypes.get_errno())}")

    def read(self) -> set[str]:
        """Since the last call."""
        names: set[str] = set()
        while True:
            try:
                data = os.read(self._handle, 1 << 16)
            except BlockingIOError:
                return names
            while data:
                watch, _, _, length = EVENT.unpack_from(data)
                assert watch >= 0, "more events than the queue holds"
                if name := data[EVENT.size : EVENT.size + length].rstrip(b"\0").decode():
                    names.add(name)
                data = data[EVENT.size + length :]

    def close(self) -> None:
        os.close(self._handle)


@contextmanager
def watching(space: Workspace) -> Iterator[OpenedFiles]:
    """Watches what was prepared, every split, and the labels of the dataset itself."""
    handle = space.dataset()
    product = PreparedDataset(handle).product
    root = Path(product.manifest.identity["root"])
    folders = [product.folder, *(item.folder for item in handle.products("split")), *root.glob("sequences/*/labels")]
    assert len(folders) >= 5
    files = OpenedFiles(folders)
    try:
        yield files
    finally:
        files.close()


def kinds(names: set[str]) -> set[str]:
    """``points`` for ``00.points.h5``; the suffix of other files."""
    return {name.split(".")[-2] if name.endswith(".h5") else Path(name).suffix for name in names}


@pytest.mark.parametrize(("regime", "workers"), [("scans", 2), ("points", 0), ("limited", 0)])
def test_the_command_opens_no_hidden_label(own: Workspace, tmp_path: Path, regime: str, workers: int) -> None:
    split(own, REGIMES[regime])
    command = [
        sys.executable,
        "-m",
        "ssl3d.cli.app",
        "train",
        "mean_teacher",
        "--backbone",
        "pointwise",
        "--steps",
        "6",
    ]
    command += ["--set", f"train.workers={workers}", "--workspace", str(own.root), "--device", "cpu", "--jobs", "1"]
    with watching(own) as files:
        done = subprocess.run(command, capture_output=True, text=True, timeout=1200, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        opened = files.read()
        assert {"points", "visible"} <= kinds(opened)  # also of the loader processes: nobody else reads points
        assert not kinds(opened) & {"labels", "scribbles", ".label"}
        PreparedDataset(own.dataset()).truth().label(0)
        assert "labels" in kinds(files.read())  # the watch would have seen it


def test_the_labelled_part_of_a_cut_scan_is_all_that_it_shows(own: Workspace) -> None:
    cut = split(own, REGIMES["limited"]).cut
    data = PreparedDataset(own.dataset())
    assert cut is not None and 0 < cut.points < cut.of
    source = data.visible()
    shown = [source.view(index) for index in source.labelled.tolist()]
    hidden = [source.view(index) for index in source.unlabelled.tolist()]
    assert [view.scan["scan_id"] for view in shown].count(cut.parts[0]) == 1
    assert [view.scan["scan_id"] for view in hidden].count(cut.parts[1]) == 1
    assert all((view.label == IGNORE).all() for view in hidden)
    pairs = [{(scan, row) for view in views for scan, row in view.rows.tolist()} for views in (shown, hidden)]
    assert not pairs[0] & pairs[1] and len(pairs[0] | pairs[1]) == sum(s.num_points for s in data.subset("train"))


@pytest.mark.parametrize("regime", list(REGIMES))
def test_predicting_the_training_set_opens_no_hidden_label(own: Workspace, regime: str) -> None:
    split(own, REGIMES[regime])
    config = resolve("rounds", backbone="pointwise", steps=6, overrides=["train.workers=0", "rounds.rounds=1"])
    with watching(own) as files:
        run = train(own, config, device="cpu", jobs=1)
        opened = files.read()
    assert (run.path / "predictions" / "phase1-0").is_dir()
    assert {"points", "visible"} <= kinds(opened)
    assert not kinds(opened) & {"labels", "scribbles", ".label"}


def learn_boundaries(space: Workspace) -> Product:
    """The product of ``boundary``."""
    words: dict[str, Any] = {"backbone": "spunet-micro", "steps": 3, "device": "cpu"}
    settings = ["backbone.m=4", "backbone.voxel_size=1.0", "boundary.radius=4", "train.workers=0"]
    return run_on(space, lambda data: BoundaryStage.of(data, settings, **words)).product


@pytest.mark.parametrize("regime", list(REGIMES))
def test_learning_and_predicting_boundaries_opens_no_hidden_label(
    own: Workspace, cubes: Callable[[Workspace], StageRun], regime: str
) -> None:
    split(own, REGIMES[regime])
    cubes(own)
    with watching(own) as files:
        assert learn_boundaries(own).complete
        opened = files.read()
    assert {"points", "visible"} <= kinds(opened)
    assert not kinds(opened) & {"labels", "scribbles", ".label"}


# ---------------------------------------------------------------- what hidden labels are


def scramble(space: Workspace, hidden: bool, remembered: bool) -> int:
    """Replaces every prepared label that the split hides (or shows) by a random class. Returns how many are others now.

    The shards are written anew, and remembered as the product of ``prepare`` if asked to.
    """
    rng = np.random.default_rng(7)
    data = PreparedDataset(space.dataset())
    visible = data.visible()
    changed = 0
    for unit, entry in data.product.done.items():
        path = data.product.folder / f"{unit}.labels.h5"
        reader = ShardReader(path)
        names = [name for name in reader.names if name != "label"]
        label = reader.array("label")
        for scan in (item for item in data.scans if item.unit == unit):
            begin, end = reader.offsets[scan.position : scan.position + 2]
            shown = visible.view(scan.index).label != IGNORE
            chosen = np.flatnonzero(~shown if hidden else shown) + begin
            assert end - begin == len(shown)
            drawn = rng.integers(0, 19, len(chosen))
            changed += int((label[chosen] != drawn).sum())
            label[chosen] = drawn
        arrays = {"offsets": reader.array("offsets"), **{name: reader.array(name) for name in names}, "label": label}
        per_scan = [name for name in names if reader.is_per_scan(name)]
        attrs = reader.attrs
        write_shard(path, arrays, {k: v for k, v in attrs.items() if not k.startswith("ssl3d")}, per_scan=per_scan)
        if remembered:
            remember(data.product.folder, [replace(entry, files={**entry.files, path.name: stamp_file(path)})])
    return changed


def weights(space: Workspace, method: str) -> dict[str, Tensor]:
    config = resolve(method, backbone="pointwise", steps=9, overrides=["train.workers=0", "train.lr=0.05"])
    run = train(space, config, device="cpu", jobs=1)
    model: dict[str, Tensor] = checkpoint.load(run.checkpoint_path())["model"]
    return model


@pytest.mark.parametrize("regime", list(REGIMES))
def test_scrambled_hidden_labels_change_no_bit_of_the_weights(own: Workspace, tmp_path: Path, regime: str) -> None:
    methods = [name for name in list_methods() if get_method(name).__module__.startswith("ssl3d.")] + ["rounds"]
    split(own, REGIMES[regime])
    before = {method: weights(own, method) for method in methods}
    shutil.copytree(own.root, tmp_path / "told", ignore=shutil.ignore_patterns("runs"))
    told = Workspace.open(tmp_path / "told")
    assert scramble(told, hidden=True, remembered=False) > 2500
    with pytest.raises(DataError, match="damaged or missing"):  # who reads labels finds out
        PreparedDataset(told.dataset()).truth()
    for method in methods:
        after = weights(told, method)
        assert all(torch.equal(value, after[name]) for name, value in before[method].items()), method


@pytest.mark.parametrize("regime", list(REGIMES))
def test_scrambled_hidden_labels_change_no_boundary(
    own: Workspace, tmp_path: Path, cubes: Callable[[Workspace], StageRun], regime: str
) -> None:
    split(own, REGIMES[regime])
    cubes(own)
    shutil.copytree(own.root, tmp_path / "told", ignore=shutil.ignore_patterns("runs"))
    told = Workspace.open(tmp_path / "told")
    assert scramble(told, hidden=True, remembered=False) > 2500
    one, other = learn_boundaries(own), learn_boundaries(told)
    assert one.key == other.key and one.done.keys() == other.done.keys()
    for unit, entry in one.done.items():
        stamps = {name: stamp.digest for name, stamp in entry.files.items()}
        assert stamps == {name: stamp.digest for name, stamp in other.done[unit].files.items()} and stamps


def test_labels_that_were_prepared_otherwise_after_the_split_are_refused(own: Workspace) -> None:
    scramble(own, hidden=True, remembered=True)
    with pytest.raises(DataError, match=r"prepared anew after this split.*ssl3d split"):
        weights(own, "supervised")


def test_scrambled_visible_labels_change_the_weights(own: Workspace) -> None:
    before, digest = weights(own, "supervised"), find_split(own.dataset()).hash
    assert scramble(own, hidden=False, remembered=True) > 1000
    split(own, REGIMES["scans"])
    assert find_split(own.dataset()).hash != digest
    after = weights(own, "supervised")
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
