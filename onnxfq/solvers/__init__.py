"""Algorithms that turn a weight into codes, one file each, and the table that names them."""

from __future__ import annotations

from typing import Protocol

from onnxfq.errors import UsageError
from onnxfq.quantized import Float32Array, QuantizedWeight
from onnxfq.scheme import ScaleType, Scheme
from onnxfq.solvers.hqq import Hqq
from onnxfq.solvers.rtn import Rtn
from onnxfq.statistics import Need, Statistics


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
        """Whether a data-free `solve` can use `Statistics.energy`, which some graphs tell without data."""
        ...

    def solve(
        self, weight: Float32Array, scheme: Scheme, statistics: Statistics | None, *, scale_type: ScaleType
    ) -> QuantizedWeight:
        """Quantise one weight.

        Args:
            weight: [N, K] float32, finite. Not modified.
            scheme: bits, granularity and symmetry.
            statistics: what `needs` asks for; None where it asks for nothing.
            scale_type: the type scales will be stored in; returned scales are representable in it.
        """
        ...


SOLVERS: dict[str, type[Rtn] | type[Hqq]] = {"rtn": Rtn, "hqq": Hqq}
WEIGHTS_PER_SECOND = {"rtn": 1.2e8, "hqq": 4e7}  # on two cores of a 2023 server, for estimates only
AUTO = "hqq"  # the best algorithm that needs no data


def make_solver(algorithm: str) -> Solver:
    """The solver the user named; "auto" is the best one for what is at hand.

    Raises:
        UsageError: no algorithm of that name, with those that exist.
    """
    name = AUTO if algorithm == "auto" else algorithm
    if name not in SOLVERS:
        known = ", ".join(sorted(SOLVERS))
        raise UsageError(f"Unknown algorithm (got algorithm={algorithm!r}). Use auto, {known}.")
    return SOLVERS[name]()
