"""ST-RFD: worked numbers, the number of scans, and splits by images, by points, and of sequences that stand still."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ssl3d.data.errors import UsageError
from ssl3d.data.redundancy import gray, overlap, ssim
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.evaluation.result import without_seed
from ssl3d.pipeline.stages.choose import parse_ratio
from ssl3d.pipeline.stages.prepare import PrepareParams, prepare
from ssl3d.pipeline.stages.redundancy import RedundancyStage
from ssl3d.pipeline.stages.split import SplitParams, split
from ssl3d.pipeline.stages.strfd import choose_strfd, solve_beta, subsets_of
from ssl3d.pipeline.workspace import Workspace

PHI = [0.2, 0.3, 0.5, 0.6]


def test_beta_of_the_specification() -> None:
    keeps = np.exp(-4 * np.array(PHI))
    assert keeps.tolist() == pytest.approx([0.449329, 0.301194, 0.135335, 0.090718], abs=1e-6)
    assert keeps.mean() == pytest.approx(0.244144, abs=1e-6)
    assert solve_beta([100] * 4, PHI, 0.25) == pytest.approx(-3.923609, abs=1e-6)
    for published, percent in [(-1.72, 50), (-2.28, 40), (-4, 20), (-5.72, 10)]:  # a mean similarity near 0.403
        assert solve_beta([100], [0.403], percent / 100) == pytest.approx(published, rel=0.01)


def test_beta_at_its_ends() -> None:
    assert solve_beta([10, 10], [0.5, 0.1], 1.0) == 0
    assert solve_beta([10, 10], [0.0, 0.5], 0.3) == -1e6  # half of all repeats nothing
    assert solve_beta([10], [0.0], 0.1) == -1e6
    assert solve_beta([10, 30], [0.5, 0.1], 0.6) == pytest.approx(solve_beta([1, 3], [0.5, 0.1], 0.6))


def subsets(sizes: list[int], phi: list[float]) -> list[tuple[list[str], float]]:
    return [([f"{k:02d}/{i:06d}" for i in range(n)], v) for k, (n, v) in enumerate(zip(sizes, phi, strict=True))]


def test_of_each_subset_its_share_is_drawn() -> None:
    given_subsets = subsets([100] * 4, PHI)
    chosen = choose_strfd(given_subsets, "0.25", 0)
    assert len(chosen) == len(set(chosen)) == 100
    counts = [sum(scan.startswith(f"{k:02d}/") for scan in chosen) for k in range(4)]
    expected = (100 * np.exp(-3.923609 * np.array(PHI))).round()  # 46, 31, 14, 10: one too many
    assert np.abs(np.array(counts) - expected).sum() == abs(expected.sum() - 100)
    assert chosen == choose_strfd(given_subsets, "0.25", 0)
    assert set(chosen) != set(choose_strfd(given_subsets, "0.25", 1))


@given(
    st.lists(st.tuples(st.integers(1, 30), st.floats(0, 1)), min_size=1, max_size=6),
    st.integers(1, 100),
    st.integers(0, 3),
)
def test_the_number_is_met_and_no_scan_is_drawn_twice(parts: list[tuple[int, float]], percent: int, seed: int) -> None:
    made = subsets([n for n, _ in parts], [v for _, v in parts])
    ratio = parse_ratio(f"{percent}%")
    chosen = choose_strfd(made, ratio, seed)
    assert len(chosen) == len(set(chosen)) == max(1, round(Fraction(ratio) * sum(n for n, _ in parts)))


def test_the_published_numbers_of_semantickitti() -> None:
    made = subsets([100] * 191 + [30], [0.4] * 192)  # 19,130 scans
    counts = [len(choose_strfd(made, str(Fraction(p, 100).limit_denominator().__float__()), 0)) for p in (1, 2, 5, 10)]
    assert counts == [191, 383, 956, 1913]


def test_draws_within_a_subset_are_even() -> None:
    made = subsets([10], [0.4])
    times: dict[str, int] = {}
    for seed in range(2000):
        for scan in choose_strfd(made, "0.3", seed):
            times[scan] = times.get(scan, 0) + 1
    assert len(times) == 10 and all(abs(count - 600) < 5 * np.sqrt(2000 * 0.3 * 0.7) for count in times.values())


def test_subsets_are_runs_of_a_hundred_of_a_sequence() -> None:
    scans: Any = [SimpleNamespace(scan_id=f"00/{i}", group="00", index=i) for i in range(130)]
    scans += [SimpleNamespace(scan_id=f"01/{i}", group="01", index=130 + i) for i in range(3)]
    scans += [SimpleNamespace(scan_id="02/0", group="02", index=133)]
    values = {f"00/{i}": (0.25 if i < 100 else 0.75) for i in range(1, 130)} | {"01/1": 0.5, "01/2": 0.0}
    found = subsets_of(scans, values)
    assert [len(ids) for ids, _ in found] == [100, 30, 3, 1]
    assert [phi for _, phi in found] == pytest.approx([0.25, 0.75, 0.25, (0.25 + 0.75 + 0.25) / 3])
    assert [phi for _, phi in subsets_of(scans, {})] == [0] * 4
    apart = [scans[0], scans[2], scans[3]]  # the one between is held out, or has no labels
    assert subsets_of(apart, {"00/2": 0.9, "00/3": 0.1})[0][1] == pytest.approx(0.1)


# ---------------------------------------------------------------- splits

FRAMES = {"00": 12, "01": 12, "08": 2}


def with_images(root: Path) -> Path:
    """The images of sequence 00 are all alike, those of 01 are all different."""
    rng = np.random.default_rng(0)
    for sequence, frames in FRAMES.items():
        folder = root / "sequences" / sequence / "image_2"
        folder.mkdir()
        still = rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)
        for frame in range(frames):
            image = still if sequence == "00" else rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / f"{frame:06d}.png")
    return root


@pytest.fixture
def kitti_of(make_kitti: Callable[..., Path], tmp_path: Path) -> Callable[..., Workspace]:
    def make(images: bool) -> Workspace:
        root = make_kitti(tmp_path / "kitti", FRAMES)
        if images:
            with_images(root)
        space = Workspace.open(tmp_path / "ws")
        prepare(space, "semantickitti", root, PrepareParams(), jobs=1)
        return space

    return make


def by_sequence(scans: tuple[str, ...]) -> list[int]:
    return [sum(scan.startswith(name) for scan in scans) for name in ("00/", "01/")]


def test_a_sequence_that_stands_still_gives_fewer_labels(kitti_of: Callable[..., Workspace]) -> None:
    space = kitti_of(images=True)
    made = split(space, SplitParams(ratio="25%", protocol="strfd"))
    assert made.name == "scan-25%-strfd-seed0" and without_seed(made.name) == "scan-25%-strfd"
    assert len(made.labelled) == 6 and len(made.unlabelled) == 18
    still, moving = by_sequence(made.labelled)
    assert still < moving
    data = PreparedDataset(space.dataset())
    product = space.dataset().product("redundancy")
    assert product is not None and product.complete
    values = RedundancyStage.of_scans(product, data)
    assert len(values) == 22 and not any(scan.startswith("08") for scan in values)
    root = Path(data.product.manifest.identity["root"]) / "sequences" / "01" / "image_2"
    one, other = (gray(np.asarray(Image.open(root / f"{frame:06d}.png"))) for frame in (4, 5))
    assert values["01/000005"] == pytest.approx(max(0, ssim(one, other)), abs=1e-6)
    assert all(value == 1 for scan, value in values.items() if scan.startswith("00"))
    again = split(space, SplitParams(ratio="25%", protocol="strfd"))
    assert again.hash == made.hash and again.key == made.key
    assert split(space, SplitParams(ratio="25%", protocol="strfd", seed=1)).hash != made.hash
    held = split(space, SplitParams(ratio="50%", protocol="strfd", holdout=("01",)))
    assert by_sequence(held.labelled) == [6, 0]


def test_without_images_the_cells_that_scans_share_count(kitti_of: Callable[..., Workspace]) -> None:
    space = kitti_of(images=False)
    made = split(space, SplitParams(ratio="25%", protocol="strfd"))
    assert len(made.labelled) == 6
    data = PreparedDataset(space.dataset())
    product = space.dataset().product("redundancy")
    assert product is not None and product.manifest.params == {"images": False}
    scans = [data.visible(made).view(data.by_id[f"00/00000{i}"].index).points for i in (2, 3)]
    assert RedundancyStage.of_scans(product, data)["00/000003"] == pytest.approx(overlap(*scans), abs=1e-6)


def test_an_image_that_is_gone_is_named(kitti_of: Callable[..., Workspace]) -> None:
    space = kitti_of(images=True)
    root = Path(PreparedDataset(space.dataset()).product.manifest.identity["root"])
    (root / "sequences" / "00" / "image_2" / "000003.png").unlink()
    with pytest.raises(Exception, match=r"image is missing"):
        split(space, SplitParams(ratio="25%", protocol="strfd"))


def test_combinations_that_make_no_sense(kitti_of: Callable[..., Workspace]) -> None:
    for params in ({"regime": "points", "ratio": "1%"}, {"official": "lasermix-1%"}, {"regime": "1pt"}):
        with pytest.raises(UsageError, match="--protocol strfd takes whole scans by a share of all scans"):
            SplitParams(protocol="strfd", **params)
    assert SplitParams(ratio="5%", protocol="strfd").command() == "ssl3d split --ratio 5% --protocol strfd --seed 0"
    with pytest.raises(UsageError, match="draws groups of them"):
        split(kitti_of(images=False), SplitParams(regime="sequence", ratio="50%", protocol="strfd"))


def test_older_keys_stay_what_they_are() -> None:
    assert "protocol" not in json.loads(SplitParams(ratio="5%").model_dump_json())
