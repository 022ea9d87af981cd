"""Which nodes are targets and what replaces them: one file for each output operator."""

from __future__ import annotations

from collections.abc import Sequence

from onnxfq.graph import Graph, Node
from onnxfq.rules.bias import Bias, bias_of, find_bias, shift_bias
from onnxfq.rules.channels import Channels
from onnxfq.rules.dequantize_linear import DequantizeLinear
from onnxfq.rules.dual_grained import DualGrained
from onnxfq.rules.dynamic_quantize_lstm import DynamicQuantizeLSTM
from onnxfq.rules.folding import Fold, find_fold, fold
from onnxfq.rules.gather_block_quantized import GatherBlockQuantized
from onnxfq.rules.int8_product import Int8Product
from onnxfq.rules.kernel import Kernel
from onnxfq.rules.matmul_nbits import MatMulNBits
from onnxfq.rules.norms import expected_mean_square
from onnxfq.rules.qmoe import QMoE
from onnxfq.rules.quantized_operators import DOMAINS, QUANTIZED_OPERATORS
from onnxfq.rules.residual import find_residuals
from onnxfq.rules.rule import (
    Probe,
    Rule,
    Tensors,
    WeightKind,
    WrittenTensors,
    WrittenWeight,
    take_rows,
    tensor_bytes,
)
from onnxfq.rules.stored import Stored
from onnxfq.rules.stored_operators import is_moving, moves_for_others
from onnxfq.rules.target import Skip, Target, Weight
from onnxfq.weight_formats import Format

__all__ = [
    "ALL_RULES",
    "PRODUCT_RULES",
    "QUANTIZED_OPERATORS",
    "RULES",
    "STORED",
    "Bias",
    "Channels",
    "Fold",
    "Kernel",
    "Probe",
    "Rule",
    "Skip",
    "Target",
    "Tensors",
    "Weight",
    "WeightKind",
    "WrittenTensors",
    "WrittenWeight",
    "bias_of",
    "expected_mean_square",
    "find_bias",
    "find_fold",
    "find_residuals",
    "fold",
    "is_moving",
    "is_quantized",
    "match",
    "moves_for_others",
    "shift_bias",
    "take_rows",
    "tensor_bytes",
]

# What runs products, by the format of their scheme.
PRODUCT_RULES: dict[Format, Rule] = {
    "matmulnbits": MatMulNBits(),
    "int8": Int8Product(),
    "dgq": DualGrained(),
    "qdq": DequantizeLinear(),
}
# What finds targets.
RULES: tuple[Rule, ...] = (PRODUCT_RULES["matmulnbits"], GatherBlockQuantized(), QMoE(), DynamicQuantizeLSTM())
ALL_RULES: tuple[Rule, ...] = (*RULES, *(rule for rule in PRODUCT_RULES.values() if rule not in RULES))
STORED = Stored()  # of whatever weights those leave

_ALREADY_QUANTIZED = QUANTIZED_OPERATORS | {rule.operator for rule in RULES}


def is_quantized(node: Node) -> bool:
    """Whether a node is one of those that compute with quantized weights."""
    return node.op_type in _ALREADY_QUANTIZED and node.domain in DOMAINS


def match(graph: Graph, node: Node) -> tuple[Rule, Sequence[Target]] | Skip | None:
    """Decide about one node: the rule for it and its weights, why it is left alone, or that it is nobody's business."""
    if is_quantized(node):
        return Skip(node.name, node.op_type, "already quantized", quantized=True)
    for rule in RULES:
        found = rule.match(graph, node)
        if isinstance(found, Skip):
            return found
        if found:
            return rule, found
    return None
