"""The few operations of the kernels that plain Python cannot say, as numba intrinsics.

All of them have one result, to the last bit, on every processor: a fused multiply-add rounds once,
and a tile adds the products of one output value in the order of the inputs, however wide the
processor's vectors are and however many rows and columns are computed beside it.

Only the build of the kernels (`kernelbuild`) imports this; a worker never does.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES: Final = 16
"""Values of a vector: one register of AVX-512, two of AVX2, four of NEON."""
SIZE: Final = 4
"""Bytes of a value."""

_Function = TypeVar("_Function", bound=Callable[..., Any])
_FLOAT, _WORD, _LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_WORDS = ir.VectorType(_WORD, LANES)
_HALVES = ir.VectorType(ir.IntType(16), LANES)
_I64, _F32, _U32 = types.int64, types.float32, types.uint32
_FLOATS: Any = types.CPointer(_F32)  # type: ignore[no-untyped-call]
_LONGS: Any = types.CPointer(_I64)  # type: ignore[no-untyped-call]


def kernel(function: _Function) -> _Function:
    """Have a function compiled: divisions by zero give infinities, and Python never calls it."""
    options: dict[str, Any] = {"error_model": "numpy", "boundscheck": False}
    options |= {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    made: Any = njit(**options)
    compiled: _Function = made(function)
    return compiled


def _operation(function: Callable[..., Any]) -> Any:
    """Make an operation of what returns its types and a generator of its code."""
    return intrinsic(function)


@_operation
def floats_at(_: Any, address: Any) -> Any:
    """Return a pointer to the float32 values at an address."""
    del address
    return _FLOATS(_I64), lambda _c, builder, _s, args: builder.inttoptr(
        args[0], _FLOAT.as_pointer()
    )


@_operation
def longs_at(_: Any, address: Any) -> Any:
    """Return a pointer to the int64 values at an address."""
    del address
    return _LONGS(_I64), lambda _c, builder, _s, args: builder.inttoptr(args[0], _LONG.as_pointer())


@_operation
def bits_of(_: Any, x: Any) -> Any:
    """Return the bits of a float32 as a number."""
    del x
    return _U32(_F32), lambda _c, builder, _s, args: builder.bitcast(args[0], _WORD)


@_operation
def float_of(_: Any, bits: Any) -> Any:
    """Return the float32 that has these bits."""
    del bits
    return _F32(_U32), lambda _c, builder, _s, args: builder.bitcast(args[0], _FLOAT)


@_operation
def fma(_: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a · b + c, rounded once."""
    del a, b, c
    return _F32(_F32, _F32, _F32), lambda _c, builder, _s, args: _call(
        builder, "llvm.fma.f32", _FLOAT, args
    )


@_operation
def round_even(_: Any, x: Any) -> Any:
    """Return the nearest whole number, ties to even, of the same sign."""
    del x
    return _F32(_F32), lambda _c, builder, _s, args: _call(builder, "llvm.rint.f32", _FLOAT, args)


def _call(builder: Any, name: str, kind: Any, args: Sequence[Any]) -> Any:
    form = ir.FunctionType(kind, [kind] * len(args))
    insert: Any = cgutils.get_or_insert_function
    return builder.call(insert(builder.module, form, name), args)


def make_tile(rows: int, columns: int, *, narrow: bool = False) -> Callable[..., None]:
    """Return a product of so many rows by `columns` vectors, all of whose sums stay in registers.

    The right side is float32, or bfloat16 if it is `narrow`, which changes no bit.

    Its arguments are: addresses and row strides (in values) of left, right and out; how many terms
    to sum; and whether to add to what `out` holds.
    """

    def tile(
        _: Any,
        left: Any,
        left_stride: Any,
        right: Any,
        right_stride: Any,
        out: Any,
        out_stride: Any,
        depth: Any,
        add: Any,
    ) -> Any:
        del left, left_stride, right, right_stride, out, out_stride, depth, add

        def generate(context: Any, builder: Any, _: Any, args: Sequence[Any]) -> Any:
            _generate_tile(builder, rows, columns, args, narrow=narrow)
            return context.get_dummy_value()

        return types.void(*[_I64] * 8), generate

    made: Callable[..., None] = _operation(tile)
    return made


