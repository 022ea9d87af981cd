"""Putting solved weights into a graph: it knows no solver, and a rule alone knows how a node is replaced."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from onnxfq.arrays import Float64Array
from onnxfq.errors import ModelError
from onnxfq.graph import TensorFile
from onnxfq.quantization.assign import Planned
from onnxfq.quantization.expected import Expected
from onnxfq.quantization.job import Job
from onnxfq.quantization.solved_weight import SolvedWeight
from onnxfq.quantization.summary import target_report
from onnxfq.reports.report import TargetReport
from onnxfq.rules import Bias, Tensors, WrittenWeight, shift_bias

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    """A stored weight, for the next target that shares it."""

    names: Mapping[str, str]
    report: TargetReport
    digest: str


class Rewriting:
    """A graph on its way to the quantized one: each solved weight is stored and its node replaced.

    Args:
        job: the model and what was decided; its graph is changed.
        tensor_file: takes the new tensors.
    """

    def __init__(self, job: Job, tensor_file: TensorFile) -> None:
        self._job, self._tensor_file = job, tensor_file
        self._known: dict[object, _Known] = {}
        self._waiting: dict[int, dict[int, WrittenWeight]] = {}  # of nodes some of whose weights are not solved yet
        self._weights = _by_node(job.planned)
        self._reports: dict[int, TargetReport] = {}
        self._expected: dict[int, Expected] = {}
        self._damaged: dict[str, None] = {}

    def missing(self, indices: Iterable[int]) -> dict[int, Planned]:
        """The targets, by position, whose weight is not that of one that is stored or comes before it."""
        seen, missing = set(self._known), dict[int, Planned]()
        for index in indices:
            planned = self._job.planned[index]
            if planned.key not in seen:
                missing[index] = planned
            seen.add(planned.key)
        return missing

    def apply(
        self,
        index: int,
        solved: SolvedWeight | None,
        bias: Bias | None = None,
        shift: Float64Array | None = None,
        *,
        folded: bool = False,
    ) -> None:
        """Store a target's weight, or share it with an earlier target's, and replace the node.

        Args:
            index: of the target.
            solved: the weight; None where it is damaged, or stored already.
            bias: behind the target, where there is one that may be changed.
            shift: [N], what to add to it; None where nothing is.
            folded: what the inputs are divided by is part of what computes them.
        """
        planned = self._job.planned[index]
        known = self._known.get(planned.key)
        if solved is None and known is None:
            self._damaged[planned.target.weight.leaf.name] = None
        if self._damaged:
            return
        report = _shared(known, planned) if known else None
        if solved is not None:
            report = _report(target_report(planned, self._job), solved)
            known = self._known[planned.key] = _Known(self._store(planned, solved.parts), report, solved.digest)
        if known is None or report is None:
            return
        scale = None if solved is None or folded else solved.input_scale
        self._replace(planned, known.names, bias, shift, scale)
        self._reports[index] = report
        _LOGGER.debug("%s", _line(report))
        self._expected[index] = Expected.of(planned, known.names, known.digest)

    def refuse_damaged(self, names: Iterable[str] = ()) -> None:
        """Refuse to go on with weights that are not finite.

        Args:
            names: of more such weights.

        Raises:
            ModelError: there are some; all of them are named.
        """
        self._damaged |= dict.fromkeys(names)
        damaged = list(self._damaged)
        if damaged:
            what = "1 weight" if len(damaged) == 1 else f"{len(damaged)} weights"
            raise ModelError(
                f"NaN or infinite values in {what} of '{self._job.graph.path}': {', '.join(map(repr, damaged))}. "
                "Export the model again, or leave their nodes out with `exclude=NAME`."
            )

    def finish(self, output_errors: Mapping[int, float]) -> tuple[list[TargetReport], list[Expected]]:
        """Carry out all changes of the graph.

        Args:
            output_errors: of targets whose output was measured in calibration, relative.

        Returns:
            What became of each target, and what its node must hold in the written file.

        Raises:
            ModelError: weights that are not finite, all of them listed.
        """
        self.refuse_damaged()
        self._job.graph.finish()
        order = sorted(self._reports)
        reports = [replace(self._reports[i], output_error=output_errors.get(i)) for i in order]
        return reports, [self._expected[i] for i in order]

    def _store(self, planned: Planned, parts: Sequence[Tensors]) -> dict[str, str]:
        """Add a weight's tensors beside the float one, under names like its own."""
        stored_as, graph = planned.target.stored_as, self._job.graph
        home = stored_as.home if planned.storage.shares else planned.target.node.body
        stored = planned.storage.written(parts, planned.kernel, planned.target.k)
        suffixes = dict(zip(stored, (f"Q{planned.kernel.bits}", *list(stored)[1:]), strict=True))
        return {
            name: graph.add_tensor(home, f"{stored_as.leaf.name}_{suffix}", self._tensor_file, *stored[name])
            for name, suffix in suffixes.items()
        }

    def _replace(
        self,
        planned: Planned,
        names: Mapping[str, str],
        bias: Bias | None,
        shift: Float64Array | None,
        input_scale: Float64Array | None,
    ) -> None:
        """Replace a node once all of its weights are stored, and shift the bias behind it."""
        target, graph = planned.target, self._job.graph
        own = bias is not None and shift is not None and bias.node.proto is target.node.proto
        stored = WrittenWeight(target, planned.kernel, names, shift if own else None, input_scale)
        node = id(target.node.proto)
        waiting = self._waiting.setdefault(node, {})
        waiting[target.slot] = stored
        if len(waiting) == self._weights[node]:
            planned.rule.rewrite(graph, [waiting[slot] for slot in sorted(waiting)], self._tensor_file)
        if bias is not None and shift is not None and not own:
            shift_bias(graph, bias, shift, self._tensor_file)


def _by_node(planned: Sequence[Planned]) -> dict[int, int]:
    """How many weights each node has."""
    counts: dict[int, int] = {}
    for p in planned:
        node = id(p.target.node.proto)
        counts[node] = counts.get(node, 0) + 1
    return counts


def _shared(known: _Known, planned: Planned) -> TargetReport:
    target = planned.target
    return replace(
        known.report,
        name=target.name,
        op_type=target.node.op_type,
        operator=planned.rule.operator or target.node.op_type,
        bytes=0,
        shares=known.report.name,
    )


def _line(report: TargetReport) -> str:
    """A target as it was solved, for the log."""
    what = f"{report.name}: {report.n} x {report.k}, {report.bits} bits, block {report.block_size}"
    if report.shares:
        return f"{what}, the weight of {report.shares}"
    error = "" if report.relative_error is None else f", relative error of the weights {report.relative_error:.4g}"
    tokens = f", {report.tokens} tokens" if report.tokens else ""
    return "; ".join([f"{what}, {report.algorithm}{tokens}{error}", *report.remarks])


def _report(planned: TargetReport, solved: SolvedWeight) -> TargetReport:
    return replace(
        planned,
        relative_error=solved.error / solved.sum_squares if solved.sum_squares else 0.0,
        algorithm=solved.algorithm,
        weighted=solved.weighted,
        tokens=solved.tokens,
        weights=(solved.min, solved.max),
        activations=solved.activations,
        remarks=solved.remarks,
    )
