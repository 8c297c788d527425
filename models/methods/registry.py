"""Methods by name. A method is one file in this folder; another package adds its own by an entry point.

The file ``<name>.py`` holds one ``Method`` subclass whose ``name`` is ``"<name>"``: nothing else has to be registered.
Files that start with an underscore are not methods. Other packages use the entry-point group ``ssl3d.methods``
(``my_method = "my_package.my_module:MyMethod"``). Listing names imports no torch.
"""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING

from ssl3d.data.errors import UsageError
from ssl3d.data.registry import Registry

if TYPE_CHECKING:
    from ssl3d.models.methods.base import Method

GROUP = "ssl3d.methods"
NOT_METHODS = ("base", "registry")
OF_STAGES = {"boundary": "ssl3d.models.boundary.method"}
"""Methods that train a network for a stage: not listed, and not trained by ``ssl3d train``."""


def list_methods() -> list[str]:
    """Every name that ``ssl3d train`` accepts, sorted."""
    return _METHODS.names()


def get_method(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        UsageError: unknown name (the message names the nearest), or another package offers what is no method.
        Ssl3dError: the file that should hold it does not.
    """
    from ssl3d.models.methods.base import Method

    found = (_OF_STAGES if name in OF_STAGES else _METHODS).load(name)
    if not issubclass(found, Method):
        raise UsageError(f"the method {name!r} is no subclass of Method", where={"class": found.__qualname__})
    return found


def _own() -> dict[str, str]:
    names = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]) if not module.ispkg]
    methods = [name for name in names if name not in NOT_METHODS and not name.startswith("_")]
    return {name: f"{__package__}.{name}" for name in methods}


_METHODS = Registry("method", GROUP, _own)
_OF_STAGES = Registry("method", GROUP, lambda: OF_STAGES)

__all__ = ["GROUP", "OF_STAGES", "get_method", "list_methods"]
