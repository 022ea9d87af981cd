"""What solving one weight gives: the packed tensors, and what is said about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Array, Float32Array
from onnxfq.executors.serialization import load_once, serializable
from onnxfq.half import to_float32
from onnxfq.held_tokens import HeldTokens
from onnxfq.packing import fingerprints_of, join_digests, row_chunks
from onnxfq.quantized import QuantizedWeight, WeightRange, squared_error, weight_range
from onnxfq.rules import Kernel, Rule, Tensors, Weight, tensor_bytes
from onnxfq.scheme import ScaleType, Scheme
from onnxfq.solvers import Solver
from onnxfq.statistics import Statistics
from onnxfq.system.threads import products_alone

serializable(Statistics)
serializable(HeldTokens)

BY_NORM, BY_DATA = "by a normalization layer", "by calibration"
_FACTS = ("digest", "sum_squares", "error", "min", "max", "remarks", "algorithm", "weighted", "tokens", "activations")
_REAL, _INTEGERS = ("sum_squares", "error", "min", "max"), ("tokens", "parts")
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(_FACTS, (str,)),
    **dict.fromkeys(_REAL, (int, float)),
    **dict.fromkeys(_INTEGERS, (int,)),
    "remarks": (list, tuple),
    "tensors": (list, tuple),
    "activations": (list, tuple, type(None)),
}
_LARGE_CHUNK = 1 << 24  # weights solved at once where statistics are shared by all rows
_COLUMNS_CHUNK, _COLUMNS = 1 << 22, 1024  # weights, and columns at least, rounded at once as they are stored


@dataclass(slots=True, eq=False)
class SolvedWeight:
    """One solved weight.

    Attributes:
        parts: its rows, packed as its rule says.
        digest: fingerprint of codes, scales and zero points.
        sum_squares: Σ w².
        error: Σ (w − ŵ)².
        min: smallest weight.
        max: largest weight.
        shift: [N], what to add to the bias; None where the target has none that can be changed.
        remarks: what the solver had to do differently.
        algorithm: what chose the codes.
        weighted: what made errors in some inputs count more than in others; "" where all counted alike.
        tokens: of calibration; 0 without.
        activations: smallest and largest input in calibration; None without.
        input_scale: [K], what the inputs were divided by and the weight multiplied; None where they were not.
    """

    parts: list[Tensors] = field(default_factory=list)
    digest: str = ""
    sum_squares: float = 0.0
    error: float = 0.0
    min: float = 0.0
    max: float = 0.0
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
        return sum(map(tensor_bytes, self.parts))


@dataclass(frozen=True, slots=True, eq=False)
class WeightTask:
    """One weight to solve and all that it takes, apart from the graph: it can be done in another process.

    Attributes:
        weight: where it is.
        scale_type: the type scales will be stored in.
        rule: lays the codes out.
        kernel: that they are laid out for.
        solver: what chooses the codes.
        scheme: what to quantize to.
        statistics: of the inputs, or the file that holds them.
        centred: the solver is given the statistics about their means, and how to change the bias is computed too.
        input_scale: [K], what the inputs will be divided by; statistics are those of inputs so divided.
        drifts: its product is the one that is added to the stage's residual.
    """

    weight: Weight
    scale_type: ScaleType
    rule: Rule
    kernel: Kernel
    solver: Solver
    scheme: Scheme
    statistics: Statistics | Path | None = None
    centred: bool = False
    input_scale: npt.NDArray[np.float64] | None = None
    drifts: bool = False

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
    if known and not task.drifts:
        known = known.without_drift()
    centred = known.about_means() if known and task.centred else None
    value = task.weight.read() if value is None else value
    solved = _about(task.solver, known)
    digests, moved = list[str](), list[npt.NDArray[np.float64]]()
    by_columns = _rounds_columns(task, value)
    for rows in _chunks(task, _weights_at_once(task, known, by_columns=by_columns)):
        part = _round_columns(task, value, rows) if by_columns else _solve_rows(task, value, rows, centred or known)
        if part is None:
            return None
        solved.sum_squares += part.weight_range.sum_squares
        solved.min = min(solved.min, part.weight_range.min)
        solved.max = max(solved.max, part.weight_range.max)
        solved.error += part.error
        solved.parts.append(task.rule.pack(part.q, task.kernel))
        digests += fingerprints_of(part.q, task.kernel.block_size)
        solved.remarks = tuple(dict.fromkeys((*solved.remarks, *part.q.remarks)))
        if part.shift is not None:
            moved.append(part.shift)
    solved.digest, solved.input_scale = join_digests(digests), task.input_scale
    solved.shift = np.concatenate(moved) if moved else None
    return solved


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Some rows of a solved weight: the codes, what the weights take up, Σ (w − ŵ)², and how the bias changes."""

    q: QuantizedWeight
    weight_range: WeightRange
    error: float
    shift: npt.NDArray[np.float64] | None = None


