"""The chunks of a .laz file, checked before they are decompressed.

A damaged size makes the decompressor ask for gigabytes, or end the process when it gets none. Layout: LASzip, as of LAS
1.4 (M. Isenburg): the place of the table, chunks one behind the other, the table. A chunk of point formats 6 to 10 is a
plain point, the number of its points, the sizes of its layers, the layers.
"""

from __future__ import annotations

import struct
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from ssl3d.data.formats.problems import damaged

_LEAST_BYTES = 20
"""A chunk begins with a plain point; the shortest format has 20 bytes."""
_LAYERS = {6: 9, 7: 10, 8: 11, 9: 10, 10: 12}
"""Layers by point format; each extra byte is one more."""


def check_chunks(path: Path, size: int, header: Any) -> None:
    """Checks the table of chunks, and the sizes inside of those that have layers.

    Args:
        size: of the file, bytes.
        header: laspy's.

    Raises:
        DataError: they contradict each other or the size of the file.
    """
    lazrs = import_module("lazrs")
    begin = int(header.offset_to_point_data)
    with path.open("rb") as handle:
        table_at = _find_table(path, handle, begin, size)
        handle.seek(begin)
        vlr = lazrs.LazVlr(header.vlrs[header.vlrs.index("LasZipVlr")].record_data)
        if vlr.item_size() != int(header.point_format.size):  # so much memory is taken for every point
            what = f"points of {header.point_format.size} bytes are stored as {vlr.item_size()} bytes"
            raise damaged(path, f"the header is damaged: {what}", "copy it again", record="laszip encoded")
        table = lazrs.read_chunk_table(handle, vlr)
        if sum(length for _, length in table) > table_at - begin - 8:
            raise damaged(path, "the table of chunks is damaged: they are longer than the file", byte=table_at)
        layers = _LAYERS.get(int(header.point_format.id))
        if layers is not None:
            layers += int(header.point_format.num_extra_bytes)
            _check_layers(path, handle, begin + 8, table, int(header.point_format.size), layers)


def _find_table(path: Path, handle: IO[bytes], begin: int, size: int) -> int:
    """The byte at which the table begins; as many chunks as it says have room before it."""
    handle.seek(begin)
    place = handle.read(8)
    if place == b"\xff" * 8:  # written to a stream: the place of the table stands at the end
        handle.seek(size - 8)
        place = handle.read(8)
    table_at = int.from_bytes(place, "little")
    room = table_at - begin - 8
    if len(place) < 8 or room < 0 or table_at + 8 > size:
        raise damaged(path, "the file is truncated: its table of chunks is missing", "copy it again", byte=begin)
    handle.seek(table_at + 4)
    chunks = int.from_bytes(handle.read(4), "little")
    if chunks * _LEAST_BYTES > room:
        what = f"the table of chunks is damaged: {chunks} chunks in {room} bytes"
        raise damaged(path, what, "copy it again", byte=table_at)
    return table_at


def _check_layers(
    path: Path, handle: IO[bytes], at: int, table: list[tuple[int, int]], point_bytes: int, layers: int
) -> None:
    for number, (_, length) in enumerate(table):
        handle.seek(at + point_bytes)
        sizes = handle.read(4 + 4 * layers)
        found = point_bytes + len(sizes) + sum(struct.unpack(f"<{len(sizes) // 4}I", sizes)[1:])
        if found != length:
            what = f"compressed points are damaged: the layers of chunk {number} end at byte {found} of {length}"
            raise damaged(path, what, "copy it again", byte=at)
        at += length
