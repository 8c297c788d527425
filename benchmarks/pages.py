"""Pages of the documentation whose figures a benchmark writes: between two marks, the rest of the page stays."""

from __future__ import annotations

from pathlib import Path

from ssl3d.data.atomic import write_whole
from ssl3d.data.errors import UsageError
from ssl3d.pipeline.files import writing


def write_section(page: Path, name: str, section: str) -> None:
    """Puts ``section`` between the lines ``<!-- name: begin -->`` and ``<!-- name: end -->`` of ``page``.

    Raises:
        UsageError: there is no such page, or it has not both lines, in this order.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError("the page cannot be read", where={"file": page, "reason": error}) from error
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise UsageError("the page has no place for the figures", where={"file": page, "lines": f"{begin}, {end}"})
    with writing(page.parent):
        write_whole(page, f"{before}{begin}\n{section}{end}{after}".encode())
