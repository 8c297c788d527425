"""Parts of ``ssl3d bench stages``: found by their files, run one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssl3d.benchmarks import stages
from ssl3d.benchmarks.stage_rows import get_part, list_parts
from ssl3d.data.errors import UsageError
from ssl3d.pipeline.progress import Silent


def test_every_file_is_a_part() -> None:
    assert "density" in list_parts() and not [name for name in list_parts() if name.startswith("_")]
    assert all(callable(get_part(name)) for name in list_parts())
    assert stages.parts() == ["chain", *list_parts()]


def test_an_unknown_part_names_the_others() -> None:
    with pytest.raises(UsageError, match="densities") as caught:
        stages.run(progress=Silent(), jobs=1, only=["densities"])
    assert "density" in str(caught.value.hint)


@pytest.mark.slow
def test_rows_of_density(tmp_path: Path) -> None:
    rows = get_part("density")(tmp_path, jobs=1, quick=True)
    assert len(rows) == 4
    for row in rows:
        assert row["ratio"] == pytest.approx(row["theirs"] / row["ours"]) and row["ours"] > 0


@pytest.mark.slow
def test_rows_of_oversegment(tmp_path: Path) -> None:
    rows = get_part("oversegment")(tmp_path, jobs=1, quick=True)
    assert len(rows) == 12
    assert all(row["ratio"] > 1 for row in rows if row["rival"].startswith("bar of"))  # quality does not depend on load
