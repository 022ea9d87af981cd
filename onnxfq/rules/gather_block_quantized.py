"""Gather of rows of a constant table, as embeddings are → com.microsoft.GatherBlockQuantized.

    Gather(table [rows, columns], ids)  → GatherBlockQuantized(quantized table, ids, scales, zero_points)

    Gather(columns of a table [columns, rows]) → GatherBlockQuantized → Transpose

Experts that are looked up, as whole matrices, are one table of the rows of all (see `gathered_experts`).

A table that is the weight of a product too, as tied embeddings are, is stored once, as MatMulNBits wants it:

    B [rows, blocks, bytes] → Reshape → GatherBlockQuantized
                            → MatMulNBits

`data` is [rows, ceil(columns * bits / 8)]: codes along the columns, low bits first inside a byte, without padding to
whole blocks. Zero points are packed the same way. The output is the dequantized row, in the type of the scales; a Cast
follows where the kernel, or a product that shares the table, has other scales than the table's type.

Source: com.microsoft.GatherBlockQuantized in ONNX Runtime's ContribOperators.md; bits, blocks, types and indices that
really run were tried with ONNX Runtime 1.31.1 on CPU. CUDA was read in its source and not run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from onnxfq.arrays import Array
from onnxfq.errors import SchemeError
from onnxfq.graph import (
    ONNX_TYPES,
    Constant,
    Fed,
    Graph,
    Node,
    NotConstant,
    TensorFile,
    holds_codes,
    make_node,
    single_node,
    type_name,
)
from onnxfq.packing import at_block_size, pack_rows, unpack_rows
from onnxfq.providers import ProviderName
from onnxfq.quantized import STORED_TYPES, QuantizedWeight
from onnxfq.rules.block_grids import grid_layout, pack_grid, with_grid
from onnxfq.rules.gathered_experts import SCHEME, find_gathered, timed
from onnxfq.rules.kernel import Kernel
from onnxfq.rules.product_steps import Step, linked
from onnxfq.rules.rule import (
    TOLERANCE_FLOAT,
    TOLERANCE_HALF,
    Probe,
    Rule,
    Tensors,
    TensorType,
    WrittenWeight,
    stacked_shape,
)
from onnxfq.rules.target import SCALE_TYPES, Skip, Target
from onnxfq.scheme import BLOCK_SIZES, ScaleType, Scheme

_PRODUCT = "MatMulNBits"  # the operator whose storage a table can be read from
SMALLEST_TABLE = 1 << 14  # values; smaller tables are not worth a node of their own
SMALLEST_TOLD = 1 << 12  # values; that smaller ones stay is not worth a word
_TYPES: dict[ProviderName, tuple[ScaleType, ...]] = {
    "cpu": ("float32", "float16"),
    "cuda": ("float32", "float16", "bfloat16"),
}
_UNKNOWN_RANK = "it takes columns of its table, and nothing tells how many dimensions its indices have"
_OTHER_LOOKUPS = ("Slice", "GatherND", "GatherElements")


class GatherBlockQuantized(Rule):
    """Rows of a table in blocks of 2, 4 or 8 bits."""

    operator = "GatherBlockQuantized"
    kind = "embeddings"
    replaces = ("Gather",)
    inputs: ClassVar[Mapping[str, int]] = {"data": 0, "scales": 2, "zero_points": 3}

    def match(self, graph: Graph, node: Node) -> Sequence[Target] | Skip | None:
        """See `Rule.match`; the smallest tables, and whatever is no table of floats, are no business of this rule."""
        if node.domain or node.references or node.op_type not in ("Gather", *_OTHER_LOOKUPS):
            return None
        table = graph.constant(node, 0)
        if all(isinstance(graph.constant(node, i), Constant) for i, name in enumerate(node.inputs) if i and name):
            return None
        if node.op_type != "Gather":
            return _other_lookup(node, table)
        if not isinstance(table, Constant):
            return Skip(node.name, node.op_type, table.reason, quantized=True) if table.quantized else None
        if holds_codes(table.type) and math.prod(table.shape) >= SMALLEST_TABLE and len(table.shape) > 1:
            reason = f"already quantized: its table holds {type_name(table.type)}"
            return Skip(node.name, node.op_type, reason, quantized=True, nbytes=table.leaf.nbytes)
        experts = find_gathered(node, table)
        if experts:
            return experts
        scale_type = SCALE_TYPES.get(type_name(table.type))
        if len(table.shape) != 2 or scale_type is None:
            return None
        turned = node.integer("axis", 0) in (1, -1)  # rows of the table are columns of the constant
        n, k = reversed(table.shape) if turned else table.shape
        reason = "" if not turned or graph.rank(node, 1) is not None else _UNKNOWN_RANK
        if n * k < SMALLEST_TABLE:
            reason = f"too small: {n * k} values (fewer than {SMALLEST_TABLE} are not worth it)"
        if reason:
            return Skip(node.name, node.op_type, reason, nbytes=table.leaf.nbytes) if n * k >= SMALLEST_TOLD else None
        return (Target(node.name, node, table, n, k, transposed=turned, alpha=1.0, scale_type=scale_type),)

    def kernel(self, provider: ProviderName, scheme: Scheme, target: Target) -> Kernel:
        """See `Rule.kernel`; blocks beyond a row mean the same as the smallest that holds it.

        A table of a type that the provider gives no rows in gets float32 scales.
        """
        bits = scheme.bits
        scale_type = target.scale_type if target.scale_type in _TYPES[provider] else "float32"
        if target.k * bits % 8:
            raise SchemeError(
                f"Rows of {target.k} codes of {bits} bits are no whole bytes, as GatherBlockQuantized wants them "
                "(got a table of that width). Use `embeddings=8`."
            )
        wanted = scheme.columns_per_block(target.k)
        holding = [size for size in BLOCK_SIZES if size >= min(wanted, target.k)]
        block_size = min(holding, default=max(BLOCK_SIZES))
        kernel = Kernel(provider, bits, block_size, scheme.symmetric, 0, scale_type, "fast")
        return timed(kernel, target.k) if target.experts else kernel

    def layout(self, n: int, k: int, kernel: Kernel) -> dict[str, TensorType]:
        """See `Rule.layout`."""
        return {"data": ((n, k * kernel.bits // 8), np.dtype(np.uint8)), **grid_layout(n, k, kernel)}

    def pack(self, q: QuantizedWeight, kernel: Kernel) -> dict[str, Array]:
        """See `Rule.pack`."""
        at = at_block_size(q, kernel.block_size)
        width = at.shape[1] * at.bits // 8
        return {"data": pack_rows(at.codes, at.zero_point, kernel.block_size, at.bits, width), **pack_grid(at)}

    def unpack(self, tensors: Tensors, kernel: Kernel, k: int) -> QuantizedWeight:
        """See `Rule.unpack`."""
        return with_grid(unpack_rows(tensors["data"], kernel.bits, k), tensors, kernel)

    def attributes(self, n: int, k: int, kernel: Kernel) -> dict[str, int]:
        """See `Rule.attributes`."""
        return {"bits": kernel.bits, "block_size": kernel.block_size, "gather_axis": 0, "quantize_axis": 1}

    def node_attributes(self, target: Target, kernel: Kernel) -> dict[str, Any]:
        """See `Rule.node_attributes`."""
        axis = {"quantize_axis": 2} if target.experts else {}
        return {**self.attributes(target.n, target.k, kernel), **axis}

    def nearest_fast(self, provider: ProviderName, scheme: Scheme, target: Target) -> Scheme | None:
        """See `Rule.nearest_fast`."""
        return SCHEME if target.experts else None

    def rewrite(self, graph: Graph, weights: Sequence[WrittenWeight], tensor_file: TensorFile) -> None:
        """See `Rule.rewrite`."""
        (weight,) = weights
        target, node, names = weight.target, weight.target.node, weight.names
        data, before = names.get("data", ""), []
        if not data:  # it is the weight of a product too, and stored for that: the same bytes, in blocks
            data = graph.edits.fresh_name(f"{names['B']}_rows")
            shape = target.n, target.k * weight.kernel.bits // 8
            rows = graph.add_tensor(node.body, f"{names['B']}_shape", tensor_file, np.array(shape, np.int64))
            before = [make_node("Reshape", [names["B"], rows], [data])]
        for name, tensor in names.items() if target.experts else ():
            graph.set_dimensions(tensor, stacked_shape(self, weight, name))
        inputs = [data, node.inputs[1], names["scales"], *filter(None, [names.get("zero_points")])]
        found, after = linked(graph, _steps_after(graph, weight), node.outputs[0])
        attributes = self.node_attributes(target, weight.kernel)
        quantized = make_node(self.operator, inputs, [found], domain=self.domain, **attributes)
        graph.replace(node, [*before, quantized, *after], keeps_name=quantized)

    def reads(self, storage: Rule, kernel: Kernel, k: int) -> bool:
        """See `Rule.reads`: MatMulNBits stores the same bytes where rows are whole blocks."""
        return storage is self or (storage.operator == _PRODUCT and k % kernel.block_size == 0)

    def probe(self, tensors: Tensors, kernel: Kernel, n: int, k: int) -> Probe:
        """See `Rule.probe`: every row once, the last one first."""
        dtype, ids = STORED_TYPES[kernel.activation_type], np.arange(n - 1, -1, -1, dtype=np.int64)
        inputs: dict[str, Fed | Array | None] = {
            "data": tensors["data"],
            "indices": Fed(np.int64, ("rows",)),
            "scales": tensors["scales"],
            "zero_points": tensors.get("zero_points"),
        }
        attributes = self.attributes(n, k, kernel)
        model = single_node(self.operator, self.domain, inputs, attributes, output=dtype)
        expected = self.unpack(tensors, kernel, k).dequantize().astype(np.float64)[ids]
        tolerance = TOLERANCE_FLOAT if kernel.activation_type == "float32" else TOLERANCE_HALF
        return Probe(model, {"indices": ids}, expected, tolerance)


def _steps_after(graph: Graph, weight: WrittenWeight) -> list[tuple[str, Step]]:
    """What makes of rows, in the type of the scales, what the Gather gave."""
    target, steps = weight.target, list[tuple[str, Step]]()
    if target.scale_type != weight.kernel.activation_type:
        wanted = ONNX_TYPES[STORED_TYPES[target.scale_type]]
        steps.append(("found", lambda name, out: [make_node("Cast", [name], [out], to=wanted)]))
    rank = graph.rank(target.node, 1)
    if target.transposed and rank:
        steps.append(("rows", lambda name, out: [make_node("Transpose", [name], [out], perm=[rank, *range(rank)])]))
    return steps


def _other_lookup(node: Node, table: Constant | NotConstant) -> Skip | None:
    """Why another operator that takes rows of a table is left alone; None where that is not worth a word."""
    if not isinstance(table, Constant) or SCALE_TYPES.get(type_name(table.type)) is None:
        return None
    if math.prod(table.shape) < SMALLEST_TABLE or len(table.shape) < 2:
        return None
    reason = f"{node.op_type} takes rows of a table: ONNX Runtime has an operator for codes in place of Gather only"
    return Skip(node.name, node.op_type, reason, nbytes=table.leaf.nbytes)
