"""Readers of loose point-cloud files, by suffix."""

from ssl3d.data.formats.cloud import ROWS, Cloud, Mesh, Options, Source, Table
from ssl3d.data.formats.read import (
    SUFFIXES,
    inspect,
    read_blocks,
    read_cloud,
    read_table,
    table_blocks,
    update_digest,
)

__all__ = [
    "ROWS",
    "SUFFIXES",
    "Cloud",
    "Mesh",
    "Options",
    "Source",
    "Table",
    "inspect",
    "read_blocks",
    "read_cloud",
    "read_table",
    "table_blocks",
    "update_digest",
]
