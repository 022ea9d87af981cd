"""What operators with weights do to shapes, and what their weights say about what they read."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from onnxfq.graph.shape_call import Dims, Inferred, ShapeCall, Untold
from onnxfq.graph.size_expressions import Lanes, Size


def matmul(call: ShapeCall, left: int = 0, right: int = 1) -> Dims:
    """MatMul and Gemm: the last axis of the left is the first of the right."""
    a, b = call.shape(left), call.shape(right)
    if not a or not b:
        raise Untold
    a = _turned(call, a, "transA")
    b = _turned(call, b, "transB")
    call.sizes.equal(a[-1], b[-2] if len(b) > 1 else b[0])
    rows, columns = a[-2:-1], b[-1:] if len(b) > 1 else ()
    return (*call.sizes.broadcast(a[:-2], b[:-2]), *rows, *columns)


def _turned(call: ShapeCall, shape: Dims, attribute: str) -> Dims:
    turned = call.node.integer(attribute, 0) and len(shape) > 1
    return (*shape[:-2], shape[-1], shape[-2]) if turned else shape


def matmul_nbits(call: ShapeCall) -> Dims:
    """A weight [N, K] in few bits."""
    shape = call.shape()
    call.sizes.equal(shape[-1], call.node.integer("K", 0) or None)
    return (*shape[:-1], call.node.integer("N", 0) or None)


def einsum(call: ShapeCall) -> Dims:
    """One letter, one size."""
    inputs, arrow, output = str(call.node.attributes.get("equation", "")).replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not arrow or "." in inputs or len(terms) != len(call.inputs):
        raise Untold
    found: dict[str, Size] = {}
    for index, term in enumerate(terms):
        for letter, size in zip(term, call.shape(index, len(term)), strict=True):
            found[letter] = call.sizes.equal(found.get(letter), size)
    return tuple(found.get(letter) for letter in output)


def convolution(call: ShapeCall, weight: int = 1) -> Dims:
    """Conv: the weight [outputs, inputs / groups, …] says how many channels there are."""
    x, w = call.shape(), call.shape(weight)
    if len(x) != len(w) or len(x) < 2:
        raise Untold
    call.sizes.equal(x[1], call.sizes.product(w[1], call.node.integer("group", 1)))
    return (x[0], w[0], *_windows(call, x[2:], w[2:]))


def pool(call: ShapeCall) -> Dims:
    """Pooling over windows."""
    x, kernel = call.shape(), call.node.integers("kernel_shape")
    if kernel is None or len(x) != 2 + len(kernel):
        raise Untold
    return (*x[:2], *_windows(call, x[2:], kernel))


def _windows(call: ShapeCall, sizes: Dims, kernel: Dims) -> Dims:
    """How many windows fit, along each axis; one at least."""
    count, auto = len(sizes), str(call.node.attributes.get("auto_pad", "NOTSET"))
    strides, dilations, pads = (
        _listed(call, name, default) for name, default in (("strides", count), ("dilations", count), ("pads", -count))
    )
    ceil = call.node.integer("ceil_mode", 0)
    result: list[Size] = []
    for i, size in enumerate(sizes):
        if auto.startswith("SAME"):
            result.append(call.sizes.apply(_ceil_divide, size, strides[i]))
            continue
        padding = 0 if auto == "VALID" else pads[i] + pads[i + count]
        result.append(call.sizes.apply(_count, size, kernel[i], strides[i], dilations[i], padding, ceil))
        call.sizes.require(np.greater_equal, result[-1], 1)
    return tuple(result)


def _listed(call: ShapeCall, name: str, default: int) -> tuple[int, ...]:
    """An attribute with a number an axis, or two; ones by default, zeros for two."""
    found = call.node.integers(name)
    if found is None:
        return (1,) * default if default >= 0 else (0,) * (-2 * default)
    if len(found) != (default if default >= 0 else -2 * default):
        raise Untold
    return found


def _ceil_divide(size: Lanes, by: Lanes) -> Lanes:
    return -(-size // by)


def _count(size: Lanes, kernel: Lanes, stride: Lanes, dilation: Lanes, padding: Lanes, ceil: Lanes) -> Lanes:
    room = size + padding - dilation * (kernel - 1) - 1
    return -(-room // stride) + 1 if ceil else room // stride + 1


def transposed_convolution(call: ShapeCall) -> Dims:
    """ConvTranspose, whose weight has the inputs first."""
    x, w = call.shape(), call.shape(1)
    count = len(x) - 2
    if len(x) != len(w) or count < 0 or call.node.has("output_shape") or call.node.has("auto_pad"):
        raise Untold
    call.sizes.equal(x[1], w[0])
    strides, dilations, pads = (
        _listed(call, name, default) for name, default in (("strides", count), ("dilations", count), ("pads", -count))
    )
    extra = call.node.integers("output_padding") or (0,) * count
    result = [
        call.sizes.apply(_spread, x[2 + i], w[2 + i], strides[i], dilations[i], extra[i] - pads[i] - pads[i + count])
        for i in range(count)
    ]
    return (x[0], call.sizes.product(w[1], call.node.integer("group", 1)), *result)


def _spread(size: Lanes, kernel: Lanes, stride: Lanes, dilation: Lanes, extra: Lanes) -> Lanes:
    return stride * (size - 1) + dilation * (kernel - 1) + 1 + extra


def normalized_channels(call: ShapeCall) -> Dims:
    """BatchNormalization and InstanceNormalization: a number a channel."""
    x = call.shape()
    scale = call.known_shape(1)
    channels = call.sizes.equal(x[1], scale[0]) if scale and len(x) > 1 else None
    return (x[0], channels, *x[2:]) if scale and len(x) > 1 else x


def normalized_last(call: ShapeCall, scale: int = 1) -> Dims:
    """LayerNormalization and its kin: numbers for the last axes."""
    x, last = call.shape(), call.known_shape(scale)
    return call.sizes.broadcast(x, last) if last and len(last) <= len(x) else x


def skip_normalized(call: ShapeCall) -> list[Dims | Inferred]:
    """A sum that is normalized; the fourth output is the sum."""
    x = normalized_last(call, 2)
    return [x, Inferred(), Inferred(), x]


def recurrent(call: ShapeCall, turned: bool = False) -> list[Dims | Inferred]:
    """RNN, GRU and LSTM: weights [directions, gates · hidden, inputs], states [directions, batch, hidden]."""
    if call.node.integer("layout", 0):
        raise Untold
    (length, batch, size), (directions, *weight) = call.shape(0, 3), call.shape(1, 3)
    hidden = call.shape(2, 3)[1 if turned else 2]
    call.sizes.equal(size, weight[0 if turned else 1])
    state: Dims = (directions, batch, hidden)
    for index in (5, 6):
        given = call.known_shape(index)
        for one, other in zip(given or (), state, strict=False):
            call.sizes.equal(one, other)
    return [(length, directions, batch, hidden), state, state]


def group_query_attention(call: ShapeCall) -> list[Dims | Inferred]:
    """Queries [batch, tokens, heads · head size], or with keys and values in them, and a cache."""
    batch, tokens, width = call.shape(0, 3)
    heads, cached = call.node.integer("num_heads", 0), call.node.integer("kv_num_heads", 0)
    packed = not call.has(1)
    size = _quotient(call, width, heads + 2 * cached if packed else heads)
    if call.node.integer("sliding_window_cache", 0):  # the cache is a ring that is there from the start
        for past in filter(None, map(call.known_shape, (3, 4))):
            call.sizes.equal(past[2], call.node.integer("local_window_size", 0))
    return _attention(call, (batch, tokens), heads, cached, size, (3, 4))


def multi_head_attention(call: ShapeCall) -> list[Dims | Inferred]:
    """Queries [batch, tokens, heads · head size] and a cache."""
    batch, tokens, width = call.shape(0, 3)
    heads = call.node.integer("num_heads", 0)
    return _attention(call, (batch, tokens), heads, heads, _quotient(call, width, heads), (6, 7))


def attention(call: ShapeCall) -> list[Dims | Inferred]:
    """ONNX's Attention on [batch, heads, tokens, head size] or [batch, tokens, heads · head size]."""
    query = call.shape()
    if len(query) == 4:
        keys, values = call.shape(1, 4), call.shape(2, 4)
        _same_but_tokens(call, call.known_shape(4), keys)
        _same_but_tokens(call, call.known_shape(5), values)
        return [(*query[:3], values[3])]
    heads = call.node.integer("q_num_heads", 0)
    cached = call.node.integer("kv_num_heads", 0)
    return _attention(call, query[:2], heads, cached, _quotient(call, query[-1], heads), (4, 5))


