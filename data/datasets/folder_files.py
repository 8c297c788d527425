"""The files of a folder that a description means, opened the way it says."""

from __future__ import annotations

from pathlib import Path

from ssl3d.data.datasets.folder_config import FolderConfig, Storage
from ssl3d.data.errors import DataError
from ssl3d.data.formats.cloud import Options, Source
from ssl3d.data.formats.problems import file_size
from ssl3d.data.formats.raw import open_raw
from ssl3d.data.formats.read import inspect
from ssl3d.data.formats.text import open_text

PICKLES = (".pth", ".pt", ".joblib", ".pkl.xz", ".pkl.bz2", ".pkl.zip", ".pkl.zst")
"""Those that may hold anything; tables of pandas are read (``formats.frames``)."""


def cloud_options(config: FolderConfig) -> Options:
    return _options(config.clouds, config.clouds.names, config.columns.coordinates)


def cloud_source(config: FolderConfig, path: str) -> Source:
    """A file of points, its header read. Raises: as ``formats.inspect``; DataError for pickles."""
    return open_source(path, config.clouds, cloud_options(config))


def label_source(config: FolderConfig, path: str) -> Source:
    """A file of labels, its header read. Raises: as ``cloud_source``."""
    labels = config.labels
    assert labels is not None
    return open_source(path, labels, _options(labels, labels.names or (labels.column,)))


def label_column(config: FolderConfig, source: Source) -> str:
    """The column of a file of labels that holds them: the only one, or the one that is named. DataError without it."""
    labels = config.labels
    assert labels is not None
    if labels.column in source.columns or len(source.columns) == 1:
        return labels.column if labels.column in source.columns else next(iter(source.columns))
    raise DataError(
        f"there is no column {labels.column!r}",
        where={"file": source.path, "field": "labels.column"},
        hint=f"the file has {', '.join(source.columns)}",
    )


def wanted_columns(config: FolderConfig) -> dict[str, str]:
    """Role -> name of the columns beside the coordinates that are read from the clouds."""
    columns = config.columns
    wanted = {role: getattr(columns, role) for role in ("intensity", "ring", "label", "instance")}
    wanted |= {f"keep.{name}": name for name in config.clouds.keep}
    for role in ("color", "normal"):
        wanted |= {f"{role}.{i}": name for i, name in enumerate(getattr(columns, role))}
    return {role: name for role, name in wanted.items() if name}


def open_source(path: str, storage: Storage, options: Options) -> Source:
    """Opens a file by its suffix, or by the format that the description states."""
    refuse_pickle(path)
    if storage.format == "text":
        return open_text(Path(path), file_size(Path(path)), options)
    if storage.format == "bin":
        return open_raw(Path(path), file_size(Path(path)), options)
    return inspect(path, options)


def refuse_pickle(path: str) -> None:
    """DataError for files that can run any code when they are opened."""
    if path.lower().endswith(PICKLES):
        raise DataError(
            "Python pickles are not read: opening one runs whatever code is in it",
            where={"file": path},
            hint="where you trust the files, write their numbers as .npz with the tool that made them",
        )


def _options(storage: Storage, names: tuple[str, ...], coordinates: tuple[str, str, str] = ("x", "y", "z")) -> Options:
    return Options(
        coordinates=coordinates,
        names=names,
        dtype=storage.dtype,
        dataset=storage.dataset,
        delimiter=storage.delimiter,
        decimal=storage.decimal,
        skip=storage.skip,
    )
