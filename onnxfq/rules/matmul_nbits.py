"""MatMul, Gemm and Einsum with a constant weight → com.microsoft.MatMulNBits.

    MatMul(A, B)                      → MatMulNBits(A, quantized Bᵀ)
    Gemm(A, B, C; transA, transB, …)  → [Transpose(A) →] MatMulNBits(A, quantized alpha·B′ᵀ, bias) [→ Add(C)]
    Einsum(A, B; equation)            → [Transpose(A) →] [Reshape →] MatMulNBits [→ Reshape] [→ Transpose]
    MatMul(A, B [E, K, N])            → Split(A) → E times MatMulNBits → Concat (see `batched_weights`)

Where A is the constant of MatMul or Gemm, both operands change places; what is fed and the product are transposed.

B is [N, k_blocks, block_size * bits / 8]: codes along K, low bits first inside a byte. Zero points are packed the same
way, but every row is padded to whole bytes. Codes beyond K, in the last block, equal that block's zero point, so that
padded weights are 0.

A Conv of 1 x 1 is a product too, and left alone: with a Transpose before and behind it, 4 (8) bits were .25 to .78
(.4 to .99) times as fast as ONNX Runtime's Conv for 64 to 1024 channels and images of 7² to 56² (one thread of a Xeon
with VNNI); images of one pixel gain from 512 channels on (1.5 times, 3 times for 1024).

Source: com.microsoft.MatMulNBits in ONNX Runtime's ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from onnxfq.arrays import Array
from onnxfq.graph import Fed, Graph, NodeProto, TensorFile, make_node, single_node
from onnxfq.packing import at_block_size, pack_rows, unpack_rows
from onnxfq.providers import ProviderName, facts
from onnxfq.quantized import STORED_TYPES, QuantizedWeight
from onnxfq.rules.batched_weights import joined, split
from onnxfq.rules.block_grids import grid_layout, pack_grid
from onnxfq.rules.kernel import Kernel
from onnxfq.rules.matmul_nbits_kernels import choose, nearest_fast
from onnxfq.rules.product_rule import ProductRule
from onnxfq.rules.product_steps import added, bias_row, has_bias, linked, steps_after, steps_before
from onnxfq.rules.rule import Probe, Tensors, TensorType, WrittenWeight
from onnxfq.rules.target import Target
from onnxfq.scheme import Scheme


class MatMulNBits(ProductRule):
    """Products with a weight in blocks of 2, 4 or 8 bits."""

    operator = "MatMulNBits"
    inputs: ClassVar[Mapping[str, int]] = {"B": 1, "scales": 2, "zero_points": 3}

    def kernel(self, provider: ProviderName, scheme: Scheme, target: Target) -> Kernel:
        """See `Rule.kernel`."""
        return choose(provider, scheme, target.scale_type, target.n, target.k)

    def nearest_fast(self, provider: ProviderName, scheme: Scheme, target: Target) -> Scheme | None:
        """See `Rule.nearest_fast`."""
        found = nearest_fast(provider, scheme, target.scale_type, target.n, target.k)
        return found[0] if found else None

    def layout(self, n: int, k: int, kernel: Kernel) -> dict[str, TensorType]:
        """See `Rule.layout`."""
        codes = n, -(-k // kernel.block_size), kernel.block_size * kernel.bits // 8
        return {"B": (codes, np.dtype(np.uint8)), **grid_layout(n, k, kernel)}

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

    def rewrite(self, graph: Graph, weights: Sequence[WrittenWeight], tensor_file: TensorFile) -> None:
        """See `Rule.rewrite`; a shift goes into a Gemm's own bias, which must be constant (see `find_bias`)."""
        if weights[0].target.stacked:
            self._rewrite_batch(graph, weights, tensor_file)
            return
        (weight,) = weights
        target, node = weight.target, weight.target.node
        fed, before = steps_before(graph, target, tensor_file)
        inputs = self._read(fed, weight)
        steps = steps_after(graph, target, tensor_file)
        if has_bias(graph, target):
            joined = facts(weight.kernel.provider).fuses_bias  # elsewhere fused kernels take no bias
            row = bias_row(graph, target, weight.shift, tensor_file) if joined or weight.shift is not None else ""
            if row and joined:
                inputs += ["", row]
            else:
                steps.append(("product", added(graph, target, row, tensor_file)))
        product, after = linked(graph, steps, node.outputs[0])
        quantized = self._node(inputs, product, weight)
        graph.replace(node, [*before, quantized, *after], keeps_name=quantized)

    def _rewrite_batch(self, graph: Graph, weights: Sequence[WrittenWeight], tensor_file: TensorFile) -> None:
        """A product for each of a batch of weights; the node's name goes to what puts them together."""
        node = weights[0].target.node
        parts, before, products = split(graph, [weight.target for weight in weights], tensor_file)
        last = joined(graph, node, products)
        quantized = [self._node(self._read(part, weight), product, weight)
                     for part, weight, product in zip(parts, weights, products, strict=True)]  # fmt: skip
        graph.replace(node, [*before, *quantized, last], keeps_name=last)

    def _read(self, fed: str, weight: WrittenWeight) -> list[str]:
        return [fed, *(weight.names.get(name, "") for name in self.inputs)]

    def _node(self, inputs: Sequence[str], product: str, weight: WrittenWeight) -> NodeProto:
        """The quantized product, without the empty names behind its last input."""
        used = max(index for index, name in enumerate(inputs, start=1) if name)
        attributes = self.attributes(weight.target.n, weight.target.k, weight.kernel)
        return make_node(self.operator, list(inputs[:used]), [product], domain=self.domain, **attributes)

    def rounded_block(self, kernel: Kernel, k: int) -> int | None:
        """See `Rule.rounded_block`."""
        rounds = facts(kernel.provider).rounds_activations and kernel.accuracy_level == 4
        return kernel.block_size if rounds else None

    def probe(self, tensors: Tensors, kernel: Kernel, n: int, k: int) -> Probe:
        """See `Rule.probe`: activations times the weight."""
        dtype = STORED_TYPES[kernel.activation_type]
        inputs = {"A": Fed(dtype, ("rows", k)), **{name: tensors.get(name) for name in self.inputs}}
        model = single_node(self.operator, self.domain, inputs, self.attributes(n, k, kernel), output=dtype)
        return self.probe_of(model, tensors, kernel, k, rounds=kernel.accuracy_level == 4)


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
    return {"B": b.reshape(n, blocks, width), **pack_grid(q)}


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
