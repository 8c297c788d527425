from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ssl3d.data.datasets.registry import get_reader, list_readers
from ssl3d.data.errors import UsageError


def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """A package of somebody else, as pip would leave it on the path."""
    info = tmp_path / "thirdparty-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ssl3d.datasets]\nmydata = thirdparty_reader:MyReader\n")
    (tmp_path / "thirdparty_reader.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "thirdparty_reader", raising=False)


def test_the_reader_of_the_package() -> None:
    assert "semantickitti" in list_readers()
    assert get_reader("semantickitti").name == "semantickitti"


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean semantickitti") as caught:
        get_reader("SemanticKITI")
    assert caught.value.exit_code == 2


def test_a_reader_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "class MyReader:\n    name = 'mydata'\n")
    assert "mydata" in list_readers()
    assert get_reader("mydata").name == "mydata"


def test_a_reader_that_does_not_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "import a_package_that_is_not_there\n")
    with pytest.raises(UsageError, match="a_package_that_is_not_there"):
        get_reader("mydata")
