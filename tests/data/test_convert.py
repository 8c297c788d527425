"""What every reader's scans become: each array in its file, counted, checked, and nothing left half written."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import xxhash

from ssl3d.data.datasets.convert import ConvertParams, UnitInfo, convert_unit
from ssl3d.data.datasets.source import (
    Camera,
    CheckReport,
    DatasetReader,
    Fields,
    GroupReport,
    Layout,
    Problem,
    RawScan,
    ReadOptions,
    SourceFile,
    SourceScan,
    SourceUnit,
)
from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.spec import DatasetSpec, load_spec
from ssl3d.data.store import ShardReader

FIELDS = Fields(
    columns={"color": ("u1", 3), "segment": ("<i4", 0)},
    truths={"instance": ("<u4", 0)},
    pose=True,
    edges=True,
    cameras=True,
)


@dataclass
class Rooms(DatasetReader):
    """Gives scans that a test has made."""

    scans: list[RawScan]
    name = "rooms"
    seen: list[int] = field(default_factory=list)

    def spec(self, classes: str = "single") -> DatasetSpec:
        return load_spec("semantickitti", classes)

    def survey(self, root: Path, options: ReadOptions) -> Layout:
        wrong = Problem("error", "a room is missing", {"group": "b"}, "unpack it")
        groups = (
            GroupReport("a", "train", 2, 2, {"labels": 1}),
            GroupReport("b", "val", 1, 2, {"labels": 1}, (wrong, Problem("warning", "no images"))),
            GroupReport("c", "val", 1, 1, {"labels": 1}, (Problem("warning", "no images"),)),
        )
        return Layout(self.name, root, (), CheckReport(self.name, root, groups))

    def read_scan(
        self, unit: SourceUnit, position: int, spec: DatasetSpec, digest: xxhash.xxh3_128 | None = None
    ) -> RawScan:
        self.seen.append(position)
        if digest is not None:
            digest.update(bytes([position]))
        return self.scans[position]


def room(n: int, seed: int, labelled: bool = True) -> RawScan:
    rng = np.random.default_rng(seed)
    camera = Camera(f"{seed}", f"{seed}.jpg", (640, 480), np.eye(3) * seed, np.eye(4) * seed, depth="ü.png")
    return RawScan(
        points=rng.normal(size=(n, 3)).astype(np.float32),
        columns={"color": rng.integers(0, 256, (n, 3), np.uint8), "segment": rng.integers(-1, 5, n, np.int32)},
        label=rng.choice(np.array([0, 3, 255], np.uint8), n) if labelled else None,
        truths={"instance": rng.integers(0, 9, n).astype(np.uint32)} if labelled else {},
        origin=np.array([1e6, 2e6, seed], np.float64),
        pose=np.eye(4) * seed if labelled else None,
        edges=np.array([[0, 1], [1, 2]][: max(0, n - 2)], np.int32).reshape(-1, 2),
        cameras=(camera,) * seed,
        notes={"points that were mended": seed},
    )


def unit_of(scans: list[RawScan], known: bool = True) -> SourceUnit:
    sources = tuple(
        SourceScan(f"a/{i}", {}, len(scan.points) if known else None, scan.label is not None)
        for i, scan in enumerate(scans)
    )
    return SourceUnit("a", "a", "train", "labels", sources, FIELDS)


def convert(scans: list[RawScan], folder: Path, unit: SourceUnit) -> tuple[UnitInfo, dict[str, ShardReader]]:
    folder.mkdir()
    out = {name: folder / f"{name}.h5" for name in unit.products()}
    info = convert_unit(Rooms(scans), unit, out, ConvertParams(sync=False))
    return info, {name: ShardReader(path) for name, path in out.items()}


@pytest.mark.parametrize("known", [True, False])
def test_every_array_of_a_reader_is_stored(tmp_path: Path, known: bool) -> None:
    scans = [room(4, 1), room(3, 2, labelled=False), room(0, 3)]
    info, shards = convert(scans, tmp_path / "out", unit_of(scans, known))
    assert shards.keys() == {"points", "labels", "edges", "cameras"}
    points, labels, cameras = shards["points"], shards["labels"], shards["cameras"]
    for i, scan in enumerate(scans):
        assert (points.read("points", i) == scan.points).all() and (points.read("origin", i) == scan.origin).all()
        for name, values in scan.columns.items():
            stored = points.read(name, i)
            assert stored.dtype == values.dtype and (stored == values).all()
        assert scan.edges is not None and (shards["edges"].read("edge", i) == scan.edges).all()
    assert (points.read("pose", 2) == np.eye(4) * 3).all() and np.isnan(points.read("pose", 1)).all()
    assert (labels.read("label", 1) == 255).all() and not labels.read("instance", 1).any()
    assert labels.array("has_label").tolist() == [True, False, True]
    assert cameras.offsets.tolist() == [0, 1, 3, 6] and cameras.array("depth").tolist() == ["ü.png"] * 6
    assert cameras.read("extrinsic", 2).shape == (3, 4, 4) and (cameras.read("intrinsic", 1)[1] == np.eye(3) * 2).all()
    assert points.attrs["group"] == "a" and points.attrs["source_digest"] == xxhash.xxh3_128_hexdigest(b"\0\1\2")
    assert info.columns == ["color", "segment"] and info.num_points == [4, 3, 0]
    assert info.labelled == [True, False, True] and sum(info.class_counts) + info.ignored == 4
    assert info.warnings == ["a: 6 points that were mended"]


def test_a_scan_of_another_length_than_promised_is_refused(tmp_path: Path) -> None:
    scans = [room(4, 1), room(5, 2)]
    unit = unit_of(scans)
    scans[1].columns["segment"] = scans[1].columns["segment"][:4]
    with pytest.raises(DataError, match="5 points, but 4 rows of segment") as caught:
        convert(scans, tmp_path / "a", unit)
    assert caught.value.where["scan"] == "a/1" and not list((tmp_path / "a").iterdir())
    with pytest.raises(DataError, match="6 points, but 4 rows of points"):
        grown = replace(unit, scans=(unit.scans[0]._replace(num_points=6), *unit.scans[1:]))
        convert(scans, tmp_path / "b", grown)


def test_the_signature_follows_all_that_a_unit_says(tmp_path: Path) -> None:
    unit = unit_of([room(4, 1)])
    table = SourceFile(str(tmp_path / "table.json"), (3, 4))
    others = [
        replace(unit, shared={"table": table}),
        replace(unit, shared={"table": table._replace(stamp=(3, 5))}),
        replace(unit, details=("x",)),
        replace(unit, fields=replace(FIELDS, columns={})),
        replace(unit, scans=(unit.scans[0]._replace(details=1),)),
    ]
    assert len({item.signature() for item in [unit, *others]}) == 6
    moved = replace(unit, shared={"table": table._replace(path="/elsewhere/table.json")})
    assert moved.signature() == others[0].signature()


def test_equal_problems_of_groups_are_one(tmp_path: Path) -> None:
    reader = Rooms([])
    report = reader.check(tmp_path)
    assert [problem.where.get("group") for problem in report.grouped()] == ["b", "b, c"]
    with pytest.raises(DataError, match="a room is missing") as caught:
        reader.discover(tmp_path, ReadOptions(version="v2"))
    assert caught.value.hint == "unpack it"


def test_labels_that_a_dataset_does_not_have(tmp_path: Path) -> None:
    class Plain(Rooms):
        def spec(self, classes: str = "single") -> DatasetSpec:
            return replace(load_spec("semantickitti"), label_sets=("labels",))

    with pytest.raises(UsageError, match="no scribbles to train with") as caught:
        Plain([]).check(tmp_path, ReadOptions("scribbles"))
    assert caught.value.hint == "after --labels: labels"
