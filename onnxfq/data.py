"""The data of a run: what calibrates the model, and what it is compared with the original on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnxfq.feeds import Feeds, generate_own, given_feeds, load_feeds
from onnxfq.job import Job, Progress
from onnxfq.session import Session
from onnxfq.streaming import Runtime
from onnxfq.validate import GENERATED_SAMPLES, Comparison, prepare_comparison, prepare_inputs


@dataclass(frozen=True, slots=True)
class Data:
    """What a model is fed with.

    Attributes:
        calibration: samples for the solver; None where it needs none.
        comparison: what the output is compared on; None where there will be none.
    """

    calibration: Feeds | None
    comparison: Comparison | None

    @property
    def origin(self) -> str:
        """Where the calibration data come from; "" where there are none."""
        return self.calibration.origin if self.calibration is not None else ""


def prepare(job: Job, folder: Path, progress: Progress) -> Data:
    """Read or make up the data, and try them on the original.

    Args:
        job: the model and what was decided.
        folder: takes what does not fit in memory.
        progress: told about every step.

    Raises:
        DataError: they cannot be read, do not fit the model, or cannot be made up.
        ModelError: the original does not load or run.
    """
    options, needed = job.options, bool(job.solver.needs) and bool(job.planned)
    feeds = _feeds(job, progress) if needed or options.validate else None
    comparison = None
    if options.validate:
        progress("checking the original", 0, 1)
        shown = feeds[:GENERATED_SAMPLES] if feeds is not None and feeds.is_generated else feeds
        inputs = prepare_inputs(
            job.graph.signature, shown, samples=options.samples, seq_len=options.seq_len, seed=options.seed
        )
        runtime = Runtime(job.provider, job.threads, options.memory, folder)
        comparison = prepare_comparison(job.graph, inputs, runtime, progress)
    return Data(feeds if needed else None, comparison)


def _feeds(job: Job, progress: Progress) -> Feeds | None:
    """The data that the user named; None where none are."""
    options, signature = job.options, job.graph.signature
    if options.calib is None:
        return None
    tokenizer = job.graph.path.parent if options.tokenizer is None else Path(options.tokenizer)
    if not isinstance(options.calib, str | Path):
        return given_feeds(options.calib, signature, samples=options.samples)
    if options.calibrates_itself:
        if not job.solver.needs:
            return None
        return generate_own(
            Session(job.graph.path, provider=job.provider, threads=job.threads),
            signature,
            samples=options.samples,
            seq_len=options.seq_len,
            seed=options.seed,
            progress=progress,
            tokenizer=tokenizer,
        )
    progress("reading data", 0, 1)
    return load_feeds(
        Path(options.calib), signature, tokenizer=tokenizer, samples=options.samples, seq_len=options.seq_len
    )
