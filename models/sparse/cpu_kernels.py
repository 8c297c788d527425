"""The products of a convolution on the CPU, over blocks of rows that stay in the cache. Compiled when first used.

Each of the two functions is a loop over tasks for ``parallel.run``: every thread takes the next task until none is left
and writes what no other task writes, and each sum has one order, so results do not depend on the number of threads.
Their arguments come as one array of int64, most of them addresses (``FIELDS``).
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from ssl3d.models.sparse import cpu_tiles
from ssl3d.models.sparse.cpu_tiles import (
    ROWS,
    clear,
    copy_narrow,
    copy_one,
    copy_rows,
    copy_wide,
    narrow_gemm,
    narrow_outer,
    read_int,
    read_long,
    take_one,
    wide_gemm,
    wide_outer,
)

GRAIN = 128
"""Rows between the cuts of a kernel map; a block of rows is a multiple of it."""
LANES = cpu_tiles.LANES
WIDE = 2 * LANES
"""Columns of a tile of weights; one of ``LANES`` follows where the width is an odd multiple of them.

Both are constants of the compiled code below, which numba keeps until *this* file changes (or the processor does): a
change of ``cpu_tiles`` alone would go on with old code.
"""

FIELDS = (
    "counter", "tasks",  # the next task, and how many there are
    "source", "target", "same", "cuts", "volume", "identity",  # the kernel map, see ``convolution_cpu.Blocks``
    "grains", "grains_per_block", "rows",  # of the targets
    "inputs", "in_width", "outputs", "out_width",  # matrices, row after row
    "weights", "chunk",  # packed tiles; rows that are multiplied with one tile before the next
    "offsets", "shares", "offset_groups",  # of the gradient of the weights, how it is divided: offsets of each group,
    "column_groups", "row_groups", "scratch", "scratch_size",  # columns, rows; place for copies
)  # fmt: skip
"""Places in the array of arguments."""
_COUNTER, _TASKS, _SOURCE, _TARGET, _SAME, _CUTS, _VOLUME, _IDENTITY = range(8)
_GRAINS, _GRAINS_PER_BLOCK, _ROWS, _INPUTS, _IN_WIDTH, _OUTPUTS, _OUT_WIDTH, _WEIGHTS, _CHUNK = range(8, 17)
_OFFSETS, _SHARES, _OFFSET_GROUPS, _COLUMN_GROUPS, _ROW_GROUPS, _SCRATCH, _SCRATCH_SIZE = range(17, 24)

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

_compiled = numba.njit(cache=True, nogil=True, error_model="numpy")
_tasks = numba.cfunc(types.void(types.CPointer(types.int64)), cache=True, error_model="numpy")


@numba.njit(cache=True, nogil=True)
def cuts(target: I32, begins: I64, grains: int) -> I64:
    """(grains + 1, K): where, in each offset's pairs, the targets of each grain of rows begin. Targets ascend."""
    volume = len(begins) - 1
    found = np.empty((grains + 1, volume), np.int64)
    for k in range(volume):
        i = begins[k]
        for grain in range(grains + 1):
            while i < begins[k + 1] and target[i] < grain * GRAIN:
                i += 1
            found[grain, k] = i
    return found


@numba.njit(cache=True, nogil=True)
def ascending(target: I32, begins: I64) -> bool:
    """Whether the targets of each offset ascend."""
    for k in range(len(begins) - 1):
        for i in range(begins[k] + 1, begins[k + 1]):
            if target[i] < target[i - 1]:
                return False
    return True


@_tasks
def product(arguments):  # type: ignore[no-untyped-def]
    """outputs[target] += inputs[source] @ weights[k], a task a block of target rows; outputs need not be cleared."""
    a = numba.carray(arguments, (len(FIELDS),))
    volume, identity, width, out_width, chunk = a[_VOLUME], a[_IDENTITY], a[_IN_WIDTH], a[_OUT_WIDTH], a[_CHUNK]
    tiles = (out_width + LANES) // WIDE
    while True:
        block = take_one(a.ctypes.data)
        if block >= a[_TASKS]:
            return
        first = block * a[_GRAINS_PER_BLOCK]
        last = min(first + a[_GRAINS_PER_BLOCK], a[_GRAINS])
        top, bottom = first * GRAIN, min(last * GRAIN, a[_ROWS])
        clear(a[_OUTPUTS] + 4 * top * out_width, 4 * (bottom - top) * out_width)
        for k in range(volume):
            source, target = a[_SOURCE], a[_TARGET]
            begin = read_long(a[_CUTS] + 8 * (first * volume + k))
            end = read_long(a[_CUTS] + 8 * (last * volume + k))
            if k == identity:
                source = target = a[_SAME]
                begin, end = top, bottom
            while begin < end:
                count = min(end - begin, chunk)
                for tile in range(tiles):
                    column = WIDE * tile
                    weights = a[_WEIGHTS] + 4 * width * (k * out_width + column)
                    out = a[_OUTPUTS] + 4 * column
                    i = begin
                    while i < begin + count:
                        rows = min(begin + count - i, ROWS)
                        here, there = source + 4 * i, target + 4 * i
                        if column + WIDE <= out_width:
                            wide_gemm(rows, a[_INPUTS], here, width, weights, width, out, there, out_width)
                        else:
                            narrow_gemm(rows, a[_INPUTS], here, width, weights, width, out, there, out_width)
                        i += rows
                begin += count


