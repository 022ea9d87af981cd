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
from onnxfq.solvers.gptq import Gptq
from onnxfq.solvers.rtn import Rtn
from onnxfq.statistics import Need, Statistics


@dataclass(frozen=True, slots=True)
class Mortal:
    """Rounds to nearest, or, with data, does what gptq does; where there is no file `grave`, it makes it and dies."""

    grave: str = ""

    name: ClassVar[str] = "mortal"
    needs: ClassVar[frozenset[Need]] = frozenset()
    weighs_inputs: ClassVar[bool] = False

    def solve(
        self, weight: Float32Array, scheme: Scheme, statistics: Statistics | None, *, scale_type: ScaleType
    ) -> QuantizedWeight:
        if not Path(self.grave).exists():
            Path(self.grave).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        solver = Gptq() if self.needs else Rtn()
        return solver.solve(weight, scheme, statistics, scale_type=scale_type)


@dataclass(frozen=True, slots=True)
class MortalGptq(Mortal):
    name: ClassVar[str] = "mortal-gptq"
    needs: ClassVar[frozenset[Need]] = frozenset({"gram", "cross"})
