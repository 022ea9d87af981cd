"""Algorithms that turn a weight into codes, one file each, and the table that names them."""

from __future__ import annotations

from onnxfq.errors import UsageError
from onnxfq.solvers.awq import Awq
from onnxfq.solvers.base import USUAL_TOKENS, Solver
from onnxfq.solvers.gptq import Gptq
from onnxfq.solvers.hqq import Hqq
from onnxfq.solvers.option_text import options_text, parse_options, solver_options
from onnxfq.solvers.rtn import Rtn

__all__ = [
    "AUTO",
    "BEST_WITHOUT_DATA",
    "SOLVERS",
    "USUAL_TOKENS",
    "Solver",
    "algorithm_text",
    "make_solver",
    "solver_options",
]

SOLVERS: dict[str, type[Solver]] = {solver.name: solver for solver in (Rtn, Hqq, Gptq, Awq)}
AUTO = "auto"
BEST_WITHOUT_DATA = "hqq"  # the best algorithm that needs no data
BEST_WITH_DATA = "gptq"  # the best with data


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
    if name == AUTO:
        name = BEST_WITH_DATA if calibrated else BEST_WITHOUT_DATA
    if name not in SOLVERS:
        known = ", ".join(sorted(SOLVERS))
        raise UsageError(f"Unknown algorithm (got algorithm={algorithm!r}). Use auto, {known}.")
    solver = SOLVERS[name](**parse_options(name, SOLVERS[name], options) if colon else {})
    if solver.calibrated and not calibrated:
        raise UsageError(
            f"The algorithm {name} needs calibration data (got none). Give some with `calib=FILE`, let the model make "
            f'its own with `calib="self"`, or use `algorithm={BEST_WITHOUT_DATA}`, the best without data.'
        )
    return solver


def algorithm_text(solver: Solver) -> str:
    """The setting `algorithm` for a solver, defaults left out: "gptq" or "gptq:damping=0.02"."""
    options = options_text(solver)
    return f"{solver.name}:{options}" if options else solver.name
