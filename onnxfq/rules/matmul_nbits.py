"""MatMul and Gemm with a constant weight → com.microsoft.MatMulNBits.

    MatMul(A, B)                      → MatMulNBits(A, quantized Bᵀ)
    Gemm(A, B, C; transA, transB, …)  → [Transpose(A) →] MatMulNBits(A, quantized alpha·B′ᵀ, bias) [→ Add(C)]

Source: com.microsoft.MatMulNBits in ONNX Runtime's ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxfq.arrays import Float64Array
from onnxfq.graph import MICROSOFT, Constant, Graph, Node, NodeProto, NotConstant, TensorFile, make_node, type_name
from onnxfq.kernels import Kernel
from onnxfq.packing import Packed
from onnxfq.providers import facts
from onnxfq.quantized import STORED_TYPES
from onnxfq.rules.bias import shifted
from onnxfq.rules.target import Skip, Target
from onnxfq.scheme import ScaleType

SMALLEST_WEIGHT = 1024
_SCALE_TYPES: dict[str, ScaleType] = {"float32": "float32", "float16": "float16", "bfloat16": "bfloat16"}
_ALREADY = frozenset(
    {"MatMulNBits", "MatMulBnb4", "MatMulInteger", "MatMulIntegerToFloat", "QLinearMatMul", "QGemm", "QAttention"}
    | {"DynamicQuantizeMatMul", "MatMulFpQ4", "QMoE", "GatherBlockQuantized", "QLinearConv"}
)
_FUSED = frozenset({"FusedMatMul", "FusedGemm", "TransposeMatMul", "Attention", "MultiHeadAttention", "GemmFastGelu"})


@dataclass(frozen=True, slots=True)
class Stored:
    """Names of a quantized weight's tensors in the graph; `zero_points` is "" where all are the default."""

    codes: str
    scales: str
    zero_points: str


def match(graph: Graph, node: Node) -> Target | Skip | None:
    """Decide about one node: a target, a node left alone with the reason, or none of this rule's business."""
    if node.op_type in _ALREADY and node.domain in ("", MICROSOFT):
        return Skip(node.name, node.op_type, "already quantized", quantized=True)
    if node.op_type in _FUSED and node.domain == MICROSOFT:
        return _fused(graph, node)
    if node.op_type not in ("MatMul", "Gemm") or node.domain:
        return None
    if node.references:
        given = ", ".join(node.references)
        return Skip(node.name, node.op_type, f"the caller of {node.body.root.label} chooses its {given}")
    weight = graph.constant(node, 1)
    if isinstance(weight, NotConstant):
        return _not_constant(graph, node, weight)
    return _target(graph, node, weight)


def _fused(graph: Graph, node: Node) -> Skip | None:
    if not any(isinstance(graph.constant(node, i), Constant) for i, name in enumerate(node.inputs[:3]) if name):
        return None
    reason = "fused by ONNX Runtime's optimiser: quantize the model as it was exported, before optimisation"
    return Skip(node.name, node.op_type, reason)


def _not_constant(graph: Graph, node: Node, weight: NotConstant) -> Skip:
    left = graph.constant(node, 0)
    if isinstance(left, Constant) and not weight.quantized and len(left.shape) > 1:
        return Skip(node.name, node.op_type, "the constant weight is the left operand", nbytes=left.leaf.nbytes)
    return Skip(node.name, node.op_type, weight.reason, quantized=weight.quantized)


def _target(graph: Graph, node: Node, weight: Constant) -> Target | Skip:
    def skip(reason: str) -> Skip:
        return Skip(node.name, node.op_type, reason, nbytes=weight.leaf.nbytes)

    if isinstance(graph.constant(node, 0), Constant):
        return skip("both inputs are constant: nothing is computed at run time")
    if len(weight.shape) != 2:
        return skip(f"unsupported shape: the weight has {len(weight.shape)} dimensions {list(weight.shape)}, not 2")
    scale_type = _SCALE_TYPES.get(type_name(weight.type))
    if scale_type is None:
        wanted = "MatMulNBits computes in float32, float16 or bfloat16"
        return skip(f"unsupported type: {type_name(weight.type)} weights ({wanted})")
    gemm = node.op_type == "Gemm"
    transposed = not (gemm and node.integer("transB", 0))
    k, n = weight.shape if transposed else weight.shape[::-1]
    if n * k < SMALLEST_WEIGHT:
        return skip(f"too small: {n * k} weights (fewer than {SMALLEST_WEIGHT} are not worth it)")
    return Target(node.name, node, weight, n, k, transposed, node.real("alpha", 1.0) if gemm else 1.0, scale_type)


