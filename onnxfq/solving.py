"""Solve and rewrite, one target after another: each is packed, stored and forgotten before the next is read."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import replace

from onnxfq.errors import ModelError
from onnxfq.find import Planned
from onnxfq.graph import Constant, Scratch, Spool
from onnxfq.job import Job, Progress
from onnxfq.packing import Packed, join_digests, pack, row_chunks
from onnxfq.quantized import energy, squared_error
from onnxfq.report import TargetReport
from onnxfq.rules import Stored, expected_energy, rewrite, store
from onnxfq.statistics import Statistics
from onnxfq.summary import describe
from onnxfq.verify import Meant, fingerprints_of

_Solved = tuple[Stored, TargetReport, str]


def solve(job: Job, spool: Spool, progress: Progress) -> tuple[list[TargetReport], list[Meant]]:
    """Quantise every planned weight and put the quantised nodes into the graph.

    Args:
        job: the model and what was decided; its graph is changed.
        spool: takes the new tensors.
        progress: told about every target.

    Returns:
        What became of each target, and what its node must hold in the written file.

    Raises:
        ModelError: weights that are not finite, all of them listed.
    """
    done: dict[Hashable, _Solved] = {}
    reports: list[TargetReport] = []
    meant: list[Meant] = []
    abandoned: list[Constant] = []
    damaged: list[str] = []
    scratch = Scratch()
    for index, p in enumerate(job.planned):
        progress("solving", index, len(job.planned))
        solved = _known(done, p) or _solve_one(job, p, scratch, spool, damaged)
        if solved is None:
            continue
        done.setdefault((p.target.key, p.kernel), solved)
        stored, report, digest = solved
        abandoned += rewrite(job.graph, p.target, stored, p.kernel, spool)
        reports.append(report)
        meant.append(Meant(p.target.name, stored.codes, p.target.n, p.target.k, p.kernel, digest))
    _refuse_damaged(job, damaged)
    if reports:
        progress("solving", len(reports), len(reports))
    job.graph.finish(abandoned)
    return reports, meant


def _known(done: dict[Hashable, _Solved], p: Planned) -> _Solved | None:
    """What an earlier target with the same weight brought."""
    known = done.get((p.target.key, p.kernel))
    if known is None:
        return None
    stored, first, digest = known
    report = replace(first, name=p.target.name, op_type=p.target.node.op_type, bytes=0, shares=first.name)
    return stored, report, digest


def _solve_one(job: Job, p: Planned, scratch: Scratch, spool: Spool, damaged: list[str]) -> _Solved | None:
    """Solve and store one weight; None once some weight was damaged, when only the list of them matters.

    Rows go through all steps chunk by chunk: a chunk stays in the processor's cache from reading to packing.
    """
    value = p.target.read(scratch)
    known = expected_energy(job.graph, p.target) if job.solver.weighs_inputs else None
    statistics = None if known is None else Statistics(tokens=0, energy=known)
    parts: list[Packed] = []
    digests: list[str] = []
    total = error = 0.0
    for rows in _chunks(job, p):
        weight = p.target.rows(value, rows)
        total += energy(weight)
        if damaged or not total < float("inf"):
            continue
        q = job.solver.solve(weight, job.options.scheme, statistics, scale_type=p.target.scale_type)
        parts.append(pack(q, p.kernel.block_size))
        digests += fingerprints_of(q, p.kernel.block_size)
        error += squared_error(weight, q)
    if not total < float("inf"):
        damaged.append(p.target.weight.leaf.name)
    if damaged:
        return None
    report = replace(
        describe(p, job),
        relative_error=error / total if total else 0.0,
        bytes=sum(part.nbytes for part in parts),
        weighted="by a normalisation layer" if statistics else "",
    )
    return store(job.graph, p.target, parts, spool), report, join_digests(digests)


def _chunks(job: Job, p: Planned) -> Iterable[slice]:
    """Rows that may be solved apart from the others: all of them where one grid lies under the whole weight."""
    if job.options.scheme.block_size == "tensor":
        return [slice(0, p.target.n)]
    return row_chunks(p.target.n, p.target.k)


def _refuse_damaged(job: Job, damaged: list[str]) -> None:
    names = list(dict.fromkeys(damaged))
    if names:
        what = "1 weight" if len(names) == 1 else f"{len(names)} weights"
        raise ModelError(
            f"NaN or infinite values in {what} of '{job.graph.path}': {', '.join(map(repr, names))}. "
            "Export the model again, or leave their nodes out with --exclude."
        )
