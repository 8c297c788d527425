"""Datasets, backbones and methods by name: those of this package, and those that other packages offer.

Another package offers one by an entry point in its metadata (``my_method = "my_package.my_module:MyMethod"``). Names of
this package come first: nobody replaces them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ssl3d.data.errors import Ssl3dError, UsageError
from ssl3d.data.text import nearest


@dataclass(frozen=True)
class Registry:
    """Classes by name. Listing names imports none of them.

    Attributes:
        kind: what one of them is called in messages.
        group: the entry-point group of other packages.
        own: gives name -> module in this package, which holds a class whose ``name`` is that name.
    """

    kind: str
    group: str
    own: Callable[[], Mapping[str, str]]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*self.own(), *self._foreign()})

    def load(self, name: str) -> Any:
        """The class of that name.

        Raises:
            UsageError: there is none (the message names the nearest), or the package that offers it cannot be imported.
            Ssl3dError: the module of this package that should hold it does not.
        """
        own, foreign = self.own(), self._foreign()
        if name in own:
            return self._from_module(name, own[name])
        if name in foreign:
            return self._from_package(foreign[name])
        near = nearest(name, self.names(), 0.4)
        known = f"known {self.kind}s: {', '.join(self.names())}"
        raise UsageError(
            f"there is no {self.kind} named {name!r}", hint=f"did you mean {near}? {known}" if near else known
        )

    def _foreign(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self.group)}

    def _from_module(self, name: str, module_name: str) -> Any:
        module = import_module(module_name)
        for value in vars(module).values():
            if isinstance(value, type) and value.__dict__.get("name") == name:
                return value
        where = {"file": module.__file__ or module_name}
        raise Ssl3dError(f"this file holds no {self.kind} class with name = {name!r}", where=where)

    def _from_package(self, entry: EntryPoint) -> Any:
        where = {"entry point": f"{self.group}: {entry.name} = {entry.value}"}
        try:
            found = entry.load()
        except Exception as error:  # another package's code: anything may happen
            raise UsageError(
                f"the {self.kind} {entry.name!r} of another package cannot be loaded: {error}",
                where=where,
                hint="reinstall or update the package that provides it",
            ) from error
        if not isinstance(found, type):
            raise UsageError(f"the {self.kind} {entry.name!r} of another package is not a class", where=where)
        return found