def _generate_tile(b: Any, rows: int, columns: int, args: Sequence[Any], *, narrow: bool) -> None:
    """Write the code of a tile: load or clear the sums, loop over the terms, store."""
    left, left_stride, right, right_stride, out, out_stride, depth, add = args

    def point(base: Any, stride: Any, row: Any, vector: int, kind: Any) -> Any:
        offset = b.mul(_LONG(SIZE), b.add(b.mul(stride, row), _LONG(vector * LANES)))
        return b.inttoptr(b.add(base, offset), kind.as_pointer())

    cells = [(row, column) for row in range(rows) for column in range(columns)]
    places = [point(out, out_stride, _LONG(r), c, _VECTOR) for r, c in cells]
    before = b.block
    load, loop, end = (b.append_basic_block(name) for name in ("load", "loop", "end"))
    b.cbranch(b.icmp_signed("!=", add, _LONG(0)), load, loop)
    b.position_at_end(load)
    loaded = [b.load(place, align=SIZE) for place in places]
    b.branch(loop)
    b.position_at_end(loop)
    term = b.phi(_LONG)
    sums = [b.phi(_VECTOR) for _ in cells]
    line = b.mul(right_stride, term)
    vectors = [_load_vector(b, right, line, column, narrow=narrow) for column in range(columns)]
    factors = [_spread(b, _load_term(b, left, left_stride, row, term)) for row in range(rows)]
    added = [
        _call(b, f"llvm.fma.v{LANES}f32", _VECTOR, [factors[row], vectors[column], sums[n]])
        for n, (row, column) in enumerate(cells)
    ]
    following = b.add(term, _LONG(1))
    for source, first in ((before, _LONG(0)), (load, _LONG(0)), (loop, following)):
        term.add_incoming(first, source)
    for n, total in enumerate(sums):
        total.add_incoming(ir.Constant(_VECTOR, None), before)
        total.add_incoming(loaded[n], load)
        total.add_incoming(added[n], loop)
    b.cbranch(b.icmp_signed("<", following, depth), loop, end)
    b.position_at_end(end)
    for place, total in zip(places, added, strict=True):
        b.store(total, place, align=SIZE)


def _load_vector(b: Any, base: Any, start: Any, number: int, *, narrow: bool) -> Any:
    """Load a vector that begins so many values and vectors behind an address."""
    kind, size = (_HALVES, SIZE // 2) if narrow else (_VECTOR, SIZE)
    offset = b.mul(_LONG(size), b.add(start, _LONG(number * LANES)))
    loaded = b.load(b.inttoptr(b.add(base, offset), kind.as_pointer()), align=size)
    if not narrow:
        return loaded
    bits = b.shl(b.zext(loaded, _WORDS), ir.Constant(_WORDS, [16] * LANES))
    return b.bitcast(bits, _VECTOR)


@_operation
def widen(_: Any, address: Any, vectors: Any, to: Any) -> Any:
    """Write vectors of bfloat16 as float32."""
    del address, vectors, to

    def generate(context: Any, b: Any, _: Any, args: Sequence[Any]) -> Any:
        source, count, target = args
        with cgutils.for_range(b, count) as loop:
            start = b.mul(loop.index, _LONG(LANES))
            place = b.add(target, b.mul(start, _LONG(SIZE)))
            vector = _load_vector(b, source, start, 0, narrow=True)
            b.store(vector, b.inttoptr(place, _VECTOR.as_pointer()), align=SIZE)
        return context.get_dummy_value()

    return types.void(*[_I64] * 3), generate


def make_fold(*, largest: bool) -> Callable[..., None]:
    """Return what folds values, a vector at a time, into one: their largest or their sums by lane.

    Its arguments are: address of the values, how many vectors, address of the vector that they are
    folded into. What is no number is passed over by the largest.
    """

    def fold(_: Any, address: Any, vectors: Any, into: Any) -> Any:
        del address, vectors, into

        def generate(context: Any, builder: Any, _: Any, args: Sequence[Any]) -> Any:
            _generate_fold(builder, args, largest=largest)
            return context.get_dummy_value()

        return types.void(*[_I64] * 3), generate

    made: Callable[..., None] = _operation(fold)
    return made


def _generate_fold(b: Any, args: Sequence[Any], *, largest: bool) -> None:
    address, vectors, into = args
    place = b.inttoptr(into, _VECTOR.as_pointer())
    first = b.load(place, align=SIZE)
    before = b.block
    loop, end = (b.append_basic_block(name) for name in ("loop", "end"))
    b.cbranch(b.icmp_signed(">", vectors, _LONG(0)), loop, end)
    b.position_at_end(loop)
    number, folded = b.phi(_LONG), b.phi(_VECTOR)
    offset = b.add(address, b.mul(number, _LONG(SIZE * LANES)))
    x = b.load(b.inttoptr(offset, _VECTOR.as_pointer()), align=SIZE)
    new = b.select(b.fcmp_ordered(">", x, folded), x, folded) if largest else b.fadd(folded, x)
    following = b.add(number, _LONG(1))
    for phi, start, after in ((number, _LONG(0), following), (folded, first, new)):
        phi.add_incoming(start, before)
        phi.add_incoming(after, loop)
    b.cbranch(b.icmp_signed("<", following, vectors), loop, end)
    b.position_at_end(end)
    total = b.phi(_VECTOR)
    total.add_incoming(first, before)
    total.add_incoming(new, loop)
    b.store(total, place, align=SIZE)


def _load_term(b: Any, left: Any, stride: Any, row: int, term: Any) -> Any:
    offset = b.mul(_LONG(SIZE), b.add(b.mul(stride, _LONG(row)), term))
    return b.load(b.inttoptr(b.add(left, offset), _FLOAT.as_pointer()), align=SIZE)


def _spread(b: Any, value: Any) -> Any:
    """Return a vector of nothing but this value."""
    none = ir.Constant(_VECTOR, ir.Undefined)
    one = b.insert_element(none, value, _WORD(0))
    return b.shuffle_vector(one, none, ir.Constant(ir.VectorType(_WORD, LANES), None))
