"""MatMul, Gemm and Einsum with a constant weight → DequantizeLinear and MatMul, operators of ONNX itself.

    W [K, N], scales [blocks, N] → DequantizeLinear(axis=0, block_size) → MatMul, with nodes around it
    W [K, N], scales [N]         → DequantizeLinear(axis=1)             → MatMul, where a row has one scale

Every runtime that reads ONNX's operator set 21 (25 for 2 bits) can read it. ONNX Runtime makes MatMulNBits of it when a
session is made: only where the initializers are read by this one DequantizeLinear and stand in the same graph, and the
weight is [K, N] with blocks along the first axis or one scale an output. Whatever else says the same is dequantized in
every run.

Symmetric weights are signed, with the zero point 0 that runtimes expect; the others are unsigned, as their zero points.

Source: ONNX's DequantizeLinear; what is fused, and to what, was tried with ONNX Runtime 1.31.1 on CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from onnxfq.arrays import Array, Uint8Array
from onnxfq.errors import SchemeError
from onnxfq.graph import Fed, Graph, Packed, StoredArray, TensorFile, make_node, several_nodes
from onnxfq.packing import at_block_size, pack_rows, unpack_rows
from onnxfq.providers import ProviderName, facts
from onnxfq.quantized import STORED_TYPES, QuantizedWeight
from onnxfq.rules.block_grids import grid_layout, pack_grid, with_grid
from onnxfq.rules.clipped import is_added_and_clipped, is_clipped, multiplies_matrices
from onnxfq.rules.kernel import Kernel
from onnxfq.rules.matmul_nbits import MatMulNBits
from onnxfq.rules.matmul_nbits_kernels import choose
from onnxfq.rules.product_rule import ProductRule
from onnxfq.rules.product_steps import added, bias_row, has_bias, linked, steps_after, steps_before
from onnxfq.rules.rule import Probe, Tensors, TensorType, WrittenTensors, WrittenWeight
from onnxfq.rules.target import Target
from onnxfq.rules.turned_codes import rows_of, turned
from onnxfq.scheme import BLOCK_SIZES, Scheme

_BLOCK_OF_ROWS = 32  # what ONNX Runtime makes of one scale a row
_OPSETS = {2: 25, 4: 21, 8: 21}  # by bits; the first that has blocks, and the type
_WHOLE_BYTES = {2: 4}  # by bits: what N must be a multiple of


class DequantizeLinear(ProductRule):
    """Products with a weight that is dequantized before, as the file says it."""

    operator = "DequantizeLinear"
    domain = ""
    inputs: ClassVar[Mapping[str, int]] = {"W": 0, "scales": 1, "zero_points": 2}
    shares = False  # nor can ONNX Runtime load what it fuses with initializers of an outer graph

    def opset(self, kernel: Kernel) -> int:
        """See `Rule.opset`."""
        return _OPSETS[kernel.bits]

    def kernel(self, provider: ProviderName, scheme: Scheme, target: Target) -> Kernel:
        """See `Rule.kernel`: that of the MatMulNBits which is made of it; blocks that no such kernel has are rows."""
        refusal = _refusal(provider, scheme, target)
        if refusal:
            raise SchemeError(refusal)
        if isinstance(scheme.block_size, int):
            return choose(provider, scheme, target.scale_type, target.n, target.k)
        block_size = target.k if target.k in BLOCK_SIZES else _BLOCK_OF_ROWS
        kernel = choose(provider, replace(scheme, block_size=block_size), target.scale_type, target.n, target.k)
        return replace(kernel, block_size=target.k)

    def nearest_fast(self, provider: ProviderName, scheme: Scheme, target: Target) -> Scheme | None:
        """See `Rule.nearest_fast`."""
        found = MatMulNBits().nearest_fast(provider, replace(scheme, format="matmulnbits"), target)
        return replace(found, format="qdq") if found and found.activations == scheme.activations else None

    def layout(self, n: int, k: int, kernel: Kernel) -> dict[str, TensorType]:
        """See `Rule.layout`: rows, which are turned as they are stored."""
        return {"W": ((n, -(-k * kernel.bits // 8)), np.dtype(np.uint8)), **grid_layout(n, k, kernel)}

    def nbytes(self, n: int, k: int, kernel: Kernel) -> int:
        """See `Rule.nbytes`."""
        blocks = -(-k // kernel.block_size)
        scales = n * blocks * STORED_TYPES[kernel.activation_type].itemsize
        zero_points = 0 if kernel.symmetric else -(-n * blocks * kernel.bits // 8)
        return -(-n * k * kernel.bits // 8) + scales + zero_points

    def pack(self, q: QuantizedWeight, kernel: Kernel) -> dict[str, Array]:
        """See `Rule.pack`."""
        at = at_block_size(q, kernel.block_size)
        k, nothing = at.shape[1], np.zeros((at.shape[0], 1), np.uint8)
        return {"W": pack_rows(at.codes, nothing, 8 * k, at.bits, -(-k * at.bits // 8)), **pack_grid(at)}

    def unpack(self, tensors: Tensors, kernel: Kernel, k: int) -> QuantizedWeight:
        """See `Rule.unpack`."""
        return with_grid(unpack_rows(tensors["W"], kernel.bits, k), tensors, kernel)

    def written(self, parts: Sequence[Tensors], kernel: Kernel, k: int) -> dict[str, Sequence[StoredArray]]:
        """See `Rule.written`."""
        scales = np.concatenate([part["scales"] for part in parts]).T
        n, blocks = scales.shape[1], scales.shape[0]
        by_row = _has_rows(kernel)
        found: dict[str, Sequence[StoredArray]] = {
            "W": [_typed(turned([part["W"] for part in parts], kernel.bits, k, _flip(kernel)), kernel, (k, n))],
            "scales": [np.ascontiguousarray(scales.reshape(-1) if by_row else scales)],
        }
        if not kernel.symmetric:
            codes = turned([part["zero_points"] for part in parts], kernel.bits, blocks, 0)
            found["zero_points"] = [_typed(codes, kernel, (n,) if by_row else (blocks, n))]
        return found

    def rows(self, written: WrittenTensors, rows: slice, kernel: Kernel, n: int, k: int) -> Tensors:
        """See `Rule.rows`."""
        blocks, taken = -(-k // kernel.block_size), range(n)[rows]
        scales = np.asarray(written["scales"]).reshape(blocks, n)[:, rows]
        tensors: dict[str, Array] = {
            "W": rows_of(_bytes(written["W"]), taken, n, kernel.bits, k, _flip(kernel)),
            "scales": np.ascontiguousarray(scales.T),
        }
        if "zero_points" in written:
            tensors["zero_points"] = rows_of(_bytes(written["zero_points"]), taken, n, kernel.bits, blocks, 0)
        return tensors

    def fits(self, written: WrittenTensors, n: int, k: int, kernel: Kernel) -> bool:
        """See `Rule.fits`."""
        blocks = -(-k // kernel.block_size)
        grids = (n,) if _has_rows(kernel) else (blocks, n)
        wanted = {
            "W": ((k, n), _type(kernel)),
            "scales": (grids, STORED_TYPES[kernel.activation_type].name),
            **({} if kernel.symmetric else {"zero_points": (grids, _type(kernel))}),
        }
        return {name: (tuple(a.shape), _type_of(a)) for name, a in written.items()} == wanted

    def attributes(self, n: int, k: int, kernel: Kernel) -> dict[str, int]:
        """See `Rule.attributes`."""
        return {"axis": 1} if _has_rows(kernel) else {"axis": 0, "block_size": kernel.block_size}

    def rewrite(self, graph: Graph, weights: Sequence[WrittenWeight], tensor_file: TensorFile) -> None:
        """See `Rule.rewrite`; ONNX Runtime takes an Add of a bias into the product. See `clipped` for the others."""
        (weight,) = weights
        target, node, names = weight.target, weight.target.node, weight.names
        fed, before = steps_before(graph, target, tensor_file)
        steps = steps_after(graph, target, tensor_file)
        if has_bias(graph, target):
            row = bias_row(graph, target, weight.shift, tensor_file)
            steps.append(("product", added(graph, target, row, tensor_file)))
        clipped = is_clipped(target)
        if clipped and not steps:
            zeros = np.zeros(target.n, STORED_TYPES[target.scale_type])
            nothing = graph.small_constant(node.body, f"zeros_{target.n}", zeros)
            steps.append(("product", lambda value, result: [make_node("Add", [value, nothing], [result])]))
        clipped = clipped or is_added_and_clipped(target)
        multiply = "Gemm" if clipped and multiplies_matrices(graph, target) else "MatMul"
        product, after = linked(graph, steps, node.outputs[0])
        values = graph.edits.fresh_name(f"{names['W']}_values")
        attributes = self.attributes(target.n, target.k, weight.kernel)
        dequantized = make_node(self.operator, list(names.values()), [values], domain=self.domain, **attributes)
        multiplied = make_node(multiply, [fed, values], [product])
        graph.replace(node, [*before, dequantized, multiplied, *after], keeps_name=multiplied)

    def rounded_block(self, kernel: Kernel, k: int) -> int | None:
        """See `Rule.rounded_block`."""
        block_size = _BLOCK_OF_ROWS if _has_rows(kernel) else kernel.block_size
        return block_size if facts(kernel.provider).rounds_activations else None

    def probe(self, tensors: Tensors, kernel: Kernel, n: int, k: int) -> Probe:
        """See `Rule.probe`: activations times the weight."""
        dtype = STORED_TYPES[kernel.activation_type]
        attributes = self.attributes(n, k, kernel)
        constants = {name: parts[0] for name, parts in self.written([tensors], kernel, k).items()}
        nodes = [
            make_node(self.operator, list(constants), ["values"], domain=self.domain, **attributes),
            make_node("MatMul", ["A", "values"], ["Y"]),
        ]
        model = several_nodes(nodes, {"A": Fed(dtype, ("rows", k))}, constants, "Y", self.opset(kernel))
        return self.probe_of(model, tensors, kernel, k, rounds=self.rounded_block(kernel, k) is not None)


def _refusal(provider: ProviderName, scheme: Scheme, target: Target) -> str:
    """Why a scheme cannot be had as DequantizeLinear; "" where it can."""
    unit = _WHOLE_BYTES.get(scheme.bits, 1)
    if scheme.activations == "float" and facts(provider).rounds_activations:
        return (
            f"ONNX Runtime rounds the activations of products behind DequantizeLinear to int8 on {provider}, and no "
            f'node can say otherwise (got {scheme}). Use `activations="int8"`, and where the model runs set '
            "session.qdq_matmulnbits_accuracy_level to 0 in a session that is not to round; or use "
            '`format="matmulnbits"`.'
        )
    if target.scale_type == "bfloat16":
        return (
            f"Products of bfloat16 behind DequantizeLinear were never seen to run (got {scheme}, {target.scale_type} "
            f'on {provider}). Wanted float32 or float16: convert the model, or use `format="matmulnbits"`.'
        )
    if target.scale_type == "float16" and facts(provider).rounds_activations and target.node.body.parent is not None:
        return (
            f"ONNX Runtime gives zeros for products of float16 behind DequantizeLinear in the branches and bodies of "
            f"other nodes (got {scheme}, '{target.name}' in {target.node.body.label}). Wanted float32, or the main "
            f'graph: convert the model, or use `format="matmulnbits"` for it, as in '
            f"`schemes={{{target.name!r}: {{'format': 'matmulnbits'}}}}`."
        )
    if target.n % unit:
        return (
            f"ONNX Runtime computes wrongly with DequantizeLinear of {scheme.bits} bits where the outputs are no "
            f"multiple of {unit} (got '{target.name}' with {target.n}). Use 4 bits for it, as in "
            f"`schemes={{{target.name!r}: {{'bits': 4}}}}`, or `format=\"matmulnbits\"`."
        )
    return ""


def _has_rows(kernel: Kernel) -> bool:
    """Whether a row has one scale, and no block size that could be said."""
    return kernel.block_size not in BLOCK_SIZES


def _flip(kernel: Kernel) -> int:
    """Between codes as solvers count them, from 0, and signed ones: the highest bit."""
    return 1 << (kernel.bits - 1) if kernel.symmetric else 0


def _type(kernel: Kernel) -> str:
    return f"int{kernel.bits}" if kernel.symmetric else f"uint{kernel.bits}"


def _typed(codes: Uint8Array, kernel: Kernel, shape: tuple[int, ...]) -> StoredArray:
    if kernel.bits == 8:
        return codes.view(np.dtype(_type(kernel))).reshape(shape)
    return Packed(_type(kernel), shape, codes)


def _bytes(stored: StoredArray) -> Uint8Array:
    return stored.data if isinstance(stored, Packed) else np.ascontiguousarray(stored).reshape(-1).view(np.uint8)


def _type_of(stored: StoredArray) -> str:
    return stored.type if isinstance(stored, Packed) else stored.dtype.name
