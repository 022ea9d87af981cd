"""MatMul and Gemm with a constant weight → com.microsoft.MatMulNBits.

    MatMul(A, B)                      → MatMulNBits(A, quantized Bᵀ)
    Gemm(A, B, C; transA, transB, …)  → [Transpose(A) →] MatMulNBits(A, quantized alpha·B′ᵀ, bias) [→ Add(C)]

B is [N, k_blocks, block_size * bits / 8]: codes along K, low bits first inside a byte. Zero points are packed the same
way, but every row is padded to whole bytes. Codes beyond K, in the last block, equal that block's zero point, so that
padded weights are 0.

Source: com.microsoft.MatMulNBits in ONNX Runtime's ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Array, Float64Array
from onnxfq.graph import (
    MICROSOFT,
    Constant,
    Fed,
    Graph,
    Node,
    NodeProto,
    NotConstant,
    TensorFile,
    make_node,
    single_node,
    type_name,
)
from onnxfq.packing import at_block_size, pack_rows, pack_zero_points, unpack_rows
from onnxfq.providers import ProviderName, facts
from onnxfq.quantized import STORED_TYPES, QuantizedWeight
from onnxfq.rules.bias import shifted
from onnxfq.rules.kernel import Kernel
from onnxfq.rules.matmul_nbits_kernels import choose, nearest_fast
from onnxfq.rules.rule import (
    TOLERANCE_FLOAT,
    TOLERANCE_HALF,
    TOLERANCE_INT8,
    Probe,
    Rule,
    StoredWeight,
    Tensors,
    TensorType,
)
from onnxfq.rules.target import SCALE_TYPES, Skip, Target
from onnxfq.scheme import Scheme

SMALLEST_WEIGHT = 1024
_FUSED = frozenset({"FusedMatMul", "FusedGemm", "TransposeMatMul", "Attention", "MultiHeadAttention", "GemmFastGelu"})
_PROBE_ROWS = 3
_MOST_SHIFT = 10.0  # a power of two by which activations of any float type may be scaled


class MatMulNBits(Rule):
    """Products with a weight in blocks of 2, 4 or 8 bits."""

    operator = "MatMulNBits"
    kind = "weights"
    replaces = ("MatMul", "Gemm")
    inputs: ClassVar[Mapping[str, int]] = {"B": 1, "scales": 2, "zero_points": 3}

    def match(self, graph: Graph, node: Node) -> Sequence[Target] | Skip | None:
        """See `Rule.match`."""
        if node.op_type in _FUSED and node.domain == MICROSOFT:
            return _fused(graph, node)
        if node.op_type not in self.replaces or node.domain:
            return None
        if node.references:
            given = ", ".join(node.references)
            return Skip(node.name, node.op_type, f"the caller of {node.body.root.label} chooses its {given}")
        weight = graph.constant(node, 1)
        if isinstance(weight, NotConstant):
            return _not_constant(graph, node, weight)
        return _target(graph, node, weight)

    def kernel(self, provider: ProviderName, scheme: Scheme, target: Target) -> Kernel:
        """See `Rule.kernel`."""
        return choose(provider, scheme, target.scale_type, target.n, target.k)

    def nearest_fast(self, provider: ProviderName, scheme: Scheme, target: Target) -> Scheme | None:
        """See `Rule.nearest_fast`."""
        found = nearest_fast(provider, scheme, target.scale_type, target.n, target.k)
        return found[0] if found else None

    def layout(self, n: int, k: int, kernel: Kernel) -> dict[str, TensorType]:
        """See `Rule.layout`."""
        blocks, bits, byte = -(-k // kernel.block_size), kernel.bits, np.dtype(np.uint8)
        found: dict[str, TensorType] = {
            "B": ((n, blocks, kernel.block_size * bits // 8), byte),
            "scales": ((n, blocks), STORED_TYPES[kernel.activation_type]),
        }
        return found if kernel.symmetric else {**found, "zero_points": ((n, -(-blocks * bits // 8)), byte)}

    def pack(self, q: QuantizedWeight, kernel: Kernel) -> dict[str, Array]:
        """See `Rule.pack` and `pack`."""
        return pack(q, kernel.block_size)

    def unpack(self, tensors: Tensors, kernel: Kernel, k: int) -> QuantizedWeight:
        """See `Rule.unpack` and `unpack`."""
        return unpack(tensors, kernel.bits, kernel.block_size, k)

    def attributes(self, n: int, k: int, kernel: Kernel) -> dict[str, int]:
        """See `Rule.attributes`."""
        shape = {"K": k, "N": n, "bits": kernel.bits, "block_size": kernel.block_size}
        return {**shape, "accuracy_level": kernel.accuracy_level}

    def rewrite(self, graph: Graph, weights: Sequence[StoredWeight], tensor_file: TensorFile) -> None:
        """See `Rule.rewrite`; a shift goes into a Gemm's own bias, which must be constant (see `find_bias`)."""
        (weight,) = weights
        target, node = weight.target, weight.target.node
        source, product = node.inputs[0], node.outputs[0]
        before, after = [], []
        inputs = [source, *(weight.names.get(name, "") for name in self.inputs)]
        if target.source_transposed:
            inputs[0] = graph.edits.fresh_name(f"{source}_transposed")
            before = [make_node("Transpose", [source], [inputs[0]], perm=[1, 0])]
        bias = graph.constant(node, 2) if len(node.inputs) > 2 and node.inputs[2] else None
        if bias and node.real("beta", 1.0) != 0.0:
            joined = facts(weight.kernel.provider).fuses_bias  # elsewhere kernels are fast without a bias only
            row = _row(graph, target, bias, weight.shift, tensor_file) if joined or weight.shift is not None else ""
            if row and joined:
                inputs += ["", row]
            else:
                product = graph.edits.fresh_name(f"{product}_product")
                after = _add(graph, target, product, row, tensor_file)
        while not inputs[-1]:
            inputs = inputs[:-1]
        attributes = self.attributes(target.n, target.k, weight.kernel)
        quantized = make_node(self.operator, inputs, [product], domain=self.domain, **attributes)
        graph.replace(node, [*before, quantized, *after], keeps_name=quantized)

    def rounded_block(self, kernel: Kernel) -> int | None:
        """See `Rule.rounded_block`."""
        rounds = facts(kernel.provider).rounds_activations and kernel.accuracy_level == 4
        return kernel.block_size if rounds else None

    def probe(self, tensors: Tensors, kernel: Kernel, n: int, k: int) -> Probe:
        """See `Rule.probe`: activations times the weight."""
        dtype = STORED_TYPES[kernel.activation_type]
        inputs = {"A": Fed(dtype, ("rows", k)), **{name: tensors.get(name) for name in self.inputs}}
        model = single_node(self.operator, self.domain, inputs, self.attributes(n, k, kernel), output=dtype)
        weight = self.unpack(tensors, kernel, k).dequantize().T.astype(np.float64)
        a = _activations(weight).astype(dtype)
        tolerance = TOLERANCE_INT8 if kernel.accuracy_level == 4 else TOLERANCE_FLOAT
        tolerance = tolerance if kernel.activation_type == "float32" else TOLERANCE_HALF
        return Probe(model, {"A": a}, a.astype(np.float64) @ weight, tolerance)


