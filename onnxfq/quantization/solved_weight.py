"""What solving one weight gives: the packed tensors, and what is said about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Array, Float32Array
from onnxfq.executors.serialization import load_once, serializable
from onnxfq.half import to_float32
from onnxfq.packing import Packed, join_digests, pack, row_chunks
from onnxfq.quantization.verify import fingerprints_of
from onnxfq.quantized import QuantizedWeight, WeightRange, squared_error, weight_range
from onnxfq.rules import Weight
from onnxfq.scheme import ScaleType, Scheme
from onnxfq.solvers import Solver
from onnxfq.solvers.rows import products_alone
from onnxfq.statistics import Statistics

serializable(Statistics)

BY_NORM, BY_DATA = "by a normalisation layer", "by calibration"
_FACTS = ("digest", "energy", "error", "least", "largest", "remarks", "algorithm", "weighted", "tokens", "activations")
_REAL, _INTEGERS = ("energy", "error", "least", "largest"), ("tokens", "bits", "block_size", "parts")
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(_FACTS, (str,)),
    **dict.fromkeys(_REAL, (int, float)),
    **dict.fromkeys(_INTEGERS, (int,)),
    "remarks": (list, tuple),
    "activations": (list, tuple, type(None)),
}
_LARGE_CHUNK = 1 << 24  # weights solved at once where statistics are shared by all rows
_COLUMNS_CHUNK, _COLUMNS = 1 << 22, 1024  # weights, and columns at least, rounded at once as they are stored


@dataclass(slots=True, eq=False)
class SolvedWeight:
    """One solved weight.

    Attributes:
        parts: its rows, packed.
        digest: fingerprint of codes, scales and zero points.
        energy: Σ w².
        error: Σ (w − ŵ)².
        least: smallest weight.
        largest: largest weight.
        shift: [N], what to add to the bias; None where the target has none that can be changed.
        remarks: what the solver had to do differently.
        algorithm: what chose the codes.
        weighted: what made errors in some inputs count more than in others; "" where all counted alike.
        tokens: of calibration; 0 without.
        activations: smallest and largest input in calibration; None without.
        input_scale: [K], what the inputs were divided by and the weight multiplied; None where they were not.
    """

    parts: list[Packed] = field(default_factory=list)
    digest: str = ""
    energy: float = 0.0
    error: float = 0.0
    least: float = 0.0
    largest: float = 0.0
    shift: npt.NDArray[np.float64] | None = None
    remarks: tuple[str, ...] = ()
    algorithm: str = ""
    weighted: str = ""
    tokens: int = 0
    activations: tuple[float, float] | None = None
    input_scale: npt.NDArray[np.float64] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the packed tensors."""
        return sum(part.nbytes for part in self.parts)


@dataclass(frozen=True, slots=True, eq=False)
class WeightTask:
    """One weight to solve and all that it takes, apart from the graph: it can be done in another process.

    Attributes:
        weight: where it is.
        scale_type: the type scales will be stored in.
        block_size: the kernel's.
        solver: what chooses the codes.
        scheme: what to quantize to.
        statistics: of the inputs, or the file that holds them.
        centred: the solver is given the statistics about their means, and how to change the bias is computed too.
        input_scale: [K], what the inputs will be divided by; statistics are those of inputs so divided.
    """

    weight: Weight
    scale_type: ScaleType
    block_size: int
    solver: Solver
    scheme: Scheme
    statistics: Statistics | Path | None = None
    centred: bool = False
    input_scale: npt.NDArray[np.float64] | None = None

    @property
    def nbytes(self) -> int:
        """Of the weight in float32."""
        return 4 * self.weight.n * self.weight.k

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read: the weight's, and that of the statistics."""
        return (*self.weight.constant.files, *([self.statistics] if isinstance(self.statistics, Path) else ()))


