"""What operators and backends derive from the maps of a coordinate manager: made once, and freed with it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from ssl3d.models.sparse.manager import CoordinateManager

T = TypeVar("T")
_DERIVED: WeakKeyDictionary[CoordinateManager, dict[Hashable, Any]] = WeakKeyDictionary()


def derived(manager: CoordinateManager, name: Hashable, build: Callable[[], T]) -> T:
    """What ``build`` made for the manager when ``name`` was first asked for. It must not hold the manager."""
    known = _DERIVED.setdefault(manager, {})
    if name not in known:
        known[name] = build()
    made: T = known[name]
    return made