def _solve_rows(
    task: WeightTask, value: npt.NDArray[np.generic], rows: slice, statistics: Statistics | None
) -> _Rows | None:
    """Solve some rows; None where they are not finite."""
    weight = task.weight.rows(value, rows)
    if task.input_scale is not None:
        weight = weight * task.input_scale.astype(np.float32)
    found = weight_range(weight)
    if not found.sum_squares < float("inf"):
        return None
    statistics = statistics and statistics.of_rows(rows)
    q = task.solver.solve(weight, task.scheme, statistics, scale_type=task.scale_type)
    shift = _shift(weight, q, statistics) if task.centred and statistics else None
    return _Rows(q, found, squared_error(weight, q), shift)


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


def _round_columns(task: WeightTask, value: npt.NDArray[np.generic], rows: slice) -> _Rows | None:
    """The same as `_solve_rows` for such a weight."""
    if value.dtype != np.float32:
        value, rows = to_float32(value, rows), slice(0, rows.stop - rows.start)
    q, error, found = task.solver.solve_columns(np.asarray(value, np.float32), rows, task.scheme)
    return _Rows(q, found, error) if found.sum_squares < float("inf") else None


def _as_it_is(statistics: Statistics) -> Statistics:
    return statistics


def _about(solver: Solver, statistics: Statistics | None) -> SolvedWeight:
    solved = SolvedWeight(algorithm=solver.name)
    if statistics is None:
        return solved
    solved.weighted = BY_DATA if statistics.gram is not None else BY_NORM
    solved.tokens = statistics.tokens
    if statistics.min is not None and statistics.max is not None:
        solved.activations = statistics.min, statistics.max
    return solved


def _weights_at_once(task: WeightTask, known: Statistics | None, *, by_columns: bool) -> int:
    if by_columns:
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
    """E[Wx − Ŵx̃], [rows], and E[r − r̃] where a residual is added."""
    if statistics.mean is None or statistics.float_mean is None:
        return np.zeros(weight.shape[0])
    with products_alone():
        shift = np.asarray(weight @ statistics.float_mean - q.dequantize() @ statistics.mean)
    return shift if statistics.drift_mean is None else shift + statistics.drift_mean


def bias_shift(
    weight: Float32Array, packed: Sequence[Tensors], rule: Rule, kernel: Kernel, statistics: Statistics
) -> npt.NDArray[np.float64]:
    """How the bias behind another reader of a solved weight moves, [N]: what takes up the mean error there.

    Args:
        weight: [N, K].
        packed: its rows as they were solved, in parts.
        rule: that packed them.
        kernel: for which.
        statistics: of that reader's inputs.
    """
    parts = [rule.unpack(part, kernel, weight.shape[1]) for part in packed]
    ends = list(accumulate(len(q.codes) for q in parts))
    return np.concatenate(
        [_shift(weight[end - len(q.codes) : end], q, statistics) for q, end in zip(parts, ends, strict=True)]
    )


def to_arrays(solved: SolvedWeight) -> tuple[dict[str, Array], dict[str, Any]]:
    """A solved as arrays by name and facts that JSON can hold."""
    vectors = {"shift": solved.shift, "input_scale": solved.input_scale}
    arrays: dict[str, Array] = {name: vector for name, vector in vectors.items() if vector is not None}
    for number, part in enumerate(solved.parts):
        arrays |= {f"{number}.{name}": array for name, array in part.items()}
    facts = {name: getattr(solved, name) for name in _FACTS}
    return arrays, {**facts, "parts": len(solved.parts), "tensors": list(solved.parts[0])}


def from_arrays(arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> SolvedWeight:
    """The inverse of `to_arrays`.

    Raises:
        KeyError, ValueError: something is missing, or not what it was.
    """
    if not all(isinstance(facts[name], kinds) for name, kinds in _KINDS.items()):
        raise ValueError(f"garbled facts: {facts}")
    parts = [{name: arrays[f"{number}.{name}"] for name in facts["tensors"]} for number in range(facts["parts"])]
    known: dict[str, Any] = {name: tuple(v) if isinstance(v := facts[name], list) else v for name in _FACTS}
    return SolvedWeight(
        parts=list[Tensors](parts), shift=arrays.get("shift"), input_scale=arrays.get("input_scale"), **known
    )


def joined(solved: Mapping[int, SolvedWeight]) -> tuple[dict[str, Array], dict[str, Any]]:
    """All weights of a stage as one set of arrays."""
    arrays: dict[str, Array] = {}
    facts: dict[str, Any] = {}
    for index, weight in solved.items():
        own, facts[str(index)] = to_arrays(weight)
        arrays |= {f"{index}/{name}": array for name, array in own.items()}
    return arrays, facts


def parted(arrays: dict[str, Array], facts: dict[str, Any]) -> dict[int, SolvedWeight] | None:
    """The inverse of `joined`; None where a stage's file is whole, but not what was written."""
    try:
        return {
            int(i): from_arrays({n.split("/", 1)[1]: a for n, a in arrays.items() if n.startswith(f"{i}/")}, about)
            for i, about in facts.items()
        }
    except (KeyError, ValueError, AttributeError, TypeError):
        return None
