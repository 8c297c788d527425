"""Readers by name: one for each ``<name>.toml`` of this folder, in ``<name>.py``; ``folder``; those of other packages.

Other packages use the entry-point group ``ssl3d.datasets``; their readers are called without arguments too.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from ssl3d.data.registry import Registry

if TYPE_CHECKING:
    from ssl3d.data.datasets.source import DatasetReader

GROUP = "ssl3d.datasets"


def list_readers() -> list[str]:
    """Names of all readers, sorted."""
    return _READERS.names()


def get_reader(name: str, config: str = "") -> DatasetReader:
    """The reader of a published layout, or (with ``config``, a description of theirs) of folders of users.

    Raises:
        UsageError: there is no such reader (the message names the nearest), or its package cannot be imported.
    """
    kind = _READERS.load(name)
    reader: DatasetReader = kind(config) if config else kind()
    return reader


def _own() -> dict[str, str]:
    names = {file.name for file in resources.files(__package__).iterdir()}
    stems = [name.removesuffix(".toml") for name in names if name.endswith(".toml")]
    stems.append("folder")  # whose classes its users describe
    return {stem: f"{__package__}.{stem}" for stem in stems if f"{stem}.py" in names}


_READERS = Registry("dataset", GROUP, _own)
