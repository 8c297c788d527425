from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.scan import IGNORE
from ssl3d.data.store import write_shard
from ssl3d.pipeline.dataset import Places, PreparedDataset, ScanSource
from ssl3d.pipeline.stages.prepare import prepare
from ssl3d.pipeline.stages.split import SplitParams, split
from ssl3d.pipeline.workspace import DatasetHandle, Workspace


@pytest.fixture(scope="module")
def dataset(kitti_once: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    workspace = Workspace.open(tmp_path_factory.mktemp("dataset") / "ws")
    prepare(workspace, "semantickitti", kitti_once)
    split(workspace, SplitParams(ratio="30%"))
    return PreparedDataset(workspace.dataset())


def test_scans_are_listed_in_order(dataset: PreparedDataset) -> None:
    ids = [scan.scan_id for scan in dataset.scans]
    assert ids == sorted(ids) and len(ids) == 15
    assert [scan.index for scan in dataset.scans] == list(range(15))
    assert [len(dataset.subset(name)) for name in ("train", "val", "test")] == [10, 3, 2]
    assert [scan.labelled for scan in dataset.scans] == [True] * 13 + [False] * 2
    assert dataset.spec.num_classes == 19


def test_a_view_holds_points_and_no_labels(dataset: PreparedDataset, kitti_once: Path) -> None:
    source = dataset.source()
    for scan in dataset.scans:
        view = source.view(scan.index)
        raw = np.fromfile(kitti_once / "sequences" / f"{scan.scan_id.replace('/', '/velodyne/')}.bin", "<f4")
        np.testing.assert_array_equal(view.points, raw.reshape(-1, 4)[:, :3])
        np.testing.assert_array_equal(view.features["intensity"], raw.reshape(-1, 4)[:, 3:])
        np.testing.assert_array_equal(view.rows, np.stack([np.full(len(view), scan.index), np.arange(len(view))], 1))
        assert set(view.label) == {IGNORE} and view.label.dtype == np.uint8
        assert view.scan["scan_id"] == scan.scan_id and len(view) == scan.num_points
        assert view.scan["pose"].shape == (4, 4)


def test_a_view_holds_every_column(tmp_path: Path) -> None:
    arrays = {
        "offsets": np.array([0, 2, 5]),
        "points": np.arange(15, dtype=np.float32).reshape(5, 3),
        "color": np.array([[0, 51, 255]] * 5, np.uint8),
        "normal": np.full((5, 3), 0.5, np.float32),
        "ring": np.arange(5, dtype=np.uint8),
        "origin": np.array([[1e6, 2e6, 3.0]] * 2),
        "scan_id": np.array(["a/0", "a/1"]),
    }
    write_shard(tmp_path / "a.points.h5", arrays, per_scan=("origin", "scan_id"))
    places = Places(("a",), np.zeros(2, np.int32), np.arange(2, dtype=np.int32))
    view = ScanSource(str(tmp_path), places).view(1)
    assert view.features.keys() == {"color", "normal"} and view.extras.keys() == {"ring"}
    assert all(values.dtype == np.float32 for values in view.features.values())
    np.testing.assert_array_equal(view.features["color"], np.array([[0, 0.2, 1]] * 3, np.float32))
    assert view.extras["ring"].tolist() == [2, 3, 4] and view.scan["pose"] is None
    assert view.points.tolist() == arrays["points"][2:].tolist() and view.scan["origin"].tolist() == [1e6, 2e6, 3]


def test_only_labelled_scans_show_labels(dataset: PreparedDataset) -> None:
    visible, truth = dataset.visible(), dataset.truth()
    assert len(visible.labelled) == 3 and len(visible.unlabelled) == 7
    for index in range(len(visible)):
        label = visible.view(index).label
        if index in visible.labelled:
            np.testing.assert_array_equal(label, truth.label(index))
        else:
            assert set(label) == {IGNORE}
            with pytest.raises(ValueError, match="shows no labels"):
                visible.label(index)


def test_truth_knows_instances_and_what_moves(dataset: PreparedDataset, kitti_once: Path) -> None:
    words = np.fromfile(kitti_once / "sequences/08/labels/000001.label", "<u4")
    index = dataset.by_id["08/000001"].index
    np.testing.assert_array_equal(dataset.truth().instance(index), words >> 16)
    np.testing.assert_array_equal(dataset.truth().moving(index), (words & 0xFFFF) == 252)
    with pytest.raises(DataError, match="no labels"):
        dataset.truth().label(dataset.by_id["11/000000"].index)


def test_sources_are_small_when_pickled_and_work_afterwards(dataset: PreparedDataset) -> None:
    for source in (dataset.source(), dataset.visible()):
        before = source.view(0)
        data = pickle.dumps(source)
        assert len(data) < 4000
        np.testing.assert_array_equal(pickle.loads(data).view(0).points, before.points)
    truth = pickle.loads(pickle.dumps(dataset.truth()))
    np.testing.assert_array_equal(truth.label(3), dataset.truth().label(3))


TRAINING = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
from ssl3d.data.store import write_shard
from ssl3d.pipeline.dataset import Places, PreparedDataset, ScanSource
from ssl3d.pipeline.workspace import Workspace
source = PreparedDataset(Workspace.open(sys.argv[1]).dataset()).visible()
for index in range(len(source)):
    source.view(index)
assert "torch" not in sys.modules and "numba" not in sys.modules
print("\\n".join(name for name in opened if sys.argv[1] in name))
"""


def test_training_never_opens_the_full_labels(dataset: PreparedDataset) -> None:
    root = str(dataset.handle.workspace.root)
    done = subprocess.run([sys.executable, "-c", TRAINING, root], capture_output=True, text=True, check=True)
    kinds = {Path(name).name.split(".", 1)[-1] for name in done.stdout.splitlines()}
    assert {"points.h5", "visible.h5"} <= kinds <= {"points.h5", "visible.h5", "json", "jsonl"}


def test_an_unfinished_prepare_is_refused(dataset: PreparedDataset, tmp_path: Path) -> None:
    handle = DatasetHandle(Workspace.open(tmp_path / "ws").ensure(), "kitti")
    with pytest.raises(UsageError, match="nothing is done"):
        PreparedDataset(handle)
    copy = shutil.copytree(dataset.handle.workspace.root, tmp_path / "copy")
    journal = next(copy.rglob("prepare/*/journal.jsonl"))
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:1]))
    with pytest.raises(UsageError, match="1 of 4 units"):
        PreparedDataset(Workspace.open(copy).dataset())
