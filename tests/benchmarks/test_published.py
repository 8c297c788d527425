"""The published numbers are all here, with what is known of how they were made."""

from __future__ import annotations

import math

import pytest

from ssl3d.benchmarks.published import FULL, Published, facts, numbers_of, published, published_files, read_numbers
from ssl3d.benchmarks.recipes import RECIPES
from ssl3d.data.official import list_family, listed_datasets
from ssl3d.models.backbones.registry import list_backbones
from ssl3d.pipeline.evaluation.protocols import PROTOCOLS

NAN = math.nan
OUTDOOR, INDOOR, GPC = (1, 10, 20, 50), (5, 10, 20, 30, 40), (1, 5, 10, 15, 20, 25, 30, 40, 100)
ALL = (1, 10, 20, 50, 100)
BLOCKS: list[tuple[str, str, str, str, str, tuple[int, ...], list[float]]] = [
    # file, table, method, variant or label, dataset, ratios, mIoU
    ("ddsemi", "semantickitti", "mean_teacher", "", "semantickitti", OUTDOOR, [45.4, 57.1, 59.2, 60.0]),
    ("ddsemi", "semantickitti", "cbst", "", "semantickitti", OUTDOOR, [48.8, 58.3, 59.4, 59.7]),
    ("ddsemi", "semantickitti", "cps", "", "semantickitti", OUTDOOR, [46.7, 58.7, 59.6, 60.5]),
    ("ddsemi", "semantickitti", "lasermix", "LaserMix (range)", "semantickitti", OUTDOOR, [43.4, 58.8, 59.4, 61.4]),
    ("ddsemi", "semantickitti", "lasermix", "LaserMix (voxel)", "semantickitti", OUTDOOR, [50.6, 60.0, 61.9, 62.3]),
    ("ddsemi", "semantickitti", "gpc", "", "semantickitti", OUTDOOR, [54.1, 62.0, 62.5, 62.8]),
    ("ddsemi", "semantickitti", "lim3d", "", "semantickitti", OUTDOOR, [58.4, 62.2, 63.1, 63.6]),
    ("ddsemi", "semantickitti", "ddsemi", "", "semantickitti", OUTDOOR, [59.3, 65.1, 66.3, 67.0]),
    ("ddsemi", "nuscenes", "mean_teacher", "", "nuscenes", OUTDOOR, [51.6, 66.0, 67.1, 71.7]),
    ("ddsemi", "nuscenes", "cbst", "", "nuscenes", OUTDOOR, [53.0, 66.5, 69.6, 71.6]),
    ("ddsemi", "nuscenes", "cps", "", "nuscenes", OUTDOOR, [52.9, 66.3, 70.0, 72.5]),
    ("ddsemi", "nuscenes", "lasermix", "LaserMix (range)", "nuscenes", OUTDOOR, [49.5, 68.2, 70.6, 73.0]),
    ("ddsemi", "nuscenes", "lasermix", "LaserMix (voxel)", "nuscenes", OUTDOOR, [55.3, 69.9, 71.8, 73.2]),
    ("ddsemi", "nuscenes", "ddsemi", "", "nuscenes", OUTDOOR, [58.1, 70.2, 74.0, 76.5]),
    ("ddsemi", "s3dis", "mean_teacher", "", "s3dis", INDOOR, [46.3, 53.3, 60.1, 61.5, 62.6]),
    ("ddsemi", "s3dis", "cbst", "", "s3dis", INDOOR, [48.7, 54.0, 60.3, 61.8, 62.9]),
    ("ddsemi", "s3dis", "cps", "", "s3dis", INDOOR, [48.5, 54.4, 60.9, 62.0, 63.4]),
    ("ddsemi", "s3dis", "sssnet", "", "s3dis", INDOOR, [NAN, 51.1, 55.5, NAN, NAN]),
    ("ddsemi", "s3dis", "gpc", "", "s3dis", INDOOR, [53.0, 57.7, 63.5, 64.9, 65.0]),
    ("ddsemi", "s3dis", "ddsemi", "", "s3dis", INDOOR, [63.2, 66.8, 70.3, 70.5, 70.8]),
    *[
        ("ddsemi", "ablation_components_kitti10", "ddsemi", variant, "semantickitti", (10,), [value])
        for variant, value in (
            ("ce", 56.1),
            ("ce_inter", 59.7),
            ("ce_inter_intra", 61.3),
            ("plus_geometric", 61.9),
            ("plus_feature", 63.8),
            (FULL, 65.1),
        )
    ],
    *[
        ("ddsemi", f"ablation_{table}_kitti", "ddsemi", variant, "semantickitti", OUTDOOR, values)
        for table, variant, values in (
            ("strategy", "point_to_point", [55.6, 63.1, 64.0, 64.8]),
            ("strategy", "point_to_anchor", [59.3, 65.1, 66.3, 67.0]),
            ("bank_update", "progressive", [58.7, 64.3, 65.5, 66.3]),
            ("bank_update", "fifo", [58.8, 64.5, 65.7, 66.2]),
            ("bank_update", "both", [59.3, 65.1, 66.3, 67.0]),
            ("anchor", "random", [58.2, 64.0, 64.9, 65.8]),
            ("anchor", "confidence", [58.4, 64.3, 65.1, 66.0]),
            ("anchor", "density", [59.3, 65.1, 66.3, 67.0]),
        )
    ],
    ("gpc", "paper_scannet", "supervised", "", "scannet", GPC, [40.9, 48.1, 57.2, 61.3, 64.0, 65.3, 67.1, 68.8, 72.9]),
    ("gpc", "paper_scannet", "gpc", "", "scannet", GPC, [46.6, 54.8, 60.5, 63.3, 66.7, 67.5, 68.9, 71.3, 74.0]),
    ("gpc", "paper_s3dis", "supervised", "", "s3dis", GPC, [36.3, 45.0, 52.9, 55.3, 59.9, 60.3, 61.2, 62.6, 66.4]),
    ("gpc", "paper_s3dis", "gpc", "", "s3dis", GPC, [38.2, 53.0, 57.7, 60.2, 63.5, 63.9, 64.9, 65.0, 68.8]),
    (
        "gpc", "paper_kitti_seq", "supervised", "", "semantickitti", GPC,
        [28.6, 34.8, 43.9, 47.9, 53.8, 55.1, 55.4, 57.4, 65.0],
    ),
    (
        "gpc", "paper_kitti_seq", "gpc", "", "semantickitti", GPC,
        [34.7, 41.8, 49.9, 53.1, 58.8, 59.1, 59.4, 59.9, 65.8],
    ),
    ("gpc", "repo_scannet", "supervised", "", "scannet", INDOOR, [49.13, 58.01, 64.30, 67.05, 69.44]),
    ("gpc", "repo_scannet", "gpc", "", "scannet", INDOOR, [55.42, 62.17, 67.02, 69.46, 71.50]),
    ("gpc", "repo_s3dis", "supervised", "", "s3dis", INDOOR, [45.73, 53.39, 58.34, 61.41, 61.69]),
    ("gpc", "repo_s3dis", "gpc", "", "s3dis", INDOOR, [53.20, 56.64, 63.67, 64.95, 65.32]),
    ("gpc", "repo_kitti_seq", "supervised", "", "semantickitti", INDOOR, [35.64, 42.68, 53.98, 55.30, 57.20]),
    ("gpc", "repo_kitti_seq", "gpc", "", "semantickitti", INDOOR, [42.45, 48.77, 58.78, 59.26, 59.96]),
    ("gpc", "uniform_split", "gpc", "", "semantickitti", OUTDOOR, [54.1, 62.0, 62.5, 62.8]),
    ("lasermix", "voxel_semantickitti", "lasermix", "", "semantickitti", OUTDOOR, [50.6, 60.0, 61.9, 62.3]),
    ("lasermix", "voxel_nuscenes", "lasermix", "", "nuscenes", OUTDOOR, [55.3, 69.9, 71.8, 73.2]),
    ("lasermix", "voxel_scribblekitti", "lasermix", "", "scribblekitti", OUTDOOR, [44.2, 53.7, 55.1, 56.8]),
    ("lasermix", "range_semantickitti", "lasermix", "", "semantickitti", OUTDOOR, [43.4, 58.8, 59.4, 61.4]),
    ("lasermix", "range_nuscenes", "lasermix", "", "nuscenes", OUTDOOR, [49.5, 68.2, 70.6, 73.0]),
    ("lasermix", "range_scribblekitti", "lasermix", "", "scribblekitti", OUTDOOR, [38.3, 54.4, 55.6, 58.7]),
    ("lasermix", "spvcnn_full_supervision", "supervised", "", "semantickitti", (100,), [63.2]),
    ("lasermix", "spvcnn_full_supervision", "lasermix", "augmentation", "semantickitti", (100,), [65.8]),
    ("cps", "semantickitti", "cps", "", "semantickitti", OUTDOOR, [46.7, 58.7, 59.6, 60.5]),
    ("cps", "nuscenes", "cps", "", "nuscenes", OUTDOOR, [52.9, 66.3, 70.0, 72.5]),
    ("cps", "scannet", "cps", "", "scannet", INDOOR, [51.7, 58.6, 66.4, 68.0, 70.5]),
    ("cps", "s3dis_area5", "cps", "", "s3dis", INDOOR, [48.5, 54.4, 60.9, 62.0, 63.4]),
    ("cbst", "semantickitti", "cbst", "", "semantickitti", OUTDOOR, [48.8, 58.3, 59.4, 59.7]),
    ("cbst", "nuscenes", "cbst", "", "nuscenes", OUTDOOR, [53.0, 66.5, 69.6, 71.6]),
    ("cbst", "scannet", "cbst", "", "scannet", INDOOR, [48.5, 57.8, 65.4, 67.3, 69.2]),
    ("cbst", "s3dis_area5", "cbst", "", "s3dis", INDOOR, [48.7, 54.0, 60.3, 61.8, 62.9]),
    ("mean_teacher", "semantickitti", "mean_teacher", "", "semantickitti", OUTDOOR, [45.4, 57.1, 59.2, 60.0]),
    ("mean_teacher", "nuscenes", "mean_teacher", "", "nuscenes", OUTDOOR, [51.6, 66.0, 67.1, 71.7]),
    ("mean_teacher", "scannet", "mean_teacher", "", "scannet", INDOOR, [48.7, 57.2, 66.1, 67.3, 69.1]),
    ("mean_teacher", "s3dis_area5", "mean_teacher", "", "s3dis", INDOOR, [46.3, 53.3, 60.1, 61.5, 62.6]),
    (
        "lim3d", "semantickitti_as_quoted_by_lass3d_and_ddsemi", "lim3d", "", "semantickitti", OUTDOOR,
        [58.4, 62.2, 63.1, 63.6],
    ),
    ("lim3d", "abstract_semantickitti", "lim3d", "", "semantickitti", (5,), [59.5]),
    ("lim3d", "abstract_scribblekitti", "lim3d", "", "scribblekitti", (5,), [58.1]),
    ("lim3d", "repository_checkpoint", "lim3d", "without SDSC", "scribblekitti", (10,), [61.01]),
    *[
        ("supervised", f"lasermix_{track}_{dataset}", "supervised", "", dataset, OUTDOOR, values)
        for track, dataset, values in (
            ("voxel", "semantickitti", [45.4, 56.1, 57.8, 58.7]),
            ("voxel", "nuscenes", [50.9, 65.9, 66.6, 71.2]),
            ("voxel", "scribblekitti", [39.2, 48.0, 52.1, 53.8]),
            ("range", "semantickitti", [36.2, 52.2, 55.9, 57.2]),
            ("range", "nuscenes", [38.3, 57.5, 62.7, 67.6]),
            ("range", "scribblekitti", [33.1, 47.7, 49.9, 52.5]),
        )
    ],
    *[
        ("supervised", f"lasermix_{table}", "supervised", "", table.partition("_")[2], ALL, values)
        for table, values in (
            ("spvcnn_semantickitti", [42.7, 57.5, 60.2, 62.7, 63.2]),
            ("spvcnn_nuscenes", [53.7, 69.7, 71.6, 72.0, 73.2]),
            ("cenet_semantickitti", [40.4, 56.0, 58.2, 60.1, 62.9]),
        )
    ],
    *[
        ("supervised", f"gpc_repository_{dataset}", "supervised", "", dataset, INDOOR, values)
        for dataset, values in (
            ("scannet", [49.13, 58.01, 64.30, 67.05, 69.44]),
            ("s3dis", [45.73, 53.39, 58.34, 61.41, 61.69]),
            ("semantickitti", [35.64, 42.68, 53.98, 55.30, 57.20]),
        )
    ],
    ("supervised", "ddsemi_ablation", "supervised", "", "semantickitti", (10,), [56.1]),
]  # fmt: skip


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: "-".join(block[:4]))
def test_a_block_of_a_paper_is_here(block: tuple[str, str, str, str, str, tuple[int, ...], list[float]]) -> None:
    file, table, method, which, dataset, ratios, values = block
    found = [
        number
        for number in published()
        if (number.file, number.table, number.method) == (file, table, method)
        and which in ("", number.variant, number.label)
    ]
    wanted = [(float(ratio), value) for ratio, value in zip(ratios, values, strict=True) if not math.isnan(value)]
    assert [(number.ratio, number.miou) for number in found] == wanted
    assert {number.dataset for number in found} == {dataset}


