"""From what was decided, done and measured to a report."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from onnxfq.benchmarking.latency import Latency
from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.providers import facts
from onnxfq.quantization.assign import Planned
from onnxfq.quantization.file_contents import expected_contents
from onnxfq.quantization.find import is_quantized
from onnxfq.quantization.job import Job
from onnxfq.quantization.mix_parts import find_parts
from onnxfq.quantization.validate import Validation
from onnxfq.reports.expectations import Estimate
from onnxfq.reports.measured import not_compared
from onnxfq.reports.report import Report, Size, SkipReport, TargetReport
from onnxfq.session import runtime_version
from onnxfq.solvers import USUAL_TOKENS, algorithm_text
from onnxfq.system.terminal import size_text
from onnxfq.version import VERSION

TOKENS_TIMES_WEIGHTS_PER_SECOND = 2e10  # of calibration: both streams and the moments
MADE_UP = (
    "No data were given: the comparison's inputs were made up. With `calib=FILE` of your own texts or arrays (or "
    '`calib="self"`) the model is calibrated, which makes the error several times smaller.'
)
UNSEEN = (
    "The comparison shows nothing: weights were changed and no output is, so that no quantized weight reaches an "
    "output with these inputs, such as a mask that hides everything. Give inputs that the model is used with: "
    "`calib=FILE`."
)


def comparison_notes(outputs: Sequence[OutputAccuracy]) -> Iterator[str]:
    """What could not be compared, and what was but tells little."""
    left_out = not_compared([output for output in outputs if output.reached])
    if left_out and any(output.is_compared for output in outputs):
        yield f"PARTLY COMPARED: nothing is known of {'; '.join(left_out)}."
    alike = [output for output in outputs if output.is_compared and output.is_float and output.is_alike]
    if alike:
        most = "the same" if not any(o.variation for o in alike) else "nearly the same"
        yield (
            f"ALIKE: outputs are {most} for all samples ({', '.join(output.name for output in alike)}). Relative MSE "
            "is the error in parts of what changes between samples, and so says little; cosine and KL are of what does "
            "not. Give inputs that differ as those do that the model will meet: `calib=FILE` or `eval_data=FILE`."
        )


def summarize(job: Job, output: Path | None, targets: Sequence[TargetReport], calibration: str = "") -> Report:
    """The report of a run, as far as it is known before anything is compared.

    Args:
        job: the model and what was decided.
        output: what was written, None where nothing was; then its contents are predicted.
        targets: what became, or would become, of each planned node.
        calibration: where the solver's data come from; "" where it had none.
    """
    size = _size(job, targets)
    return Report(
        source=str(job.graph.path),
        output=str(output) if output else None,
        scheme=job.scheme,
        algorithm=algorithm_text(job.solver),
        calibration=calibration,
        provider=job.provider,
        targets=tuple(targets),
        skipped=tuple(SkipReport.of(s) for s in job.skips),
        size=size,
        contents=() if output else expected_contents(job, size.output_bytes, targets),
        source_contents=tuple(job.contents),
        estimate=estimate(job),
        expected=job.forecast.expected(job.planned) if job.forecast else (),
        warnings=(*_plan_warnings(job), *(_comparison_warnings(job) if output else _mix_warnings(job))),
        onnxfq_version=VERSION,
        runtime_version=runtime_version(),
        settings=job.options.as_json(),
    )


def with_validation(report: Report, validation: Validation, job: Job) -> Report:
    """The report with what the comparison found."""
    found = replace(
        report,
        outputs=validation.outputs,
        in_sample=validation.in_sample,
        measured_on=validation.inputs.measured_on,
        latency=validation.latency,
        language=validation.language,
        inputs=validation.inputs.feeds.origin,
        warnings=(
            *report.warnings,
            *([validation.untimed] if validation.untimed else []),
            *comparison_notes(validation.outputs),
            *([MADE_UP] if validation.inputs.measured_on == "generated" else []),
            *speed_warnings(validation.latency),
        ),
    )
    if found.shows_nothing:
        found = replace(found, warnings=(UNSEEN, *found.warnings))
    return found.with_gates(job.options.gates)


def speed_warnings(latency: Sequence[Latency]) -> Iterator[str]:
    """Cases in which the output is clearly slower than the original, and what the times are where they are others."""
    slower = [f"{x.label}, {x.speedup_text}" for x in latency if x.verdict == "slower"]
    if slower:
        yield (
            f"Slower than the original in some cases ({'; '.join(slower)}). Which bits and block size are fastest "
            "depends on the processor and the model's sizes: `onnxfq benchmark` measures candidates side by side, and "
            "`min_speedup` makes speed a gate."
        )
    if any(x.clock == "processor" for x in latency):
        yield (
            "Other programs kept the processors busy: speed is told by the time for which one thread was on a "
            "processor. With all threads, on a quiet machine, times are shorter and speed-ups may differ."
        )


def expected_targets(job: Job) -> list[TargetReport]:
    """What will become of each planned node; a weight that several share counts once."""
    first: dict[Hashable, str] = {}
    reports = []
    for p in job.planned:
        report = target_report(p, job)
        shares = first.get(p.key)  # branches of an If may hold nodes of the same name
        first.setdefault(p.key, report.name)
        reports.append(report if shares is None else replace(report, bytes=0, shares=shares))
    return reports


def target_report(p: Planned, job: Job) -> TargetReport:
    """A planned node, its error not yet known."""
    target, kernel, scheme = p.target, p.kernel, p.scheme
    return TargetReport(
        name=target.name,
        op_type=target.node.op_type,
        n=target.n,
        k=target.k,
        bits=kernel.bits,
        block_size=kernel.block_size,
        granularity=scheme.block_size,
        algorithm=job.solver.name,
        relative_error=None,
        float_bytes=0 if p.copy else target.float_bytes,
        bytes=p.storage.nbytes(target.n, target.k, kernel),
        speed=job.forecast.word(p) if job.forecast else kernel.speed,
        operator=p.rule.operator or target.node.op_type,
        scheme=p.scheme_text,
    )


def predicted_bytes(job: Job) -> int:
    """Size of the output's files."""
    return _size(job, expected_targets(job)).output_bytes


