"""What the formats of products have in common: which nodes they are for, and how their kernels are tried out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from onnxfq.arrays import Float64Array
from onnxfq.graph import Graph, Node
from onnxfq.quantized import STORED_TYPES
from onnxfq.rules.einsum_weights import find_in_einsum
from onnxfq.rules.kernel import Kernel
from onnxfq.rules.product_weights import find_weight
from onnxfq.rules.rule import (
    MOST_SHIFT,
    PROBE_ROWS,
    TOLERANCE_FLOAT,
    TOLERANCE_HALF,
    TOLERANCE_INT8,
    Probe,
    Rule,
    Tensors,
    WeightKind,
)
from onnxfq.rules.target import Skip, Target


class ProductRule(Rule):
    """Products of activations with a constant weight."""

    kind: ClassVar[WeightKind] = "weights"
    replaces = ("MatMul", "Gemm", "Einsum")

    def match(self, graph: Graph, node: Node) -> Sequence[Target] | Skip | None:
        """See `Rule.match`."""
        einsum = node.op_type == "Einsum" and not node.domain
        return find_in_einsum(graph, node) if einsum else find_weight(graph, node)

    def probe_of(self, model: bytes, tensors: Tensors, kernel: Kernel, k: int, *, rounds: bool) -> Probe:
        """What a model Y of A, activations [rows, K], must compute: activations times the weight.

        Args:
            model: serialized.
            tensors: the weight in it.
            kernel: that runs it.
            k: inputs.
            rounds: activations are rounded to int8.
        """
        weight = self.unpack(tensors, kernel, k).dequantize().T.astype(np.float64)
        a = _activations(weight).astype(STORED_TYPES[kernel.activation_type])
        tolerance = TOLERANCE_INT8 if rounds else TOLERANCE_FLOAT
        tolerance = tolerance if kernel.activation_type == "float32" else TOLERANCE_HALF
        return Probe(model, {"A": a}, a.astype(np.float64) @ weight, tolerance)


def _activations(weight: Float64Array) -> Float64Array:
    """Random activations [3, K] for a weight [K, N], so large that the product is about 1 where that is possible."""
    a = np.random.default_rng(0).standard_normal((PROBE_ROWS, weight.shape[0]))
    largest = float(np.abs(a @ weight).max(initial=0.0))
    return a if largest == 0.0 else a * 2.0 ** -np.clip(np.rint(np.log2(largest)), -MOST_SHIFT, MOST_SHIFT)
