"""Load, find, check: everything that can be refused without long work, for every model of a source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from onnxfq.executors.executor import Workers
from onnxfq.graph import Graph, raise_opset
from onnxfq.options import Options
from onnxfq.progress import Progress
from onnxfq.providers import ProviderName
from onnxfq.quantization.assign import Planned, assign, schemes_text
from onnxfq.quantization.equal_weights import tied
from onnxfq.quantization.file_contents import contents
from onnxfq.quantization.find import find, is_quantized, refuse_nothing, refuse_unmatched
from onnxfq.quantization.folder import together
from onnxfq.quantization.job import Job, kept_weights
from onnxfq.quantization.others import plan_others
from onnxfq.quantization.source import Source
from onnxfq.quantization.summary import estimate, predicted_bytes
from onnxfq.rules import Rule, Skip, Target
from onnxfq.session import resolve_provider
from onnxfq.solvers import BEST_WITHOUT_DATA, make_solver
from onnxfq.system.output import check_space
from onnxfq.system.terminal import size_text

TELL_FROM_SECONDS = 10.0
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
    """The same model anew, to be quantized as well as can be without data."""
    options = replace(job.options, algorithm=BEST_WITHOUT_DATA)
    return _plan(job.graph.path, options, job.workers, calibrated=False)


def plan_again(job: Job, options: Options) -> Job:
    """The same model anew, with other settings."""
    return _plan(job.graph.path, options, job.workers, calibrated=bool(job.solver.calibrated))


def _plan(path: Path, options: Options, workers: Workers, *, calibrated: bool) -> Job:
    graph = Graph.load(path, constant_inputs=options.constant_inputs)
    provider = resolve_provider(options.provider)
    solver = make_solver(options.algorithm, calibrated=calibrated)
    targets, skips, planned, left = _assigned(graph, options, provider)
    if raise_opset(graph, max((p.rule.opset(p.kernel) for p in planned), default=0), "DequantizeLinear in blocks"):
        targets, skips, planned, left = _assigned(graph, options, provider)
    kept = kept_weights(graph, planned)
    idle = [p.target for p in planned if p.rule.kind == "embeddings" and p.target.weight.part in kept]
    if idle:
        skips += [Skip(target.name, target.node.op_type, FLOATS_STAY, nbytes=target.float_bytes) for target in idle]
        planned, left = assign(graph, [found for found in targets if found[1] not in idle], options, provider)
    planned, skips = plan_others(graph, planned, [*skips, *left], options, provider)
    scheme, kept = schemes_text(planned, options.scheme), kept_weights(graph, planned)
    found = contents(graph, graph.source_bytes)
    return Job(graph, options, provider, solver, planned, scheme, skips, kept, found, workers)


def _assigned(
    graph: Graph, options: Options, provider: ProviderName
) -> tuple[list[tuple[Rule, Target]], list[Skip], list[Planned], list[Skip]]:
    """The targets, what is left alone, and what was decided: planned, and left alone for that."""
    found, skips = find(graph, options.include, options.exclude)
    targets = tied(found)
    return targets, skips, *assign(graph, targets, options, provider)


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


def announce_cost(jobs: Sequence[Job], staged: Path, progress: Progress) -> None:
    """Refuse what cannot fit on the disk, and say what will take long.

    Raises:
        OutputError: the disk has too little space.
    """
    sizes = [predicted_bytes(job) for job in jobs]
    twice = [size for job, size in zip(jobs, sizes, strict=True) if job.solver.calibrated and job.options.validate]
    check_space(staged, sum(sizes) + max(twice, default=0))  # a calibrated model is made without data too, to compare
    expected = together([estimate(job) for job in jobs])
    if expected.seconds > TELL_FROM_SECONDS:
        memory = size_text(expected.memory_bytes)
        progress(f"Solving alone will take about {expected.seconds:.0f} s, and {memory} of memory.", 0, 0)
