"""Backbones by name: our own, and those that installed packages offer (entry-point group ``ssl3d.backbones``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ssl3d.data.errors import UsageError
from ssl3d.data.registry import Registry
from ssl3d.data.text import nearest
from ssl3d.models.config import Params

if TYPE_CHECKING:
    from ssl3d.models.backbones.base import Backbone

GROUP = "ssl3d.backbones"

_OWN = {
    "cylinder3d": "ssl3d.models.backbones.cylinder3d",
    "cylinder3d-lasermix": "ssl3d.models.backbones.cylinder3d",
    "cylinder3d-micro": "ssl3d.models.backbones.cylinder3d",
    "minkunet14": "ssl3d.models.backbones.minkunet",
    "minkunet18": "ssl3d.models.backbones.minkunet",
    "minkunet34": "ssl3d.models.backbones.minkunet",
    "minkunet-micro": "ssl3d.models.backbones.minkunet",
    "spunet16": "ssl3d.models.backbones.spunet",
    "spunet32": "ssl3d.models.backbones.spunet",
    "spunet-micro": "ssl3d.models.backbones.spunet",
}
"""Written down, so that listing them imports no network."""


def list_backbones() -> list[str]:
    """Names of all backbones, sorted; imports none of them, nor torch."""
    return _BACKBONES.names()


def get_backbone(name: str) -> type[Backbone]:
    """The class of a backbone.

    Raises:
        UsageError: unknown name (the message names the nearest), or another package offers what is no backbone.
    """
    from ssl3d.models.backbones.base import Backbone

    found = _BACKBONES.load(name)
    if not issubclass(found, Backbone):
        raise UsageError(f"the backbone {name!r} is no subclass of Backbone", where={"class": found.__qualname__})
    return found


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
        near = nearest(key, cls.Params.model_fields, 0.4)
        raise UsageError(
            f"backbone {name!r}: {first['msg']}",
            where={"field": key},
            hint=f"did you mean {near}?" if near and near != key else None,
        ) from None


_BACKBONES = Registry("backbone", GROUP, lambda: _OWN)
