"""Pages whose figures a benchmark writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssl3d.benchmarks.pages import write_section
from ssl3d.data.errors import UsageError


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n<!-- y: begin -->\nkept\n<!-- y: end -->\n")
    write_section(page, "x", "new\n")
    assert page.read_text() == (
        "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\nb\n<!-- y: begin -->\nkept\n<!-- y: end -->\n"
    )


@pytest.mark.parametrize("text", ["no marks\n", "<!-- x: end -->\n<!-- x: begin -->\n", "<!-- x: begin -->\n"])
def test_a_page_without_both_marks_stays_as_it_is(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(UsageError, match="no place for the figures"):
        write_section(page, "x", "new\n")
    assert page.read_text() == text
    with pytest.raises(UsageError, match="cannot be read"):
        write_section(tmp_path / "missing.md", "x", "new\n")
