"""Load, find, check: everything that can be refused without long work, for every model of a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from onnxfq.arrays import Float32Array
from onnxfq.calibration.pieces import Runtime
from onnxfq.errors import SchemeError, UsageError
from onnxfq.executors.executor import Workers
from onnxfq.feeds import Feeds
from onnxfq.graph import Graph, can_raise_opset, raise_opset
from onnxfq.machines import AUTO, find_machine
from onnxfq.options import Options
from onnxfq.providers import FALLBACK, ProviderName
from onnxfq.quantization.assign import Mix, Planned, assign, schemes_text
from onnxfq.quantization.choose_format import AutoFormat, FormatErrors
from onnxfq.quantization.equal_weights import tied
from onnxfq.quantization.expected_speed import Forecast, forecast
from onnxfq.quantization.file_contents import contents
from onnxfq.quantization.find import find, is_quantized, refuse_nothing, refuse_unmatched
from onnxfq.quantization.job import Job, kept_weights
from onnxfq.quantization.others import plan_others
from onnxfq.quantization.sampled_inputs import sample_inputs
from onnxfq.quantization.source import Source
from onnxfq.rules import PRODUCT_RULES, Rule, Skip, Target, expected_mean_square
from onnxfq.scheme import Scheme
from onnxfq.session import available_providers, resolve_provider
from onnxfq.solvers import BEST_WITHOUT_DATA, make_solver

FLOATS_STAY = "nodes that are left alone read this table too: its floats stay, and codes would only add to them"


def plan(source: Source, options: Options, workers: Workers, *, calibrated: bool) -> list[Job]:
    """Decide about every model of a source; `include`, `exclude` and `schemes` are about all of them together.

    Args:
        source: the file or folder.
        options: what was asked for.
        workers: who will do the work.
        calibrated: whether there are calibration data, or may be.

    Raises:
        OnnxfqError: a model cannot be read, a scheme does not suit it, or a setting matches nothing.
    """
    jobs = [_plan(path, options, workers, calibrated=calibrated) for path in source.models]
    names = [name for job in jobs for name in _names(job)]
    given = {"include": options.include, "exclude": options.exclude, "schemes": options.schemes_by_name}
    refuse_unmatched(source.path, given, names)
    return jobs


def _names(job: Job) -> list[str]:
    """Of the nodes that settings may be about."""
    return [*(p.target.node.name for p in job.planned), *(skip.name for skip in job.skips)]


def plan_without_data(job: Job) -> Job:
    """The same model anew, in the same formats, to be quantized as well as can be without data."""
    options = replace(job.options, algorithm=BEST_WITHOUT_DATA)
    again = _plan(job.graph.path, options, job.workers, calibrated=False, auto=job.auto, mix=job.mix)
    return replace(again, forecast=job.forecast, scheme=job.scheme)


def plan_again(job: Job, options: Options | None = None, mix: Mix | None = None) -> Job:
    """The same model anew, with other settings, or with other schemes for single weights."""
    mix = job.mix if mix is None else mix
    calibrated = bool(job.solver.calibrated)
    again = _plan(job.graph.path, options or job.options, job.workers, calibrated=calibrated, auto=job.auto, mix=mix)
    return replace(again, forecast=job.forecast, limit=job.limit)


def plan_with_data(job: Job, calibration: Feeds | None, folder: Path) -> Job:
    """What data change: how many rows weights meet at once, and with that which formats are chosen.

    Args:
        job: planned without them.
        calibration: the samples; None where there are none.
        folder: takes what does not fit in memory.
    """
    if calibration is None or job.forecast is None:
        return job
    known = forecast(job.graph, job.options, job.forecast.machine, calibration)
    if job.auto is None:
        return replace(job, forecast=known)
    targets, _ = find(job.graph, job.options.include, job.options.exclude)
    runtime = Runtime(job.provider, job.threads, job.options.memory, folder)
    inputs = sample_inputs(job.graph, [target for _, target in targets], calibration, runtime)
    return _decided(replace(job, forecast=known, auto=_auto(job.graph, known, inputs)))


def _plan(
    path: Path,
    options: Options,
    workers: Workers,
    *,
    calibrated: bool,
    auto: AutoFormat | None = None,
    mix: Mix | None = None,
) -> Job:
    graph = Graph.load(path, constant_inputs=options.constant_inputs)
    provider = running_provider(options)
    solver = make_solver(options.algorithm, calibrated=calibrated)
    known = forecast(graph, options, find_machine(options.target, provider))
    if options.auto_format and auto is None:
        auto = _auto(graph, known, {})
    found = contents(graph, graph.source_bytes)
    return _decided(Job(graph, options, provider, solver, (), "", (), {}, found, workers, known, auto, mix or {}))


def _decided(job: Job) -> Job:
    """The job with a scheme and a kernel for each target."""
    graph = job.graph
    targets, skips, planned, left = _assigned(job)
    highest = max(planned, key=lambda p: p.rule.opset(p.kernel), default=None)
    if highest and raise_opset(graph, highest.rule.opset(highest.kernel), f"The format {highest.scheme.format}"):
        targets, skips, planned, left = _assigned(job)
    kept = kept_weights(graph, planned)
    idle = [p.target for p in planned if p.rule.kind == "embeddings" and p.target.weight.part in kept]
    if idle:
        skips += [Skip(target.name, target.node.op_type, FLOATS_STAY, nbytes=target.float_bytes) for target in idle]
        targets = [found for found in targets if found[1] not in idle]
        planned, left = assign(targets, job.options, job.provider, auto=job.auto, mix=job.mix)
    planned, skips = plan_others(graph, planned, [*skips, *left], job.options, job.provider)
    scheme = schemes_text(planned, job.options.scheme)
    return replace(job, planned=planned, scheme=scheme, skips=skips, kept=kept_weights(graph, planned))


def _assigned(job: Job) -> tuple[list[tuple[Rule, Target]], list[Skip], list[Planned], list[Skip]]:
    """The targets, what is left alone, and what was decided: planned, and left alone for that."""
    found, skips = find(job.graph, job.options.include, job.options.exclude)
    targets = tied(found)
    return targets, skips, *assign(targets, job.options, job.provider, auto=job.auto, mix=job.mix)


def _auto(graph: Graph, known: Forecast, inputs: Mapping[str, Float32Array]) -> AutoFormat:
    """What chooses formats for a model.

    Raises:
        UsageError: nothing is known of how fast they are.
    """
    if known.table is None:
        raise UsageError(
            f'`format="auto"` chooses by speed, and nothing is known of how fast formats are on {known.machine.title} '
            f"(got target={known.machine.name}). Give a format, such as `format=int8`, or a target of which speeds "
            "are known: `target=avx2`, `target=vnni`, or this machine after `onnxfq doctor` with `measure=True`."
        )
    errors = FormatErrors(inputs, lambda target: expected_mean_square(graph, target))

    imported = {graph.opset(node) for node in graph.nodes()}

    @cache
    def can_have(opset: int) -> bool:
        return max(imported, default=0) >= opset or can_raise_opset(graph, opset)

    def fits(scheme: Scheme, target: Target) -> bool:
        rule = PRODUCT_RULES[scheme.format]
        try:
            kernel = rule.kernel(known.machine.provider, scheme, target)
        except SchemeError:
            return False
        return can_have(rule.opset(kernel))

    return AutoFormat(known.machine.formats, fits, known.times_faster, errors.error)


def running_provider(options: Options) -> ProviderName:
    """Where models run here: for a target of another provider on that, if it is here."""
    if options.provider != AUTO or options.target == AUTO:
        return resolve_provider(options.provider)
    wanted = find_machine(options.target, FALLBACK).provider
    return wanted if wanted in available_providers() else FALLBACK


def is_idle(jobs: Sequence[Job]) -> bool:
    """Whether nothing is left to do, because it has been done; of several models, some may be left as they are.

    Raises:
        ModelError: nothing could ever be quantized, with the reasons.
    """
    if any(job.planned for job in jobs):
        return False
    if not any(is_quantized(job.skips, job.contents) for job in jobs):
        for job in jobs:
            refuse_nothing(job.graph, job.skips, job.contents)
    return True
