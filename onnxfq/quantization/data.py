"""The data of a run: what calibrates the model, and what it is compared with the original on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxfq.calibration.pieces import Runtime
from onnxfq.errors import UsageError
from onnxfq.feeds import Feeds, generate_self, given_feeds, load_feeds
from onnxfq.feeds.model_kind import find_language_output
from onnxfq.graph import loaded_bytes
from onnxfq.metrics.output_error import has_logits
from onnxfq.metrics.perplexity_text import PerplexityText, given_perplexity_text, read_perplexity_text
from onnxfq.progress import Progress
from onnxfq.providers import facts
from onnxfq.quantization.job import Job
from onnxfq.quantization.validate import GENERATED_SAMPLES, Comparison, prepare_comparison, prepare_inputs
from onnxfq.session import Session
from onnxfq.system.terminal import size_text


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
    options, needed = job.options, bool(job.solver.calibrated) and bool(job.planned)
    feeds = _feeds(job, progress) if needed or options.validate else None
    comparison = None
    if options.validate:
        progress("checking the original", 0, 1)
        shown = feeds[:GENERATED_SAMPLES] if feeds is not None and feeds.is_generated else feeds
        inputs = prepare_inputs(
            job.graph.signature,
            shown,
            samples=options.samples,
            seq_len=options.seq_len,
            seed=options.seed,
            passages=_passages(job, shown) if options.wants_perplexity else None,
        )
        runtime = Runtime(job.provider, job.threads, options.memory, folder)
        comparison = prepare_comparison(job.graph, inputs, runtime, progress, calibrated=needed)
    return Data(feeds if needed else None, comparison)


def refuse_unmeasurable(source: Path, jobs: Sequence[Job]) -> None:
    """Refuse limits on figures that no model of a source has.

    Raises:
        UsageError: with every such limit.
    """
    options, signatures = jobs[0].options, [job.graph.signature for job in jobs]
    idle = []
    if options.max_kl is not None and not any(has_logits(signature) for signature in signatures):
        idle.append("`max_kl` needs a floating-point output named logits or scores")
    if options.wants_perplexity and not any(find_language_output(signature) for signature in signatures):
        idle.append("the perplexity needs a language model, with an output logits [batch, tokens, vocabulary]")
    if idle:
        names = ", ".join(dict.fromkeys(spec.name for signature in signatures for spec in signature.outputs))
        raise UsageError(f"'{source}' does not have what these limits need: {'; '.join(idle)} (got outputs {names}).")


def _passages(job: Job, feeds: Feeds | None) -> PerplexityText | None:
    """Texts for the perplexity: those named for it, else the samples; None for a model that is no language model.

    Raises:
        UsageError: there are neither.
    """
    options, signature = job.options, job.graph.signature
    if options.eval_text is not None:
        return read_perplexity_text(
            Path(options.eval_text),
            signature,
            tokenizer=_tokenizer(job),
            samples=options.samples,
            seq_len=options.seq_len,
        )
    if feeds is None:
        raise UsageError(
            "`max_ppl_increase` needs text, and this algorithm takes no calibration data. "
            "Give it with `eval_text=FILE`."
        )
    return given_perplexity_text(feeds, signature)


def _tokenizer(job: Job) -> Path:
    return job.graph.path.parent if job.options.tokenizer is None else Path(job.options.tokenizer)


def _refuse_large(job: Job) -> None:
    """A model that writes its own data runs as a whole, again and again.

    Raises:
        UsageError: it takes more memory than it is given.
    """
    wanted, given = loaded_bytes(job.graph, widens=facts(job.provider).widens_half), job.options.memory
    if wanted > given:
        raise UsageError(
            f"`calib=\"self\"` runs '{job.graph.path}' as a whole, which takes about {size_text(wanted)} of memory "
            f"(got `memory={size_text(given)}`). Give data with `calib=FILE`, which needs no more than that, or a "
            "larger `memory`."
        )


def _feeds(job: Job, progress: Progress) -> Feeds | None:
    """The data that the user named; None where none are."""
    options, signature = job.options, job.graph.signature
    if options.calib is None:
        return None
    tokenizer = _tokenizer(job)
    if not isinstance(options.calib, str | Path):
        return given_feeds(options.calib, signature, samples=options.samples)
    if options.calibrates_itself:
        if not job.solver.calibrated:
            return None
        _refuse_large(job)
        return generate_self(
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