def store(graph: Graph, target: Target, parts: Sequence[Packed], tensor_file: TensorFile) -> Stored:
    """Add the quantized weight's tensors beside the float one; nodes that share the weight share them.

    Args:
        graph: the model.
        target: whose weight it is.
        parts: the weight, in chunks of its rows.
        tensor_file: takes the tensors' bytes.
    """
    base, home = target.weight.leaf.name, target.weight.home
    codes = graph.add_tensor(home, f"{base}_Q{parts[0].bits}", tensor_file, *(p.b for p in parts))
    scales = graph.add_tensor(home, f"{base}_scales", tensor_file, *(p.scales for p in parts))
    zero_points = [p.zero_points for p in parts if p.zero_points is not None]
    name = graph.add_tensor(home, f"{base}_zero_points", tensor_file, *zero_points) if zero_points else ""
    return Stored(codes, scales, name)


def rewrite(
    graph: Graph,
    target: Target,
    stored: Stored,
    kernel: Kernel,
    tensor_file: TensorFile,
    shift: Float64Array | None = None,
) -> list[Constant]:
    """Replace the target's node; names of the node and of its output stay.

    Args:
        graph: the model.
        target: the node.
        stored: the tensors of its quantized weight.
        kernel: what will run it.
        tensor_file: takes the bytes of new tensors.
        shift: [N], added to a Gemm's own bias, which must be constant (see `find_bias`).

    Returns:
        The constants that the node has read and may read no more.
    """
    node = target.node
    source, product = node.inputs[0], node.outputs[0]
    before, after = [], []
    inputs = [source, stored.codes, stored.scales, stored.zero_points]
    if node.integer("transA", 0):
        inputs[0] = graph.edits.fresh_name(f"{source}_transposed")
        before = [make_node("Transpose", [source], [inputs[0]], perm=[1, 0])]
    bias = graph.constant(node, 2) if len(node.inputs) > 2 and node.inputs[2] else None
    if bias and node.real("beta", 1.0) != 0.0:
        joined = facts(kernel.provider).fuses_bias  # elsewhere kernels are fast without a bias only
        row = _row(graph, target, bias, shift, tensor_file) if joined or shift is not None else ""
        if row and joined:
            inputs += ["", row]
        else:
            product = graph.edits.fresh_name(f"{product}_product")
            after = _add(graph, target, product, row, tensor_file)
    quantized = _node(target, kernel, inputs, product)
    graph.replace(node, [*before, quantized, *after], keeps_name=quantized)
    return [c for c in (target.weight, bias) if isinstance(c, Constant)]


def _node(target: Target, kernel: Kernel, inputs: list[str], product: str) -> NodeProto:
    while not inputs[-1]:
        inputs = inputs[:-1]
    return make_node(
        "MatMulNBits",
        inputs,
        [product],
        domain=MICROSOFT,
        K=target.k,
        N=target.n,
        bits=kernel.bits,
        block_size=kernel.block_size,
        accuracy_level=kernel.accuracy_level,
    )


def _row(
    graph: Graph, target: Target, bias: Constant | NotConstant, shift: Float64Array | None, tensor_file: TensorFile
) -> str:
    """The name of a Gemm's C as [N] with beta and the shift in it, where it is such a constant."""
    if isinstance(bias, NotConstant) or bias.shape not in ((target.n,), (1, target.n)):
        return ""
    name, beta = target.node.inputs[2], target.node.real("beta", 1.0)
    if beta == 1.0 and len(bias.shape) == 1 and shift is None:
        return name
    return graph.add_tensor(
        bias.home, f"{name}_row", tensor_file, shifted(bias, np.zeros(1) if shift is None else shift, beta)
    )


def _add(graph: Graph, target: Target, product: str, row: str, tensor_file: TensorFile) -> list[NodeProto]:
    """Nodes that add beta · C to the product; `row` is that sum where it is known."""
    term, beta, nodes = row or target.node.inputs[2], target.node.real("beta", 1.0), []
    if beta != 1.0 and not row:
        value = np.array(beta, STORED_TYPES[target.scale_type])
        factor = graph.add_tensor(target.node.body, f"{term}_beta", tensor_file, value)
        scaled = graph.edits.fresh_name(f"{term}_scaled")
        nodes = [make_node("Mul", [term, factor], [scaled])]
        term = scaled
    return [*nodes, make_node("Add", [product, term], [target.node.outputs[0]])]
