"""Parts of ``ssl3d bench stages``, one module each: ``rows(folder, *, jobs, quick)`` gives lines of the table.

A module of this folder is found by its name (names that begin with an underscore are helpers). ``folder`` is empty at
first, is shared by the parts, and goes away at the end.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

Rows = Callable[..., list[dict[str, Any]]]


def list_parts() -> list[str]:
    return sorted(item.name for item in pkgutil.iter_modules([str(Path(__file__).parent)]) if item.name[0] != "_")


def get_part(name: str) -> Rows:
    rows: Rows = import_module(f"{__name__}.{name}").rows
    return rows
