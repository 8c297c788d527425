from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl3d.data.errors import DataError, Ssl3dError
from ssl3d.data.store import ShardReader, write_shard
from ssl3d.models.config import Params
from ssl3d.pipeline import stage_run as stage_module
from ssl3d.pipeline.files import digest_value
from ssl3d.pipeline.product import Entry, FileStamp, JournalWriter, Product, read_journal
from ssl3d.pipeline.progress import Progress, Silent
from ssl3d.pipeline.stage import Stage, TrainedStage, Unit, UnitInputs, Upstream, stage_key
from ssl3d.pipeline.stage_run import StageRun, run_stage
from ssl3d.pipeline.workspace import DatasetHandle, Workspace

names = st.sampled_from(["prepare", "split", "density"])
simple = st.one_of(st.integers(), st.floats(allow_nan=False), st.text(max_size=5), st.booleans(), st.none())
dicts = st.dictionaries(st.text(max_size=5), simple, max_size=3)
keys = st.dictionaries(names, st.text("0123456789abcdef", min_size=12, max_size=12), max_size=2)
identities = st.tuples(names, st.integers(1, 9), dicts, dicts, keys)


@given(identities, identities)
def test_keys_are_equal_exactly_when_all_that_they_stand_for_is(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (stage_key(*one) == stage_key(*other)) is same


@given(identities, st.randoms(use_true_random=False))
def test_the_order_of_parameters_does_not_matter(one: Any, random: Any) -> None:
    name, version, params, identity, needs = one
    items = list(params.items())
    random.shuffle(items)
    assert stage_key(name, version, dict(items), identity, needs) == stage_key(*one)


class NumbersParams(Params):
    factor: int = 1
    bad: tuple[str, ...] = ()


class Numbers(Stage):
    """Writes one small shard per unit; remembers which units it really made."""

    name = "numbers"
    version = 1
    command = "make numbers"
    made: list[str] = []  # noqa: RUF012

    def __init__(self, params: Params, sources: Mapping[str, str], size: int = 0) -> None:
        super().__init__(params)
        self.sources, self.size = sources, size

    def units(self, upstream: Upstream) -> Sequence[Unit]:
        return [Unit(id=name, work=len(name), source=source, size=self.size) for name, source in self.sources.items()]

    @staticmethod
    def run(unit: Unit, params: Any, inputs: UnitInputs, out: Path) -> Mapping[str, Any]:
        Numbers.made.append(unit.id)
        if unit.id in params.bad:
            raise DataError("a number is bad", where={"scan": unit.id}, hint="repair it")
        values = [ord(unit.source) * params.factor] * unit.work
        write_shard(out / f"{unit.id}.numbers.h5", {"offsets": [0, unit.work], "number": values})
        return {"sum": sum(values)}


class Doubles(Stage):
    """Needs ``numbers``: a later stage as density or oversegmentation will be one."""

    name = "doubles"
    version = 1
    needs = ("numbers",)
    command = "make doubles"
    made: list[str] = []  # noqa: RUF012

    def units(self, upstream: Upstream) -> Sequence[Unit]:
        return [Unit(id=name) for name in sorted(upstream["numbers"].done)]

    @staticmethod
    def run(unit: Unit, params: Any, inputs: UnitInputs, out: Path) -> Mapping[str, Any]:
        Doubles.made.append(unit.id)
        number = inputs.shard("numbers", "numbers").read("number", 0)
        write_shard(out / f"{unit.id}.doubles.h5", {"offsets": [0, len(number)], "double": 2 * number})
        return {}


@pytest.fixture(autouse=True)
def forget() -> None:
    Numbers.made.clear()
    Doubles.made.clear()


@pytest.fixture
def handle(tmp_path: Path) -> DatasetHandle:
    return DatasetHandle(Workspace.open(tmp_path / "ws").ensure(), "toy")


SOURCES = {"a": "p", "bb": "q", "ccc": "r"}


def numbers(handle: DatasetHandle, sources: Mapping[str, str] = SOURCES, **params: Any) -> StageRun:
    return run_stage(handle, Numbers(NumbersParams(**params), sources), progress=Silent())


def test_a_second_run_does_nothing(handle: DatasetHandle) -> None:
    first = numbers(handle)
    assert (first.fresh, first.cached) == (["a", "bb", "ccc"], 0)
    assert first.product.complete and first.product.done["bb"].info == {"sum": 2 * ord("q")}
    second = numbers(handle)
    assert (second.fresh, second.cached) == ([], 3)
    assert Numbers.made == ["a", "bb", "ccc"]


def test_a_changed_source_makes_only_its_unit_stale(handle: DatasetHandle) -> None:
    numbers(handle)
    run = numbers(handle, {**SOURCES, "bb": "x"})
    assert run.fresh == ["bb"]
    assert ShardReader(run.product.folder / "bb.numbers.h5").read("number", 0).tolist() == [ord("x")] * 2


def test_a_unit_that_is_no_longer_planned_leaves_with_its_files(handle: DatasetHandle) -> None:
    numbers(handle)
    run = numbers(handle, {"a": "p"})
    assert run.fresh == [] and [path.name for path in run.product.folder.glob("*.h5")] == ["a.numbers.h5"]
    assert list(run.product.done) == ["a"]


def test_other_parameters_make_another_product_and_keep_the_first(handle: DatasetHandle) -> None:
    first, second = numbers(handle).product, numbers(handle, factor=3).product
    assert first.folder != second.folder and len(second.done) == 3
    assert handle.product("numbers") is not None and handle.product("numbers").key == second.key  # type: ignore[union-attr]
    assert numbers(handle).cached == 3


def test_a_later_stage_follows_what_it_needs_unit_by_unit(handle: DatasetHandle) -> None:
    numbers(handle)
    stage = Doubles(Params())
    first = run_stage(handle, stage, progress=Silent()).product
    assert ShardReader(first.folder / "ccc.doubles.h5").read("double", 0).tolist() == [2 * ord("r")] * 3
    numbers(handle, {**SOURCES, "a": "z", "dddd": "s"})
    again = run_stage(handle, stage, progress=Silent())
    assert again.fresh == ["a", "dddd"] and again.product.key == first.key
    numbers(handle, factor=2)
    other = run_stage(handle, stage, progress=Silent())
    assert other.product.key != first.key and len(other.fresh) == 3


def test_without_what_it_needs_a_stage_says_what_to_run(handle: DatasetHandle) -> None:
    with pytest.raises(Ssl3dError, match="has not been made") as caught:
        run_stage(handle, Doubles(Params()), progress=Silent())
    assert "ssl3d numbers" in str(caught.value.hint)


class Trained(TrainedStage):
    """Its model is the seed; every unit reads it."""

    name = "trained"
    version = 1
    command = "train"
    units = Numbers.units
    sources = SOURCES
    size = 0

    def __init__(self, seed: int) -> None:
        super().__init__(Params())
        self.seed = seed
        self.begun: list[int] = []

    def begin(self, folder: Path, jobs: int, progress: Progress) -> None:
        self.begun.append(jobs)
        (folder / "model.txt").write_text(str(self.seed))

    @staticmethod
    def run(unit: Unit, params: Any, inputs: UnitInputs, out: Path) -> Mapping[str, Any]:
        values = [int((inputs.product / "model.txt").read_text())]
        write_shard(out / f"{unit.id}.numbers.h5", {"offsets": [0, 1], "number": values})
        return {"value": values[0]}


def test_a_trained_stage_is_keyed_by_its_seed(handle: DatasetHandle) -> None:
    found = [run_stage(handle, Trained(seed), progress=Silent()).product.key for seed in (0, 1, 0)]
    assert found[0] == found[2] != found[1]


def test_what_units_share_is_made_once_before_them(handle: DatasetHandle) -> None:
    stage = Trained(7)
    product = run_stage(handle, stage, jobs=2, progress=Silent()).product
    assert stage.begun == [2] and {entry.info["value"] for entry in product.done.values()} == {7}
    run_stage(handle, stage, progress=Silent())
    assert stage.begun == [2]  # nothing was pending
    next(product.folder.glob("*.h5")).unlink()
    assert len(run_stage(handle, stage, progress=Silent()).fresh) == 1 and stage.begun == [2, 1]


def test_bad_units_do_not_stop_the_others(handle: DatasetHandle) -> None:
    with pytest.raises(DataError, match="2 of 3 units") as caught:
        numbers(handle, bad=("a", "ccc"))
    assert caught.value.where["scan"] == "a" and "ccc" in str(caught.value.where["also ccc"])
    assert "run the same command again" in str(caught.value.hint)
    product = handle.product("numbers")
    assert product is not None and list(product.done) == ["bb"] and not product.complete
    with pytest.raises(DataError, match="a number is bad") as caught:
        numbers(handle, bad=("ccc",))
    assert caught.value.where == {"scan": "ccc"} and "repair it" in str(caught.value.hint)


@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_damaged_files_are_reported_and_made_again(
    handle: DatasetHandle, damage: str, heard: Any, digests: Callable[[Path], dict[str, str]]
) -> None:
    folder = numbers(handle).product.folder
    before = digests(folder)
    file = folder / "bb.numbers.h5"
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(data[:100] if damage == "cut" else bytes(len(data)))
    run = run_stage(handle, Numbers(NumbersParams(), SOURCES), progress=heard)
    assert run.rebuilt == ["bb"] and "damaged: numbers bb" in heard.text
    assert digests(folder) == before


def test_copied_files_are_believed_after_a_look(handle: DatasetHandle) -> None:
    product = numbers(handle).product
    for path in product.folder.glob("*.h5"):
        os.utime(path, ns=(0, 0))
    assert {product.health(entry) for entry in product.done.values()} == {"touched"}
    run = numbers(handle)
    assert run.fresh == []
    assert {run.product.health(entry) for entry in run.product.done.values()} == {"good"}


def test_a_damaged_input_is_removed_so_that_its_stage_makes_it_again(handle: DatasetHandle, heard: Any) -> None:
    product = numbers(handle).product
    file = product.folder / "bb.numbers.h5"
    stat = file.stat()
    file.write_bytes(bytes(stat.st_size))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a failing disk would do it
    with pytest.raises(DataError, match="damaged"):
        run_stage(handle, Doubles(Params()), progress=heard)
    assert numbers(handle).rebuilt == ["bb"]
    assert run_stage(handle, Doubles(Params()), progress=heard).fresh == ["bb"]


def test_too_little_space_is_refused_before_anything_is_written(
    handle: DatasetHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = numbers(handle).product
    monkeypatch.setattr(stage_module, "free_bytes", lambda folder: 30_000_000)
    with pytest.raises(Ssl3dError, match=r"about 76\.8 MB are needed, 30\.0 MB are free"):
        run_stage(handle, Numbers(NumbersParams(factor=2), SOURCES, size=20_000_000), progress=Silent())
    current = handle.product("numbers")
    assert current is not None and current.key == old.key


def test_a_byte_changed_in_a_needed_product_is_found_before_it_is_used(handle: DatasetHandle) -> None:
    product = numbers(handle).product
    path = product.folder / "bb.numbers.h5"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match="damaged or missing") as caught:
        run_stage(handle, Doubles(Params()), progress=Silent())
    assert caught.value.where["unit"] == "bb"
    assert numbers(handle).rebuilt == ["bb"]
    run_stage(handle, Doubles(Params()), progress=Silent())


def test_new_times_of_sound_files_are_read_once_and_remembered(handle: DatasetHandle) -> None:
    product = numbers(handle).product
    path = product.folder / "bb.numbers.h5"
    os.utime(path, ns=(1, 1))
    product.trust(["numbers"])
    again = Product.load(product.folder)
    assert again is not None and again.health(again.done["bb"]) == "good"
    assert numbers(handle).fresh == []


def test_a_manifest_that_was_changed_is_reported_and_counts_as_absent(handle: DatasetHandle, heard: Any) -> None:
    product = numbers(handle).product
    path = product.folder / "stage.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "needs": []}))
    assert Product.load(product.folder) is None
    again = run_stage(handle, Numbers(NumbersParams(), SOURCES), progress=heard)
    assert len(again.fresh) == len(value["plan"]) and "damaged" in heard.text


def test_paths_that_are_no_utf8_have_a_digest() -> None:
    assert digest_value({"root": os.fsdecode(b"/b\xff")}) != digest_value({"root": os.fsdecode(b"/b\xfe")})


def entry(unit: str) -> Entry:
    return Entry(unit, "s", {f"{unit}.x.h5": FileStamp(1, 2, "d")}, 0.5, {"n": [1, 2]})


@given(st.integers(0, 400))
def test_a_journal_cut_anywhere_keeps_its_whole_lines(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("journal")
    whole = [entry("a"), entry("b"), entry("c")]
    writer = JournalWriter(folder)
    for item in whole:
        writer.add(item)
    writer.close()
    file = folder / "journal.jsonl"
    data = file.read_bytes()[:cut]
    file.write_bytes(data)
    kept = {item.unit: item for item in whole[: data.count(b"\n")]}
    found = read_journal(folder)
    assert kept.items() <= found.items() and len(found) - len(kept) in (0, 1)  # one may lack its newline only
    assert all(item == entry(unit) for unit, item in found.items())
    writer = JournalWriter(folder)
    writer.add(entry("d"))
    writer.close()
    assert read_journal(folder) == {**found, "d": entry("d")}


def test_a_folder_without_a_readable_manifest_counts_as_not_begun(handle: DatasetHandle) -> None:
    folder = numbers(handle).product.folder
    (folder / "stage.json").write_text("{")
    assert Product.load(folder) is None
    assert numbers(handle).fresh == ["a", "bb", "ccc"]
