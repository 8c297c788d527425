"""Pairs of points and pixels, from published layouts through the readers to what training reads."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ssl3d.data.captions.rle import encode
from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.store import ShardReader
from ssl3d.models.config import Params
from ssl3d.pipeline import graph
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.graph import dataset_status
from ssl3d.pipeline.pairs import PairSource, ScanCaptions, ScanPairs
from ssl3d.pipeline.product import Product
from ssl3d.pipeline.progress import Silent
from ssl3d.pipeline.stage import Stage, Unit, UnitInputs, Upstream
from ssl3d.pipeline.stage_run import StageRun, run_stage
from ssl3d.pipeline.stages.pair import PairStage
from ssl3d.pipeline.stages.pair_summary import summarize_pairs
from ssl3d.pipeline.stages.per_scan import run_on
from ssl3d.pipeline.stages.prepare import PrepareParams, prepare
from ssl3d.pipeline.workspace import Workspace

CALIB = "P2: 700 0 600 42 0 700 180 0 0 0 1 0\nTr: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27\n"
POINTS = [(10.27, 2, -1.08), (5.27, 6, 0), (-10, 0, 0), (20.27, -3, 0.92), (0, 0, 0), (np.nan, 1, 1), (10.27, 2, -1.08)]
SIZE = (1241, 376)
SHOWN = [0, 3, 6]


def write_kitti(root: Path, scans: int = 2, points: Sequence[tuple[float, ...]] = POINTS) -> Path:
    """Sequence 00 with an image for every scan but the last, 01 without any."""
    for sequence in ("00", "01"):
        folder = root / "sequences" / sequence
        (folder / "velodyne").mkdir(parents=True)
        for frame in range(scans):
            np.c_[np.array(points), np.full(len(points), 0.5)].astype("<f4").tofile(
                folder / "velodyne" / f"{frame:06d}.bin"
            )
        (folder / "calib.txt").write_text(CALIB)
    (root / "sequences" / "00" / "image_2").mkdir()
    for frame in range(scans - 1):
        Image.new("RGB", SIZE, (frame, 80, 200)).save(root / "sequences" / "00" / "image_2" / f"{frame:06d}.png")
    counts = {"complete": True, "scans_per_sequence": {"00": scans, "01": scans}}
    (root / "ssl3d_synth.json").write_text(json.dumps(counts))
    return root


@pytest.fixture
def kitti(tmp_path: Path) -> Path:
    return write_kitti(tmp_path / "kitti")


def prepared(workspace: Workspace, root: Path, reader: str = "semantickitti") -> PreparedDataset:
    prepare(workspace, reader, root, PrepareParams(allow_partial=True))
    return PreparedDataset(workspace.dataset())


def pair(workspace: Workspace, *overrides: str, jobs: int = 1, **more: Any) -> StageRun:
    return run_on(workspace, lambda dataset: PairStage.of(dataset, overrides), jobs=jobs, **more)


def test_semantickitti_from_its_files_to_training(kitti: Path, workspace: Workspace) -> None:
    dataset = prepared(workspace, kitti)
    run = pair(workspace)
    assert len(run.product.done) == 2
    source = pickle.loads(pickle.dumps(PairSource.of(dataset)))
    first, second, third = (source.pairs(index) for index in range(3))
    assert first.point.tolist() == SHOWN  # not the one behind, not what is no measurement
    assert first.uv.tolist() == [[464, 250], [707, 145], [464, 250]]
    assert first.depth == pytest.approx([10, 20, 10])
    assert first.images == ("sequences/00/image_2/000000.png",) and first.cameras == ("image_2",)
    assert first.num_points == len(POINTS) and first.entity.tolist() == [-1] * 3
    assert len(second) == len(third) == 0 and second.images == third.images == ()
    assert [len(part) for part in first.caption_pairs()] == [0, 0]
    reader = ShardReader(run.product.folder / "00-000000.pairs.h5")
    assert reader.attrs["occlusion"] == "none" and reader.names == (
        "depth",
        "image_idx",
        "num_points",
        "point_idx",
        "scan_id",
        "uv",
    )
    assert reader.read("scan_id", 1) == "00/000001" and reader.read("uv", 0).dtype == np.uint16
    images = ShardReader(run.product.folder / "00-000000.images.h5")
    assert images.read("image_id", 0).tolist() == ["00/image_2/000000"] and images.read("pairs", 0).tolist() == [3]


def test_the_summary(kitti: Path, workspace: Workspace) -> None:
    dataset = prepared(workspace, kitti)
    summary = summarize_pairs(pair(workspace).product, {scan.unit: scan.subset for scan in dataset.scans})
    count = summary.subsets["train"]
    assert (count.scans, count.pictured, count.images, count.points, count.paired, count.pairs) == (4, 1, 1, 5, 3, 3)
    assert summary.total.share == pytest.approx(3 / 5) and not summary.captions
    assert summary.unusual(dataset.spec.paired) and not summary.unusual(None) and not summary.unusual((0.5, 0.7))
    assert summary.cameras == {"image_2": (1, 3)} and summary.blind() == [] and summary.notes == {}


def test_hidden_points_by_the_zbuffer(kitti: Path, workspace: Workspace) -> None:
    write = kitti / "sequences" / "00" / "velodyne" / "000000.bin"
    tr = np.array([[0, -1, 0, 0], [0, 0, -1, -0.08], [1, 0, 0, -0.27], [0, 0, 0, 1]])
    lens = np.array([[700.0, 0, 600], [0, 700, 180], [0, 0, 1]])
    rays = np.linalg.inv(lens) @ np.array([[300.0, 300.0, 300.0], [200.0, 201.0, 200.0], [1, 1, 1]])
    seen = rays * [10, 10.4, 15] - [[0.06], [0], [0]]  # of P2, 42 / 700 to the left
    back = (np.linalg.inv(tr) @ np.r_[seen, np.ones((1, 3))])[:3].T
    np.c_[back, [0.5] * 3].astype("<f4").tofile(write)
    dataset = prepared(workspace, kitti)
    pair(workspace)
    assert PairSource.of(dataset).pairs(0).point.tolist() == [0, 1, 2]
    product = pair(workspace, "pair.occlusion=zbuffer").product
    assert PairSource.of(dataset, product).pairs(0).point.tolist() == [0, 1]
    assert product.manifest.about["command"] == "ssl3d pair --set occlusion=zbuffer"
    product = pair(workspace, "pair.occlusion=zbuffer", "pair.meters=6").product
    assert len(PairSource.of(dataset, product).pairs(0)) == 3


def test_parallel_and_alone_are_the_same_bytes(kitti: Path, tmp_path: Path, digests: Any) -> None:
    results = []
    for jobs in (1, 2):
        space = Workspace.open(tmp_path / f"ws{jobs}")
        prepared(space, kitti)
        results.append(digests(pair(space, jobs=jobs).product.folder))
    assert results[0] == results[1] and len(results[0]) == 4


def test_an_image_of_another_size_than_when_it_was_prepared(kitti: Path, workspace: Workspace) -> None:
    prepared(workspace, kitti)
    image = kitti / "sequences" / "00" / "image_2" / "000000.png"
    Image.new("RGB", (620, 188)).save(image)
    with pytest.raises(DataError, match="620 x 188 pixels, its calibration is for 1241 x 376") as caught:
        pair(workspace)
    assert caught.value.where["file"] == str(image) and caught.value.where["scan"] == "00/000000"
    image.unlink()
    with pytest.raises(DataError, match="an image is missing") as caught:
        pair(workspace)
    assert caught.value.where["file"] == str(image) and "prepare" in str(caught.value.hint)
    prepared(workspace, kitti)  # which leaves out the view
    assert len(pair(workspace).product.done) == 2


def test_resized_images_are_noticed(kitti: Path, workspace: Workspace) -> None:
    Image.new("RGB", (700, 212)).save(kitti / "sequences" / "00" / "image_2" / "000000.png")
    dataset = prepared(workspace, kitti)
    summary = summarize_pairs(pair(workspace).product, {scan.unit: scan.subset for scan in dataset.scans})
    assert summary.notes == {"odd": (1, "sequences/00/image_2/000000.png")}


def test_depth_cannot_be_asked_of_lidar_scans(kitti: Path, workspace: Workspace) -> None:
    prepared(workspace, kitti)
    with pytest.raises(DataError, match="no depth maps") as caught:
        pair(workspace, "pair.occlusion=depth")
    assert "zbuffer" in str(caught.value.hint)
    with pytest.raises(UsageError, match="occlusion"):
        pair(workspace, "pair.occlusion=guess")
    with pytest.raises(UsageError, match="cell"):
        pair(workspace, "pair.cell=0")


def test_pairs_of_other_scans_are_refused(kitti: Path, workspace: Workspace) -> None:
    dataset = prepared(workspace, kitti)
    with pytest.raises(UsageError, match="have not been paired"):
        PairSource.of(dataset)
    pair(workspace)
    prepare(workspace, "semantickitti", kitti, PrepareParams(allow_partial=True, classes="multiscan"))
    with pytest.raises(DataError, match="prepared otherwise"):
        PairSource.of(PreparedDataset(workspace.dataset()))


# ------------------------------------------------------------------------------------------------------ captions


class SaidParams(Params):
    """What is said: lines of the two files of every unit."""

    image: tuple[str, ...] = ()
    entity: tuple[str, ...] = ()
    units: tuple[str, ...] = ("00-000000",)


class Said(Stage):
    """Writes captions as the stage of that name does, from its parameters."""

    name = "caption"
    version = 1
    needs = ("prepare",)
    command = "ssl3d caption"
    params: SaidParams

    def units(self, upstream: Upstream) -> Sequence[Unit]:
        return [Unit(id=unit) for unit in self.params.units]

    @staticmethod
    def run(unit: Unit, params: SaidParams, inputs: UnitInputs, out: Path) -> Mapping[str, Any]:
        for kind, lines in (("image", params.image), ("entity", params.entity)):
            (out / f"{unit.id}.{kind}.jsonl").write_text("".join(f"{line}\n" for line in lines))
        return {}


def said(workspace: Workspace, images: Sequence[Mapping[str, Any]], entities: Sequence[Mapping[str, Any]]) -> Product:
    head = {"image_id": "00/image_2/000000", "width": SIZE[0], "height": SIZE[1]}
    lines = [
        tuple(
            json.dumps({"schema": f"ssl3d.{kind}_caption/1", **head, "index": k, "model": "human", **record})
            for k, record in enumerate(records)
        )
        for kind, records in (("image", images), ("entity", entities))
    ]
    params = SaidParams(image=lines[0], entity=lines[1])
    return run_stage(workspace.dataset(), Said(params), progress=Silent()).product


def mask(*box: int) -> dict[str, Any]:
    pixels = np.zeros(SIZE[::-1], bool)
    pixels[box[1] : box[3], box[0] : box[2]] = True
    return {"format": "rle_f", "size": [SIZE[1], SIZE[0]], "counts": encode(pixels).tolist()}


LEFT, RIGHT = (400, 200, 500, 300), (700, 140, 720, 160)  # around the pixels of points 0 and 6, and of 3


def test_points_get_the_captions_and_entities_of_their_pixels(kitti: Path, workspace: Workspace) -> None:
    dataset = prepared(workspace, kitti)
    without = pair(workspace).product
    region = [0, 0, 707, 376]  # half-open: 707 is outside
    said(
        workspace,
        [{"text": "A street."}, {"text": "A house on the left.", "region": region}],
        [
            {"phrase": "wall", "score": 0.6, "mask": mask(*LEFT)},
            {"phrase": "house", "score": 0.8, "mask": mask(450, 240, 470, 260)},  # wins, although it comes later
            {"phrase": "person", "score": 0.9, "box": [0, 0, 10, 10]},
            {"phrase": "car", "score": 0.5, "mask": mask(*RIGHT)},
        ],
    )
    run = pair(workspace)
    assert run.product.key != without.key and "caption" in run.product.manifest.needs
    found = PairSource.of(dataset).pairs(0)
    assert found.entity.tolist() == [1, 3, 1]
    assert found.entities.phrases() == {0: "wall", 1: "house", 2: "person", 3: "car"}
    point, line, weight = found.entity_pairs()
    assert (point.tolist(), line.tolist(), weight.tolist()) == (SHOWN, [1, 3, 1], [1, 1, 1])
    assert found.captions.text == ("A street.", "A house on the left.")
    assert [part.tolist() for part in found.caption_pairs()] == [[0, 0, 3, 6, 6], [0, 1, 0, 0, 1]]
    assert len(PairSource.of(dataset).pairs(1).captions) == 0  # no image
    assert PairSource.of(dataset).pairs(3).entity.tolist() == []  # a unit without captions
    summary = summarize_pairs(run.product, {scan.unit: scan.subset for scan in dataset.scans})
    assert summary.captions and (summary.total.entity, summary.total.captioned) == (3, 3)
    assert pair(workspace).cached == 2


def test_equal_scores_go_to_the_smaller_mask(kitti: Path, workspace: Workspace) -> None:
    dataset = prepared(workspace, kitti)
    small, large = {"score": 0.7, "mask": mask(460, 245, 470, 255)}, {"score": 0.7, "mask": mask(*LEFT)}
    said(workspace, [], [{"phrase": "house", **large}, {"phrase": "window", **small}])
    pair(workspace)
    found = PairSource.of(dataset).pairs(0)
    assert [found.entities.phrases().get(line) for line in found.entity.tolist()] == ["window", None, "window"]


def test_captions_that_do_not_fit(kitti: Path, workspace: Workspace) -> None:
    prepared(workspace, kitti)
    said(workspace, [{"text": "Half the size.", "width": 620, "height": 188}], [])
    with pytest.raises(DataError, match="620 x 188") as caught:
        pair(workspace)
    assert caught.value.where["line"] == 1 and caught.value.where["scan"] == "00/000000"
    short = {**mask(*LEFT), "counts": [5, 5]}
    said(
        workspace,
        [],
        [{"phrase": "wall", "score": 0.5, "mask": mask(*LEFT)}, {"phrase": "car", "score": 1, "mask": short}],
    )
    with pytest.raises(DataError) as caught:
        pair(workspace)
    assert caught.value.where["line"] == 2
    said(workspace, [{"text": "Elsewhere.", "image_id": "07/image_2/000000"}], [])
    assert len(PairSource.of(PreparedDataset(workspace.dataset()), pair(workspace).product).pairs(0).captions) == 0


def test_pairs_without_new_captions_are_stale(
    kitti: Path, workspace: Workspace, heard: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {name: stage for name, stage in graph.STAGES.items() if name not in ("caption", "pair")}
    monkeypatch.setattr(graph, "STAGES", {**others, "caption": Said, "pair": PairStage})

    def state() -> tuple[str, str]:
        (status,) = [item for item in dataset_status(workspace.dataset()) if item.name == "pair"]
        return status.state, status.why

    prepared(workspace, kitti)
    assert state()[0] == "missing"
    pair(workspace)
    assert state() == ("cached", "")
    product = said(workspace, [{"text": "A street."}], [])
    assert state()[0] == "stale" and "'caption' has been made since" in state()[1]
    pair(workspace)
    assert state()[0] == "cached"
    (product.folder / "stage.json").unlink()  # removed: the pairs speak of captions that nobody has
    assert state()[0] == "stale"
    unfinished = said(workspace, [{"text": "Another."}], [])
    (unfinished.folder / "journal.jsonl").write_text("")
    pair(workspace, progress=heard)
    assert "goes without 'caption', which is not complete" in heard.text


# ------------------------------------------------------------------------------------------------- what training reads


def some_pairs() -> ScanPairs:
    return ScanPairs(
        point=np.array([0, 2, 2, 5]),
        image=np.array([0, 0, 1, 1], np.int16),
        uv=np.array([[1, 1], [5, 5], [0, 3], [9, 9]], np.uint16),
        depth=np.array([1, 2, 3, 4], np.float32),
        entity=np.array([-1, 7, 9, 9], np.int32),
        images=("a", "b"),
        cameras=("a", "b"),
        num_points=6,
        captions=ScanCaptions(
            np.array([0, 1, 1], np.int16),
            np.array([0, 1, 2], np.int32),
            np.array([[0, 0, 5, 9], [0, 0, 10, 10], [0, 0, 1, 4]], np.float32),
            ("left of a", "b", "corner of b"),
        ),
    )


def test_points_in_several_images_weigh_their_entities_alike() -> None:
    point, line, weight = some_pairs().entity_pairs()
    assert (point.tolist(), line.tolist(), weight.tolist()) == ([2, 2, 5], [7, 9, 9], [0.5, 0.5, 1])


def test_a_caption_speaks_of_the_points_of_its_region() -> None:
    assert [part.tolist() for part in some_pairs().caption_pairs()] == [[0, 2, 2, 5], [0, 1, 2, 1]]


def test_pairs_of_a_crop() -> None:
    crop = some_pairs().at(np.array([5, 1, 2, 2, 99]))
    assert crop.point.tolist() == [0, 2, 2, 3, 3] and crop.num_points == 5
    assert crop.entity.tolist() == [9, 7, 9, 7, 9] and crop.uv[0].tolist() == [9, 9]
    assert [part.tolist() for part in crop.caption_pairs()] == [[0, 2, 2, 3, 3], [1, 1, 2, 1, 2]]
    assert len(some_pairs().at(np.zeros(0, np.int64))) == 0


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 12), max_size=20))
def test_a_selection_has_the_pairs_of_its_rows(seed: int, rows: list[int]) -> None:
    rng = np.random.default_rng(seed)
    point = np.sort(rng.integers(0, 10, 15))
    pairs = replace(
        some_pairs(),
        point=point,
        image=np.zeros(15, np.int16),
        uv=np.zeros((15, 2), np.uint16),
        depth=np.arange(15, dtype=np.float32),
        entity=rng.integers(-1, 3, 15).astype(np.int32),
    )
    chosen = pairs.at(np.array(rows, np.int64))
    expected = [(place, k) for place, row in enumerate(rows) for k in np.flatnonzero(point == row).tolist()]
    assert list(zip(chosen.point.tolist(), chosen.depth.astype(int).tolist(), strict=True)) == expected
    points, _, weight = chosen.entity_pairs()
    sums = np.bincount(points, weights=weight, minlength=len(rows)) if len(points) else np.zeros(len(rows))
    assert np.all(np.isclose(sums, 1) | (sums == 0))
