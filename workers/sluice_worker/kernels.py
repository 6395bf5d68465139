"""The kernels of a step: halves of layers and the logits, over all rows of a batch.

Every row is computed in the same order of operations whatever stands beside it: products sum over
the inputs one by one (`vectors.make_tile`), sums run over sixteen fixed lanes, a query attends to
the blocks of its sequence in their order. So a row has the same bits in any batch, and on any
processor: no operation here is left to a library or to the compiler's liking.

Only the build of the kernels (`kernelbuild`) imports this. Arguments are those of `steplayout`.
"""

import os
from typing import Any

import numpy as np

from sluice_worker import steplayout as at
from sluice_worker.roundkernels import round_row
from sluice_worker.vectors import (
    LANES,
    SIZE,
    bits_of,
    float_of,
    floats_at,
    fma,
    kernel,
    longs_at,
    make_fold,
    make_tile,
    widen,
)

_t11, _t21, _t31, _t41 = (make_tile(rows, 1) for rows in (1, 2, 3, 4))
_t12, _t22, _t32, _t42 = (make_tile(rows, 2) for rows in (1, 2, 3, 4))
_fold_largest, _fold_sum = make_fold(largest=True), make_fold(largest=False)
_t14, _t24, _t34, _t44 = (make_tile(rows, 4) for rows in (1, 2, 3, 4))

WIDE = 4 if os.environ.get("NUMBA_CPU_NAME") == "x86-64-v4" else 1
"""Vectors of a panel that are summed at once: with four rows, what the registers hold."""

_n1, _n2, _n3, _n4 = (make_tile(rows, WIDE, narrow=True) for rows in (1, 2, 3, 4))
NARROW_ROWS = 8
"""Rows up to which a panel of 16 bits is multiplied as it is."""

_ZERO: Any = np.float32(0)
_ONE: Any = np.float32(1)
_LOWEST, _HIGHEST = np.float32(-87), np.float32(88)
_LOG2E, _MAGIC = np.float32(1.44269504088896341), np.float32(12582912)
_LN2_HIGH, _LN2_LOW = np.float32(-0.693359375), np.float32(2.12194440e-4)
_E5, _E4, _E3 = (
    np.float32(1.9875691500e-4),
    np.float32(1.3981999507e-3),
    np.float32(8.3334519073e-3),
)
_E2, _E1, _E0 = (
    np.float32(4.1665795894e-2),
    np.float32(1.6666665459e-1),
    np.float32(5.0000001201e-1),
)
_MINUS_INFINITY = np.float32(-np.inf)


@kernel
def exponential(x: Any) -> Any:
    """Return e^x within 2 units in the last place, for x cut to -87 … 88 (Cephes' expf)."""
    if x < _LOWEST:
        x = _LOWEST
    if x > _HIGHEST:
        x = _HIGHEST
    shifted = fma(x, _LOG2E, _MAGIC)
    power = shifted - _MAGIC
    rest = fma(power, _LN2_LOW, fma(power, _LN2_HIGH, x))
    series = fma(fma(fma(fma(fma(_E5, rest, _E4), rest, _E3), rest, _E2), rest, _E1), rest, _E0)
    value = fma(series, rest * rest, rest) + _ONE
    # The low bits of `shifted` are the power of two: they are added to the exponent.
    return float_of(np.uint32(bits_of(value) + np.uint32(bits_of(shifted) << np.uint32(23))))


@kernel
def multiply_tile(
    rows: int,
    columns: int,
    left: int,
    left_stride: int,
    right: int,
    right_stride: int,
    out: int,
    out_stride: int,
    depth: int,
    add: int,
) -> None:
    """Multiply 1 to 4 rows by 1, 2 or 4 vectors."""
    a = (left, left_stride, right, right_stride, out, out_stride, depth, add)
    if columns == 4:
        if rows == 4:
            _t44(*a)
        elif rows == 3:
            _t34(*a)
        elif rows == 2:
            _t24(*a)
        else:
            _t14(*a)
    elif columns == 2:
        if rows == 4:
            _t42(*a)
        elif rows == 3:
            _t32(*a)
        elif rows == 2:
            _t22(*a)
        else:
            _t12(*a)
    elif rows == 4:
        _t41(*a)
    elif rows == 3:
        _t31(*a)
    elif rows == 2:
        _t21(*a)
    else:
        _t11(*a)


