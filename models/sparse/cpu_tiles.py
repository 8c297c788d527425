"""Register tiles of the CPU kernels, written in LLVM's own language because no loop in Python vectorizes like this.

A tile is 1 to ``ROWS`` rows by one or two vectors of ``LANES`` float32, held in vector registers while a sum runs over
channels (``GEMM``) or over pairs of rows (``OUTER``); rows are read where they lie, through a list of row numbers, so
nothing is gathered into buffers first. 6 x 16 fills the 16 registers of AVX2, 12 x 32 the 32 larger ones of AVX-512;
other processors get the code of AVX2 in their own vector width. Every element of a result is one sum of its own, so its
bits do not depend on the shape of the tiles. Addresses are integers; nothing is checked here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import config, extending, types
from numba.core import cgutils


def _has_avx512() -> bool:
    """Of the processor that numba compiles for: this one, unless NUMBA_CPU_FEATURES says otherwise."""
    told: str | None = getattr(config, "CPU_FEATURES", None)
    return "+avx512f" in told.split(",") if told else bool(binding.get_host_cpu_features().get("avx512f", False))


LANES, ROWS = (16, 12) if _has_avx512() else (8, 6)
"""Columns of a vector, and rows of a full tile."""

_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_F32, LANES)
_BYTE = ir.IntType(8).as_pointer()


def _intrinsic(function: Callable[..., Any]) -> Any:
    """A function whose code is written here, for compiled ones to call; untyped for those who check types."""
    return extending.intrinsic(function)


def _int(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


def _vector_at(builder: Any, row: Any, column: Any) -> Any:
    return builder.bitcast(builder.gep(row, [column]), _VECTOR.as_pointer())


def _row(builder: Any, base: Any, rows: Any, at: Any, width: Any) -> Any:
    """Pointer to row ``rows[at]`` of a matrix."""
    number = builder.sext(builder.load(builder.gep(rows, [at])), _I64)
    return builder.gep(base, [builder.mul(number, width)])


def _broadcast(builder: Any, value: Any) -> Any:
    undefined, zeros = ir.Constant(_VECTOR, ir.Undefined), ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
    return builder.shuffle_vector(builder.insert_element(undefined, value, _I32(0)), undefined, zeros)


def _multiply_add(builder: Any) -> Callable[[Any, Any, Any], Any]:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
    return lambda a, b, c: builder.call(function, [a, b, c])


def _sum(builder: Any, count: Any, width: int, body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
    """``width`` vectors from zero, changed by ``body(i, vectors)`` for i in range(count)."""
    zero = ir.Constant(_VECTOR, [0.0] * LANES)
    before = builder.basic_block
    loop, done = builder.append_basic_block("sum"), builder.append_basic_block("summed")
    builder.cbranch(builder.icmp_signed(">", count, _int(0)), loop, done)
    builder.position_at_end(loop)
    i = builder.phi(_I64)
    sums = [builder.phi(_VECTOR) for _ in range(width)]
    new = body(i, list(sums))
    following = builder.add(i, _int(1))
    i.add_incoming(_int(0), before)
    i.add_incoming(following, builder.basic_block)
    for old, value in zip(sums, new, strict=True):
        old.add_incoming(zero, before)
        old.add_incoming(value, builder.basic_block)
    end = builder.basic_block
    builder.cbranch(builder.icmp_signed("<", following, count), loop, done)
    builder.position_at_end(done)
    results = []
    for value in new:
        result = builder.phi(_VECTOR)
        result.add_incoming(zero, before)
        result.add_incoming(value, end)
        results.append(result)
    return results


def _vectors(builder: Any, row: Any, count: int) -> list[Any]:
    return [builder.load(_vector_at(builder, row, _int(v * LANES)), align=4) for v in range(count)]


def _prefetch(builder: Any, rows: list[Any]) -> None:
    """For rows whose turn comes after a loop."""
    kind = ir.FunctionType(ir.VoidType(), [_BYTE, _I32, _I32, _I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    for row in rows:
        builder.call(function, [builder.bitcast(row, _BYTE), _I32(1), _I32(3), _I32(1)])


def _add_to(builder: Any, rows: list[Any], vectors: int, sums: list[Any]) -> None:
    for r, row in enumerate(rows):
        for v in range(vectors):
            place = _vector_at(builder, row, _int(v * LANES))
            builder.store(builder.fadd(builder.load(place, align=4), sums[r * vectors + v]), place, align=4)


def _products(builder: Any, scalars: list[Any], right: list[Any], sums: list[Any]) -> list[Any]:
    multiply_add, vectors = _multiply_add(builder), len(right)
    new = []
    for r, scalar in enumerate(scalars):
        value = _broadcast(builder, builder.load(scalar))
        new += [multiply_add(value, right[v], sums[r * vectors + v]) for v in range(vectors)]
    return new


def _for_rows(builder: Any, rows: Any, emit: Callable[[int], None]) -> None:
    """``emit(n)`` for the number of rows that there are, 1 to ``ROWS``."""
    done = builder.append_basic_block("done")
    choice = builder.switch(rows, done)
    for number in range(ROWS, 0, -1):
        block = builder.append_basic_block(f"rows{number}")
        choice.add_case(_int(number), block)
        builder.position_at_end(block)
        emit(number)
        builder.branch(done)
    builder.position_at_end(done)


def _gemm(vectors: int) -> Any:
    def gemm(typingctx, rows, a, a_rows, a_width, b, depth, out, out_rows, out_width):  # type: ignore[no-untyped-def]
        """out[out_rows[r], :columns] += sum over i < depth of a[a_rows[r], i] * b[i, :columns] for r < rows <= ROWS."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            rows, a, a_rows, a_width, b, depth, out, out_rows, out_width = args
            a, b, out = (builder.inttoptr(address, _F32.as_pointer()) for address in (a, b, out))
            a_rows, out_rows = (builder.inttoptr(address, _I32.as_pointer()) for address in (a_rows, out_rows))

            def emit(number: int) -> None:
                sources = [_row(builder, a, a_rows, _int(r), a_width) for r in range(number)]
                targets = [_row(builder, out, out_rows, _int(r), out_width) for r in range(number)]
                _prefetch(builder, targets)

                def body(i: Any, sums: list[Any]) -> list[Any]:
                    right = _vectors(builder, builder.gep(b, [builder.mul(i, _int(vectors * LANES))]), vectors)
                    return _products(builder, [builder.gep(source, [i]) for source in sources], right, sums)

                _add_to(builder, targets, vectors, _sum(builder, depth, number * vectors, body))

            _for_rows(builder, rows, emit)
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 9), codegen

    return _intrinsic(gemm)