def pack(q: QuantizedWeight, block_size: int) -> dict[str, Array]:
    """Lay a quantized weight out for a kernel of the given block size: B, scales and, if asymmetric, zero_points.

    Args:
        q: the weight, [N, K].
        block_size: the kernel's; see `at_block_size` for which ones can express `q`.

    Raises:
        ValueError: the kernel's blocks cannot express the weight's.
    """
    q = at_block_size(q, block_size)
    n, blocks = q.scale.shape
    width = block_size * q.bits // 8
    b = pack_rows(q.codes, q.zero_point, block_size, q.bits, blocks * width)
    tensors: dict[str, Array] = {"B": b.reshape(n, blocks, width), "scales": q.scale.astype(STORED_TYPES[q.scale_type])}
    return tensors if q.symmetric else {**tensors, "zero_points": pack_zero_points(q.zero_point, q.bits)}


def unpack(tensors: Tensors, bits: int, block_size: int, k: int) -> QuantizedWeight:
    """Exact inverse of `pack`, in the kernel's blocks.

    Args:
        tensors: those that `pack` gave.
        bits: 2, 4 or 8.
        block_size: the kernel's.
        k: the number of inputs K, which B alone does not tell when the last block is padded.
    """
    scales, packed = tensors["scales"], tensors.get("zero_points")
    n, blocks = scales.shape
    middle = np.full((n, blocks), 1 << (bits - 1), np.uint8)
    return QuantizedWeight(
        codes=unpack_rows(tensors["B"].reshape(n, -1), bits, k),
        scale=scales.astype(np.float32),
        zero_point=middle if packed is None else unpack_rows(packed, bits, blocks),
        bits=bits,
        block_size=block_size,
        scale_type=next(name for name, dtype in STORED_TYPES.items() if dtype == scales.dtype),
        symmetric=packed is None,
    )


