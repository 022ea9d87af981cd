"""Whether weights that are stored small stay so: decided by what they alone do to the outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from onnxfq.graph import TensorFile, reached_outputs, save
from onnxfq.options import AUTO, FLOAT
from onnxfq.progress import Progress, silent
from onnxfq.quantization.comparison import Comparison
from onnxfq.quantization.data import Data
from onnxfq.quantization.job import Job
from onnxfq.quantization.plan import plan_again
from onnxfq.quantization.solve_weights import solve_and_rewrite
from onnxfq.quantization.validate import judge

LARGEST_OUTPUT_ERROR = 0.005  # relative MSE, up to which weights are stored small without being asked for


def settle_others(job: Job, data: Data, place: Path, progress: Progress) -> tuple[Job, Data]:
    """Leave weights in float, by the setting "auto", that change an output too much when they alone are stored small.

    Only data tell that: on made-up inputs a detector finds nothing, and its outputs, all next to 0, change by multiples
    of what they vary by. Without data, and for models that are compared piece by piece, the error of the weights
    decides.

    Args:
        job: the model and what was decided.
        data: what it is compared on.
        place: a file to try it with; nothing stays of it.
        progress: told about it.

    Returns:
        Both, as they are from now on.
    """
    comparison = data.comparison
    if job.options.others != AUTO or comparison is None or not _others(job).planned:
        return job, data
    if comparison.original is not None or comparison.inputs.measured_on == "generated":
        return job, data
    progress("trying weights that are stored small", 0, 1)
    error = _error(plan_again(job, job.options), comparison, place)
    if error <= LARGEST_OUTPUT_ERROR:
        return job, data
    note = (
        "Weights that would be stored in 8 bits stay in float: alone they change an output by a relative MSE of "
        f"{error:.2g} (more than {LARGEST_OUTPUT_ERROR}). `others=stored8` stores them all the same."
    )
    left = plan_again(job, replace(job.options, others=FLOAT))
    reached = reached_outputs(left.graph, [p.target.node for p in left.planned])
    return left, replace(data, comparison=replace(comparison, reached=reached), notes=(*data.notes, note))


def _others(job: Job) -> Job:
    """The same with nothing planned but weights that are stored small."""
    return replace(job, planned=[p for p in job.planned if p.is_stored])


def _error(job: Job, comparison: Comparison, place: Path) -> float:
    """The largest relative MSE of an output when nothing but such weights is changed."""
    place.parent.mkdir(exist_ok=True)
    with TensorFile(place.with_name(place.name + ".tensors")) as tensor_file:
        solve_and_rewrite(_others(job), None, None, tensor_file, silent)
        files = save(job.graph, place, tensor_file)
    outputs = judge(job.graph, place, comparison, silent)
    for file in files:
        file.unlink()
    known = (o.relative_mse for o in outputs if o.is_float and not o.is_alike)  # how many boxes there are tells nothing
    return max((error for error in known if error is not None), default=0.0)
