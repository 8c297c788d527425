"""``.pkl``, ``.pickle``, ``.pkl.gz``: tables (DataFrames) that pandas has pickled, as PandaSet publishes its frames.

Neither pandas nor pickle is used: the file is taken apart as values (``pickle_tree``), so that no code in it can run.
Forms of pandas 0.25 to 3.0 are known: a table is a list of blocks, each several columns of one dtype.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl3d.data.formats.cloud import Array, Options, Source, Table, native
from ssl3d.data.formats.pickle_tree import BrokenError, Node, RefusedError, read_tree
from ssl3d.data.formats.problems import damaged, no_points

_FRAMES = ("pandas.core.frame.DataFrame", "pandas.DataFrame")
_MANAGER = "pandas.core.internals.managers.BlockManager"
_BLOCK = "pandas._libs.internals._unpickle_block"
_INDEX = "pandas.core.indexes.base._new_Index"
_RANGES = ("pandas.core.indexes.range.RangeIndex", "pandas.RangeIndex")
_INDICES = ("pandas.core.indexes.base.Index", "pandas.Index", "pandas.core.indexes.numeric.Int64Index")
_TEXTS = "pandas._libs.arrays.__pyx_unpickle_NDArrayBacked"
_TEXT_KINDS = (
    *("pandas.arrays.StringArray", "pandas.core.arrays.string_.StringArray", "pandas.StringDtype"),
    *("pandas.core.arrays.string_.StringArrayNumpySemantics", "pandas.core.arrays.string_.StringDtype"),
)
_EMPTY_ARRAYS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_BUFFERS = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
_SLICES = ("builtins.slice", "__builtin__.slice")
_BYTES = "_codecs.encode"
_OTHERS = (_MANAGER, _BLOCK, _INDEX, _TEXTS, _BYTES, "numpy.ndarray", "numpy.dtype")
_ADMITTED = frozenset((*_FRAMES, *_RANGES, *_INDICES, *_TEXT_KINDS, *_EMPTY_ARRAYS, *_BUFFERS, *_SLICES, *_OTHERS))
_LARGEST = 1 << 30
"""Bytes of a table when unpacked."""
_GZIP = b"\x1f\x8b"
_AGAIN = "copy it again from where it came"
_OTHER_WAY = "if you trust the file, read it with pandas and write its columns: np.savez(name, **{c: t[c] for c in t})"


class FrameSource(Source):
    """The columns of a pickled table, read whole.

    Raises:
        DataError: it is no pickle, damaged, holds anything but a table, or asks for code that tables do not need.
    """

    def __init__(self, path: Path) -> None:
        try:
            columns = _columns(read_tree(_unpacked(path), _ADMITTED))
        except RefusedError as error:
            raise damaged(
                path,
                f"the pickle asks for {error}, which no table of numbers needs: it is not opened further",
                _OTHER_WAY,
            ) from error
        except BrokenError as error:
            raise damaged(path, f"the pickle is damaged, or holds no table: {error}", _AGAIN) from error
        self.arrays = {name: values for name, values in columns.items() if values.dtype.kind in "fiub"}
        others = [name for name in columns if name not in self.arrays]
        rows = {len(values) for values in self.arrays.values()}
        if not rows or rows == {0}:
            raise no_points(path)
        facts: dict[str, object] = {"others": others}
        kinds = {name: values.dtype.newbyteorder("=") for name, values in self.arrays.items()}
        super().__init__(path, "frame", kinds, rows.pop(), facts)

    def tables(self, names: Sequence[str], chunk: int) -> Iterator[Table]:
        for start in range(0, self.count or 0, chunk):
            yield {name: native(self.arrays[name][start : start + chunk]) for name in names}


def open_frame(path: Path, size: int, options: Options) -> Source:
    """A table that pandas has pickled. Raises: as ``FrameSource``."""
    return FrameSource(path)


def _unpacked(path: Path) -> bytes:
    """The bytes of the pickle, out of gzip where it is packed; at most ``_LARGEST`` of them."""
    stored = path.read_bytes()
    if not stored.startswith(_GZIP):
        return stored
    found, parts, size = zlib.decompressobj(31), [], 0
    try:
        while stored:
            parts.append(found.decompress(stored, _LARGEST + 1 - size))
            size += len(parts[-1])
            if size > _LARGEST:
                raise damaged(path, f"more than {_LARGEST >> 20} MB when unpacked: no table of one cloud", _OTHER_WAY)
            stored = found.unused_data  # another member of the archive
            if not found.eof:
                raise damaged(path, "the gzip archive is truncated", _AGAIN)
            found = zlib.decompressobj(31)
    except zlib.error as error:
        raise damaged(path, f"the gzip archive is damaged: {error}", _AGAIN) from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _columns(table: Any) -> dict[str, Array]:
    """Name -> (n,) of the columns, in the stored order. BrokenError where the tree is none of a table."""
    if not isinstance(table, Node) or table.name not in _FRAMES or not isinstance(table.state, dict):
        raise BrokenError(f"it is a {table.name if isinstance(table, Node) else type(table).__name__}, not a DataFrame")
    manager = table.state.get("_mgr", table.state.get("_data"))
    if not isinstance(manager, Node) or manager.name != _MANAGER:
        raise BrokenError("the table has no blocks")
    try:
        blocks, (head, index) = _parts(manager)
        names, rows = _labels(head), _length(index)
        found: dict[int, Array] = {}
        for values, place in blocks:
            block = _array(values)
            places = _places(place, len(names))
            if block.ndim == 1 and len(places) == 1:  # of texts, since pandas 3
                block = block[None]
            if block.shape != (len(places), rows):
                raise BrokenError(f"a block of shape {block.shape} stands for {len(places)} columns of {rows} rows")
            found |= dict(zip(places, block, strict=True))
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError) as error:
        raise error if isinstance(error, (BrokenError, RefusedError)) else BrokenError(str(error)[:120]) from error
    if len(found) != len(names) or len(set(names)) != len(names):
        raise BrokenError(f"{len(names)} columns are named ({len(set(names))} different), {len(found)} are there")
    return {name: found[place] for place, name in enumerate(names)}


def _parts(manager: Node) -> tuple[list[tuple[Any, Any]], Sequence[Any]]:
    """The blocks, each (values, which columns), and the two axes."""
    if manager.state is None:  # since pandas 1.3
        blocks, axes = manager.arguments
        return [_call(block, _BLOCK)[:2] for block in blocks], axes
    whole = manager.state[3]["0.14.1"]  # a version of that form
    return [(block["values"], block["mgr_locs"]) for block in whole["blocks"]], whole["axes"]


def _labels(index: Any) -> list[str]:
    kind, facts = _call(index, _INDEX)
    if kind.text in _RANGES:
        return [str(number) for number in _range(facts, 1 << 16)]
    return [str(label) for label in _array(facts["data"]).tolist()]


def _length(index: Any) -> int:
    kind, facts = _call(index, _INDEX)
    return len(_range(facts)) if kind.text in _RANGES else len(_array(facts["data"]))


def _range(facts: dict[str, Any], most: int = 1 << 40) -> range:
    found = range(facts["start"], facts["stop"], facts["step"])
    if len(found) > most:
        raise BrokenError(f"an index of {len(found)} entries")
    return found


def _places(place: Any, count: int) -> list[int]:
    if isinstance(place, Node) and place.name in _SLICES:
        return list(range(*slice(*place.arguments).indices(count)))
    found: list[int] = _array(place).tolist()
    return found


def _call(node: Any, *names: str) -> tuple[Any, ...]:
    """The arguments of a call of one of these functions."""
    if not isinstance(node, Node) or node.name not in names:
        raise BrokenError(f"{names[0]} is missing where it should be")
    return node.arguments


def _array(node: Any) -> Array:
    """An array as it was stored; one of Python objects holds what they are here: texts, numbers, ``Node``."""
    if isinstance(node, Node) and node.name == _TEXTS:  # columns are named by such an array since pandas 3
        return _array(next(part for part in node.state if isinstance(part, Node) and part.name in _EMPTY_ARRAYS))
    if isinstance(node, Node) and node.name in _BUFFERS:
        buffer, kind, shape, order = node.arguments[:4]
        axes = node.arguments[4] if len(node.arguments) > 4 else None  # with order K, in which they lie in memory
        values: Array = np.frombuffer(_bytes(buffer), _dtype(kind))
        return values.reshape(shape).transpose(axes) if axes is not None else values.reshape(shape, order=order)
    _call(node, *_EMPTY_ARRAYS)
    _, shape, kind, fortran, content = node.state
    dtype = _dtype(kind)
    if dtype.hasobject:
        values = np.empty(len(content), dtype)
        for place, value in enumerate(content):  # which may be a list, and that is no row of numbers
            values[place] = value
    else:
        values = np.frombuffer(_bytes(content), dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def _dtype(node: Any) -> np.dtype[Any]:
    """A dtype of single numbers, texts or times."""
    code = _call(node, "numpy.dtype")[0]
    big = node.state is not None and node.state[1] == ">"
    dtype = np.dtype(str(code)).newbyteorder(">" if big else "<")
    if dtype.names is not None or dtype.subdtype is not None or (dtype.hasobject and dtype != np.dtype(object)):
        raise BrokenError(f"columns of {dtype}")
    return dtype


def _bytes(node: Any) -> bytes:
    if isinstance(node, Node) and node.name == _BYTES:  # protocol 2 has no bytes
        text, encoding = node.arguments
        if encoding != "latin1":
            raise BrokenError(f"bytes as {encoding!r}")
        return str(text).encode("latin1")
    if not isinstance(node, (bytes, bytearray)):
        raise BrokenError("an array without its bytes")
    return bytes(node)
