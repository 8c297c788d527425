from __future__ import annotations

import pickle

import numpy as np
import pytest

from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.scan import IGNORE
from ssl3d.data.spec import load_spec, parse_spec

SPEC = load_spec("semantickitti")


def test_the_19_classes_in_official_order() -> None:
    assert SPEC.num_classes == 19
    assert SPEC.classes[0] == "car" and SPEC.classes[8] == "road" and SPEC.classes[18] == "traffic-sign"
    assert SPEC.subset_of("08") == "val" and SPEC.subset_of("10") == "train" and SPEC.subset_of("22") is None
    totals = {s: sum(SPEC.scans_per_sequence[q] for q in SPEC.splits[s]) for s in ("train", "val", "test")}
    assert totals == {"train": 19130, "val": 4071, "test": 20351}


def test_the_learning_map_is_zero_based_with_255_ignored() -> None:
    table, known = SPEC.lut()
    assert [int(table[raw]) for raw in (0, 1, 52, 99)] == [IGNORE] * 4
    assert [int(table[raw]) for raw in (10, 252, 40, 60, 13, 16, 257, 81, 255)] == [0, 0, 8, 8, 4, 4, 4, 18, 7]
    assert int(known.sum()) == 34 and not known[2] and table[2] == IGNORE and table[65535] == IGNORE


def test_colors_are_rgb() -> None:
    assert SPEC.colors[0].tolist() == [100, 150, 245]  # car: light blue in every picture of the field
    assert SPEC.colors[8].tolist() == [255, 0, 255]  # road
    assert SPEC.colors[14].tolist() == [0, 175, 0]  # vegetation


def test_predictions_are_written_as_static_raw_ids() -> None:
    assert SPEC.to_raw(np.array([0, 8, 18, IGNORE], np.uint8)).tolist() == [10, 40, 81, 0]
    table, _ = SPEC.lut()
    every = np.arange(SPEC.num_classes, dtype=np.uint8)
    assert (table[SPEC.to_raw(every)] == every).all()
    with pytest.raises(ValueError, match=r"0\.\.18"):
        SPEC.to_raw(np.array([19], np.uint8))


def test_multiscan_keeps_moving_classes_apart() -> None:
    multi = load_spec("semantickitti", "multiscan")
    table, _ = multi.lut()
    assert multi.num_classes == 25 and multi.classes[:19] == SPEC.classes
    assert int(table[252]) == 19 and multi.classes[19] == "moving-car" and int(table[10]) == 0
    assert multi.content.sum() == pytest.approx(SPEC.content.sum())


def test_content_and_tail() -> None:
    # sums of the published shares over the raw ids of a class
    assert SPEC.content[0] == pytest.approx(0.042607828674502385)
    assert SPEC.content[7] == pytest.approx(3.746106399997359e-05)
    assert SPEC.content[14] == pytest.approx(0.26681502148037506)
    assert "car" in SPEC.head and "pole" in SPEC.tail and len(SPEC.tail) == 11


def test_lasermix_lists_have_the_published_sizes_and_nesting() -> None:
    lists = {percent: SPEC.official_list("lasermix", percent) for percent in ("1", "10", "20", "50")}
    assert {percent: len(ids) for percent, ids in lists.items()} == {"1": 191, "10": 1913, "20": 3826, "50": 9565}
    assert lists["10"][:191] == lists["1"] and lists["20"][:1913] == lists["10"]
    assert lists["50"][:120] == lists["1"][:120] and set(lists["1"]) < set(lists["50"])
    for ids in lists.values():
        assert len(set(ids)) == len(ids)
        for scan_id in ids:
            sequence, _, frame = scan_id.partition("/")
            assert SPEC.subset_of(sequence) == "train" and int(frame) < SPEC.scans_per_sequence[sequence]


def test_unknown_names_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="lasermix"):
        SPEC.official_list("lasermx", "1")
    with pytest.raises(UsageError, match="1%, 10%, 20%, 50%"):
        SPEC.official_list("lasermix", "5")
    with pytest.raises(UsageError, match="multiscan"):
        load_spec("semantickitti", "coarse")
    with pytest.raises(UsageError, match="nuscene"):
        load_spec("nuscene")


def test_words_for_whole_groups() -> None:
    assert SPEC.regimes == {"scan": "scan", "scene": "group", "sequence": "group"}
    assert list(SPEC.official) == ["lasermix", "lim3d", "gpc"]


def test_a_broken_specification_names_what_it_lacks() -> None:
    with pytest.raises(DataError, match="ignore"):
        parse_spec({"classes": {"single": {"names": ["a"], "raw_ids": [1], "learning_map": {"1": 0}}}})
    with pytest.raises(DataError, match="inconsistent"):
        table = {"names": ["a"], "raw_ids": [1], "learning_map": {"1": 1}}
        parse_spec({"name": "x", "ignore": 255, "classes": {"single": table}})


def test_survives_pickling() -> None:
    again = pickle.loads(pickle.dumps(SPEC))
    assert again.classes == SPEC.classes and (again.lut()[0] == SPEC.lut()[0]).all()
