from __future__ import annotations

import re
from itertools import pairwise

import pytest

from ssl3d.data.errors import UsageError
from ssl3d.data.official import ListFamily, list_families, list_family, listed_datasets
from ssl3d.data.spec import load_spec

FAMILIES = [family for dataset in listed_datasets() for family in list_families(dataset)]
FORMS = {
    ("semantickitti", "scan"): r"\d\d/\d{6}",
    ("nuscenes", "sample token"): r"[0-9a-f]{32}",
    ("nuscenes", "scene"): r"scene-\d{4}",
    ("scannet", "scan"): r"scene\d{4}_\d\d",
    ("s3dis", "room"): r"Area_[1-6][/_][A-Za-z]+_\d+",
}
SIZES = {
    ("semantickitti", "lasermix"): [191, 1913, 3826, 9565],
    ("semantickitti", "lim3d"): [191, 383, 956, 1913, 3826, 7652, 9565],
    ("semantickitti", "gpc"): [956, 1913, 3826, 5739, 7652],
    ("nuscenes", "lasermix"): [281, 2813, 5626, 14065],
    ("nuscenes", "scenes"): [700, 150, 150, 350, 350, 8, 2],
    ("nuscenes", "slidr"): [100],
    ("scannet", "gpc"): [60, 120, 240, 360, 480],
    ("scannet", "v2"): [1201, 312, 100],
    ("scannet", "v1"): [1045, 156, 312],
    ("s3dis", "gpc"): [10, 20, 40, 61, 81],
    ("s3dis", "rooms"): [272],
}


def named(family: ListFamily) -> str:
    return f"{family.dataset}-{family.name}"


def test_every_family_is_there() -> None:
    assert {(family.dataset, family.name) for family in FAMILIES} == set(SIZES)


@pytest.mark.parametrize("family", FAMILIES, ids=named)
def test_sizes_forms_and_no_duplicates(family: ListFamily) -> None:
    assert [len(family.ids(which)) for which in family.lists] == SIZES[family.dataset, family.name]
    form = re.compile(FORMS[family.dataset, family.unit])
    for which, entry in family.lists.items():
        ids = family.ids(which)
        assert len(ids) == len(set(ids)) == entry.count
        assert all(form.fullmatch(item) for item in ids)
    assert family.source and family.pool and family.kind in ("labels", "split")


@pytest.mark.parametrize("family", FAMILIES, ids=named)
def test_what_is_said_about_nesting_is_so(family: ListFamily) -> None:
    for small, large in (pair for chain in family.prefixes for pair in pairwise(chain)):
        assert family.ids(large)[: len(family.ids(small))] == family.ids(small)
    for small, large in (pair for chain in family.subsets for pair in pairwise(chain)):
        assert set(family.ids(small)) < set(family.ids(large))
    for one, other, both in family.overlaps:
        common = len(set(family.ids(one)) & set(family.ids(other)))
        assert common == both < min(len(family.ids(one)), len(family.ids(other)))
    said = {pair for chain in (*family.prefixes, *family.subsets) for pair in pairwise(chain)}
    if family.kind == "labels" and family.name != "lim3d":  # nothing is left open between neighbors
        said |= {(one, other) for one, other, _ in family.overlaps}
        assert set(pairwise(family.lists)) <= said


def test_lasermix_as_the_field_counts_it() -> None:
    kitti = list_family("semantickitti", "lasermix")
    ten, twenty, fifty = (set(kitti.ids(which)) for which in ("10", "20", "50"))
    assert kitti.ids("50")[:120] == kitti.ids("1")[:120]
    assert set(kitti.ids("1")) <= fifty and not ten <= fifty and not twenty <= fifty
    nuscenes = list_family("nuscenes", "lasermix")
    assert nuscenes.ids("10")[:313] == nuscenes.ids("20")[:313] and not set(nuscenes.ids("10")) <= set(
        nuscenes.ids("20")
    )


def test_gpc_takes_whole_sequences_one_after_another() -> None:
    ids = list_family("semantickitti", "gpc").ids
    assert (ids("5")[0], ids("5")[-1]) == ("09/000000", "09/000955")
    assert (ids("10")[1590], ids("10")[1591], ids("10")[-1]) == ("09/001590", "07/000000", "07/000321")
    assert ids("40")[-998:][0] == "02/000000" and ids("40")[-1] == "02/000997"


@pytest.mark.parametrize("name", ["lasermix", "lim3d", "gpc"])
def test_kitti_lists_name_train_scans(name: str) -> None:
    spec = load_spec("semantickitti")
    for percent in spec.official[name].lists:
        for scan_id in spec.official_list(name, percent):
            sequence, _, frame = scan_id.partition("/")
            assert spec.subset_of(sequence) == "train" and int(frame) < spec.scans_per_sequence[sequence]


def test_official_divisions_are_disjoint() -> None:
    scenes, v1, v2 = list_family("nuscenes", "scenes"), list_family("scannet", "v1"), list_family("scannet", "v2")
    for family in (scenes, v1, v2):
        parts = [set(family.ids(which)) for which in ("train", "val", "test")]
        assert len(set.union(*parts)) == sum(map(len, parts))
    assert {*scenes.ids("train_detect"), *scenes.ids("train_track")} == set(scenes.ids("train"))
    assert set(list_family("nuscenes", "slidr").ids("verifying")) < set(scenes.ids("train"))
    spaces = [{scan[:9] for scan in v2.ids(which)} for which in ("train", "val", "test")]
    assert [len(names) for names in spaces] == [565, 142, 100] and not spaces[0] & spaces[1]
    assert {*v1.ids("train"), *v1.ids("val"), *v1.ids("test")} == {*v2.ids("train"), *v2.ids("val")}
    assert set(v1.ids("test")) == set(v2.ids("val"))
    assert set(list_family("scannet", "gpc").ids("40")) < set(v2.ids("train"))


def test_rooms_of_s3dis() -> None:
    rooms = list_family("s3dis", "rooms").ids("all")
    counts = [sum(room.startswith(f"Area_{area}/") for room in rooms) for area in range(1, 7)]
    assert counts == [44, 40, 23, 49, 68, 48]
    labelled = list_family("s3dis", "gpc").ids("40")
    assert set(labelled) < {room.replace("/", "_") for room in rooms}
    assert not [room for room in labelled if room.startswith("Area_5")]


def test_unknown_lists_say_what_there_is() -> None:
    with pytest.raises(UsageError, match="did you mean scenes"):
        list_family("nuscenes", "scense")
    with pytest.raises(UsageError, match="train, val, test"):
        list_family("scannet", "v2").ids("valid")
    assert list_families("toronto3d") == ()
    with pytest.raises(UsageError, match="none"):
        list_family("toronto3d", "gpc")
