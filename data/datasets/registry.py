"""Readers by name: one for each ``<name>.toml`` of this folder, in ``<name>.py``; and those of other packages.

Other packages use the entry-point group ``ssl3d.datasets``; their readers are called without arguments too.
"""

from __future__ import annotations

from importlib import resources

from ssl3d.data.datasets.layout import Reader
from ssl3d.data.registry import Registry

GROUP = "ssl3d.datasets"


def list_readers() -> list[str]:
    """Names of all readers, sorted."""
    return _READERS.names()


def get_reader(name: str) -> Reader:
    """The reader of a published layout.

    Raises:
        UsageError: there is no such reader (the message names the nearest), or its package cannot be imported.
    """
    reader: Reader = _READERS.load(name)()
    return reader


def _own() -> dict[str, str]:
    names = [file.name for file in resources.files(__package__).iterdir()]
    stems = [name.removesuffix(".toml") for name in names if name.endswith(".toml")]
    return {stem: f"{__package__}.{stem}" for stem in stems}


_READERS = Registry("dataset", GROUP, _own)
