"""Round to nearest: the range of every block becomes its grid, and every weight takes the nearest point."""

from __future__ import annotations

from onnxfq.arrays import Float32Array
from onnxfq.quantized import QuantizedWeight, WeightRange
from onnxfq.scheme import ScaleType, Scheme
from onnxfq.solvers.base import Solver
from onnxfq.solvers.blocks import nearest
from onnxfq.solvers.columns import round_columns
from onnxfq.solvers.range_grid import range_grid
from onnxfq.statistics import Statistics


class Rtn(Solver):
    """Round to nearest on the min/max grid. Needs no data; no weight is clipped.

    Asymmetric grids always contain 0 exactly, so that blocks of one sign keep their far end. Symmetric ones take the
    sign of scale that lets the extra negative code serve the larger side. `|weight − dequantized| ≤ |scale| / 2`
    everywhere.
    """

    name = "rtn"
    weights_per_second = 1.2e8

    def _solve(
        self, weight: Float32Array, scheme: Scheme, statistics: Statistics, scale_type: ScaleType
    ) -> QuantizedWeight:
        scale, zero_point = range_grid(weight, scheme, scale_type)
        return nearest(weight, scale, zero_point, scheme, scale_type)

    def takes_columns(self, scheme: Scheme, scale_type: ScaleType) -> bool:
        """Asymmetric blocks with scales in float32 of their own."""
        return (
            not scheme.dual_grained
            and scale_type == "float32"
            and not scheme.symmetric
            and scheme.block_size != "tensor"
        )

    def solve_columns(
        self, stored: Float32Array, columns: slice, scheme: Scheme
    ) -> tuple[QuantizedWeight, float, WeightRange]:
        """See `round_columns`."""
        return round_columns(stored, columns, scheme)