def solve_weight(task: WeightTask, value: npt.NDArray[np.generic] | None = None) -> SolvedWeight | None:
    """Solve and pack one weight; None where it holds NaN or infinity.

    Rows go through all steps chunk by chunk: a chunk stays in the processor's cache from reading to packing.

    Args:
        task: whose weight, and everything else.
        value: the weight as `Weight.read` returns it, if it was read before.
    """
    known = load_once(task.statistics, _as_it_is) if isinstance(task.statistics, Path) else task.statistics
    centred = known.about_means() if known and task.centred else None
    value = task.weight.read() if value is None else value
    solution = _about(task.solver, known)
    digests, moved = list[str](), list[npt.NDArray[np.float64]]()
    alongside = _rounds_columns(task, value)
    for rows in _chunks(task, _weights_at_once(task, known, alongside=alongside)):
        part = _round_columns(task, value, rows) if alongside else _solve_rows(task, value, rows, centred or known)
        if part is None:
            return None
        solution.energy += part.weight_range.energy
        solution.least = min(solution.least, part.weight_range.least)
        solution.largest = max(solution.largest, part.weight_range.largest)
        solution.error += part.error
        solution.parts.append(pack(part.q, task.block_size))
        digests += fingerprints_of(part.q, task.block_size)
        solution.remarks = tuple(dict.fromkeys((*solution.remarks, *part.q.remarks)))
        if part.shift is not None:
            moved.append(part.shift)
    solution.digest, solution.input_scale = join_digests(digests), task.input_scale
    solution.shift = np.concatenate(moved) if moved else None
    return solution


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Some rows of a solved weight: the codes, what the weights take up, Σ (w − ŵ)², and how the bias changes."""

    q: QuantizedWeight
    weight_range: WeightRange
    error: float
    shift: npt.NDArray[np.float64] | None = None


def _solve_rows(
    task: WeightTask, value: npt.NDArray[np.generic], rows: slice, statistics: Statistics | None
) -> _Part | None:
    """Solve some rows; None where they are not finite."""
    weight = task.weight.rows(value, rows)
    if task.input_scale is not None:
        weight = weight * task.input_scale.astype(np.float32)
    found = weight_range(weight)
    if not found.energy < float("inf"):
        return None
    q = task.solver.solve(weight, task.scheme, statistics, scale_type=task.scale_type)
    shift = _shift(weight, q, statistics) if task.centred and statistics else None
    return _Part(q, found, squared_error(weight, q), shift)


def _rounds_columns(task: WeightTask, value: npt.NDArray[np.generic]) -> bool:
    """Whether the weight is only to be rounded to nearest, as it is stored."""
    weight, scheme = task.weight, task.scheme
    plain = weight.transposed and weight.alpha == 1.0 and value.flags.c_contiguous
    plain = plain and task.input_scale is None and not task.centred
    return (
        plain
        and task.solver.takes_columns(scheme, task.scale_type)
        and value.dtype.name in ("float32", "float16", "bfloat16")
    )


def _round_columns(task: WeightTask, value: npt.NDArray[np.generic], rows: slice) -> _Part | None:
    """The same as `_solve_rows` for such a weight."""
    if value.dtype != np.float32:
        value, rows = to_float32(value, rows), slice(0, rows.stop - rows.start)
    q, error, found = task.solver.solve_columns(np.asarray(value, np.float32), rows, task.scheme)
    return _Part(q, found, error) if found.energy < float("inf") else None


def _as_it_is(statistics: Statistics) -> Statistics:
    return statistics


def _about(solver: Solver, statistics: Statistics | None) -> SolvedWeight:
    solution = SolvedWeight(algorithm=solver.name)
    if statistics is None:
        return solution
    solution.weighted = BY_DATA if statistics.gram is not None else BY_NORM
    solution.tokens = statistics.tokens
    if statistics.min is not None and statistics.max is not None:
        solution.activations = statistics.min, statistics.max
    return solution


def _weights_at_once(task: WeightTask, known: Statistics | None, *, alongside: bool) -> int:
    if alongside:
        return max(_COLUMNS_CHUNK, _COLUMNS * task.weight.k)
    return _LARGE_CHUNK if known is not None and known.gram is not None else 0


def _chunks(task: WeightTask, at_once: int) -> Iterator[slice]:
    """Rows that may be solved apart from the others: all of them where one grid lies under the whole weight."""
    n, k = task.weight.n, task.weight.k
    if task.scheme.block_size == "tensor":
        return iter([slice(0, n)])
    step = next(row_chunks(n, k)).stop
    step *= max(1, at_once // max(1, step * k))
    return (slice(start, min(n, start + step)) for start in range(0, n, step))


def _shift(weight: Float32Array, q: QuantizedWeight, statistics: Statistics) -> npt.NDArray[np.float64]:
    """E[Wx − Ŵx̃], [rows]."""
    if statistics.mean is None or statistics.float_mean is None:
        return np.zeros(weight.shape[0])
    with products_alone():
        return np.asarray(weight @ statistics.float_mean - q.dequantize() @ statistics.mean)


def to_arrays(solution: SolvedWeight) -> tuple[dict[str, Array], dict[str, Any]]:
    """A solution as arrays by name and facts that JSON can hold."""
    vectors = {"shift": solution.shift, "input_scale": solution.input_scale}
    arrays: dict[str, Array] = {name: vector for name, vector in vectors.items() if vector is not None}
    for number, part in enumerate(solution.parts):
        arrays |= {f"{number}.b": part.b, f"{number}.scales": part.scales}
        if part.zero_points is not None:
            arrays[f"{number}.zero_points"] = part.zero_points
    kinds = {"bits": solution.parts[0].bits, "block_size": solution.parts[0].block_size, "parts": len(solution.parts)}
    return arrays, {**{name: getattr(solution, name) for name in _FACTS}, **kinds}


def from_arrays(arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> SolvedWeight:
    """The inverse of `to_arrays`.

    Raises:
        KeyError, ValueError: something is missing, or not what it was.
    """
    if not all(isinstance(facts[name], kinds) for name, kinds in _KINDS.items()):
        raise ValueError(f"garbled facts: {facts}")
    parts = [
        Packed(
            arrays[f"{number}.b"],
            arrays[f"{number}.scales"],
            arrays.get(f"{number}.zero_points"),
            facts["bits"],
            facts["block_size"],
        )
        for number in range(facts["parts"])
    ]
    known: dict[str, Any] = {name: tuple(v) if isinstance(v := facts[name], list) else v for name in _FACTS}
    return SolvedWeight(parts=parts, shift=arrays.get("shift"), input_scale=arrays.get("input_scale"), **known)
