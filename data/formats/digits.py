"""Eight digits at a time: text is read as words of eight bytes, whose digits are found and summed up together.

Text is named by its address: arrays that are handed on to functions are counted by numba, which takes half of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, njit, types

PADDING = 8
"""Bytes that have to lie behind a text that is read so."""
_WORD, _BYTE = ir.IntType(64), ir.IntType(8)
_ZEROS, _SIX, _HIGH = np.uint64(0x3030303030303030), np.uint64(0x7676767676767676), np.uint64(0x8080808080808080)
_PAIRS, _TENS = np.uint64(0x000000FF000000FF), np.uint64(10)
_UPPER, _LOWER = np.uint64(100 + (1_000_000 << 32)), np.uint64(1 + (10_000 << 32))
_BITS, _HALF = np.uint64(3), np.uint64(2)


def _intrinsic(function: Callable[..., Any]) -> Any:
    return extending.intrinsic(function)


@_intrinsic
def at(typingctx, text, place):  # type: ignore[no-untyped-def]
    """The byte at an address and so many bytes on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(builder.add(*args), _BYTE.as_pointer()))

    return types.uint8(types.int64, types.int64), codegen


@_intrinsic
def word(typingctx, text, place):  # type: ignore[no-untyped-def]
    """Eight bytes, from an address and so many bytes on, as a uint64: the first byte lowest."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        loaded = builder.load(builder.inttoptr(builder.add(*args), _WORD.as_pointer()))
        loaded.align = 1
        return loaded

    return types.uint64(types.int64, types.int64), codegen


@_intrinsic
def _trailing_zeros(typingctx, value):  # type: ignore[no-untyped-def]
    """Of a uint64; 64 of zero."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), codegen


@njit(cache=True, nogil=True)
def digits_in(text: np.uint64) -> int:
    """How many of the eight bytes of a word are digits, before the first that is none."""
    values = text ^ _ZEROS
    return int(_trailing_zeros(((values + _SIX) | values) & _HIGH) >> _BITS)


@njit(cache=True, nogil=True)
def number_of(text: np.uint64, count: int) -> np.uint64:
    """The number that the first ``count`` bytes of a word spell, which are digits.

    The bytes are moved behind leading zeros and joined in pairs: of two digits, of four, of eight.
    """
    gap = np.uint64(8 - count) << _HALF  # half of the shift, which may be 64
    values = ((text ^ _ZEROS) << gap) << gap
    values = values * _TENS + (values >> np.uint64(8))
    return ((values & _PAIRS) * _UPPER + ((values >> np.uint64(16)) & _PAIRS) * _LOWER) >> np.uint64(32)
