"""Loose point-cloud files, read and written by suffix."""

from ssl3d.data.formats.cloud import ROWS, Cloud, Mesh, Options, Source, Table
from ssl3d.data.formats.read import (
    SUFFIXES,
    inspect,
    read_blocks,
    read_cloud,
    read_table,
    split_suffix,
    table_blocks,
    update_digest,
)
from ssl3d.data.formats.write import WRITTEN, Labelled, labelled_bytes, write_labelled

__all__ = [
    "ROWS",
    "SUFFIXES",
    "WRITTEN",
    "Cloud",
    "Labelled",
    "Mesh",
    "Options",
    "Source",
    "Table",
    "inspect",
    "labelled_bytes",
    "read_blocks",
    "read_cloud",
    "read_table",
    "split_suffix",
    "table_blocks",
    "update_digest",
    "write_labelled",
]
