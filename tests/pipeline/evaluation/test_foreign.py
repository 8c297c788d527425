"""Files of other programs, scored: the official evaluator in slow motion says the same, and memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ssl3d.data.errors import DataError
from ssl3d.data.spec import load_spec
from ssl3d.models.prediction import Instances
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.evaluation.foreign import protocol_for, score_files
from ssl3d.pipeline.evaluation.instance_ap import InstanceAP
from ssl3d.pipeline.submission import scannet_masks
from ssl3d.pipeline.submission.archive import pack
from ssl3d.pipeline.submission.handed import Handed, opened

SCANS = 66


def write_random(kitti_root: Path, out: Path, ids: np.ndarray, seed: int = 0) -> list[Path]:
    """Any ids for the validation scans; the truth files."""
    rng = np.random.default_rng(seed)
    truth = sorted((kitti_root / "dataset/sequences/08/labels").glob("*.label"))
    folder = out / "sequences/08/predictions"
    folder.mkdir(parents=True)
    for file in truth:
        n = file.stat().st_size // 4
        (rng.choice(ids, n).astype("<u4") | rng.integers(0, 1 << 16, n).astype("<u4") << 16).tofile(folder / file.name)
    return truth


@pytest.mark.parametrize("packed", [False, True])
def test_any_label_files_score_as_the_official_evaluator(
    prepared: PreparedDataset, kitti_root: Path, tmp_path: Path, packed: bool, official_scores, heard
) -> None:  # type: ignore[no-untyped-def]
    ids = np.array(sorted(load_spec("semantickitti").learning_map))
    truth = write_random(kitti_root, tmp_path / "theirs", ids)
    files = sorted((tmp_path / "theirs/sequences/08/predictions").iterdir())
    place = tmp_path / "theirs"
    if packed:
        pack(tmp_path, [file.relative_to(tmp_path) for file in files], tmp_path / "deep.zip")  # type: ignore[misc]
        place = tmp_path / "theirs.zip"
        pack(tmp_path / "theirs", [file.relative_to(tmp_path / "theirs") for file in files], place)  # type: ignore[misc]
    result = score_files(prepared, place, progress=heard)
    miou, accuracy, iou = official_scores(truth, files)
    scores = result.scores("semantickitti")
    assert (scores.miou, scores.accuracy, *scores.iou) == pytest.approx((miou, accuracy, *iou))
    assert result.points == sum(file.stat().st_size // 4 for file in truth)
    assert (result.scans, result.instances, heard.text) == (SCANS, None, "")
    assert protocol_for(prepared, "val") == "semantickitti"
    if packed:
        with pytest.raises(Exception, match=r"zip the content of theirs/"):
            score_files(prepared, tmp_path / "deep.zip")


def test_unknown_ids_are_misses_and_remarked(
    prepared: PreparedDataset, kitti_root: Path, tmp_path: Path, heard
) -> None:  # type: ignore[no-untyped-def]
    truth = write_random(kitti_root, tmp_path / "theirs", np.array([3, 77]))
    result = score_files(prepared, tmp_path / "theirs", progress=heard)
    assert result.confusion.counts[:-1].sum() == 0 and result.confusion.counts.sum() > 0
    points = sum(file.stat().st_size // 4 for file in truth)
    assert f"{points} of {points} points (100.0%)" in heard.text and "(3, 77;" in heard.text


def test_damaged_files_are_errors_that_name_scan_and_file(
    prepared: PreparedDataset, kitti_root: Path, tmp_path: Path
) -> None:
    write_random(kitti_root, tmp_path, np.array([40]))
    file = tmp_path / "sequences/08/predictions/000017.label"
    content = file.read_bytes()
    for damage, said in (
        (content[:-4], "labels for"),
        (content + b"\0" * 4, "labels for"),
        (content[:-1], "no multiple of 4"),
        (b"", "0 labels for"),
        (None, "1 of 66 files"),
    ):
        file.unlink() if damage is None else file.write_bytes(damage)
        with pytest.raises(DataError, match=said) as caught:
            score_files(prepared, tmp_path)
        assert "000017.label" in str(caught.value)
        if damage is None:
            assert caught.value.where["scan"] == "08/000017"


# ---------------------------------------------------------------- instances


def write_masks(folder: Path, masks: np.ndarray, label: np.ndarray, score: np.ndarray) -> None:
    (folder / "masks").mkdir(parents=True)
    lines = [f"masks/{k}.txt {label[k]} {score[k]}" for k in range(len(masks))]
    for k, mask in enumerate(masks):
        np.savetxt(folder / f"masks/{k}.txt", mask.astype(int) * 7, fmt="%d")
    (folder / "scan.txt").write_text("\n".join(lines) + "\n")


def same(a: InstanceAP, b: InstanceAP) -> bool:
    """Whether two collections give the same scores; None stands for NaN."""
    return a.scores().to_json() == b.scores().to_json()


def test_masks_from_files_score_as_instances_in_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n, k = 3000, 25
    true_label = np.repeat(rng.integers(2, 8, 10), 300).astype(np.uint8)
    true_instance = np.repeat(np.arange(1, 11), 300).astype(np.uint32)
    chosen = rng.integers(1, 11, k)
    masks = np.stack([(true_instance == number) ^ (rng.random(n) < 0.04) for number in chosen])
    label = np.where(rng.random(k) < 0.8, true_label[300 * chosen - 300], 3).astype(np.uint8)
    score = rng.integers(0, 6, k) / 8
    write_masks(tmp_path, masks, label + 10, score)
    classes = {c + 10: c for c in range(2, 8)}
    a, b = InstanceAP(range(2, 8)), InstanceAP(range(2, 8))
    with opened(tmp_path) as handed:
        a.add_masks(scannet_masks.instances_of(handed, "scan.txt", "scan", n, classes), true_label, true_instance)
    b.add(Instances.from_masks(masks, label, score.astype(np.float32)), true_label, true_instance)
    assert same(a, b)
    assert 0 < a.scores().mean_ap25 < 1
    assert same(InstanceAP.from_json(a.to_json()), a)
    assert same(InstanceAP.from_json(a.to_json()).merge(b), a.merge(b))


def test_one_mask_is_in_memory_at_a_time(tmp_path: Path) -> None:
    """Each mask is read when the one before it was counted."""
    masks = np.ones((6, 200), np.bool_)
    write_masks(tmp_path, masks, np.full(6, 3), np.ones(6))
    events: list[str] = []

    class Watched:
        def __init__(self, handed: Handed) -> None:
            self.handed = handed

        def __getattr__(self, name: str) -> object:
            return getattr(self.handed, name)

        def __contains__(self, name: str) -> bool:
            return name in self.handed

        def blocks(self, name: str) -> Iterator[bytes]:
            events.append(name)
            return self.handed.blocks(name)

    with opened(tmp_path) as handed:
        found = scannet_masks.instances_of(Watched(handed), "scan.txt", "scan", 200, {3: 0})  # type: ignore[arg-type]
        events += ("counted" for _ in found)
    assert events == [word for k in range(6) for word in (f"masks/{k}.txt", "counted")]