def fused_attention(call: ShapeCall) -> list[Dims | Inferred]:
    """Attention of com.microsoft, which has the weight of the projections [inputs, 3 · heads · head size]."""
    (batch, tokens, width), (inputs, outputs) = call.shape(0, 3), call.shape(1, 2)
    if call.node.has("qkv_hidden_sizes"):
        raise Untold
    call.sizes.equal(width, inputs)
    heads, result = call.node.integer("num_heads", 0), _quotient(call, outputs, 3)
    past = call.known_shape(4)
    if past is not None and len(past) == 5:
        _same_but_tokens(call, past[1:], (batch, heads, None, _quotient(call, result, heads)))
    return [(batch, tokens, result)]


def _attention(
    call: ShapeCall, rows: Dims, heads: int, cached: int, size: Size, pasts: tuple[int, int]
) -> list[Dims | Inferred]:
    for index in pasts:
        _same_but_tokens(call, call.known_shape(index), (rows[0], cached or None, None, size))
    return [(*rows, call.sizes.product(heads, size) if heads else None)]


def _same_but_tokens(call: ShapeCall, cache: Dims | None, wanted: Dims) -> None:
    """A cache [batch, heads, tokens, head size] has all sizes of new keys but their number."""
    if cache is not None and len(cache) == len(wanted) == 4:
        for axis in (0, 1, 3):
            call.sizes.equal(cache[axis], wanted[axis])


