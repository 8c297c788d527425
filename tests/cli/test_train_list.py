"""``ssl3d train --list``."""

from __future__ import annotations

import pytest

from ssl3d.models.backbones.registry import get_backbone, list_backbones
from ssl3d.models.methods.registry import get_method, list_methods


@pytest.fixture
def listed(ssl3d, monkeypatch: pytest.MonkeyPatch):
    """The lines of the list, 100 columns wide."""

    def ask() -> list[str]:
        monkeypatch.setenv("COLUMNS", "100")
        answer = ssl3d("train", "--list")
        assert answer.code == 0 and answer.err == ""
        return answer.out.splitlines()

    return ask


def cells(lines: list[str], method: str) -> list[str]:
    """backbones, rooms, unlabelled, stages of a method."""
    (line,) = (line for line in lines if line.split()[:1] == [method])
    return [cell.strip() for cell in line.split("   ") if cell.strip()][1:5]


def test_every_method_and_what_it_needs(listed) -> None:
    lines = listed()
    assert max(map(len, lines)) <= 100
    for name in list_methods():
        method = get_method(name)
        backbones, rooms, unlabelled, stages = cells(lines, name)
        assert backbones == (", ".join(method.elements) or "any")
        assert rooms == ("no" if method.needs_sensor else "yes")
        assert unlabelled == ("yes" if method.uses_unlabelled else "no")
        assert stages.split(",")[0] == (*method.needs, "-")[0]  # several may take several lines
    assert "lower reference" in " ".join(" ".join(lines).split())


def test_what_a_method_says_of_itself_is_shown(listed, monkeypatch: pytest.MonkeyPatch) -> None:
    method = get_method("supervised")
    assert cells(listed(), "supervised") == ["any", "yes", "no", "-"]
    monkeypatch.setattr(method, "elements", ("pixels",))
    monkeypatch.setattr(method, "needs_sensor", True)
    monkeypatch.setattr(method, "uses_unlabelled", True)
    monkeypatch.setattr(method, "needs", ("density",))
    assert cells(listed(), "supervised") == ["pixels", "no", "yes", "density"]


def test_backbones_by_what_they_compute_on(listed) -> None:
    lines = listed()
    begin = next(i for i, line in enumerate(lines) if "--backbone" in line)
    shown: dict[str, list[str]] = {}
    kinds = {get_backbone(name).elements for name in list_backbones()}
    kind = ""
    for line in lines[begin + 2 :]:
        if not line.strip():
            break
        kind = next((known for known in kinds if line.strip().startswith(known)), kind)
        shown.setdefault(kind, []).extend(line.strip().removeprefix(kind).replace(",", " ").split())
    assert sorted(name for names in shown.values() for name in names) == list_backbones()
    assert all(get_backbone(name).elements == kind for kind, names in shown.items() for name in names)
