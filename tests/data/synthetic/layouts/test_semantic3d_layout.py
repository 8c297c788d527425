"""The clouds of generated stations are those of Semantic3D."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ssl3d.data.datasets.root import MANIFEST
from ssl3d.data.synthetic.layouts.semantic3d import LABELS, TEST, TRAIN, place_of, station_of
from ssl3d.data.synthetic.layouts.text import text_lines


def test_clouds_are_text_of_seven_columns(semantic3d: Path) -> None:
    subsets = json.loads((semantic3d / MANIFEST).read_text())["subsets"]
    assert set(subsets["test"]) == set(TEST) and set(subsets["train"]) | set(subsets["val"]) <= set(TRAIN)
    total = np.zeros(9, np.int64)
    for subset, clouds in subsets.items():
        for cloud in clouds:
            rows = np.loadtxt(semantic3d / f"{cloud}.txt")
            labels = semantic3d / f"{cloud}.labels"
            assert rows.shape[1] == 7 and len(rows) > (20_000 if subset != "test" else 5_000)
            assert np.isfinite(rows).all() and np.array_equal(rows[:, 3:], np.rint(rows[:, 3:]))
            assert rows[:, 3].min() >= -2048 and rows[:, 3].min() < 0 and rows[:, 3].max() <= 2047
            assert rows[:, 4:].min() >= 0 and rows[:, 4:].max() <= 255
            assert 0.9 < np.linalg.norm(rows[:, :3], axis=1).min() < 5.0
            assert labels.exists() == (subset != "test")
            if subset != "test":
                label = np.loadtxt(labels, dtype=int)
                assert len(label) == len(rows)
                total += np.bincount(label, minlength=9)
                terrain = rows[(label == 1) & (np.linalg.norm(rows[:, :2], axis=1) < 6.0)]
                assert abs(np.median(terrain[:, 2]) + 1.83) < 0.25
                green = rows[label == 3, 5] - rows[label == 3, 4]
                assert green.mean() > 5.0 > (rows[label == 1, 5] - rows[label == 1, 4]).mean()
                assert rows[label == 3, 2].mean() > rows[label == 4, 2].mean()
    assert np.all(total[1:] > 0), dict(zip(LABELS.values(), total, strict=True))


def test_clouds_of_a_place_have_stations_of_their_own() -> None:
    for cloud in TEST:
        assert station_of(cloud) == sum(place_of(name) == place_of(cloud) for name in TRAIN)
    assert [station_of(name) for name in TRAIN[:3]] == [0, 1, 2]


@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_written_as_python_writes_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(700, 3)) * 10.0 ** rng.integers(0, 8, (700, 3))).astype(np.int64)
    values[0] = (-5, 0, -1)
    lines = "".join(
        f"{'-' if a < 0 else ''}{abs(a) // 1000}.{abs(a) % 1000:03d} {b} {c}\n" for a, b, c in values.tolist()
    )
    assert text_lines(values, (3, 0, 0)).decode() == lines
    assert text_lines(values[:0], (3, 0, 0)) == b""
