"""Which nodes are targets and what replaces them: one file for each output format."""

from onnxfq.rules.bias import Bias, find_bias, shift_bias
from onnxfq.rules.matmul_nbits import Stored, match, rewrite, store
from onnxfq.rules.norms import expected_energy
from onnxfq.rules.target import Skip, Target

__all__ = [
    "Bias",
    "Skip",
    "Stored",
    "Target",
    "expected_energy",
    "find_bias",
    "match",
    "rewrite",
    "shift_bias",
    "store",
]