def test_there_is_nothing_else() -> None:
    assert sum(sum(not math.isnan(value) for value in block[-1]) for block in BLOCKS) == len(published())
    assert published_files() == sorted(RECIPES)
    assert facts("lim3d") == {"parameter_reduction": 2.3, "multiply_add_reduction": 641}


def test_what_is_said_about_a_number_exists() -> None:
    for number in published():
        assert number.source and number.split, number
        assert number.protocol in PROTOCOLS
        assert set(number.same_backbone) <= set(list_backbones())
        assert not number.same_backbone or number.backbone, number
        if number.list not in (None, "all"):
            dataset = number.dataset.replace("scribblekitti", "semantickitti")
            assert dataset in listed_datasets()
            family = list_family(dataset, number.list)
            assert number.ratio == 100 or f"{number.ratio:g}" in family.lists, number
        if number.method in RECIPES and number.variant != "augmentation":
            assert number.variant in (FULL, *RECIPES[number.method].variants), number


def test_numbers_that_several_papers_quote_are_one_with_all_sources() -> None:
    found = [n for n in numbers_of("lasermix") if (n.dataset, n.ratio, n.miou) == ("semantickitti", 10, 60.0)]
    (number,) = found
    assert number.source == "LaserMix repository (ldkong1205/LaserMix); DDSEmi, Table 1"
    assert (number.file, number.list, number.elements, number.steps) == ("lasermix", "lasermix", "voxels", 45_000)
    full = [n for n in numbers_of("ddsemi") if (n.dataset, n.ratio, n.variant) == ("semantickitti", 10, FULL)]
    assert [n.source for n in full] == ["; ".join(f"DDSEmi, Table {number}" for number in (1, 3, 4, 5, 6))]
    assert {n.miou for n in numbers_of("supervised") if (n.dataset, n.ratio) == ("semantickitti", 10)} == {
        56.1, 52.2, 57.5, 56.0, 42.68, 43.9,
    }  # fmt: skip


def test_a_wrong_table_is_named() -> None:
    head = '[[table]]\nname = "t"\nsource = "s"\ndataset = "s3dis"\nprotocol = "p"\nratios = [1, 2]\n[[table.row]]\n'
    found = read_numbers(head + 'method = "m"\nmiou = [1.5, nan]\n', "f")
    assert found == [Published("m", "s3dis", 1.0, 1.5, "t", "f", "s", "p")]
    for row, why in (
        ('method = "m"\nmiou = [1.5]\n', "2 ratios and 1 numbers of m"),
        ('method = "m"\nmiou = [1.5, 2]\nbackbon = "x"\n', "unknown keys backbon"),
        ('method = "m"\nmiou = [1.5, 2]\nsteps = [1]\n', "2 ratios"),
    ):
        with pytest.raises(ValueError, match=f"f.toml, table t: .*{why}"):
            read_numbers(head + row, "f")
