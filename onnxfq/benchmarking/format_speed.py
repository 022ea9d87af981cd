"""How fast every format is on this machine, beside a float MatMul: what `doctor` measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np

from onnxfq.arrays import Float32Array
from onnxfq.benchmarking.clocks import PROCESSOR, Clock
from onnxfq.benchmarking.decoding import Repeated
from onnxfq.benchmarking.paired import Rounds, Sampler, time_side_by_side
from onnxfq.errors import ModelError, SchemeError
from onnxfq.graph import Fed, Graph, layered_model, single_node
from onnxfq.progress import Progress
from onnxfq.rules import PRODUCT_RULES, Target
from onnxfq.rules.known_speeds import keep_measured
from onnxfq.rules.speed_table import Figures, MeasuredFormat, SpeedTable
from onnxfq.scheme import Scheme
from onnxfq.session import Session, runtime_version
from onnxfq.solvers.rtn import Rtn
from onnxfq.system.processor import instructions, processor_name
from onnxfq.weight_formats import USUAL_FORMAT

WIDTHS, ROWS = (384, 1024, 2048), (1, 16, 128, 512)
SECONDS = 30.0  # for all cases together; what takes longer gets the fewest rounds there are
MEASURED = "measured on this machine, one thread"
_FEW_ROWS = 64  # below which the time is that of reading the weights
_DEEP, _SHALLOW = 4096, 2048  # weights are measured in as many layers as together have so many squared: more than a
_MOST_LAYERS = 64  # processor's own caches hold, where reading them is what takes the time
_SAMPLE_SECONDS = 0.002  # what is faster is run so often that one sample takes about so long
_MOST_RUNS = 4

ModelMaker = Callable[[Float32Array], bytes]
"""From a weight [N, K] to a model `Y = product of A and the weight`."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A format to be timed.

    Attributes:
        format: under which its speed is written down.
        make: its model.
    """

    format: MeasuredFormat
    make: ModelMaker


def measure_here(progress: Progress) -> SpeedTable:
    """Measure this machine, and keep what was found for later runs.

    Raises:
        OutputError: it cannot be kept.
    """
    today = datetime.now(UTC).date().isoformat()
    table = measure_formats(list(contenders_of(default_schemes())), source=f"{MEASURED}, {today}", progress=progress)
    keep_measured(table)
    return table


def default_schemes() -> tuple[Scheme, ...]:
    """Those that somebody may choose: blocks, zero points and bits of MatMulNBits, and every other format once."""
    blocks = [Scheme(4, size) for size in (32, 64, 128)]
    blocks += [Scheme(4, size, symmetric=True) for size in (32, 128)]
    blocks += [Scheme(8, 32), Scheme(8, 128), Scheme(2, 64), Scheme(4, 32, activations="float")]
    return (*blocks, *(Scheme(format=name) for name in PRODUCT_RULES if name != USUAL_FORMAT))


def measure_formats(
    contenders: Sequence[Contender],
    *,
    widths: Sequence[int] = WIDTHS,
    rows: Sequence[int] = ROWS,
    seconds: float = SECONDS,
    clock: Clock = PROCESSOR,
    source: str = MEASURED,
    progress: Progress = lambda what, done, total: None,
) -> SpeedTable:
    """Time formats and the float MatMul side by side, for every width and count of rows.

    All are run in turns, in one thread, by the time for which that was on a processor; the figure is the median of the
    turns' ratios. Narrow weights are measured in several layers, as models have them, so that neither the call of the
    session nor the caches decide.

    Args:
        contenders: what to time; those that the rule or ONNX Runtime refuses are left out.
        widths: of square weights.
        rows: of the activations.
        seconds: for all together, about.
        clock: what times are measured with.
        source: says where the figures come from, for people.
        progress: told about every case.
    """
    found: dict[MeasuredFormat, list[list[float]]] = {contender.format: [] for contender in contenders}
    float_us: list[list[float]] = []
    cases, done = len(widths) * len(rows), 0
    start = perf_counter()
    for width in widths:
        float_us.append([])
        layers = 0
        for count in rows:
            if layers != (layers := _layers(width, count)):
                formats, sessions = _sessions(contenders, width, layers)
            progress(f"timing {len(formats)} formats, {width} x {width}, {count} row{'s' * (count > 1)}", done, cases)
            budget = max(seconds - (perf_counter() - start), 0.0) / (cases - done)
            rounds = _time(sessions, count, width, budget, clock)
            float_us[-1].append(1e6 * rounds.times()[0] / layers)
            for number, of in enumerate(formats, start=1):
                if count == rows[0]:
                    found[of].append([])
                found[of][-1].append(1 / rounds.ratio(number).middle)
            done += 1
    known = {of: _rounded(figures) for of, figures in found.items() if len(figures) == len(widths)}
    return SpeedTable(
        instructions(), source, processor_name(), runtime_version(), tuple(widths), tuple(rows), _rounded(float_us),
        known,
    )  # fmt: skip


def contenders_of(schemes: Sequence[Scheme]) -> Iterator[Contender]:
    """Formats as the rules write them."""
    for scheme in schemes:
        yield Contender(MeasuredFormat.of(scheme), lambda weight, scheme=scheme: rule_model(scheme, weight))  # type: ignore[misc]


def rule_model(scheme: Scheme, weight: Float32Array) -> bytes:
    """The model by which a rule tries out a kernel, of a whole weight.

    Raises:
        SchemeError: there is no such kernel.
    """
    target = _target(weight)
    rule = PRODUCT_RULES[scheme.format]
    kernel = rule.kernel("cpu", scheme, target)
    q = Rtn().solve(weight, scheme, None, scale_type="float32")
    return rule.probe(rule.pack(q, kernel), kernel, *weight.shape).model


def _sessions(contenders: Sequence[Contender], width: int, layers: int) -> tuple[list[MeasuredFormat], list[Session]]:
    """The float model's session and those of all contenders that run; and the latter's formats."""
    weight = np.random.default_rng(0).standard_normal((width, width), np.float32) / np.float32(math.sqrt(width))
    formats, sessions = [], [Session(layered_model(_float_model(weight), layers), threads=1)]
    for contender in contenders:
        with suppress(SchemeError, ModelError):
            sessions.append(Session(layered_model(contender.make(weight), layers), threads=1))
            formats.append(contender.format)
    return formats, sessions


def _layers(width: int, rows: int) -> int:
    return min(_MOST_LAYERS, math.ceil((_DEEP if rows < _FEW_ROWS else _SHALLOW) ** 2 / width**2))


def _float_model(weight: Float32Array) -> bytes:
    fed, constant = Fed(np.float32, ("rows", weight.shape[1])), np.ascontiguousarray(weight.T)
    return single_node("MatMul", "", {"A": fed, "B": constant}, {}, np.float32)


def _target(weight: Float32Array) -> Target:
    """The weight as a rule finds it in a model."""
    with TemporaryDirectory(prefix="onnxfq-") as folder:
        path = Path(folder) / "matmul.onnx"
        path.write_bytes(_float_model(weight))
        graph = Graph.load(path)
        (node,) = graph.nodes()
        found = PRODUCT_RULES["matmulnbits"].match(graph, node)
        assert isinstance(found, Sequence)
        return found[0]


def _time(sessions: Sequence[Session], rows: int, width: int, seconds: float, clock: Clock) -> Rounds:
    feed = {"A": np.random.default_rng(1).standard_normal((rows, width), np.float32)}
    samplers = [_sampler(Repeated(session, feed).run, clock) for session in sessions]
    return time_side_by_side(samplers, seconds=seconds, rng=np.random.default_rng(0))


def _sampler(run: Callable[[], object], clock: Clock) -> Sampler:
    """Runs without one before them that brings the weight back into the caches: in a model nothing would."""
    run()
    count = min(_MOST_RUNS, math.ceil(_SAMPLE_SECONDS / clock.time(run)))
    return lambda: [clock.time(run) for _ in range(count)]


def _rounded(figures: Sequence[Sequence[float]]) -> Figures:
    return tuple(tuple(float(f"{figure:.3g}") for figure in of_width) for of_width in figures)
