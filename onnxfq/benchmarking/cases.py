"""What a benchmark does: the cost of each model by itself, then all of them in turn on each case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np

from onnxfq.benchmarking.benchmark_config import BenchmarkConfig
from onnxfq.benchmarking.clocks import Disturbance, spin_idle_cpus
from onnxfq.benchmarking.footprint import measure_footprint
from onnxfq.benchmarking.measurements import Case, ModelCost, Speedup, Timing
from onnxfq.benchmarking.paired import Rounds, make_samplers, time_side_by_side
from onnxfq.benchmarking.workloads import (
    SEED,
    Candidate,
    RunKind,
    Workload,
    kinds_of,
    make_feed,
    make_runs,
    workloads,
)
from onnxfq.errors import UsageError
from onnxfq.feeds import RefusedError, fit_sizes, is_guessed
from onnxfq.graph import weight_bytes
from onnxfq.providers import facts
from onnxfq.session import Session
from onnxfq.system.threads import processors


def plan_workloads(config: BenchmarkConfig) -> list[Workload]:
    """What the models are to run, found out from their signatures; the first is asked for sizes that these leave open.

    Raises:
        UsageError: the models have no such kind of runs.
        ModelError: the models do not do the same, or the first does not run.
        DataError: no inputs can be made up, or none on which it runs.
    """
    kinds = kinds_of(config.graphs)
    chosen = kinds if config.only == "all" else tuple(kind for kind in kinds if kind == config.only)
    if not chosen:
        raise UsageError(
            f'The model keeps no keys and values: it has no {config.only} (got `only="{config.only}"`). '
            'Use `only="all"`.'
        )
    if is_guessed(config.graphs[0].signature):
        _fit_sizes(config, kinds[0])
    return [w for kind in chosen for w in workloads(config.graphs[0].signature, kind, config.batches, config.lengths)]


def _fit_sizes(config: BenchmarkConfig, kind: RunKind) -> None:
    """Ask the first model for sizes on which it runs; all models get inputs of these."""
    first, batch, length = config.graphs[0], config.batches[0], min(config.lengths)
    session = Session(first.path, provider=config.provider, threads=config.threads)
    try:
        found = fit_sizes(first.signature, lambda s: make_feed(s, kind, batch, length), session.run, config.progress)
    except RefusedError as refused:
        raise refused.error from refused
    sizes = {(spec.name, spec.shape): spec.fitting for spec in found.inputs}
    for graph in config.graphs:
        inputs = (replace(s, fitting=sizes.get((s.name, s.shape), s.fitting)) for s in graph.signature.inputs)
        graph.prefer(replace(graph.signature, inputs=tuple(inputs)))


def measure_costs(config: BenchmarkConfig) -> tuple[ModelCost, ...]:
    """Load each model in processes of its own, all models in turn.

    Raises:
        ModelError: a process did not get to the end.
    """
    total = config.loads * len(config.graphs)
    found: list[list[tuple[float, int | None, int | None]]] = [[] for _ in config.graphs]
    for done in range(total):
        config.progress("loading in processes of their own", done, total)
        graph = config.graphs[done % len(config.graphs)]
        one = measure_footprint(
            graph.path, graph.signature, batch=max(config.batches), length=max(config.lengths),
            provider=config.provider, threads=config.threads,
        )  # fmt: skip
        found[done % len(config.graphs)].append((one.load_seconds, one.peak_bytes, one.base_bytes))
    widens = facts(config.provider).widens_half
    return tuple(
        ModelCost(
            model=str(graph.path),
            file_bytes=graph.source_bytes,
            weight_bytes=weight_bytes(graph, widens=widens),
            load_seconds=median(load for load, _, _ in runs),
            peak_bytes=max((peak for _, peak, _ in runs if peak is not None), default=None),
            base_bytes=max((base for _, _, base in runs if base is not None), default=None),
        )
        for graph, runs in zip(config.graphs, found, strict=True)
    )


def time_cases(config: BenchmarkConfig, planned: Sequence[Workload], costs: Sequence[ModelCost]) -> tuple[Case, ...]:
    """Time all models side by side, case by case.

    Args:
        config: the models and how they are run.
        planned: what they run.
        costs: of the models, in order.

    Raises:
        ModelError: a model does not run.
        DataError: no inputs can be made up.
    """
    config.progress("loading", 0, 1)
    candidates = [
        Candidate.of(Session(g.path, provider=config.provider, threads=config.threads), g.signature)
        for g in config.graphs
    ]
    timed = []
    for number, workload in enumerate(planned):
        config.progress("timing", number, len(planned))
        config.bandwidth.measure()
        samplers = make_samplers(make_runs(candidates, workload, tokens=config.tokens), config.clock)
        disturbance = Disturbance()
        with spin_idle_cpus(config.clock, processors()):
            rounds = time_side_by_side(samplers, seconds=config.seconds, rng=np.random.default_rng([SEED, number]))
        timed.append((workload, rounds, disturbance.share()))
    config.bandwidth.measure()
    return tuple(_case(workload, rounds, waiting, costs, config.bandwidth.best) for workload, rounds, waiting in timed)


def _case(
    workload: Workload, rounds: Rounds, waiting: float | None, costs: Sequence[ModelCost], bandwidth: float
) -> Case:
    timings = []
    for index, (cost, middle) in enumerate(zip(costs, rounds.times(), strict=True)):
        tokens = None if workload.tokens is None else workload.tokens / middle
        reads = workload.kind == "decode" and cost.weight_bytes
        limit = workload.batch * bandwidth / cost.weight_bytes if reads else None
        p95, runs = 1e3 * rounds.p95(index), len(rounds.runs[index])
        timings.append(Timing(cost.model, 1e3 * middle, p95, runs, tokens, limit))
    speedups = []
    for index, cost in enumerate(costs[1:], start=1):
        found = rounds.ratio(index)
        speedups.append(Speedup(cost.model, found.middle, found.low, found.high, found.is_precise))
    return Case(workload.kind, workload.batch, workload.length, rounds.count, tuple(timings), tuple(speedups), waiting)
