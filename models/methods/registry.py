"""Methods by name. A method is one file in this folder; a third-party package adds its own by an entry point.

The file ``<name>.py`` holds one ``Method`` subclass whose ``name`` is ``"<name>"``: nothing else has to be registered.
Files that start with an underscore are not methods. Other packages use the entry-point group ``ssl3d.methods``
(``my_method = "my_package.my_module:MyMethod"``). Listing names imports no torch.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from ssl3d.data.errors import Ssl3dError, UsageError

if TYPE_CHECKING:
    from ssl3d.models.methods.base import Method

GROUP = "ssl3d.methods"
NOT_METHODS = ("base", "registry")


def list_methods() -> list[str]:
    """Every name that ``ssl3d train`` accepts, sorted."""
    return sorted({*_own(), *_installed()})


def get_method(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        UsageError: unknown name; names the nearest.
        Ssl3dError: the file or package that should hold it does not.
    """
    if name in _own():
        return _from_file(name)
    installed = _installed()
    if name not in installed:
        nearest = difflib.get_close_matches(name, list_methods(), 1, 0.4)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known methods: {', '.join(list_methods())}"
        raise UsageError(f"there is no method named {name!r}", hint=hint)
    try:
        found: type[Method] = installed[name].load()
    except Exception as error:
        where = {"entry point": f"{GROUP}: {name} = {installed[name].value}"}
        raise Ssl3dError(f"the method {name!r} of another package cannot be loaded: {error}", where=where) from error
    return _checked(found, name, installed[name].value)


def _own() -> list[str]:
    folder = str(Path(__file__).parent)
    names = (module.name for module in pkgutil.iter_modules([folder]) if not module.ispkg)
    return [name for name in names if name not in NOT_METHODS and not name.startswith("_")]


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _from_file(name: str) -> type[Method]:
    from ssl3d.models.methods.base import Method

    module = importlib.import_module(f"ssl3d.models.methods.{name}")
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Method) and value.__dict__.get("name") == name:
            return value
    where = {"file": module.__file__ or module.__name__}
    raise Ssl3dError(f"this file holds no Method subclass with name = {name!r}", where=where)


def _checked(found: object, name: str, place: str) -> type[Method]:
    from ssl3d.models.methods.base import Method

    if not (isinstance(found, type) and issubclass(found, Method)):
        raise Ssl3dError(f"the method {name!r} is no Method subclass", where={"entry point": place})
    return found


__all__ = ["GROUP", "get_method", "list_methods"]
