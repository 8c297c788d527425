from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl3d.data.datasets.registry import get_reader
from ssl3d.data.errors import DataError, Ssl3dError, UsageError
from ssl3d.data.store import ShardReader
from ssl3d.pipeline import stage_run as stage_module
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.stages.prepare import PrepareParams, PrepareResult, PrepareStage, prepare
from ssl3d.pipeline.workspace import Workspace

Digests = Callable[[Path], dict[str, str]]


def run(workspace: Workspace, root: Path, **kwargs: Any) -> PrepareResult:
    return prepare(workspace, "semantickitti", root, PrepareParams(**kwargs.pop("params", {})), **kwargs)


@pytest.fixture
def eager_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are started however little there is to do."""
    monkeypatch.setattr(PrepareStage, "worker_bytes", 0)


def test_counts_and_files(workspace: Workspace, kitti_once: Path, heard: Any) -> None:
    result = run(workspace, kitti_once, progress=heard)
    assert {name: (item.scans, item.labelled) for name, item in result.subsets().items()} == {
        "train": (10, 10),
        "val": (3, 3),
        "test": (2, 0),
    }
    points = sum(path.stat().st_size // 16 for path in kitti_once.rglob("*.bin"))
    assert (result.scans, result.points, result.fresh, result.cached) == (15, points, 4, 0)
    names = {path.name for path in result.folder.glob("*.h5")}
    assert {"00-000000.points.h5", "00-000000.labels.h5", "11-000000.points.h5"} <= names
    assert "11-000000.labels.h5" not in names
    assert result.bytes == sum((result.folder / name).stat().st_size for name in names)
    assert ("prepare", 15.0, 15.0) in heard.tasks
    assert workspace.current == "semantickitti" == workspace.dataset().name


def test_labels_never_lie_in_the_file_of_points(workspace: Workspace, kitti_once: Path) -> None:
    folder = run(workspace, kitti_once).folder
    for path in folder.glob("*.points.h5"):
        assert not {"label", "instance", "moving"} & set(ShardReader(path).names)


def test_shards_hold_what_the_files_hold(workspace: Workspace, kitti_once: Path) -> None:
    folder = run(workspace, kitti_once).folder
    raw = np.fromfile(kitti_once / "sequences/01/velodyne/000002.bin", "<f4").reshape(-1, 4)
    words = np.fromfile(kitti_once / "sequences/01/labels/000002.label", "<u4")
    points, labels = ShardReader(folder / "01-000000.points.h5"), ShardReader(folder / "01-000000.labels.h5")
    np.testing.assert_array_equal(points.read("points", 2), raw[:, :3])
    np.testing.assert_array_equal(points.read("intensity", 2), raw[:, 3])
    table, _ = get_reader("semantickitti").spec().lut()
    np.testing.assert_array_equal(labels.read("label", 2), table[words & 0xFFFF])
    np.testing.assert_array_equal(labels.read("instance", 2), words >> 16)


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.usefixtures("eager_workers")
def test_products_are_the_same_bytes_every_time(tmp_path: Path, kitti_once: Path, digests: Digests, jobs: int) -> None:
    first = run(Workspace.open(tmp_path / "a"), kitti_once)
    second = run(Workspace.open(tmp_path / "b"), kitti_once, jobs=jobs)
    assert digests(first.folder) == digests(second.folder) != {}


def test_the_dataset_folder_is_untouched(
    workspace: Workspace, kitti: Path, snapshot: Callable[[Path], dict[str, tuple[int, int]]]
) -> None:
    before = snapshot(kitti)
    run(workspace, kitti)
    assert snapshot(kitti) == before


@pytest.mark.parametrize("below", ["", "ws", "sequences/ws"])
def test_a_workspace_inside_the_dataset_is_refused_and_not_created(
    kitti: Path, snapshot: Callable[[Path], dict[str, tuple[int, int]]], tmp_path: Path, below: str
) -> None:
    before = snapshot(kitti)
    link = tmp_path / "link"
    link.symlink_to(kitti)
    for root, place in ((kitti, kitti), (link, kitti), (kitti, link)):
        if below:
            with pytest.raises(UsageError, match="inside the dataset folder"):
                run(Workspace.open(place / below), root)
    assert snapshot(kitti) == before


def test_only_what_changed_is_made_again(workspace: Workspace, kitti: Path) -> None:
    run(workspace, kitti)
    assert (run(workspace, kitti).fresh, run(workspace, kitti).cached) == (0, 4)
    label = kitti / "sequences/00/labels/000003.label"
    words = np.fromfile(label, "<u4")
    words[:] = 40
    words.tofile(label)
    os.utime(label, ns=(1, 1))
    again = run(workspace, kitti)
    assert (again.fresh, again.cached) == (1, 3)
    assert set(ShardReader(again.folder / "00-000000.labels.h5").read("label", 3)) == {8}


def test_allow_partial_is_not_in_the_key(workspace: Workspace, kitti_once: Path) -> None:
    run(workspace, kitti_once, params={"allow_partial": True})
    assert run(workspace, kitti_once).cached == 4


def test_another_root_under_the_same_name_is_told(
    workspace: Workspace, kitti: Path, kitti_once: Path, heard: Any
) -> None:
    first = run(workspace, kitti)
    second = run(workspace, kitti_once, progress=heard)
    assert f"was prepared from {kitti} before" in heard.text
    assert second.key != first.key and first.folder.exists()
    assert run(workspace, kitti_once, name="mine").dataset == workspace.current == "mine"


def test_scans_of_another_version_are_named_and_made_anew(
    workspace: Workspace, kitti_once: Path, heard: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(PrepareStage, "version", PrepareStage.version - 1)
        first = run(workspace, kitti_once)
    with pytest.raises(UsageError, match="another version of ssl3d") as caught:
        PreparedDataset(workspace.dataset())
    assert f"ssl3d prepare semantickitti --root {kitti_once}" in str(caught.value.hint)
    second = run(workspace, kitti_once, progress=heard)
    assert second.key != first.key and second.fresh == 4
    assert "prepared by another version of ssl3d" in heard.text
    assert len(PreparedDataset(workspace.dataset()).scans) == 15


def test_a_version_that_the_dataset_does_not_have(workspace: Workspace, kitti_once: Path) -> None:
    with pytest.raises(UsageError, match="no versions to choose from"):
        run(workspace, kitti_once, params={"version": "v1.0-mini"})


def test_everything_that_decides_what_is_there_is_watched(workspace: Workspace, kitti: Path) -> None:
    run(workspace, kitti)
    product = workspace.dataset().product("prepare")
    assert product is not None
    folder = kitti / "sequences/00"
    expected = {kitti, kitti / "sequences", folder, folder / "velodyne", folder / "labels", folder / "poses.txt"}
    assert {str(path) for path in expected} <= set(product.manifest.watched)


def test_scribbles_lie_beside_the_labels(workspace: Workspace, kitti: Path) -> None:
    for file in sorted(kitti.glob("sequences/0[01]/labels/*.label")):
        scribble = file.parents[1] / "scribbles" / file.name
        scribble.parent.mkdir(exist_ok=True)
        words = np.fromfile(file, "<u4")
        words[::2] = 0
        words.tofile(scribble)
    folder = run(workspace, kitti, params={"label_set": "scribbles"}).folder
    scribbles, labels = (ShardReader(folder / f"00-000000.{kind}.h5") for kind in ("scribbles", "labels"))
    assert set(scribbles.read("label", 1)[::2]) == {255}
    np.testing.assert_array_equal(scribbles.read("label", 1)[1::2], labels.read("label", 1)[1::2])


def test_a_bad_scan_is_named_and_the_rest_is_kept(workspace: Workspace, kitti: Path) -> None:
    bad = kitti / "sequences/01/labels/000001.label"
    good = np.fromfile(bad, "<u4")
    np.where(np.arange(len(good)) == 5, 77, good).astype("<u4").tofile(bad)
    with pytest.raises(DataError) as caught:
        run(workspace, kitti)
    assert "01/000001" in str(caught.value) and str(bad) in str(caught.value) and caught.value.exit_code == 1
    assert "same command again" in str(caught.value.hint)
    good.tofile(bad)
    again = run(workspace, kitti)
    assert (again.fresh, again.cached) == (1, 3)


def test_a_half_written_scan_is_found_before_anything_is_converted(workspace: Workspace, kitti: Path) -> None:
    scan = kitti / "sequences/00/velodyne/000002.bin"
    scan.write_bytes(scan.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"16|truncated"):
        run(workspace, kitti)
    assert not workspace.root.exists()


def test_refused_when_the_disk_is_too_small(
    workspace: Workspace, kitti_once: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_module, "free_bytes", lambda folder: 1000)
    with pytest.raises(Ssl3dError, match="not enough free disk space") as caught:
        run(workspace, kitti_once)
    assert caught.value.exit_code == 1 and not list(workspace.root.rglob("*.h5"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 160 KB, if this machine lets us make one."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=160k", "none", str(place)]
    if os.geteuid() != 0 or subprocess.run(options, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.usefixtures("eager_workers")
def test_a_disk_that_fills_up_is_said_and_the_command_goes_on_later(
    small_disk: Path, make_kitti: Any, tmp_path: Path, digests: Digests, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    root = make_kitti(tmp_path / "kitti", {"00": 70, "01": 40, "08": 30}, points=30)
    expected = digests(run(Workspace.open(tmp_path / "roomy"), root).folder)
    monkeypatch.setattr(stage_module, "free_bytes", lambda folder: 1 << 40)  # an estimate that was too low
    workspace = Workspace.open(small_disk / "ws")
    with pytest.raises(Ssl3dError, match="disk is full") as caught:
        run(workspace, root, jobs=jobs)
    assert not isinstance(caught.value, DataError) and caught.value.hint
    assert not list(workspace.root.rglob(".tmp-*"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert digests(run(workspace, root, jobs=jobs).folder) == expected


@pytest.mark.real
def test_real_frames(workspace: Workspace, real_kitti: Path) -> None:
    result = run(workspace, real_kitti / "dataset", params={"allow_partial": True})
    assert (result.scans, result.points) == (4, sum(p.stat().st_size // 16 for p in real_kitti.rglob("*.bin")))


@pytest.mark.slow
def test_generated_streets_are_read_with_no_special_case(workspace: Workspace, tmp_path: Path, heard: Any) -> None:
    from ssl3d.data.synthetic.street import generate_street, planned_scans

    generate_street(tmp_path / "street", "tiny", seed=0)
    result = run(workspace, tmp_path / "street", progress=heard)
    assert result.scans == planned_scans("tiny") and result.subsets().keys() == {"train", "val", "test"}
    assert heard.text == ""
