"""The public `benchmark`: load → cost of each model by itself → all models in turn on each case → gates."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from onnxfq import doctor
from onnxfq.benchmarking.bandwidth import Bandwidth, DeviceBandwidth, HostBandwidth, processors
from onnxfq.benchmarking.cases import BenchmarkConfig, measure_costs, plan_workloads, time_cases
from onnxfq.benchmarking.clocks import PROCESSOR, QUIET, WALL, Clock
from onnxfq.benchmarking.measurements import Benchmark, Case, ModelCost
from onnxfq.benchmarking.paired import PRECISION
from onnxfq.errors import ModelError, UsageError
from onnxfq.feeds import longest, role
from onnxfq.graph import Fed, Graph, single_node
from onnxfq.metrics.gates import Gate
from onnxfq.model_files import find_model, is_folder
from onnxfq.progress import Progress, silent
from onnxfq.providers import facts
from onnxfq.session import Provider, Session, resolve_provider

CLOCKS = ("wall", "processor")
KINDS = ("all", "prefill", "decode")
LENGTHS = (128, 512)  # where the model takes them
STEADY = 0.9  # least bandwidth as a share of the best, above which other programs leave the memory alone


def benchmark(
    model: str | Path,
    baseline: str | Path | Sequence[str | Path] | None = None,
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
    progress: Progress | None = None,
) -> Benchmark:
    """Measure how fast a model is: alone, or beside what it was made from.

    Models run in turn, in short rounds in random order; a speed-up is the median over rounds, with an interval. A case
    ends when all speed-ups are known within 1.5 %, or when its time is over.

    Args:
        model: an ONNX file, or a folder that holds one.
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
        min_speedup: gate: the smallest speed-up over all cases and baselines.
        progress: called with (what, done, total) as work goes on.

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
    baselines = [] if baseline is None else [baseline] if isinstance(baseline, str | Path) else list(baseline)
    _check(
        {"threads": threads, "tokens": tokens, "loads": loads}, {"lengths": lengths, "batches": batches},
        clock=clock, only=only, seconds=seconds, min_speedup=min_speedup, compared=bool(baselines),
    )  # fmt: skip
    with _confined(cpus):
        config = _configure(
            [model, *baselines], provider=provider, threads=len(cpus) if cpus and threads is None else threads,
            clock=clock, batches=batches, lengths=lengths, tokens=tokens, seconds=seconds, loads=loads, only=only,
            progress=progress or silent,
        )  # fmt: skip
        planned = plan_workloads(config)
        costs = measure_costs(config)
        cases = time_cases(config, planned, costs)
    return _result(config, costs, cases, names=[str(model), *map(str, baselines)], cpus=cpus, min_speedup=min_speedup)


def _configure(
    models: Sequence[str | Path],
    *,
    provider: str,
    threads: int | None,
    clock: str,
    lengths: Sequence[int] | None,
    tokens: int,
    batches: Sequence[int],
    seconds: float,
    loads: int,
    only: str,
    progress: Progress,
) -> BenchmarkConfig:
    """Find the models, and decide what was left open."""
    chosen = resolve_provider(provider)
    graphs = [Graph.load(_file(Path(path))) for path in models]
    timer = _choose_clock(clock, chosen)
    count = 1 if timer is PROCESSOR else threads
    return BenchmarkConfig(
        graphs=graphs, provider=chosen, threads=count, clock=timer, bandwidth=_bandwidth(chosen, count, timer),
        batches=batches, lengths=_lengths(lengths, graphs, tokens), tokens=tokens, seconds=seconds, loads=loads,
        only=only, progress=progress,
    )  # fmt: skip


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


def _check(
    counts: dict[str, int | None],
    lists: dict[str, Sequence[int] | None],
    *,
    clock: str,
    only: str,
    seconds: float,
    min_speedup: float | None,
    compared: bool,
) -> None:
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UsageError(f"`{name}` must be 1 or more (got {value}).")
    for name, values in lists.items():
        if values is not None and (not values or min(values) < 1):
            raise UsageError(f"`{name}` must be numbers of 1 or more (got {', '.join(map(str, values)) or 'none'}).")
    for name, word, words in (("clock", clock, CLOCKS), ("only", only, KINDS)):
        if word not in words:
            raise UsageError(f"Unknown `{name}` (got {word!r}). Use {', '.join(words)}.")
    if clock == "processor" and (counts["threads"] or 1) > 1:
        raise UsageError(
            f"The processor's clock is that of one thread (got `threads={counts['threads']}`). Use `threads=1`, or "
            '`clock="wall"`.'
        )
    for name, number in (("seconds", seconds), ("min_speedup", min_speedup)):
        if number is not None and not 0 <= number < float("inf"):
            raise UsageError(f"`{name}` must be a number of 0 or more (got {number}).")
    if min_speedup is not None and not compared:
        raise UsageError("`min_speedup` compares the model with another one. Name that with `baseline`.")


def _file(path: Path) -> Path:
    found = find_model(path)
    if is_folder(found):
        raise ModelError(f"'{path}' holds an encoder and a decoder, which are timed one by one. Name one of its files.")
    return found


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


def _choose_clock(clock: str, provider: Provider) -> Clock:
    if clock == "processor" and not facts(provider).host_memory:
        raise UsageError("The processor's clock knows nothing of a GPU's time. Use `clock=\"wall\"`.")
    return PROCESSOR if clock == "processor" else WALL


def _bandwidth(provider: Provider, threads: int | None, clock: Clock) -> Bandwidth:
    if facts(provider).host_memory:
        return HostBandwidth(threads or processors(), clock)
    node = single_node("Neg", "", {"A": Fed(np.float32, ("rows", 4096))}, {}, output=np.float32)
    return DeviceBandwidth(Session(node, provider=provider))


def _lengths(given: Sequence[int] | None, graphs: Sequence[Graph], tokens: int) -> tuple[int, ...]:
    """Lengths that leave room for the tokens appended."""
    inputs = [spec for graph in graphs for spec in graph.signature.inputs]
    rows = [spec.vocabulary for spec in inputs if role(spec) == "position"]
    known = [limit for limit in (*(longest(graph.path.parent) for graph in graphs), *rows) if limit is not None]
    caches = any(role(spec) == "cache" for spec in inputs)
    most = min(known) - (tokens if caches else 0) if known else None
    if most is not None and most < 1:
        raise UsageError(f"The model takes {min(known)} tokens, and none is left for a prompt (got `tokens={tokens}`).")
    if given is None:
        return tuple(dict.fromkeys(min(length, most or length) for length in LENGTHS))
    if most is not None and max(given) > most:
        raise UsageError(
            f"The model takes {min(known)} tokens (got `lengths={max(given)}`{f' and `tokens={tokens}`' * caches}). "
            "Use fewer."
        )
    return tuple(dict.fromkeys(given))


def _gates(min_speedup: float | None, cases: Sequence[Case]) -> tuple[Gate, ...]:
    if min_speedup is None:
        return ()
    slowest = min(speedup.ratio for case in cases for speedup in case.speedups)
    return (Gate("min-speedup", min_speedup, slowest, slowest >= min_speedup),)


def _warnings(cases: Sequence[Case], clock: Clock, steadiness: float) -> Iterator[str]:
    if clock is PROCESSOR:
        yield (
            'Times are those that one thread was on a processor (`clock="processor"`), not what a user waits: with '
            'several threads, and on a machine of its own, a model takes less, and speed-ups differ (`clock="wall"`).'
        )
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