@kernel
def _multiply_narrow(rows: int, left: int, depth: int, right: int, out: int, stride: int) -> None:
    """Multiply 1 to 4 rows by WIDE vectors of a panel of 16 bits."""
    if rows == 4:
        _n4(left, depth, right, at.PANEL, out, stride, depth, 0)
    elif rows == 3:
        _n3(left, depth, right, at.PANEL, out, stride, depth, 0)
    elif rows == 2:
        _n2(left, depth, right, at.PANEL, out, stride, depth, 0)
    else:
        _n1(left, depth, right, at.PANEL, out, stride, depth, 0)


@kernel
def multiply(
    step: Any, left: int, matrix: int, out: int, depth: int, panels: int, stride: int, narrow: int
) -> None:
    """Multiply rows (rows, depth) by a matrix in panels; `stride` is that of the rows of `out`.

    Panels of 16 bits are half of what one row has to wait for; for many rows they are widened once.
    """
    rows = step[at.ROWS]
    direct = narrow != 0 and rows <= NARROW_ROWS
    size = SIZE // 2 if narrow else SIZE
    for panel in range(panels):
        right = matrix + size * panel * depth * at.PANEL
        if narrow and not direct:
            widen(right, depth * at.PANEL // LANES, step[at.PANEL_ROOM])
            right = step[at.PANEL_ROOM]
        for column in range(0, at.PANEL, WIDE * LANES):
            to = out + SIZE * (panel * at.PANEL + column)
            for row in range(0, rows, 4):
                count, from_row = min(4, rows - row), left + SIZE * row * depth
                to_row = to + SIZE * row * stride
                if direct:
                    _multiply_narrow(count, from_row, depth, right + size * column, to_row, stride)
                else:
                    multiply_tile(
                        count, WIDE, from_row, depth, right + SIZE * column, at.PANEL, to_row,
                        stride, depth, 0,
                    )  # fmt: skip


@kernel
def normalise(x_at: int, gain_at: int, out_at: int, width: int, epsilon: Any, sums_at: int) -> None:
    """RMSNorm of one row (Zhang and Sennrich, 2019)."""
    x, gain, out, sums = floats_at(x_at), floats_at(gain_at), floats_at(out_at), floats_at(sums_at)
    for lane in range(LANES):
        sums[lane] = _ZERO
    whole = width // LANES * LANES
    for start in range(0, whole, LANES):
        for lane in range(LANES):
            sums[lane] = fma(x[start + lane], x[start + lane], sums[lane])
    for lane in range(width - whole):
        sums[lane] = fma(x[whole + lane], x[whole + lane], sums[lane])
    total = _ZERO
    for lane in range(LANES):
        total += sums[lane]
    size = np.sqrt(total / np.float32(width) + epsilon)
    for i in range(width):
        out[i] = x[i] / size * gain[i]


@kernel
def _norm_rows(step: Any, gain: int, form: int) -> None:
    """Fill FITTED from STREAM."""
    width = step[at.WIDTH]
    epsilon = floats_at(step[at.FACTORS])[0]
    for row in range(step[at.ROWS]):
        to = step[at.FITTED] + SIZE * row * width
        normalise(step[at.STREAM] + SIZE * row * width, gain, to, width, epsilon, step[at.SUMS])
        round_row(step[form], step[form + 1], to, width)


@kernel
def _rotate(x_at: int, cosines_at: int, sines_at: int, half: int) -> None:
    """Turn one head's pairs by their position, halves paired as in Hugging Face."""
    x, cosines, sines = floats_at(x_at), floats_at(cosines_at), floats_at(sines_at)
    for i in range(half):
        left, right = x[i], x[half + i]
        x[i] = fma(left, cosines[i], -(right * sines[i]))
        x[half + i] = fma(right, cosines[i], left * sines[i])


@kernel
def _place_row(step: Any, row: int, layer: int) -> None:
    """Turn and round one row's queries, keys and values, and write the last two to its block."""
    heads, shared, width = step[at.HEADS], step[at.SHARED], step[at.HEAD_WIDTH]
    place = longs_at(step[at.PLACES])[row]
    half = width // 2
    turn = SIZE * place * half
    at_row = step[at.PROJECTED] + SIZE * row * step[at.PROJECT_PANELS] * at.PANEL
    for head in range(heads + 2 * shared):
        x = at_row + SIZE * head * width
        if head < heads + shared:
            _rotate(x, step[at.COSINES] + turn, step[at.SINES] + turn, half)
        round_row(step[at.ATTENTION], step[at.ATTENTION + 1], x, width)
    block = longs_at(longs_at(step[at.TABLES])[row])[place // at.BLOCK]
    keys = block + layer * step[at.LAYER_BYTES]
    values = floats_at(keys + step[at.VALUE_BYTES])
    to = floats_at(keys)
    inside = place % at.BLOCK
    for head in range(shared):
        key = floats_at(at_row + SIZE * (heads + head) * width)
        value = floats_at(at_row + SIZE * (heads + shared + head) * width)
        for i in range(width):
            to[(head * width + i) * at.BLOCK + inside] = key[i]
            values[(head * at.BLOCK + inside) * step[at.HEAD_ROOM] + i] = value[i]


@kernel
def _weigh(scores_at: int, count: int, factor: Any, sums_at: int) -> None:
    """Turn scores into weights of the sum 1."""
    scores, sums = floats_at(scores_at), floats_at(sums_at)
    vectors = count // LANES
    whole = vectors * LANES
    for lane in range(LANES):
        sums[lane] = _MINUS_INFINITY
    _fold_largest(scores_at, vectors, sums_at)
    most = _MINUS_INFINITY
    for lane in range(LANES):
        most = max(most, sums[lane])
        sums[lane] = _ZERO
    for i in range(whole, count):
        most = max(most, scores[i])
    for i in range(count):
        scores[i] = exponential((scores[i] - most) * factor)
    _fold_sum(scores_at, vectors, sums_at)
    for lane in range(count - whole):
        sums[lane] += scores[whole + lane]
    total = _ZERO
    for lane in range(LANES):
        total += sums[lane]
    share = _ONE / total
    for i in range(count):
        scores[i] *= share


@kernel
def _attend_group(step: Any, row: int, layer: int, shared: int, first: int, size: int) -> None:
    """Mix values for up to four query heads of one row that share keys."""
    width, room = step[at.HEAD_WIDTH], step[at.HEAD_ROOM]
    count = longs_at(step[at.PLACES])[row] + 1
    table = longs_at(longs_at(step[at.TABLES])[row])
    blocks = (count + at.BLOCK - 1) // at.BLOCK
    scores, stride = step[at.SCRATCH], blocks * at.BLOCK
    mixed = scores + SIZE * 4 * stride
    query = step[at.PROJECTED] + SIZE * (row * step[at.PROJECT_PANELS] * at.PANEL + first * width)
    inside = layer * step[at.LAYER_BYTES]
    for block in range(blocks):
        keys = table[block] + inside + SIZE * shared * width * at.BLOCK
        to = scores + SIZE * block * at.BLOCK
        multiply_tile(size, at.BLOCK // LANES, query, width, keys, at.BLOCK, to, stride, width, 0)
    factor = floats_at(step[at.FACTORS])[1]
    for head in range(size):
        _weigh(scores + SIZE * head * stride, count, factor, step[at.SUMS])
    inside += step[at.VALUE_BYTES]
    wide = 2 if room % (2 * LANES) == 0 else 1
    for block in range(blocks):
        depth = min(at.BLOCK, count - block * at.BLOCK)
        values = table[block] + inside + SIZE * shared * room * at.BLOCK
        weights = scores + SIZE * block * at.BLOCK
        for start in range(0, room, wide * LANES):
            multiply_tile(
                size, wide, weights, stride, values + SIZE * start, room,
                mixed + SIZE * start, room, depth, block,
            )  # fmt: skip
    _copy_heads(step, mixed, row, first, size)


@kernel
def _copy_heads(step: Any, mixed: int, row: int, first: int, size: int) -> None:
    width, room = step[at.HEAD_WIDTH], step[at.HEAD_ROOM]
    x = floats_at(mixed)
    to = floats_at(step[at.MIXED] + SIZE * (row * step[at.HEADS] + first) * width)
    for head in range(size):
        for i in range(width):
            to[head * width + i] = x[head * room + i]


@kernel
def attend(step: Any, weights: Any, layer: int) -> None:
    """Fill PART with the attention of one layer."""
    rows, heads, shared = step[at.ROWS], step[at.HEADS], step[at.SHARED]
    panels, width = step[at.PROJECT_PANELS], step[at.WIDTH]
    _norm_rows(step, weights[at.INPUT_NORM], at.LINEAR)
    narrow = step[at.LINEAR_NARROW]
    multiply(
        step, step[at.FITTED], weights[at.PROJECT], step[at.PROJECTED], width, panels,
        panels * at.PANEL, narrow,
    )  # fmt: skip
    for row in range(rows):
        _place_row(step, row, layer)
    group, mixed = heads // shared, heads * step[at.HEAD_WIDTH]
    for row in range(rows):
        for head in range(shared):
            for first in range(0, group, 4):
                size = min(4, group - first)
                _attend_group(step, row, layer, head, head * group + first, size)
        round_row(step[at.LINEAR], step[at.LINEAR + 1], step[at.MIXED] + SIZE * row * mixed, mixed)
    panels = step[at.OUTPUT_PANELS]
    multiply(
        step, step[at.MIXED], weights[at.OUTPUT], step[at.PART], mixed, panels, panels * at.PANEL,
        narrow,
    )  # fmt: skip


@kernel
def think(step: Any, weights: Any) -> None:
    """Fill PART with the MLP of one layer."""
    rows, inner, panels = step[at.ROWS], step[at.INNER], step[at.INNER_PANELS]
    stride = 2 * panels * at.PANEL
    _norm_rows(step, weights[at.POST_NORM], at.LINEAR)
    narrow = step[at.LINEAR_NARROW]
    multiply(
        step, step[at.FITTED], weights[at.GATE_UP], step[at.GATES], step[at.WIDTH], 2 * panels,
        stride, narrow,
    )  # fmt: skip
    for row in range(rows):
        gate = floats_at(step[at.GATES] + SIZE * row * stride)
        up = floats_at(step[at.GATES] + SIZE * (row * stride + panels * at.PANEL))
        to = step[at.HIDDEN] + SIZE * row * inner
        hidden = floats_at(to)
        for i in range(inner):
            hidden[i] = gate[i] / (_ONE + exponential(-gate[i])) * up[i]
        round_row(step[at.LINEAR], step[at.LINEAR + 1], to, inner)
    panels = step[at.OUTPUT_PANELS]
    multiply(
        step, step[at.HIDDEN], weights[at.DOWN], step[at.PART], inner, panels, panels * at.PANEL,
        narrow,
    )  # fmt: skip


@kernel
def _add_part(step: Any) -> None:
    width, stride = step[at.WIDTH], step[at.OUTPUT_PANELS] * at.PANEL
    for row in range(step[at.ROWS]):
        x = floats_at(step[at.STREAM] + SIZE * row * width)
        part = floats_at(step[at.PART] + SIZE * row * stride)
        for i in range(width):
            x[i] += part[i]


@kernel
def run_layers(step_at: int, layers_at: int, first: int, last: int, halves: int) -> None:
    """Run layers from `first` up to `last`; `halves` says which parts, see `steplayout.ATTEND`."""
    step = longs_at(step_at)
    for layer in range(first, last):
        weights = longs_at(layers_at + 8 * at.LAYER_FIELDS * layer)
        if halves & at.ATTEND:
            attend(step, weights, layer)
            if halves & at.ADD:
                _add_part(step)
        if halves & at.THINK:
            think(step, weights)
            if halves & at.ADD:
                _add_part(step)


@kernel
def finish(step_at: int, logits: int) -> None:
    """Write the logits (rows, panels) of the rows of STREAM."""
    step = longs_at(step_at)
    panels = step[at.HEAD_PANELS]
    _norm_rows(step, step[at.FINAL_NORM], at.HEAD)
    multiply(
        step, step[at.FITTED], step[at.HEAD_MATRIX], logits, step[at.WIDTH], panels,
        panels * at.PANEL, step[at.HEAD_NARROW],
    )  # fmt: skip


@kernel
def round_rows(rows_at: int, rows: int, width: int, form: int, parameter: int) -> None:
    """Round rows in place, each by itself: what the other kernels do to theirs, to be compared."""
    for row in range(rows):
        round_row(form, parameter, rows_at + SIZE * row * width, width)
