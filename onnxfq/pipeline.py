"""The one way through: load → find → check → solve → rewrite → write → verify → validate → report."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Unpack

from onnxfq.calibration.checkpoint import Checkpoint
from onnxfq.executors.executor import HERE, Workers, opened
from onnxfq.graph import Graph, TensorFile, save
from onnxfq.model_files import MODEL_SUFFIX, is_folder, models_of
from onnxfq.options import Changes, Options, choose_options
from onnxfq.progress import Progress, silent
from onnxfq.quantization.calibrate import calibrated
from onnxfq.quantization.data import Data, prepare, refuse_unmeasurable
from onnxfq.quantization.find import find, plan, refuse_nothing, refuse_unmatched
from onnxfq.quantization.folder import copy_companions, expected_files, merge, refuse_overlap, together
from onnxfq.quantization.job import Job, kept_bytes
from onnxfq.quantization.resume import Work, find_work, working
from onnxfq.quantization.solve import solve
from onnxfq.quantization.summary import estimate, expected_targets, predicted_bytes, summarize, with_validation
from onnxfq.quantization.validate import validate
from onnxfq.quantization.verify import verify
from onnxfq.reports.report import Report
from onnxfq.session import resolve_provider
from onnxfq.solvers import describe as describe_solver
from onnxfq.solvers import make_solver
from onnxfq.system.allocator import keep_memory
from onnxfq.system.compiled import limited_threads
from onnxfq.system.output import (
    check_place,
    check_space,
    commit_files,
    commit_folder,
    refuse_losing,
    refuse_overwriting,
    staging,
)
from onnxfq.system.terminal import size_text
from onnxfq.version import VERSION

__all__ = ["Options", "inspect", "quantize"]

TELL_FROM_SECONDS = 10.0


def quantize(
    model: str | Path,
    output: str | Path | None = None,
    *,
    options: Options | None = None,
    progress: Progress | None = None,
    **changes: Unpack[Changes],
) -> Report:
    """Quantize a model, or every model of a folder, and prove the result.

    Args:
        model: an ONNX file, or a folder that holds some (such as an optimum export), whose other files are copied.
        output: the file or folder to write; by default beside the source, `model.int4.onnx` or `FOLDER-int4`.
        options: all settings at once.
        progress: called with (what, done, total) as work goes on; a total of 0 marks a remark, not a stage.
        **changes: single settings, by the names of `Options` and `Scheme` (`bits=4, block_size=128`, …).

    Returns:
        What was done and measured. Gates that fail do not raise: see `Report.require`.

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
    source, chosen = Path(model), choose_options(options, changes)
    target = default_output(source, chosen) if output is None else Path(output)
    folder = is_folder(source)
    check_place(target, folder=folder)
    keep_memory()
    with limited_threads(chosen.threads), opened(chosen.executor, threads=chosen.threads) as workers:
        work = _quantize_folder if folder else _quantize_file
        report = work(source, target, chosen, workers, progress or silent)
    return replace(report, seconds=perf_counter() - start)


def inspect(model: str | Path, *, options: Options | None = None, **changes: Unpack[Changes]) -> Report:
    """What `quantize` would do with a model or folder: targets, skips with reasons, predicted size. Writes nothing.

    Args:
        model: an ONNX file, or a folder that holds some.
        options: all settings at once.
        **changes: single settings, as for `quantize`.

    Raises:
        OnnxfqError: the model cannot be read, or the scheme does not suit it.
        TypeError: no such setting.

    Example:
        >>> report = onnxfq.inspect("model.onnx", bits=8, exclude="lm_head")
        >>> {target.bits for target in report.targets}
        {8}
    """
    source, chosen = Path(model), choose_options(options, changes)
    folder = is_folder(source)
    given = chosen.calib is not None or chosen.algorithm != "auto"  # data may still come
    jobs = _decide_all(source, models_of(source) if folder else [source], chosen, HERE, calibrated=given)
    reports = [summarize(job, None, expected_targets(job)) for job in jobs]
    return merge(source, None, reports, chosen) if folder else reports[0]


def default_output(source: Path, options: Options) -> Path:
    """`model.int4.onnx` beside `model.onnx`, `FOLDER-int4` beside `FOLDER`."""
    suffix = f"int{options.scheme.bits}"
    if is_folder(source):
        return source.resolve().with_name(f"{source.resolve().name}-{suffix}")
    return source.with_name(f"{source.stem}.{suffix}{MODEL_SUFFIX}")


def _quantize_file(source: Path, output: Path, options: Options, workers: Workers, progress: Progress) -> Report:
    (job,) = _decide_all(source, [source], options, workers, calibrated=options.calib is not None)
    refuse_overwriting(output, job.graph.files)
    _refuse_idle([job])
    refuse_unmeasurable(source, [job])
    work = find_work(job, output)
    with staging(output) as folder:
        _announce_cost([job], folder, progress)
        data = prepare(job, folder, progress)
        report = _make(job, folder / output.name, data, work, progress)
        job.graph.check_unchanged()
        commit_files(folder / output.name, output)
        _finish([work])
    return replace(report, output=str(output))


