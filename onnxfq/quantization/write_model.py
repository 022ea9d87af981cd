"""Solve, rewrite, write and verify: from what was decided about a model to a file that holds what was meant."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from onnxfq.calibration.checkpoint import Checkpoint
from onnxfq.graph import TensorFile, save
from onnxfq.progress import Progress
from onnxfq.quantization.data import Data
from onnxfq.quantization.file_contents import contents
from onnxfq.quantization.job import Job
from onnxfq.quantization.solve_weights import solve_and_rewrite
from onnxfq.quantization.summary import summarize
from onnxfq.quantization.transformers_folder import fix_cache_sizes
from onnxfq.quantization.verify import verify
from onnxfq.reports.report import Report
from onnxfq.solvers import algorithm_text
from onnxfq.transformers_js import is_transformers_js
from onnxfq.version import VERSION


def write_model(
    job: Job, place: Path, data: Data, checkpoint: Checkpoint | None, source_hash: Future[str], progress: Progress
) -> Report:
    """Make the quantized file of a model, and prove that it holds what it should.

    Args:
        job: the model and what was decided; its graph is changed.
        place: the file.
        data: what calibrates it.
        checkpoint: finished stages; None where there are no data.
        source_hash: of the model.
        progress: told about every step.

    Returns:
        The report, with nothing compared yet.
    """
    with TensorFile(place.with_name(place.name + ".tensors")) as tensor_file:
        targets, expected, notes = solve_and_rewrite(job, data.calibration, checkpoint, tensor_file, progress)
        if targets:
            job.graph.set_metadata(_provenance(job, source_hash))
        if is_transformers_js(job.options.layout):
            fix_cache_sizes(job)
        progress("writing", 0, 1)
        files = save(job.graph, place, tensor_file, job.options.data_suffix)
    progress("verifying", 0, 1)
    kernels_run = verify(place, expected, job.provider)
    report = summarize(job, place, targets, data.origin)
    size = replace(report.size, output_bytes=sum(file.stat().st_size for file in files))
    report = replace(report, size=size, contents=contents(job.graph, size.output_bytes), kernels_run=kernels_run)
    return replace(report, warnings=(*report.warnings, *data.notes, *notes))


def _provenance(job: Job, source_hash: Future[str]) -> dict[str, str]:
    return {
        "onnxfq.version": VERSION,
        "onnxfq.scheme": job.scheme,
        "onnxfq.algorithm": algorithm_text(job.solver),
        "onnxfq.source_blake3": source_hash.result(),
    }