def _quotient(call: ShapeCall, size: Size, by: int) -> Size:
    return call.sizes.apply(np.floor_divide, size, by) if by > 0 else None


def fourier_windows(call: ShapeCall) -> Dims:
    """STFT: [batch, samples, 1] to [batch, windows, frequencies, 2]."""
    (batch, samples, *_), step = call.shape(), call.data(1).item()
    length = call.data(3).item() if call.has(3) else call.shape(2, 1)[0]
    windows = call.sizes.apply(_count, samples, length, step, 1, 0, 0)
    call.sizes.require(np.greater_equal, windows, 1)
    half = isinstance(length, int) and call.node.integer("onesided", 1)
    return (batch, windows, math.floor(length / 2) + 1 if half and isinstance(length, int) else length, 2)


Layer = Callable[[ShapeCall], "Dims | list[Dims | Inferred]"]

LAYERS: dict[str, Layer] = {
    "MatMul": matmul,
    "MatMulInteger": matmul,
    "FusedMatMul": matmul,
    "Gemm": matmul,
    "FusedGemm": matmul,
    "QLinearMatMul": lambda call: matmul(call, 0, 3),
    "QGemm": lambda call: matmul(call, 0, 3),
    "MatMulIntegerToFloat": matmul,
    "DynamicQuantizeMatMul": matmul,
    "MatMulNBits": matmul_nbits,
    "Einsum": einsum,
    "Conv": convolution,
    "ConvInteger": convolution,
    "FusedConv": convolution,
    "QLinearConv": lambda call: convolution(call, 3),
    "ConvTranspose": transposed_convolution,
    "MaxPool": pool,
    "AveragePool": pool,
    "LpPool": pool,
    "BatchNormalization": normalized_channels,
    "InstanceNormalization": normalized_channels,
    "LayerNormalization": normalized_last,
    "RMSNormalization": normalized_last,
    "SimplifiedLayerNormalization": normalized_last,
    "SkipLayerNormalization": skip_normalized,
    "SkipSimplifiedLayerNormalization": skip_normalized,
    "BiasGelu": normalized_last,
    "RNN": recurrent,
    "GRU": recurrent,
    "LSTM": recurrent,
    "DynamicQuantizeLSTM": lambda call: recurrent(call, turned=True),
    "GroupQueryAttention": group_query_attention,
    "MultiHeadAttention": multi_head_attention,
    "Attention": attention,
    "com.microsoft:Attention": fused_attention,
    "STFT": fourier_windows,
}
