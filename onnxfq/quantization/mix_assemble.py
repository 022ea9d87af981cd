"""Models put together from weights that a trial has solved: nothing is run or solved for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from onnxfq.graph import TensorFile, save
from onnxfq.quantization.apply import Rewriting
from onnxfq.quantization.job import Job
from onnxfq.quantization.mix_trial import AS_PLANNED, MixTrial
from onnxfq.rules import bias_of


def assemble(job: Job, trial: MixTrial, numbers: Mapping[int, int], place: Path) -> list[Path]:
    """Write a model of weights that were solved.

    Args:
        job: planned anew, in these forms.
        trial: the weights.
        numbers: of the forms that targets have, by position; others are as the trial's run has them.
        place: the file.

    Returns:
        The files written.
    """
    nodes, own = list(job.graph.nodes()), trial.own
    with TensorFile(place.with_name(place.name + ".tensors")) as tensor_file:
        rewriting = Rewriting(job, tensor_file)
        for index in sorted(range(len(job.planned)), key=lambda i: i not in own):  # those that share a weight come last
            solved, known = trial.solved(index, numbers.get(index, AS_PLANNED)), trial.bias(index)
            bias = shift = None
            if known is not None:
                bias, shift = bias_of(job.graph, nodes[known[0]]), known[1]
            if solved is not None and solved.shift is not None:
                shift = solved.shift
            rewriting.apply(index, solved, bias, shift)
        rewriting.finish({})
        return save(job.graph, place, tensor_file, job.options.data_suffix)
