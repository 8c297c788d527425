"""The published layouts in which streets are written, one file a layout."""

from __future__ import annotations

from importlib import import_module

from ssl3d.data.errors import UsageError
from ssl3d.data.synthetic.layouts.base import StreetLayout

LAYOUTS = ("semantickitti", "nuscenes", "nuscenes-test", "semanticposs", "semantic3d")
"""The first is what is written when nobody asks for another."""


def layout_of(name: str) -> StreetLayout:
    """The writer of a layout.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in LAYOUTS:
        raise UsageError(f"Streets are not written in a layout {name!r}.", hint=f"Use one of: {', '.join(LAYOUTS)}.")
    layout: StreetLayout = import_module(f"{__name__}.{name.replace('-', '_')}").LAYOUT
    return layout