def _activations(weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Random activations [3, K] for a weight [K, N], so large that the product is about 1 where that is possible."""
    a = np.random.default_rng(0).standard_normal((_PROBE_ROWS, weight.shape[0]))
    largest = float(np.abs(a @ weight).max(initial=0.0))
    return a if largest == 0.0 else a * 2.0 ** -np.clip(np.rint(np.log2(largest)), -_MOST_SHIFT, _MOST_SHIFT)


def _fused(graph: Graph, node: Node) -> Skip | None:
    if not any(isinstance(graph.constant(node, i), Constant) for i, name in enumerate(node.inputs[:3]) if name):
        return None
    reason = "fused by ONNX Runtime's optimizer: quantize the model as it was exported, before optimization"
    return Skip(node.name, node.op_type, reason)


def _not_constant(graph: Graph, node: Node, weight: NotConstant) -> Skip:
    left = graph.constant(node, 0)
    if isinstance(left, Constant) and not weight.quantized and len(left.shape) > 1:
        return Skip(node.name, node.op_type, "the constant weight is the left operand", nbytes=left.leaf.nbytes)
    return Skip(node.name, node.op_type, weight.reason, quantized=weight.quantized)


def _target(graph: Graph, node: Node, weight: Constant) -> Sequence[Target] | Skip:
    def skip(reason: str) -> Skip:
        return Skip(node.name, node.op_type, reason, nbytes=weight.leaf.nbytes)

    if isinstance(graph.constant(node, 0), Constant):
        return skip("both inputs are constant: nothing is computed at run time")
    if len(weight.shape) != 2:
        return skip(f"unsupported shape: the weight has {len(weight.shape)} dimensions {list(weight.shape)}, not 2")
    scale_type = SCALE_TYPES.get(type_name(weight.type))
    if scale_type is None:
        wanted = "MatMulNBits computes in float32, float16 or bfloat16"
        return skip(f"unsupported type: {type_name(weight.type)} weights ({wanted})")
    gemm = node.op_type == "Gemm"
    transposed = not (gemm and node.integer("transB", 0))
    k, n = weight.shape if transposed else weight.shape[::-1]
    if n * k < SMALLEST_WEIGHT:
        return skip(f"too small: {n * k} weights (fewer than {SMALLEST_WEIGHT} are not worth it)")
    target = Target(
        name=node.name,
        node=node,
        weight=weight,
        n=n,
        k=k,
        transposed=transposed,
        alpha=node.real("alpha", 1.0) if gemm else 1.0,
        scale_type=scale_type,
        source=node.inputs[0],
        source_transposed=gemm and bool(node.integer("transA", 0)),
    )
    return (target,)


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
