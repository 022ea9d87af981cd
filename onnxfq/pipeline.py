"""The way through: load → find → check → calibrate → solve → rewrite → write → verify → tune → validate → report."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Unpack

from onnxfq.calibration.checkpoint import Checkpoint
from onnxfq.calibration.pieces import Runtime
from onnxfq.errors import UsageError
from onnxfq.executors.executor import HERE, Workers, opened
from onnxfq.graph import IN_MEMORY, AnyModel, TensorFile, model_name, on_disk, save
from onnxfq.model_files import makes_folder, output_of
from onnxfq.option_changes import Changes, choose_options
from onnxfq.options import Options
from onnxfq.progress import Progress
from onnxfq.quantization.announce_cost import announce_cost, refuse_full_disk
from onnxfq.quantization.comparison import Comparison
from onnxfq.quantization.data import Data, prepare, refuse_unmeasurable
from onnxfq.quantization.file_contents import contents
from onnxfq.quantization.folder import merge
from onnxfq.quantization.job import Job
from onnxfq.quantization.keep_better import compare_errors, take_files
from onnxfq.quantization.mix_limits import with_limits, within_limit
from onnxfq.quantization.plan import is_idle, plan, plan_with_data, plan_without_data
from onnxfq.quantization.resume import Work, find_work, working
from onnxfq.quantization.settle_mix import settle_mix
from onnxfq.quantization.settle_others import settle_others
from onnxfq.quantization.solve_weights import solve_and_rewrite
from onnxfq.quantization.source import Source
from onnxfq.quantization.summary import expected_targets, summarize, with_validation
from onnxfq.quantization.transformers_folder import fix_cache_sizes
from onnxfq.quantization.tune_written import Written, is_about_tuning, refuse_untunable, tune_written
from onnxfq.quantization.validate import judge, validate
from onnxfq.quantization.verify import verify
from onnxfq.reports.report import Report
from onnxfq.solvers import AUTO, algorithm_text
from onnxfq.system.allocator import keep_memory
from onnxfq.system.following import following
from onnxfq.system.loop_cache import announced
from onnxfq.system.output import check_place, parent_made, staging
from onnxfq.system.threads import limited_threads
from onnxfq.transformers_js import is_transformers_js
from onnxfq.version import VERSION

__all__ = ["Options", "inspect", "quantize"]

_WITHOUT_DATA = "without-data"  # in the staging folder


def quantize(
    model: AnyModel,
    output: str | Path | None = None,
    *,
    options: Options | None = None,
    progress: Progress | bool | None = None,
    **changes: Unpack[Changes],
) -> Report:
    """Quantize a model, or every model of a folder, and prove the result.

    Args:
        model: an ONNX file, or a folder that holds some (such as an optimum export), whose other files are copied; or
            an `onnx.ModelProto` with all its tensors.
        output: the file or folder to write; by default beside the source, `model.int4.onnx` or `FOLDER-int4`. For a
            single file, a folder that is there, or a name with a slash behind it, is where it is written.
        options: all settings at once.
        progress: True shows a bar on stderr; or a function, called with (what, done, total) as work goes on; a total
            of 0 marks a remark, not a stage.
        **changes: single settings, by the names of `Options` and `Scheme` (`bits=4, block_size=128`, …).

    Returns:
        What was done and measured. Gates that fail do not raise: see `Report.require`. A model that is quantized
        already is left as it is, nothing is written, and `output` is None.

    Raises:
        OnnxfqError: with what is wrong and what to do about it; then nothing was written, or the message says that
            the output is complete and something else failed.
        TypeError: no such setting.

    Example:
        >>> report = onnxfq.quantize("model.onnx", "small.onnx", block_size=128, max_error=0.9)
        >>> report.require(max_kl=0.5).size.ratio < 0.75
        True
    """
    start = perf_counter()
    chosen = choose_options(options, changes)
    if output is None and model_name(model) == IN_MEMORY:
        raise UsageError("A model in memory has no place of its own. Name the file to write with `output=PATH`.")
    with on_disk(model) as path, following(progress) as tell:
        source = Source.of(path, chosen.layout)
        bits = None if chosen.target_size is not None else chosen.scheme.bits
        target = output_of(source.path, output, bits, chosen.layout)
        check_place(target, folder=source.writes_folder)
        keep_memory()
        with (
            parent_made(target) if makes_folder(source.path, output, chosen.layout) else nullcontext(),
            limited_threads(chosen.threads),
            opened(chosen.executor, threads=chosen.threads) as workers,
            announced(lambda: tell("compiling loops for this processor, once: some seconds", 0, 0)),
        ):
            report = _quantize(source, target, chosen, workers, tell)
    return replace(_named(report, model), seconds=perf_counter() - start)


def inspect(
    model: AnyModel,
    *,
    options: Options | None = None,
    progress: Progress | bool | None = None,
    **changes: Unpack[Changes],
) -> Report:
    """What `quantize` would do with a model or folder: targets, skips with reasons, predicted size. Writes nothing.

    Args:
        model: an ONNX file, or a folder that holds some; or an `onnx.ModelProto`.
        options: all settings at once.
        progress: as for `quantize`.
        **changes: single settings, as for `quantize`.

    Raises:
        OnnxfqError: the model cannot be read, or the scheme does not suit it.
        TypeError: no such setting.

    Example:
        >>> report = onnxfq.inspect("model.onnx", bits=8, exclude="lm_head")
        >>> {target.bits for target in report.targets}
        {8}
    """
    chosen = choose_options(options, changes)
    given = chosen.calib is not None or chosen.algorithm != AUTO  # data may still come
    with on_disk(model) as path, following(progress) as tell:
        tell("reading", 0, 1)
        source = Source.of(path, chosen.layout)
        jobs = with_limits(plan(source, chosen, HERE, calibrated=given))
        refuse_untunable(jobs)
        report = _expected(source, [within_limit(job) for job in jobs], chosen)
    return _named(report, model)


def _named(report: Report, model: AnyModel) -> Report:
    return replace(report, source=IN_MEMORY) if model_name(model) == IN_MEMORY else report


def _expected(source: Source, jobs: Sequence[Job], options: Options) -> Report:
    """What will become of models, or what is left to do for them."""
    reports = [summarize(job, None, expected_targets(job)) for job in jobs]
    return merge(source.path, None, reports, options) if source.is_folder else reports[0]


def _quantize(source: Source, output: Path, options: Options, workers: Workers, progress: Progress) -> Report:
    """Quantize every model of a source: all is staged, and appears at once."""
    jobs = with_limits(plan(source, options, workers, calibrated=options.calib is not None))
    files = [file for job in jobs for file in job.graph.files]
    source.refuse_output(output, files)
    if is_idle(jobs):
        return _expected(source, jobs, options)
    refuse_unmeasurable(source.path, jobs)
    refuse_untunable(jobs)
    works = [find_work(job, output, job.graph.path.stem if source.is_folder else "") for job in jobs]
    with staging(output) as folder:
        staged = source.stage(folder / output.name, output, jobs)
        refuse_full_disk(jobs, folder)
        told = [_about(job, jobs, progress) for job in jobs]
        data = [prepare(job, folder, tell) for job, tell in zip(jobs, told, strict=True)]
        jobs = [plan_with_data(job, inputs.calibration, folder) for job, inputs in zip(jobs, data, strict=True)]
        announce_cost(jobs, [inputs.calibration for inputs in data], progress)
        reports = [
            _quantize_model(job, staged.file(job.graph.path), folder / _WITHOUT_DATA, inputs, work, tell)
            for job, inputs, work, tell in zip(jobs, data, works, told, strict=True)
        ]
        for job in jobs:
            job.graph.check_unchanged()
        notes = staged.notes()
        staged.commit()
        for work in filter(None, works):
            work.finish()
    if source.writes_folder:
        merged = merge(source.path, output, reports, options, staged.left)
        return replace(merged, warnings=(*merged.warnings, *notes))
    return replace(reports[0], output=str(output))


def _quantize_model(job: Job, staged: Path, aside: Path, data: Data, work: Work | None, progress: Progress) -> Report:
    """One model through all steps, on staged files; whoever is interrupted in one of them can resume the work."""
    job, data = settle_others(job, data, aside / staged.name, progress)
    source_hash = _in_background(job.graph.source_hash)
    if data.choosing is not None and job.planned:
        made = settle_mix(job, data, staged, partial(_write, source_hash=source_hash), progress)
        return _compared(made.job, staged, aside, data, made.report, source_hash, progress)
    with working(work, job, data.calibration, source_hash, progress) as checkpoint:
        written = _write(job, staged, data, checkpoint, source_hash, progress)
        return _compared(job, staged, aside, data, written, source_hash, progress)


def _compared(
    job: Job,
    staged: Path,
    aside: Path,
    data: Data,
    written: Report,
    source_hash: Future[str],
    progress: Progress,
) -> Report:
    """The report with what the comparison found; where calibration did not help, of the model made without data."""
    if data.comparison is None:
        return written.with_gates(job.options.gates)
    progress("comparing with the original", 0, 1)
    try:
        report = with_validation(written, validate(job.graph, staged, data.comparison, progress), job)
        if data.calibration is None or not report.targets:
            return report
        # Those of calibration hold for the inputs, whichever file is kept; those of tuning for this one.
        notes = [note for note in written.warnings if not is_about_tuning(note)]
        return _keep_better(job, staged, aside, data.comparison, report, notes, source_hash, progress)
    finally:
        data.comparison.close()


def _write(
    job: Job, staged: Path, data: Data, checkpoint: Checkpoint | None, source_hash: Future[str], progress: Progress
) -> Report:
    """Solve, rewrite, write and verify one model."""
    with TensorFile(staged.with_name(staged.name + ".tensors")) as tensor_file:
        targets, expected, notes = solve_and_rewrite(job, data.calibration, checkpoint, tensor_file, progress)
        if targets:
            job.graph.set_metadata(_provenance(job, source_hash))
        if is_transformers_js(job.options.layout):
            fix_cache_sizes(job)
        progress("writing", 0, 1)
        files = save(job.graph, staged, tensor_file, job.options.data_suffix)
    progress("verifying", 0, 1)
    kernels_run = verify(staged, expected, job.provider)
    if job.options.tune and data.calibration is not None and expected:
        runtime = Runtime(job.provider, job.threads, job.options.memory, staged.parent)
        found = tune_written(job, staged, data.calibration, Written(targets, expected, notes), runtime, progress)
        targets, notes = found.targets, found.notes
    report = summarize(job, staged, targets, data.origin)
    size = replace(report.size, output_bytes=sum(file.stat().st_size for file in files))
    report = replace(report, size=size, contents=contents(job.graph, size.output_bytes), kernels_run=kernels_run)
    return replace(report, warnings=(*report.warnings, *data.notes, *notes))


def _keep_better(
    job: Job,
    staged: Path,
    aside: Path,
    comparison: Comparison,
    report: Report,
    notes: Sequence[str],
    source_hash: Future[str],
    progress: Progress,
) -> Report:
    """Make the model without data too, and keep that where calibration did not bring it nearer to the original."""
    rival, other = plan_without_data(job), aside / staged.name
    aside.mkdir(exist_ok=True)

    def told(what: str, done: int, total: int) -> None:
        progress(f"without data, to compare: {what}", done, total)

    uncalibrated = _write(rival, other, Data(None, None), None, source_hash, told)
    judgement = compare_errors(report.outputs, judge(job.graph, other, comparison, told))
    keep = judgement is not None and not judgement.calibration_helped and job.options.algorithm == AUTO
    note = () if judgement is None else (judgement.note(report, kept=keep),)
    if keep:
        take_files(other, staged, job.options.data_suffix)
        uncalibrated = replace(uncalibrated, warnings=tuple(notes), settings=report.settings, mixes=report.mixes)
        found = replace(validate(job.graph, staged, comparison, progress), in_sample=())
        report = with_validation(uncalibrated, found, job)
    shutil.rmtree(aside)
    return replace(report, warnings=(*report.warnings, *note))


def _about(job: Job, jobs: Sequence[Job], progress: Progress) -> Progress:
    """Progress that says which of several models it is about."""
    if len(jobs) == 1:
        return progress
    return lambda what, done, total: progress(f"{job.graph.path.name}: {what}", done, total)


def _provenance(job: Job, source_hash: Future[str]) -> dict[str, str]:
    return {
        "onnxfq.version": VERSION,
        "onnxfq.scheme": job.scheme,
        "onnxfq.algorithm": algorithm_text(job.solver),
        "onnxfq.source_blake3": source_hash.result(),
    }


def _in_background(work: Callable[[], str]) -> Future[str]:
    """Start some work in a thread that nobody has to wait for when the run is given up."""
    future: Future[str] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001 - whoever asks for the result gets it
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
