"""``.h5``: datasets with as many rows as the points, read slice by slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ssl3d.data.formats.arrays import Places
from ssl3d.data.formats.cloud import Options, Source, Table
from ssl3d.data.formats.problems import beginning, damaged, wrong_magic

_MAGIC = b"\x89HDF\r\n\x1a\n"


class Hdf5Source(Source):
    """Datasets of an HDF5 file, groups included; ``Options.dataset`` names the points where they are not obvious."""

    def __init__(self, path: Path, options: Options) -> None:
        kinds: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}

        def see(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset) and item.shape is not None and item.ndim:
                kinds[name] = (item.shape, item.dtype)

        try:
            with h5py.File(path, "r", locking=False) as file:
                file.visititems(see)
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            raise damaged(path, f"the HDF5 file is damaged: {error}", "copy it again") from error
        self.layout = Places(path, kinds, options)
        facts: dict[str, object] = {"others": self.layout.others}
        super().__init__(path, "h5", self.layout.columns, self.layout.count, facts)

    def tables(self, names: Sequence[str], chunk: int) -> Iterator[Table]:
        keys = self.layout.keys(names)
        try:
            with h5py.File(self.path, "r", locking=False) as file:
                stored = [file[key].chunks[0] for key in keys if file[key].chunks]
                step = max([chunk, *stored])  # a compressed chunk is decompressed as a whole
                for start in range(0, self.layout.count, step):
                    table = self.layout.table(names, {key: file[key][start : start + step] for key in keys})
                    for top in range(0, min(step, self.layout.count - start), chunk):
                        yield {name: values[top : top + chunk] for name, values in table.items()}
        except (OSError, RuntimeError, KeyError) as error:
            raise damaged(
                self.path, f"a dataset is damaged: {error}", "copy it again", dataset=", ".join(keys)
            ) from error


def open_hdf5(path: Path, size: int, options: Options) -> Source:
    """The datasets of a file. DataError when it is damaged or the points are not found."""
    if not beginning(path).startswith(_MAGIC):
        raise wrong_magic(path, "HDF5", _MAGIC[:4])
    return Hdf5Source(path, options)
