"""Solve and rewrite, one target after another: each is packed, stored and forgotten before the next is read."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from onnxfq.errors import ModelError
from onnxfq.find import Planned
from onnxfq.graph import Constant, Spool
from onnxfq.job import Job, Progress
from onnxfq.packing import pack
from onnxfq.quantized import energy, squared_error
from onnxfq.report import TargetReport
from onnxfq.rules import Stored, rewrite, store
from onnxfq.summary import describe
from onnxfq.verify import Meant, fingerprint_of

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
    for index, p in enumerate(job.planned):
        progress("solving", index, len(job.planned))
        solved = _known(done, p) or _solve_one(job, p, spool, damaged)
        if solved is None:
            continue
        stored, report, digest = done.setdefault((p.target.key, p.kernel), solved)
        abandoned += rewrite(job.graph, p.target, stored, p.kernel, spool)
        reports.append(solved[1])
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


def _solve_one(job: Job, p: Planned, spool: Spool, damaged: list[str]) -> _Solved | None:
    """Solve and store one weight; None once some weight was damaged, when only the list of them matters."""
    weight = p.target.load()
    total = energy(weight)
    if not total < float("inf"):
        damaged.append(p.target.weight.leaf.name)
    if damaged:
        return None
    q = job.solver.solve(weight, job.options.scheme, None, scale_type=p.target.scale_type)
    packed = pack(q, p.kernel.block_size)
    error = squared_error(weight, q) / total if total else 0.0
    report = replace(describe(p, job), relative_error=error, bytes=packed.nbytes)
    return store(job.graph, p.target, packed, spool), report, fingerprint_of(q, p.kernel.block_size)


def _refuse_damaged(job: Job, damaged: list[str]) -> None:
    names = list(dict.fromkeys(damaged))
    if names:
        what = "1 weight" if len(names) == 1 else f"{len(names)} weights"
        raise ModelError(
            f"NaN or infinite values in {what} of '{job.graph.path}': {', '.join(map(repr, names))}. "
            "Export the model again, or leave their nodes out with --exclude."
        )
