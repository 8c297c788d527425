"""What readers, methods and backbones have in common: names of this package first, then those of other packages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ssl3d.data.errors import Ssl3dError, UsageError
from ssl3d.data.registry import Registry

ENTRY_POINTS = """\
[ssl3d.things]
theirs = thirdparty_things:Theirs
ours = thirdparty_things:Theirs
number = thirdparty_things:NUMBER
broken = thirdparty_things:nothing_like_it
"""


@pytest.fixture
def things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry with modules ``own_things`` of ours, and a package of somebody else, as pip would leave it."""
    info = tmp_path / "thirdparty_things-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty-things\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "thirdparty_things.py").write_text("NUMBER = 7\nclass Theirs:\n    name = 'theirs'\n")
    (tmp_path / "own_things.py").write_text("class Ours:\n    name = 'ours'\nclass Child(Ours):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("thirdparty_things", "own_things"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return Registry("thing", "ssl3d.things", lambda: {"ours": "own_things", "lost": "own_things"})


def test_names_of_both_are_listed_without_importing_any(things: Registry) -> None:
    assert things.names() == ["broken", "lost", "number", "ours", "theirs"]
    assert not {"thirdparty_things", "own_things"} & sys.modules.keys()


def test_ours_cannot_be_replaced_by_another_package(things: Registry) -> None:
    assert things.load("ours").__module__ == "own_things"
    assert things.load("ours").__name__ == "Ours"  # not its child, which inherits the name
    assert things.load("theirs").__module__ == "thirdparty_things"


def test_what_cannot_be_had_is_said(things: Registry) -> None:
    with pytest.raises(UsageError, match=r"no thing named 'their'.*did you mean theirs\? known things: broken, lost"):
        things.load("their")
    with pytest.raises(Ssl3dError, match="no thing class with name = 'lost'"):
        things.load("lost")
    with pytest.raises(UsageError, match=r"cannot be loaded.*nothing_like_it.*reinstall"):
        things.load("broken")
    with pytest.raises(UsageError, match="'number' of another package is not a class"):
        things.load("number")
