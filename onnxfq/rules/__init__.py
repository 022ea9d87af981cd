"""Which nodes are targets and what replaces them: one file for each output format."""

from onnxfq.rules.matmul_nbits import Stored, match, rewrite, store
from onnxfq.rules.norms import expected_energy
from onnxfq.rules.target import Skip, Target

__all__ = ["Skip", "Stored", "Target", "expected_energy", "match", "rewrite", "store"]