@_compiled
def _copy_left(row: int, panel: int, stride: int, count: int) -> None:
    """A row of ``count`` float32 into panels of ROWS columns, ``stride`` bytes apart."""
    for _ in range(count // ROWS):
        copy_rows(row, panel)
        row += 4 * ROWS
        panel += stride
    for i in range(count % ROWS):
        copy_one(row + 4 * i, panel + 4 * i)


@_compiled
def _copy_right(row: int, panel: int, stride: int, count: int) -> None:
    """A row of ``count`` float32, a multiple of LANES, into panels of WIDE columns, ``stride`` bytes apart."""
    for _ in range(count // WIDE):
        copy_wide(row, panel)
        row += 4 * WIDE
        panel += stride
    if count % WIDE:
        copy_narrow(row, panel)


@_compiled
def _multiply_panels(
    left: int,
    stride_left: int,
    rows: int,
    right: int,
    stride_right: int,
    columns: int,
    count: int,
    out: int,
    width: int,
) -> None:
    """out[:rows, :columns] += left.T @ right, both ``count`` pairs in panels."""
    column = 0
    while column < columns:
        row, panel = 0, left
        while row < rows:
            number, here = min(rows - row, ROWS), out + 4 * (row * width + column)
            if columns - column >= WIDE:
                wide_outer(number, panel, right, count, here, width)
            else:
                narrow_outer(number, panel, right, count, here, width)
            row += ROWS
            panel += stride_left
        column += WIDE
        right += stride_right


@_tasks
def gradient(arguments):  # type: ignore[no-untyped-def]
    """weights[k] += inputs[source].T @ outputs[target], a task some rows and some tiles of columns of some weights[k].

    Pairs are first copied side by side, a chunk at a time, in panels of as many columns as a tile has.
    """
    a = numba.carray(arguments, (len(FIELDS),))
    volume, identity, width, out_width = a[_VOLUME], a[_IDENTITY], a[_IN_WIDTH], a[_OUT_WIDTH]
    tiles = (out_width + LANES) // WIDE
    stride_left, stride_right = a[_CHUNK] * 4 * ROWS + 64, a[_CHUNK] * 4 * WIDE + 64  # no powers of two
    while True:
        task = take_one(a.ctypes.data)
        if task >= a[_TASKS]:
            return
        right = a[_SCRATCH] + task * a[_SCRATCH_SIZE]
        offset_group, part = task % a[_OFFSET_GROUPS], task // a[_OFFSET_GROUPS]
        column_group, row_group = part % a[_COLUMN_GROUPS], part // a[_COLUMN_GROUPS]
        first_offset = read_long(a[_SHARES] + 8 * offset_group)
        last_offset = read_long(a[_SHARES] + 8 * (offset_group + 1))
        first_tile = tiles * column_group // a[_COLUMN_GROUPS]
        last_tile = tiles * (column_group + 1) // a[_COLUMN_GROUPS]
        first_column = WIDE * first_tile
        columns = min(WIDE * last_tile, out_width) - first_column
        first_row = width * row_group // a[_ROW_GROUPS]
        rows = width * (row_group + 1) // a[_ROW_GROUPS] - first_row
        left = right + stride_right * (last_tile - first_tile)
        inputs, outputs = a[_INPUTS] + 4 * first_row, a[_OUTPUTS] + 4 * first_column
        grain = 0
        while grain < a[_GRAINS]:
            end_grain = min(grain + a[_GRAINS_PER_BLOCK], a[_GRAINS])
            for place in range(first_offset, last_offset):
                k = read_long(a[_OFFSETS] + 8 * place)
                source, target = a[_SOURCE], a[_TARGET]
                begin = read_long(a[_CUTS] + 8 * (grain * volume + k))
                end = read_long(a[_CUTS] + 8 * (end_grain * volume + k))
                if k == identity:
                    source = target = a[_SAME]
                    begin, end = grain * GRAIN, min(end_grain * GRAIN, a[_ROWS])
                while begin < end:
                    count = min(end - begin, a[_CHUNK])
                    for i in range(count):
                        row = inputs + 4 * width * read_int(source + 4 * (begin + i))
                        _copy_left(row, left + 4 * ROWS * i, stride_left, rows)
                    for i in range(count):
                        row = outputs + 4 * out_width * read_int(target + 4 * (begin + i))
                        _copy_right(row, right + 4 * WIDE * i, stride_right, columns)
                    _multiply_panels(
                        left, stride_left, rows, right, stride_right, columns, count,
                        a[_WEIGHTS] + 4 * ((k * width + first_row) * out_width + first_column), out_width,
                    )  # fmt: skip
                    begin += count
            grain = end_grain
