"""A solver that kills the process it runs in, once: workers must find it in a module of its own."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from onnxfq.arrays import Float32Array
from onnxfq.quantized import QuantizedWeight
from onnxfq.scheme import ScaleType, Scheme
from onnxfq.solvers.base import Solver
from onnxfq.solvers.gptq import Gptq
from onnxfq.solvers.rtn import Rtn
from onnxfq.statistics import Statistics


@dataclass(frozen=True, slots=True)
class Mortal(Solver):
    """Rounds to nearest, or, with data, does what gptq does; where there is no file `grave`, it makes it and dies."""

    grave: str = ""

    name: ClassVar[str] = "mortal"
    weights_per_second: ClassVar[float] = 1e6

    def _solve(
        self, weight: Float32Array, scheme: Scheme, statistics: Statistics, scale_type: ScaleType
    ) -> QuantizedWeight:
        if not Path(self.grave).exists():
            Path(self.grave).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        solver = Gptq() if self.calibrated else Rtn()
        return solver.solve(weight, scheme, statistics, scale_type=scale_type)


@dataclass(frozen=True, slots=True)
class MortalGptq(Mortal):
    name: ClassVar[str] = "mortal-gptq"
    calibrated: ClassVar[bool] = True