def _outer(vectors: int) -> Any:
    def outer(typingctx, rows, a, b, count, out, out_width):  # type: ignore[no-untyped-def]
        """out[r, :columns] += sum over i < count of a[i, r] * b[i, :columns] for r < rows <= ROWS;
        a has ROWS columns and b 2 * LANES."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            rows, a, b, count, out, out_width = args
            a, b, out = (builder.inttoptr(address, _F32.as_pointer()) for address in (a, b, out))

            def emit(number: int) -> None:
                def body(i: Any, sums: list[Any]) -> list[Any]:
                    left = builder.gep(a, [builder.mul(i, _int(ROWS))])
                    right = _vectors(builder, builder.gep(b, [builder.mul(i, _int(2 * LANES))]), vectors)
                    return _products(builder, [builder.gep(left, [_int(r)]) for r in range(number)], right, sums)

                targets = [builder.gep(out, [builder.mul(_int(r), out_width)]) for r in range(number)]
                _prefetch(builder, targets)
                _add_to(builder, targets, vectors, _sum(builder, count, number * vectors, body))

            _for_rows(builder, rows, emit)
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 6), codegen

    return _intrinsic(outer)


@_intrinsic
def take_one(typingctx, counter):  # type: ignore[no-untyped-def]
    """The next number of the counter at this address; every thread gets another one."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", builder.inttoptr(args[0], _I64.as_pointer()), _int(1), "seq_cst")

    return types.int64(types.int64), codegen


@_intrinsic
def read_long(typingctx, address):  # type: ignore[no-untyped-def]
    """The int64 at this address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], _I64.as_pointer()))

    return types.int64(types.int64), codegen


@_intrinsic
def read_int(typingctx, address):  # type: ignore[no-untyped-def]
    """The int32 at this address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.sext(builder.load(builder.inttoptr(args[0], _I32.as_pointer())), _I64)

    return types.int64(types.int64), codegen


@_intrinsic
def clear(typingctx, address, size):  # type: ignore[no-untyped-def]
    """Zeros, ``size`` bytes of them."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        cgutils.memset(builder, builder.inttoptr(args[0], _BYTE), args[1], 0)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


def _copy(*lanes: int) -> Any:
    def copy(typingctx, source, target):  # type: ignore[no-untyped-def]
        """Copies so many float32."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source, target = (builder.inttoptr(address, _F32.as_pointer()) for address in args)
            values, begin = [], 0
            for count in lanes:
                kind = ir.VectorType(_F32, count).as_pointer()
                here, there = (builder.bitcast(builder.gep(end, [_int(begin)]), kind) for end in (source, target))
                values.append((builder.load(here, align=4), there))
                begin += count
            for value, there in values:
                builder.store(value, there, align=4)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    return _intrinsic(copy)


copy_one, copy_narrow, copy_wide = _copy(1), _copy(LANES), _copy(LANES, LANES)
copy_rows = _copy(2 * ROWS // 3, ROWS // 3)
"""1, LANES, 2 * LANES and ROWS of them."""
narrow_gemm, wide_gemm = _gemm(1), _gemm(2)
narrow_outer, wide_outer = _outer(1), _outer(2)
