"""A stage's file as a run leaves it, to be damaged."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from onnxfq.calibration.checkpoint import Checkpoint
from onnxfq.quantization.solved_weight import SolvedWeight, to_arrays
from onnxfq.rules.matmul_nbits import pack
from onnxfq.scheme import Scheme
from onnxfq.solvers import make_solver
from tools.fuzzing.data import STAGE


def work_seed() -> tuple[bytes, bytes]:
    """A finished stage and the manifest beside it."""
    weight = np.random.default_rng(0).standard_normal((8, 64), dtype=np.float32)
    q = make_solver("rtn").solve(weight, Scheme(), None, scale_type="float32")
    solution = SolvedWeight(algorithm="rtn", parts=[pack(q, 32)], digest="0" * 64)
    arrays, facts = to_arrays(solution)
    with tempfile.TemporaryDirectory() as name:
        made = Checkpoint(Path(name), {"made": "for fuzzing"}, resume=False)
        made.save(0, {f"0/{key}": array for key, array in arrays.items()}, {"0": facts})
        return Path(name, STAGE).read_bytes(), Path(name, "onnxfq-work.json").read_bytes()
