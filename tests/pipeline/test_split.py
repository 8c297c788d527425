from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.store import ShardReader
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.splits import SPLIT_FILE, find_split
from ssl3d.pipeline.stages.prepare import PrepareParams, prepare
from ssl3d.pipeline.stages.split import SplitParams, SplitResult, show_split, split
from ssl3d.pipeline.workspace import Workspace


@pytest.fixture(scope="module")
def prepared_once(kitti_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared") / "ws"
    prepare(Workspace.open(root), "semantickitti", kitti_once)
    return root


@pytest.fixture
def prepared(prepared_once: Path, tmp_path: Path) -> Workspace:
    return Workspace.open(shutil.copytree(prepared_once, tmp_path / "ws"))


def run(workspace: Workspace, **params: Any) -> SplitResult:
    return split(workspace, SplitParams(**params))


def test_labelled_and_unlabelled_are_disjoint_and_complete(prepared: Workspace) -> None:
    result = run(prepared, ratio="30%")
    train = [scan.scan_id for scan in PreparedDataset(prepared.dataset()).subset("train")]
    assert len(result.labelled) == 3
    assert sorted([*result.labelled, *result.unlabelled]) == train
    assert result.name == "scan-30%-seed0"


def test_everything_labelled(prepared: Workspace) -> None:
    result = run(prepared, ratio=1)
    assert len(result.labelled) == 10 and result.unlabelled == ()


def test_visible_labels_are_those_of_the_labelled_scans_and_no_others(prepared: Workspace) -> None:
    result = run(prepared, ratio="30%")
    dataset = PreparedDataset(prepared.dataset())
    truth = dataset.truth()
    total = 0
    for path in result.folder.glob("*.visible.h5"):
        visible = ShardReader(path)
        assert set(visible.names) == {"scan_index", "label"}
        for row, position in enumerate(visible.array("scan_index").tolist()):
            (scan,) = [s for s in dataset.scans if path.name.startswith(s.unit) and s.position == position]
            assert scan.scan_id in result.labelled
            np.testing.assert_array_equal(visible.read("label", row), truth.label(scan.index))
            total += 1
    assert total == 3


def test_the_budget_counts_raw_points(prepared: Workspace) -> None:
    result = run(prepared, ratio="30%")
    dataset = PreparedDataset(prepared.dataset())
    labels = np.concatenate([dataset.truth().label(dataset.by_id[scan_id].index) for scan_id in result.labelled])
    counts = np.bincount(labels, minlength=256)[:19]
    budget = result.budget
    assert list(budget.per_class) == counts.tolist()
    assert budget.labelled_points == budget.clicks == counts.sum() < len(labels)  # some points are ignored
    points = sum(scan.num_points for scan in dataset.subset("train"))
    assert budget.share == pytest.approx(counts.sum() / points)
    assert (budget.labelled_scans, budget.train_scans) == (3, 10)


def test_transductive_adds_val_scans_without_their_labels(prepared: Workspace) -> None:
    plain, more = run(prepared, ratio="30%"), run(prepared, ratio="30%", transductive=True)
    assert more.labelled == plain.labelled and more.hash != plain.hash
    assert set(more.unlabelled) - set(plain.unlabelled) == {"08/000000", "08/000001", "08/000002"}
    assert more.transductive and "transductive" in more.name
    assert not list(more.folder.glob("08-*"))


def test_the_hash_follows_ids_and_labels_only(prepared: Workspace, kitti: Path, tmp_path: Path) -> None:
    first = run(prepared, ratio="30%")
    listed = tmp_path / "mine.txt"
    listed.write_text("\n".join(first.labelled))
    assert run(prepared, list_file=listed).hash == first.hash
    assert run(prepared, ratio="30%", seed=1).hash != first.hash
    other = Workspace.open(tmp_path / "other")
    prepare(other, "semantickitti", kitti)
    assert run(other, ratio="30%").hash == first.hash
    sequence, frame = first.labelled[0].split("/")
    label = kitti / "sequences" / sequence / "labels" / f"{frame}.label"
    words = np.fromfile(label, "<u4")
    words[0] = 10 if words[0] & 0xFFFF != 10 else 40
    label.unlink()
    words.tofile(label)
    prepare(other, "semantickitti", kitti)
    assert run(other, ratio="30%").hash != first.hash


def test_a_hidden_label_that_changes_does_not_change_the_split(
    prepared: Workspace, kitti: Path, tmp_path: Path
) -> None:
    other = Workspace.open(tmp_path / "other")
    prepare(other, "semantickitti", kitti)
    first = run(other, ratio="30%")
    for scan_id in first.unlabelled:
        label = kitti / "sequences" / scan_id.replace("/", "/labels/")
        label = label.with_suffix(".label")
        np.full(label.stat().st_size // 4, 10, "<u4").tofile(label)
    before = {path.name: path.read_bytes() for path in first.folder.glob("*.h5")}
    prepare(other, "semantickitti", kitti)
    again = run(other, ratio="30%")
    assert again.hash == first.hash
    assert {path.name: path.read_bytes() for path in again.folder.glob("*.h5")} == before


def test_a_split_of_scans_prepared_anew_is_not_used(prepared: Workspace, kitti: Path, tmp_path: Path) -> None:
    other = Workspace.open(tmp_path / "other")
    prepare(other, "semantickitti", kitti)
    run(other, ratio="30%")
    for file in kitti.glob("sequences/00/labels/*"):
        np.full(file.stat().st_size // 4, 10, "<u4").tofile(file)
    prepare(other, "semantickitti", kitti)
    with pytest.raises(DataError, match="prepared anew"):
        find_split(other.dataset())
    run(other, ratio="30%")
    assert find_split(other.dataset()).name == "scan-30%-seed0"


def test_the_same_split_again_is_cached_and_split_json_is_restored(
    prepared: Workspace, digests: Callable[[Path], dict[str, str]]
) -> None:
    first = run(prepared, ratio="30%")
    before = digests(first.folder)
    assert json.loads((first.folder / SPLIT_FILE).read_text())["hash"] == first.hash
    (first.folder / SPLIT_FILE).unlink()
    with pytest.raises(DataError, match="description of a split"):
        find_split(prepared.dataset())
    assert run(prepared, ratio="0.3") == first
    assert digests(first.folder) == before


def test_splits_are_found_by_name_key_and_hash(prepared: Workspace) -> None:
    handle = prepared.dataset()
    with pytest.raises(UsageError, match="no split"):
        find_split(handle)
    one, two = run(prepared, ratio="10%"), run(prepared, ratio="30%")
    assert find_split(handle) == two
    for which in (one.name, one.key, one.key[:6], one.hash, one.hash[:10]):
        assert find_split(handle, which) == one
    with pytest.raises(UsageError, match="no split is called") as caught:
        find_split(handle, "scan-99%")
    assert one.name in str(caught.value.where["splits"])


def test_of_equal_splits_any_is_found(prepared: Workspace) -> None:
    handle = prepared.dataset()
    one, two = (run(prepared, ratio="100%", seed=seed) for seed in (0, 1))
    assert one.hash == two.hash and one.key != two.key
    assert find_split(handle, one.hash).hash == one.hash


def test_published_lists_need_the_real_scans(prepared: Workspace) -> None:
    with pytest.raises(UsageError, match="are not prepared with labels") as caught:
        run(prepared, official="lasermix-1%")
    assert "--ratio 1%" in str(caught.value.hint)


@pytest.mark.parametrize("params", [{}, {"ratio": "1%", "official": "lasermix-1%"}, {"ratio": "0"}])
def test_wrong_parameters_are_usage_errors(params: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        SplitParams(**params)  # type: ignore[arg-type]


def test_scribbles_are_what_a_split_shows(kitti: Path, workspace: Workspace) -> None:
    for file in sorted(kitti.glob("sequences/0[01]/labels/*.label")):
        scribble = file.parents[1] / "scribbles" / file.name
        scribble.parent.mkdir(exist_ok=True)
        words = np.fromfile(file, "<u4")
        words[::2] = 0
        words.tofile(scribble)
    prepare(workspace, "semantickitti", kitti, PrepareParams(label_set="scribbles"))
    result = run(workspace, ratio="100%")
    dataset = PreparedDataset(workspace.dataset())
    visible, truth = dataset.visible(result), dataset.truth()
    for index in visible.labelled.tolist():
        shown, label = visible.label(index), truth.label(index)
        assert set(shown[::2]) == {255} and (label[::2] != 255).any()
        np.testing.assert_array_equal(shown[1::2], label[1::2])


def test_show_compares_splits(prepared: Workspace) -> None:
    small, large = run(prepared, ratio="20%"), run(prepared, ratio="50%")
    view = show_split(prepared.dataset(), small.name, against=large.name)
    assert view.split == small and view.against == large and view.common == 2
    assert sum(count for _, count, _ in view.groups) == 2 and sum(count for *_, count in view.groups) == 8
    everything = run(prepared, ratio="100%")
    assert view.class_points == everything.budget.per_class


def test_the_smallest_ratio_and_marks_of_editors(prepared: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="less than one scan"):
        run(prepared, ratio="1e-400")
    listed = tmp_path / "listed.txt"
    listed.write_text("\ufeff00/000002\r\n", encoding="utf-8")
    assert run(prepared, list_file=listed).labelled == ("00/000002",)
    listed.write_bytes("00/000002".encode("utf-16"))
    with pytest.raises(UsageError, match="cannot be read") as caught:
        run(prepared, list_file=listed)
    assert caught.value.where["reason"] == "not a text file in UTF-8"


@pytest.mark.parametrize("damage", [{}, {"name": 5}, {"labelled": ["00/000005"]}, {"classes": {}}, {"key": None}])
def test_a_damaged_description_of_a_split_is_not_believed_and_written_anew(
    prepared: Workspace, damage: dict[str, Any]
) -> None:
    first = run(prepared, ratio="30%")
    path = first.folder / SPLIT_FILE
    good = path.read_bytes()
    path.write_text(json.dumps({**json.loads(good), **damage} if damage else {}))
    with pytest.raises(DataError, match="description of a split"):
        find_split(prepared.dataset())
    assert run(prepared, ratio="30%").hash == first.hash
    assert path.read_bytes() == good


def test_labels_changed_in_place_are_never_shown(prepared: Workspace) -> None:
    dataset = PreparedDataset(prepared.dataset())
    unit = dataset.subset("train")[0].unit
    path = dataset.product.folder / f"{unit}.labels.h5"
    data = bytearray(path.read_bytes())
    data[-9] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged or missing") as caught:
        run(prepared, ratio="100%")
    assert "ssl3d prepare semantickitti --root" in str(caught.value.hint)
    with pytest.raises(DataError, match="damaged or missing"):
        dataset.truth()
    dataset.source()  # the points are sound


def test_a_split_is_shown_while_its_scans_are_prepared_again(prepared: Workspace) -> None:
    run(prepared, ratio="30%")
    (PreparedDataset(prepared.dataset()).product.folder / "journal.jsonl").write_bytes(b"")
    view = show_split(prepared.dataset())
    assert view.class_points == (0,) * len(view.split.classes)
