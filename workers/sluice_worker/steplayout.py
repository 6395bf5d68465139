"""What a step tells the kernels: places in arrays of int64, most of them addresses.

`compiled` fills them and `kernels` reads them; the kernels take no other arguments, so that a step
costs two calls. Values are float32, strides are in values unless they say bytes.
"""

from typing import Final

LANES: Final = 16
"""Values of a vector; buffers that kernels write are padded to whole ones."""
PANEL: Final = 64
"""Outputs of a matrix that lie together: (panels, inputs, PANEL), the last filled with zeros."""
BLOCK: Final = 32
"""Positions of a block of the KV cache; `kvcache` has its layout."""

# Of a model.
WIDTH: Final = 0
HEADS: Final = 1
SHARED: Final = 2  # heads of keys and values
HEAD_WIDTH: Final = 3
HEAD_ROOM: Final = 4  # head width, padded to whole vectors
INNER: Final = 5
PROJECT_PANELS: Final = 6
OUTPUT_PANELS: Final = 7  # of what has the model's width: attention's output and the MLP's
INNER_PANELS: Final = 8  # of gate, and as many of up behind it
HEAD_PANELS: Final = 9
COSINES: Final = 10  # (positions, head width / 2)
SINES: Final = 11
FACTORS: Final = 12  # epsilon of the norms, factor of the scores
LINEAR: Final = 13  # format, and its parameter behind it
ATTENTION: Final = 15
HEAD: Final = 17
LAYER_BYTES: Final = 19  # from a layer's keys to the next one's in a block
VALUE_BYTES: Final = 20  # from a layer's keys to its values in a block
FINAL_NORM: Final = 21
HEAD_MATRIX: Final = 22
# Of a step.
ROWS: Final = 23
PLACES: Final = 24  # (rows), position of each
TABLES: Final = 25  # (rows), address of the addresses of its sequence's blocks
STREAM: Final = 26  # (rows, width), the residual stream
FITTED: Final = 27  # (rows, width), normed and rounded
PROJECTED: Final = 28  # (rows, panels): queries, keys, values
MIXED: Final = 29  # (rows, heads × head width)
PART: Final = 30  # (rows, panels), what a half of a layer adds to the stream
GATES: Final = 31  # (rows, 2 × panels)
HIDDEN: Final = 32  # (rows, inner)
SCRATCH: Final = 33  # of one row's attention
SUMS: Final = 34  # one vector
PANEL_ROOM: Final = 35  # (most inputs, PANEL), a panel of 16 bits at its full width
LINEAR_NARROW: Final = 36  # whether matrices are stored in 16 bits
HEAD_NARROW: Final = 37
FIELDS: Final = 38

# Of a layer.
INPUT_NORM: Final = 0
PROJECT: Final = 1
OUTPUT: Final = 2
POST_NORM: Final = 3
GATE_UP: Final = 4
DOWN: Final = 5
LAYER_FIELDS: Final = 6

# Formats.
FLOAT32: Final = 0
BFLOAT16: Final = 1
FLOAT8_ROW: Final = 2
FLOAT8_BLOCK: Final = 3
FLOAT4_BLOCK: Final = 4
MICROEXPONENT: Final = 5

# Halves of a layer that a call computes, and whether it adds them to the stream.
ATTEND: Final = 1
THINK: Final = 2
ADD: Final = 4
