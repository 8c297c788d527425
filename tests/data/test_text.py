from __future__ import annotations

import pytest

from ssl3d.data.text import nearest, size_text


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 KB"), (99_500, "100 KB"), (2e9, "2.0 GB")]
)
def test_sizes_are_those_of_disks(num_bytes: float, text: str) -> None:
    assert size_text(num_bytes) == text


def test_the_nearest_name_ignores_case_and_keeps_the_known_spelling() -> None:
    assert nearest("SEMANTICKITI", ["semantickitti", "nuscenes"]) == "semantickitti"
    assert nearest("kiti", ["KITTI", "scannet"]) == "KITTI"
    assert nearest("xyz", ["semantickitti", "nuscenes"]) is None
