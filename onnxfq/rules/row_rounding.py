"""Products of int8: activations rounded with one scale for each of their rows, as standard nodes that runtimes fuse.

    r = max(|x|, along the last dimension)
    x / r → QuantizeLinear(1/127) → DequantizeLinear(1/127) ─┐
                         int8 weight → DequantizeLinear ─────┴→ MatMul → Mul(r)

ONNX Runtime makes one MatMulIntegerToFloat of it; on x86 with activations of uint8, whose products with int8 are cut
off where there is no VNNI: weights are such that this never happens (`solvers.pairs`). Weights of uint8 would do as
well, but are up to four times slower with VNNI, and so are products of int8 with int8 everywhere. A row's scale is its
own: an outlier costs other rows nothing, and a result does not depend on what is computed with it. NaN takes no part:
ONNX Runtime's ReduceMax passes over it.

Source: operators QuantizeLinear and DequantizeLinear of ONNX; fusion, exactness and speed were tried with ONNX Runtime
1.31.1 with AVX2, AVX-VNNI, AVX512 and AVX512-VNNI.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Array, Float64Array
from onnxfq.graph import Graph, Node, NodeProto, make_node
from onnxfq.scheme import ScaleType

TOP = 127  # int8 codes are at most that large, either way
OLDEST_OPSET = 13  # from which DequantizeLinear has a scale for each output
_AXES_AS_INPUT_FROM = 18
_SMALLEST = 1e-20  # what a row of zeros is divided by
_FIRST_OF_ROW = (("from", 0), ("to", 1), ("along", -1))
_CAST_TO = {"float32": 1, "float16": 10, "bfloat16": 16}


@dataclass(frozen=True, slots=True)
class Place:
    """Where nodes will stand: a graph, or a model of a few nodes.

    Attributes:
        opset: the version of ONNX's operator set.
        fresh: a name like the one given that is still free.
        constant: the name of a small constant, given what to call it and its value.
        ordinal: how many products have read a value before; asking for it counts one more.
    """

    opset: int
    fresh: Callable[[str], str]
    constant: Callable[[str, Array], str]
    ordinal: Callable[[str], int] = lambda _: 0

    @classmethod
    def beside(cls, graph: Graph, node: Node) -> Place:
        """In the place of a node."""
        return cls(
            graph.opset(node),
            graph.edits.fresh_name,
            lambda name, array: graph.small_constant(node.body, name, array),
            lambda value: graph.edits.ordinal(node.body, value),
        )


def rounded_product(
    place: Place,
    value: str,
    weight: str,
    result: str,
    scale_type: ScaleType,
    rank: int | None,
    input_scale: Float64Array | None = None,
) -> tuple[list[NodeProto], list[NodeProto]]:
    """The product of activations, rounded row by row, with a weight.

    Args:
        place: where.
        value: the activations [..., K].
        weight: [K, N], a DequantizeLinear of int8.
        result: what to call the product [..., N].
        scale_type: the activations' type, and that of the product.
        rank: of the activations; None where nothing tells.
        input_scale: [K], what the activations are divided by, with which the weight was multiplied.

    Returns:
        The nodes that round the activations, and those that follow, the product itself first.
    """
    nodes: list[NodeProto] = []

    def step(op_type: str, *inputs: str, word: str = "", **attributes: Any) -> str:
        output = place.fresh(f"{value}_{word}") if word else result
        nodes.append(make_node(op_type, list(inputs), [output], **attributes))
        return output

    wide = value if scale_type == "float32" else step("Cast", value, word="wide", to=_CAST_TO["float32"])
    if input_scale is not None:
        factor = place.constant("row_factor", (1 / input_scale).astype(np.float32))
        wide = step("Mul", wide, factor, word="smooth")
    last = -1 if rank is None else rank - 1
    largest, least = (_over_row(place, op_type, wide, last, step) for op_type in ("ReduceMax", "ReduceMin"))
    smallest = place.constant("row_smallest", np.array(_SMALLEST, np.float32))
    top = step("Max", largest, step("Neg", least, word="depth"), smallest, word="top")
    if rank is None:  # ONNX Runtime keeps axes that are counted from the end where there are no rows at all
        limits = [place.constant(f"row_{word}", np.array([at], np.int64)) for word, at in _FIRST_OF_ROW]
        top = step("Slice", top, *limits, word="first")
    relative = step("Div", wide, top, word="relative")
    grid = [
        place.constant("row_scale", _scale(place.ordinal(value))),
        place.constant("row_zero", np.array(0, np.int8)),
    ]
    codes = step("QuantizeLinear", relative, *grid, word="codes")
    rounded = step("DequantizeLinear", codes, *grid, word="rounded")
    product = place.fresh(f"{result}_relative")
    rounding, nodes = nodes, [make_node("MatMul", [rounded, weight], [product])]
    if scale_type == "float32":
        step("Mul", product, top)
    else:
        scaled = step("Mul", product, top, word="scaled")
        step("Cast", scaled, to=_CAST_TO[scale_type])
    return rounding, nodes


def _over_row(place: Place, op_type: str, value: str, axis: int, step: Callable[..., str]) -> str:
    if place.opset < _AXES_AS_INPUT_FROM:
        return step(op_type, value, word=op_type, axes=[axis], keepdims=1)
    return step(op_type, value, place.constant("row_axis", np.array([axis], np.int64)), word=op_type, keepdims=1)


def _scale(ordinal: int) -> npt.NDArray[np.float32]:
    """1/127 for the first product that reads a tensor, for others a little more: a millionth after ten of them.

    ONNX Runtime fuses a product only where nobody else reads its QuantizeLinear, and makes one of those that are equal.
    """
    scale = np.array(1 / TOP, np.float32)
    for _ in range(ordinal):
        scale = np.nextafter(scale, np.float32(1))
    return np.asarray(scale, np.float32)