def _size(job: Job, targets: Sequence[TargetReport]) -> Size:
    leaves = {p.target.weight.part: p.target.float_bytes for p in job.planned}
    source, before, after = job.graph.source_bytes, sum(leaves.values()), sum(t.bytes for t in targets)
    weights = sum(t.n * t.k for t in targets if not t.shares and t.float_bytes)  # copies are of the same weights
    return Size(source, max(1, source - before + job.kept_bytes + after), before, after, weights)


def estimate(job: Job, tokens: int | None = None) -> Estimate:
    """Sizes times speeds seen on two cores of a 2023 server; a GPU or more cores only shorten it.

    Args:
        job: the model and what was decided.
        tokens: that calibrate, once they are counted: then the time for running them is part of it.
    """
    weights = [p.target.n * p.target.k for p in job.planned]
    comparison = min(3 * job.graph.source_bytes, job.options.memory) if job.options.validate else 0
    memory = 200 * 2**20 + max(10 * max(weights, default=0), comparison)
    running = 0.0 if tokens is None else _runs(job) * tokens * _products(job) / TOKENS_TIMES_WEIGHTS_PER_SECOND
    return Estimate(_work(job, tokens or USUAL_TOKENS) / job.solver.weights_per_second + running + 2.0, memory)


def _runs(job: Job) -> int:
    """How many times a model is calibrated: the finest, in one scheme, and as a mix, where one is looked for."""
    return 1 if job.options.target_size is None else 3


def _products(job: Job) -> int:
    """Weights that each token is multiplied with."""
    return sum(p.target.n * p.target.k for p in job.planned if p.rule.kind == "weights")


def _work(job: Job, tokens: int) -> float:
    """How many weights are solved; of a mix all in every scheme, and the single scheme and the mix themselves."""
    once = _solved(job, job.planned, tokens)
    if job.options.target_size is None:
        return once
    _, forms = find_parts(job)
    return _runs(job) * once + sum(_solved(job, form.values(), tokens) for form in forms)


def _solved(job: Job, planned: Iterable[Planned], tokens: int) -> float:
    return sum(p.target.n * p.target.k * job.solver.work(p.scheme, p.target.n, p.target.k, tokens) for p in planned)


