"""Readers by name: those of the package, and those that other packages register under ``ssl3d.datasets``."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from ssl3d.data.datasets.layout import Reader
from ssl3d.data.errors import UsageError

GROUP = "ssl3d.datasets"
_OWN = {"semantickitti": "ssl3d.data.datasets.semantickitti:SemanticKitti"}


def list_readers() -> tuple[str, ...]:
    """Names of all readers, sorted."""
    return tuple(sorted({*_OWN, *(entry.name for entry in _foreign())}))


def get_reader(name: str) -> Reader:
    """The reader of a published layout.

    Raises:
        UsageError: there is no such reader (the message names the nearest), or its package cannot be imported.
    """
    if name in _OWN:
        module, _, attribute = _OWN[name].partition(":")
        reader: Reader = getattr(import_module(module), attribute)()
        return reader
    for entry in _foreign():
        if entry.name == name:
            try:
                found: Reader = entry.load()()
            except Exception as error:  # another package's code: anything may happen
                raise UsageError(
                    f"the reader {name!r} of another package cannot be loaded: {error}",
                    where={"entry point": entry.value},
                    hint="reinstall or update the package that provides it",
                ) from error
            return found
    names = list_readers()
    near = get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UsageError(f"unknown dataset {name!r}", hint=f"{hint}known: {', '.join(names)}")


def _foreign() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))
