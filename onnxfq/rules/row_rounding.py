"""Products of int8: activations rounded with one scale for each of their rows, as standard nodes that runtimes fuse.

    r = max(|x|, along the last dimension)
    x / r → QuantizeLinear(1/127) → DequantizeLinear(1/127) ─┐
                         int8 weight → DequantizeLinear ─────┴→ MatMul → Mul(r)

ONNX Runtime makes one MatMulIntegerToFloat of it, with factors int8 on both sides: exact with AVX2, where products of
uint8 and int8 saturate, and as fast as these everywhere (uint8 on both sides is exact too, but up to four times
slower).
A row's scale is its own: an outlier costs other rows nothing, and a result does not depend on what is computed with it.

Source: operators QuantizeLinear and DequantizeLinear of ONNX; fusion, exactness and speed were tried with ONNX Runtime
1.31.1 with AVX2, AVX-VNNI, AVX512 and AVX512-VNNI.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxfq.arrays import Array
from onnxfq.graph import Graph, Node, NodeProto, make_node
from onnxfq.scheme import ScaleType

TOP = 127  # int8 codes are at most that large, either way
OLDEST_OPSET = 13  # from which DequantizeLinear has a scale for each output
_AXES_AS_INPUT_FROM = 18
_SMALLEST = 1e-20  # what a row of zeros is divided by
_CAST_TO = {"float32": 1, "float16": 10, "bfloat16": 16}


@dataclass(frozen=True, slots=True)
class Place:
    """Where nodes will stand: a graph, or a model of a few nodes.

    Attributes:
        opset: the version of ONNX's operator set.
        fresh: a name like the one given that is still free.
        constant: the name of a small constant, given what to call it and its value.
    """

    opset: int
    fresh: Callable[[str], str]
    constant: Callable[[str, Array], str]

    @classmethod
    def beside(cls, graph: Graph, node: Node) -> Place:
        """In the place of a node."""
        return cls(graph.opset(node), graph.edits.fresh_name, lambda n, a: graph.small_constant(node.body, n, a))


def rounded_product(
    place: Place, value: str, weight: str, result: str, scale_type: ScaleType
) -> tuple[list[NodeProto], NodeProto]:
    """The product of activations, rounded row by row, with a weight.

    Args:
        place: where.
        value: the activations [..., K].
        weight: [K, N], a DequantizeLinear of int8.
        result: what to call the product [..., N].
        scale_type: the activations' type, and that of the product.

    Returns:
        All nodes, and of these the product itself.
    """
    nodes: list[NodeProto] = []

    def step(op_type: str, *inputs: str, word: str = "", **attributes: Any) -> str:
        output = place.fresh(f"{value}_{word}") if word else result
        nodes.append(make_node(op_type, list(inputs), [output], **attributes))
        return output

    wide = value if scale_type == "float32" else step("Cast", value, word="wide", to=_CAST_TO["float32"])
    magnitude = step("Abs", wide, word="magnitude")
    largest = _largest(place, magnitude, step)
    smallest = place.constant("row_smallest", np.array(_SMALLEST, np.float32))
    top = step("Max", largest, smallest, word="top")
    relative = step("Div", wide, top, word="relative")
    grid = [
        place.constant("row_scale", np.array(1 / TOP, np.float32)),
        place.constant("row_zero", np.array(0, np.int8)),
    ]
    codes = step("QuantizeLinear", relative, *grid, word="codes")
    rounded = step("DequantizeLinear", codes, *grid, word="rounded")
    product = place.fresh(f"{result}_relative")
    nodes.append(make_node("MatMul", [rounded, weight], [product]))
    keeper = nodes[-1]
    if scale_type == "float32":
        step("Mul", product, top)
    else:
        scaled = step("Mul", product, top, word="scaled")
        step("Cast", scaled, to=_CAST_TO[scale_type])
    return nodes, keeper


def _largest(place: Place, value: str, step: Callable[..., str]) -> str:
    if place.opset < _AXES_AS_INPUT_FROM:
        return step("ReduceMax", value, word="largest", axes=[-1], keepdims=1)
    return step("ReduceMax", value, place.constant("row_axis", np.array([-1], np.int64)), word="largest", keepdims=1)