def _plan_warnings(job: Job) -> Iterator[str]:
    if job.forecast is not None and job.auto is None and (advice := job.forecast.advice(job.planned)):
        yield advice
    if job.forecast is not None and job.forecast.machine.provider != job.provider:
        made_for, here = job.forecast.machine.title, facts(job.provider).title
        yield f"Made for {made_for}, which is not here: verified, compared and timed on {here}."
    quantized = sum(s.quantized for s in job.skips)
    held = sum(content.bytes for content in job.contents if content.is_quantized)
    if not job.planned and is_quantized(job.skips, job.contents):
        yield "The model is already quantized: nothing was left to do."
    elif quantized:
        yield f"{quantized} nodes were already quantized and stay as they are."
    elif held:
        yield f"{size_text(held)} of the weights were already quantized and stay as they are."
    elif not job.planned:
        yield "Nothing to quantize."
    if job.kept_bytes:
        kept = size_text(job.kept_bytes)
        yield f"{kept} of the quantized weights stay in floating point too: nodes of other kinds read them."
    copies = _copies(job.planned)
    if copies:
        told = ", ".join(f"'{name}'" for name in copies[:3])
        yield (
            f"A weight that several nodes share is stored more than once (of {told}): they have different schemes. One "
            "scheme for all of them makes the file smaller."
        )
    stored = sum({p.target.key: p.target.n * p.target.k for p in job.planned if p.is_stored}.values())
    if stored:
        yield (
            f"{stored} weights are stored in few bits and become floats when the model is loaded (operators that stay "
            "what they are): that saves disk and download, not memory or time."
        )
    yield from _format_warnings(job.planned)
    if any(p.kernel.speed == "slow" for p in job.planned):
        yield "Some targets run slower than in floating point (`allow_slow=True`)."


def _format_warnings(planned: Sequence[Planned]) -> Iterator[str]:
    """What it costs that other nodes cannot read what is stored, and what other runtimes cannot read."""
    alone = [p for p in planned if not p.rule.shares]
    copies = [p for p in alone if p.copy]
    if copies:
        size = size_text(sum(p.storage.nbytes(p.target.n, p.target.k, p.kernel) for p in copies))
        yield (
            f"{len(copies)} nodes share their weight with others and have a copy of their own, {size} more: as "
            f"{copies[0].rule.operator}, ONNX Runtime makes a fast kernel only of weights that one node reads. The "
            "format matmulnbits stores each of them once."
        )
    if any(p.scheme.dual_grained for p in planned):
        yield (
            "The format dgq saves disk and download: its weights are int8 once loaded, and loading takes about as much "
            "memory as the float model. The format int8 takes less."
        )
    tables = [p for p in planned if p.rule.domain and p.rule.kind == "embeddings"]
    if alone and tables:
        yield (
            f"{tables[0].rule.operator} of embeddings ({len(tables)} nodes) is ONNX Runtime's operator, which other "
            'runtimes may not know: `embeddings="float"` leaves them as they are.'
        )


def _mix_warnings(job: Job) -> Iterator[str]:
    if job.options.target_size is not None and job.planned:
        yield (
            f"Bits are chosen weight by weight when the model is quantized (`target_size={job.options.target_size}`), "
            "by what each does to the outputs: what is shown here is a single scheme within that size."
        )


def _copies(planned: Sequence[Planned]) -> list[str]:
    """The first node of each weight that is stored in several forms."""
    forms: dict[Hashable, dict[Hashable, str]] = {}
    for p in planned:
        forms.setdefault(p.target.key, {}).setdefault(replace(p, copy=0).key, p.target.name)
    return [next(iter(names.values())) for names in forms.values() if len(names) > 1]


def _comparison_warnings(job: Job) -> Iterator[str]:
    if not job.options.validate:
        yield "NOT VALIDATED: the output was verified, but not compared with the original (`validate=False`)."
    elif job.options.workload is not None:
        yield (
            f"What was timed is the first sample, whatever the workload ({job.options.workload}) says: that chooses "
            "formats and tables. `onnxfq benchmark` times given lengths and batches."
        )
