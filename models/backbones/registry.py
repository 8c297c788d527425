"""Backbones by name: our own, and those that installed packages offer (entry-point group ``ssl3d.backbones``)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ssl3d.data.errors import UsageError
from ssl3d.models.config import Params

if TYPE_CHECKING:
    from ssl3d.models.backbones.base import Backbone

GROUP = "ssl3d.backbones"

_OWN = {
    "minkunet14": "ssl3d.models.backbones.minkunet:MinkUNet14",
    "minkunet18": "ssl3d.models.backbones.minkunet:MinkUNet",
    "minkunet34": "ssl3d.models.backbones.minkunet:MinkUNet34",
    "minkunet-micro": "ssl3d.models.backbones.minkunet:MinkUNetMicro",
}


def list_backbones() -> list[str]:
    """Names of all backbones; imports none of them, nor torch."""
    return sorted({*_OWN, *(entry.name for entry in entry_points(group=GROUP))})


def get_backbone(name: str) -> type[Backbone]:
    """The class of a backbone. Raises ``UsageError`` for an unknown name."""
    if name in _OWN:
        module, _, attribute = _OWN[name].partition(":")
        found: type[Backbone] = getattr(import_module(module), attribute)
        return found
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            loaded: type[Backbone] = entry.load()
            return loaded
    known = list_backbones()
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    raise UsageError(
        f"there is no backbone {name!r}",
        where={"known": ", ".join(known)},
        hint=f"did you mean {' or '.join(near)}?" if near else "choose one of these with --backbone",
    )


def make_backbone(name: str, params: Params | Mapping[str, Any] | None = None) -> Backbone:
    """A new network with weights from torch's global generator (seed it first).

    Args:
        name: see ``list_backbones``.
        params: an instance of the class's ``Params``, or a mapping of the values that differ from its defaults.

    Raises:
        UsageError: unknown name, unknown key or invalid value.
    """
    cls = get_backbone(name)
    if not isinstance(params, Params):
        params = _validated(name, cls, dict(params or {}))
    elif not isinstance(params, cls.Params):
        raise UsageError(f"{type(params).__name__} are not the parameters of backbone {name!r}")
    return cls(params)


def _validated(name: str, cls: type[Backbone], values: dict[str, Any]) -> Params:
    try:
        return cls.Params(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        near = difflib.get_close_matches(key, cls.Params.model_fields, n=1, cutoff=0.4)
        raise UsageError(
            f"backbone {name!r}: {first['msg']}",
            where={"field": key},
            hint=f"did you mean {near[0]!r}?" if near and near[0] != key else None,
        ) from None
