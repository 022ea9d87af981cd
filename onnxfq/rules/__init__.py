"""Which nodes are targets and what replaces them: one file for each output format."""

from onnxfq.rules.bias import Bias, find_bias, shift_bias
from onnxfq.rules.folding import Fold, find_fold, fold
from onnxfq.rules.matmul_nbits import Stored, match, rewrite, store
from onnxfq.rules.norms import expected_mean_square
from onnxfq.rules.target import Skip, Target, Weight

__all__ = [
    "Bias",
    "Fold",
    "Skip",
    "Stored",
    "Target",
    "Weight",
    "expected_mean_square",
    "find_bias",
    "find_fold",
    "fold",
    "match",
    "rewrite",
    "shift_bias",
    "store",
]
