"""What a run costs, told and refused before long work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxfq.feeds import Feeds, size_in_tokens
from onnxfq.progress import Progress
from onnxfq.quantization.folder import together
from onnxfq.quantization.job import Job
from onnxfq.quantization.mix_limits import bytes_tried
from onnxfq.quantization.summary import estimate, predicted_bytes
from onnxfq.system.output import check_space
from onnxfq.system.terminal import size_text

TELL_FROM_SECONDS = 10.0


def refuse_full_disk(jobs: Sequence[Job], staged: Path) -> None:
    """Refuse what cannot fit on the disk.

    Raises:
        OutputError: it has too little space.
    """
    beside = max((_beside(job) for job in jobs), default=0)  # of one model at a time
    check_space(staged, sum(predicted_bytes(job) for job in jobs) + beside)


def announce_cost(jobs: Sequence[Job], calibration: Sequence[Feeds | None], progress: Progress) -> None:
    """Say what will take long.

    Args:
        jobs: the models and what was decided.
        calibration: the samples of each; None where the solver needs none.
        progress: told about it.
    """
    tokens = [
        None if feeds is None else size_in_tokens(feeds, job.graph.signature)
        for job, feeds in zip(jobs, calibration, strict=True)
    ]
    expected = together([estimate(job, count) for job, count in zip(jobs, tokens, strict=True)])
    if expected.seconds > TELL_FROM_SECONDS:
        what = "Calibrating and solving" if any(tokens) else "Solving"
        memory = size_text(expected.memory_bytes)
        progress(f"{what} alone will take about {expected.seconds:.0f} s, and {memory} of memory.", 0, 0)


def _beside(job: Job) -> int:
    """Bytes of files that are there for a while: all that a mix is chosen from, or the model made without data."""
    compared = predicted_bytes(job) if job.solver.calibrated and job.options.validate else 0
    return max(bytes_tried(job), compared)