def _quantize_folder(source: Path, output: Path, options: Options, workers: Workers, progress: Progress) -> Report:
    refuse_overlap(source, output)
    jobs = _decide_all(source, models_of(source), options, workers, calibrated=options.calib is not None)
    files = [file for job in jobs for file in job.graph.files]
    refuse_overwriting(output, files)
    _refuse_idle(jobs)
    refuse_unmeasurable(source, jobs)
    works = [find_work(job, output, job.graph.path.stem) for job in jobs]
    with staging(output) as folder:
        result = folder / output.name
        left = copy_companions(source, result, files)
        ours = expected_files(result, [job.graph.path.name for job in jobs])
        refuse_losing(output, ours)
        _announce_cost(jobs, folder, progress)
        told = [_about(job, jobs, progress) for job in jobs]
        data = [prepare(job, folder, tell) for job, tell in zip(jobs, told, strict=True)]
        reports = [
            _make(job, result / job.graph.path.name, inputs, work, tell)
            for job, inputs, work, tell in zip(jobs, data, works, told, strict=True)
        ]
        for job in jobs:
            job.graph.check_unchanged()
        commit_folder(result, output, ours)
        _finish(works)
    return merge(source, output, reports, options, left)


def _decide_all(
    source: Path, models: Sequence[Path], options: Options, workers: Workers, *, calibrated: bool
) -> list[Job]:
    """The same for every model of a source, which --include and --exclude are about as a whole."""
    jobs = [_decide(path, options, workers, calibrated=calibrated) for path in models]
    names = [n for job in jobs for n in (*(p.target.name for p in job.planned), *(skip.name for skip in job.skips))]
    refuse_unmatched(source, [*options.include, *options.exclude], names)
    return jobs


def _decide(path: Path, options: Options, workers: Workers, *, calibrated: bool) -> Job:
    """Load, find, check: everything that can be refused without long work."""
    graph = Graph.load(path)
    provider = resolve_provider(options.provider)
    solver = make_solver(options.algorithm, calibrated=calibrated)
    targets, skips = find(graph, options.include, options.exclude)
    planned, slow = plan(targets, options.scheme, provider, allow_slow=options.allow_slow)
    return Job(graph, options, provider, solver, planned, [*skips, *slow], kept_bytes(graph, planned), workers)


def _refuse_idle(jobs: Sequence[Job]) -> None:
    """Refuse a source in which nothing is to be done; of several models, some may be left as they are."""
    if any(job.planned or any(skip.quantized for skip in job.skips) for job in jobs):
        return
    for job in jobs:
        refuse_nothing(job.graph, job.skips)


def _announce_cost(jobs: Sequence[Job], staged: Path, progress: Progress) -> None:
    """Refuse what cannot fit on the disk, and say what will take long."""
    check_space(staged, sum(predicted_bytes(job) for job in jobs))
    expected = together([estimate(job) for job in jobs])
    if expected.seconds > TELL_FROM_SECONDS:
        memory = size_text(expected.memory_bytes)
        progress(f"This will take about {expected.seconds:.0f} s and {memory} of memory.", 0, 0)


def _about(job: Job, jobs: Sequence[Job], progress: Progress) -> Progress:
    """Progress that says which of several models it is about."""
    if len(jobs) == 1:
        return progress
    return lambda what, done, total: progress(f"{job.graph.path.name}: {what}", done, total)


def _make(job: Job, staged: Path, data: Data, work: Work | None, progress: Progress) -> Report:
    """Calibrate, solve, rewrite, write, verify, validate, report: all on staged files."""
    source_hash = _in_background(job.graph.source_hash)
    with working(work, job, data.calibration, source_hash, progress) as finished:
        return _make_with(finished, job, staged, data, source_hash, progress)


def _make_with(
    finished: Checkpoint | None, job: Job, staged: Path, data: Data, source_hash: Future[str], progress: Progress
) -> Report:
    with TensorFile(staged.with_name(staged.name + ".tensors")) as tensor_file:
        notes: list[str] = []
        if data.calibration is not None and finished is not None:
            with calibrated(job, data.calibration, finished) as calibration:
                targets, meant = solve(job, tensor_file, progress, calibration)
                notes = calibration.notes(targets)
        else:
            targets, meant = solve(job, tensor_file, progress)
        if targets:
            job.graph.set_metadata(_provenance(job, source_hash))
        progress("writing", 0, 1)
        files = save(job.graph, staged, tensor_file)
    progress("verifying", 0, 1)
    kernels_run = verify(staged, meant, job.provider)
    report = summarize(job, staged, targets, data.origin)
    size = replace(report.size, output_bytes=sum(file.stat().st_size for file in files))
    report = replace(report, size=size, kernels_run=kernels_run, warnings=(*report.warnings, *notes))
    if data.comparison is None:
        return report
    progress("comparing with the original", 0, 1)
    return with_validation(report, validate(job.graph, staged, data.comparison, progress), job)


def _finish(works: Iterable[Work | None]) -> None:
    for work in works:
        if work is not None:
            work.finish()


def _provenance(job: Job, source_hash: Future[str]) -> dict[str, str]:
    return {
        "onnxfq.version": VERSION,
        "onnxfq.scheme": str(job.options.scheme),
        "onnxfq.algorithm": describe_solver(job.solver),
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
