"""Algorithms that turn a weight into codes, one file each, and the table that names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from onnxfq.arrays import Float32Array, Float64Array
from onnxfq.errors import UsageError
from onnxfq.quantized import QuantizedWeight
from onnxfq.scheme import ScaleType, Scheme
from onnxfq.solvers.awq import Awq
from onnxfq.solvers.curvature import curvature, moments
from onnxfq.solvers.gptq import Gptq
from onnxfq.solvers.hqq import Hqq
from onnxfq.solvers.option_text import options_text, parse_options, solver_options
from onnxfq.solvers.rtn import Rtn
from onnxfq.statistics import Need, Statistics

__all__ = ["SOLVERS", "WEIGHTS_PER_SECOND", "Solver", "describe", "forget", "make_solver", "solver_options"]


class Solver(Protocol):
    """An algorithm: weight + scheme + statistics → codes, scales and zero points."""

    @property
    def name(self) -> str:
        """What the user types after `--algorithm`."""
        ...

    @property
    def needs(self) -> frozenset[Need]:
        """Which statistics `solve` reads; empty for data-free algorithms."""
        ...

    @property
    def weighs_inputs(self) -> bool:
        """Whether a data-free `solve` can use `Statistics.mean_square`, which some graphs tell without data."""
        ...

    def solve(
        self, weight: Float32Array, scheme: Scheme, statistics: Statistics | None, *, scale_type: ScaleType
    ) -> QuantizedWeight:
        """Quantize one weight.

        Args:
            weight: [N, K] float32, finite. Not modified.
            scheme: bits, granularity and symmetry.
            statistics: what `needs` asks for; None where it asks for nothing.
            scale_type: the type scales will be stored in; returned scales are representable in it.
        """
        ...


@runtime_checkable
class ScalesInputs(Protocol):
    """An algorithm that has the inputs of a stage scaled, where the graph can do so at no cost."""

    def input_scale(
        self, weights: Sequence[Float32Array], scheme: Scheme, statistics: Statistics, *, scale_type: ScaleType
    ) -> Float64Array | None:
        """What to divide a stage's inputs by, [K], all positive; its weights are multiplied by it before `solve`.

        Args:
            weights: [N, K] each, all that read the inputs.
            scheme: bits, granularity and symmetry.
            statistics: of the inputs.
            scale_type: the type scales will be stored in.

        Returns:
            None where nothing is better than leaving them as they are.
        """
        ...


SOLVERS: dict[str, type[Solver]] = {"rtn": Rtn, "hqq": Hqq, "gptq": Gptq, "awq": Awq}
WEIGHTS_PER_SECOND = {"rtn": 1.2e8, "hqq": 4e7, "gptq": 1.5e6, "awq": 2e6}  # on two cores of a 2023 server, estimates
AUTO = "hqq"  # the best algorithm that needs no data
AUTO_CALIBRATED = "gptq"  # the best with data


def make_solver(algorithm: str, *, calibrated: bool = False) -> Solver:
    """The solver the user named, with the options given.

    Args:
        algorithm: `name` or `name:option=value,…`; "auto" is the best one for what is at hand.
        calibrated: whether there are calibration data.

    Raises:
        UsageError: no such algorithm or option, a value of the wrong type, or data are needed that there are none of.
    """
    wanted, colon, options = algorithm.partition(":")
    name = wanted.strip()
    if name == "auto":
        name = AUTO_CALIBRATED if calibrated else AUTO
    if name not in SOLVERS:
        known = ", ".join(sorted(SOLVERS))
        raise UsageError(f"Unknown algorithm (got algorithm={algorithm!r}). Use auto, {known}.")
    solver = SOLVERS[name](**parse_options(name, SOLVERS[name], options) if colon else {})
    if solver.needs and not calibrated:
        raise UsageError(
            f"The algorithm {name} needs calibration data (got none). Give some with --calib FILE, let the model make "
            f"its own with --calib self, or use --algorithm {AUTO}, the best without data."
        )
    return solver


def forget() -> None:
    """Give back the memory of what solvers keep about the last statistics they were given."""
    curvature.cache_clear()
    moments.cache_clear()


def describe(solver: Solver) -> str:
    """What to type after `--algorithm` for a solver, defaults left out: "gptq" or "gptq:damping=0.02"."""
    options = options_text(solver)
    return f"{solver.name}:{options}" if options else solver.name
