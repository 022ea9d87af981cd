"""The public `benchmark`: load → cost of each model by itself → all models in turn on each case → gates."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import get_type_hints

from onnxfq import doctor
from onnxfq.benchmarking.benchmark_config import BenchmarkConfig, check_request, configure
from onnxfq.benchmarking.cases import measure_costs, plan_workloads, time_cases
from onnxfq.benchmarking.clocks import PROCESSOR, QUIET, WALL, Clock
from onnxfq.benchmarking.measurements import Benchmark, Case, ModelCost
from onnxfq.benchmarking.paired import PRECISION
from onnxfq.benchmarking.speed_verdict import speed_metric
from onnxfq.errors import UsageError
from onnxfq.graph import AnyModel, model_name, on_disk
from onnxfq.metrics.gates import Gate, Gates, Limit
from onnxfq.progress import Progress
from onnxfq.setting_types import check_types
from onnxfq.system.following import following

STEADY = 0.9  # least bandwidth as a share of the best, above which other programs leave the memory alone


def benchmark(
    model: AnyModel,
    baseline: AnyModel | Sequence[AnyModel] | None = None,
    *,
    provider: str = "auto",
    threads: int | None = None,
    cpus: Sequence[int] | None = None,
    clock: str = "wall",
    only: str = "all",
    lengths: Sequence[int] | None = None,
    batches: Sequence[int] = (1,),
    tokens: int = 32,
    seconds: float = 20.0,
    loads: int = 3,
    min_speedup: float | None = None,
    progress: Progress | bool | None = None,
) -> Benchmark:
    """Measure how fast a model is: alone, or beside what it was made from.

    Models run in turn, in short rounds in random order; a speed-up is the median over rounds, with an interval. A case
    ends when all speed-ups are known within 1.5 %, or when its time is over.

    Args:
        model: an ONNX file, or a folder that holds one; or an `onnx.ModelProto` with all its tensors.
        baseline: the same of what it is compared with, one or several; None compares with nothing.
        provider: where the models run: "auto", "cpu" or "cuda".
        threads: threads inside an operator; None leaves the choice to ONNX Runtime, or is 1 by the processor's clock.
        cpus: processors that this process may use meanwhile (Linux); then as many threads, unless told otherwise.
        clock: "wall" measures what a user waits. "processor" measures the time for which the one thread was on a
            processor, which other programs hardly change: for machines that are never quiet.
        only: "prefill" or "decode" leaves out the other, of models with a cache; "all" does not.
        lengths: tokens of prompts and inputs; None for 128 and 512, as far as the model takes them.
        batches: rows at once.
        tokens: how many tokens decoding appends before it starts again behind the prompt.
        seconds: at most for a case.
        loads: processes in which each model is loaded, for load time and memory.
        min_speedup: gate: the smallest speed-up over all cases and baselines; the lower bound of its interval counts.
        progress: True shows a bar on stderr; or a function, called with (what, done, total) as work goes on.

    Returns:
        What was measured. A gate that fails does not raise: see `Benchmark.require`.

    Raises:
        UsageError: what was asked for makes no sense.
        ModelError: a model cannot be loaded or does not run, or the models do not do the same.
        DataError: no inputs can be made up.

    Example:
        >>> found = onnxfq.benchmark("model.int4.onnx", "model.onnx", lengths=[16], loads=1, seconds=1)
        >>> found.cases[0].speedups[0].ratio > 0
        True
    """
    baselines = [] if baseline is None else list(baseline) if isinstance(baseline, list | tuple) else [baseline]
    check_types(
        {"provider": provider, "threads": threads, "cpus": cpus, "clock": clock, "only": only, "lengths": lengths,
         "batches": batches, "tokens": tokens, "seconds": seconds, "loads": loads, "min_speedup": min_speedup},
        get_type_hints(benchmark),
    )  # fmt: skip
    check_request(
        {"threads": threads, "tokens": tokens, "loads": loads}, {"lengths": lengths, "batches": batches},
        clock=clock, only=only, seconds=seconds, min_speedup=min_speedup, compared=bool(baselines),
    )  # fmt: skip
    with ExitStack() as opened:
        opened.enter_context(_confined(cpus))
        paths = [
            opened.enter_context(on_disk(one, name))
            for one, name in zip([model, *baselines], ["model", *(["baseline"] * len(baselines))], strict=True)
        ]
        config = configure(
            paths, provider=provider, threads=len(cpus) if cpus and threads is None else threads,
            clock=clock, batches=batches, lengths=lengths, tokens=tokens, seconds=seconds, loads=loads, only=only,
            progress=opened.enter_context(following(progress)),
        )  # fmt: skip
        planned = plan_workloads(config)
        costs = measure_costs(config)
        cases = time_cases(config, planned, costs)
    names = [model_name(one) for one in (model, *baselines)]
    return _result(config, costs, cases, names=names, cpus=cpus, min_speedup=min_speedup)


def _result(
    config: BenchmarkConfig,
    costs: tuple[ModelCost, ...],
    cases: tuple[Case, ...],
    *,
    names: Sequence[str],
    cpus: Sequence[int] | None,
    min_speedup: float | None,
) -> Benchmark:
    """What was measured, with gates, warnings, and what it takes to measure it again; names as the user gave them."""
    settings = {
        "cpus": None if cpus is None else list(cpus), "clock": config.clock.name, "only": config.only,
        "lengths": list(config.lengths), "batches": list(config.batches), "tokens": config.tokens,
        "seconds": config.seconds, "loads": config.loads, "min_speedup": min_speedup,
    }  # fmt: skip
    return Benchmark(
        model=names[0],
        baselines=tuple(names[1:]),
        provider=config.provider,
        clock=config.clock.name,
        threads=config.threads,
        bandwidth=config.bandwidth.best,
        costs=costs,
        cases=cases,
        gates=_gates(min_speedup, cases),
        warnings=tuple(_warnings(cases, config.clock, config.bandwidth.worst / config.bandwidth.best)),
        settings=settings,
        environment=dict(doctor.environment()),
    )


@contextlib.contextmanager
def _confined(cpus: Sequence[int] | None) -> Iterator[None]:
    """Let this thread, and all that it starts, run on these processors only."""
    if cpus is None:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise UsageError("`cpus` needs Linux. Leave it out, or choose the processors with the system's own tools.")
    before = os.sched_getaffinity(0)
    if not cpus or not before.issuperset(cpus):
        wanted = ", ".join(map(str, cpus)) or "none"
        raise UsageError(f"`cpus` must name processors of this process (got {wanted}; it has {sorted(before)}).")
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _gates(min_speedup: float | None, cases: Sequence[Case]) -> tuple[Gate, ...]:
    if min_speedup is None:
        return ()
    found = [speed_metric(str(case), s.ratio, s.low, s.high) for case in cases for s in case.speedups]
    return tuple(Gates(min_speedup=Limit(min_speedup)).check(found))


def _warnings(cases: Sequence[Case], clock: Clock, steadiness: float) -> Iterator[str]:
    if clock is PROCESSOR:
        yield (
            'Times are those that one thread was on a processor (`clock="processor"`), not what a user waits: with '
            'several threads, and on a machine of its own, a model takes less, and speed-ups differ (`clock="wall"`).'
        )
    unknown = sum(speedup.verdict == "unknown" for case in cases for speedup in case.speedups)
    if unknown:
        yield f"{unknown} speed-ups are unknown: the machine is busy."
    loose = sum(not speedup.precise for case in cases for speedup in case.speedups)
    if loose:
        yield f"{loose} speed-ups are not known within {PRECISION:.1%}: see their intervals. Raise `seconds`."
    busiest = max((case.waiting or 0 for case in cases), default=0)
    if clock is WALL and busiest > QUIET:
        yield (
            f"Other programs kept the processors busy: up to {busiest:.0%} of the time was spent waiting for one. Such "
            'times tell about the machine\'s load too; `clock="processor"` leaves it out.'
        )
    if steadiness < STEADY:
        yield (
            f"Memory was read at between {steadiness:.0%} and 100% of the speed shown: other programs use it too. The "
            "speed-up of a model that lives off reading weights changes with that, from run to run."
        )
    if any((timing.limit_share or 0) > 1 for case in cases for timing in case.timings):
        yield "Decoding goes beyond the limit of the memory's bandwidth: the processor's caches hold weights."
