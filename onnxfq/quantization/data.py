"""The data of a run: what calibrates the model, and what it is compared with the original on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxfq.errors import DataError, UsageError
from onnxfq.feeds import (
    ENOUGH_SAMPLES,
    ENOUGH_TOKENS,
    MOST_SAMPLES,
    MOST_TOKENS,
    OTHER_SAMPLES,
    Feeds,
    count_tokens,
    count_within,
    generate_self,
    given_feeds,
    halves,
    hold_out,
    load_feeds,
    with_held_out,
    without_copies,
)
from onnxfq.feeds.configurations import TOKENIZER, settings_folder
from onnxfq.feeds.model_kind import find_language_output
from onnxfq.graph import reached_outputs
from onnxfq.metrics.output_error import has_logits
from onnxfq.metrics.perplexity_text import PerplexityText, given_perplexity_text, read_perplexity_text
from onnxfq.progress import Progress
from onnxfq.quantization.comparison import (
    GENERATED_SAMPLES,
    Comparison,
    prepare_comparison,
    prepare_inputs,
    telling_remedy,
)
from onnxfq.quantization.job import Job
from onnxfq.quantization.original import Original
from onnxfq.system.terminal import size_text

MOST_CHOOSING = 32  # samples that a mix is chosen by
NOT_COMPARED = "NOT COMPARED: the output was verified, but there is nothing to compare it with the original on."


@dataclass(frozen=True, slots=True)
class Data:
    """What a model is fed with.

    Attributes:
        calibration: samples for the solver; None where it needs none.
        comparison: what the output is compared on; None where there will be none.
        notes: what the user should know of them.
        choosing: what a mix of bits is chosen by, other samples than `comparison`; None where none is chosen.
    """

    calibration: Feeds | None
    comparison: Comparison | None
    notes: tuple[str, ...] = ()
    choosing: Comparison | None = None

    @property
    def origin(self) -> str:
        """Where the calibration data come from; "" where there are none."""
        return self.calibration.origin if self.calibration is not None else ""


def prepare(job: Job, folder: Path, progress: Progress) -> Data:
    """Read or make up the data, hold some back from calibration, and try them on the original.

    Args:
        job: the model and what was decided.
        folder: takes what does not fit in memory.
        progress: told about every step.

    Raises:
        DataError: they cannot be read, do not fit the model, or cannot be made up.
        ModelError: the original does not load or run.
    """
    options, needed = job.options, bool(job.solver.calibrated) and bool(job.planned)
    original = Original(job, folder, progress)
    judged = _judged(job)
    mixes = options.target_size is not None
    # Whatever the algorithm: all are judged on the same samples.
    holds_back = options.validate and (judged is None or mixes)
    feeds = _feeds(job, original, holds_back=holds_back, progress=progress) if needed or holds_back else None
    notes = list(dict.fromkeys(note for part in (feeds, judged) if part is not None for note in part.notes))
    held_out: Feeds | None = None
    if feeds is not None and holds_back:
        count = _calibrating(job, feeds, progress)
        feeds, held_out = hold_out(feeds[: with_held_out(count, _parts(job))], count)
    choosing: Feeds | None = None
    if held_out is not None and mixes:
        choosing, held_out = halves(held_out) if judged is None else (held_out, None)
    if feeds is not None and needed:
        judged, held_out = (None if part is None else _unseen(part, feeds) for part in (judged, held_out))
    calibration, comparison = feeds if needed else None, None
    if options.validate:
        progress("checking the original", 0, 1)
        chosen = judged or held_out or feeds
        try:
            comparison = _prepare_comparison(job, original, calibration, chosen, progress)
        except DataError as error:
            if chosen is not None or mixes:
                raise
            notes.append(f"{NOT_COMPARED} {error}")
    if comparison is not None:
        notes += comparison.notes
    notes += original.notes
    chosen_by = _prepare_choosing(job, original, choosing or feeds, progress) if mixes else None
    return Data(calibration, comparison, (*notes, *_notes(job, calibration, held_out, comparison)), chosen_by)


def _prepare_choosing(job: Job, original: Original, feeds: Feeds | None, progress: Progress) -> Comparison:
    """Try the original on what a mix of bits is chosen by: samples held back, else those that calibrate.

    Where all are made up, they are others than those that the result is judged on.
    """
    kept = None if feeds is None else feeds[:MOST_CHOOSING]
    seed = job.options.seed + 1
    inputs = prepare_inputs(original, kept, "held-out", samples=job.options.samples or OTHER_SAMPLES, seed=seed)
    comparison = prepare_comparison(original, inputs, progress)
    return replace(comparison, reached=reached_outputs(job.graph, [p.target.node for p in job.planned]))


def _parts(job: Job) -> int:
    """How many parts are held back: one to judge the result on; one to choose a mix of bits by, where there is one."""
    return 1 if job.options.target_size is None else 2


def _calibrating(job: Job, feeds: Feeds, progress: Progress) -> int:
    """How many samples calibrate at most: as many as were asked for, else as their tokens allow."""
    if job.options.samples is not None or feeds.is_generated:
        return job.options.samples or OTHER_SAMPLES
    count = count_within(feeds, job.graph.signature)
    if count < min(len(feeds), MOST_SAMPLES):
        progress(f"calibrating with {count} samples, about {MOST_TOKENS} tokens; `samples` takes more", 0, 0)
    return count


def _unseen(judged: Feeds, calibration: Feeds) -> Feeds | None:
    """Those of some samples that do not calibrate too; None where most do."""
    fresh = without_copies(judged, calibration)
    return fresh if len(fresh) > len(judged) // 2 else None


def _prepare_comparison(
    job: Job, original: Original, calibration: Feeds | None, judged: Feeds | None, progress: Progress
) -> Comparison:
    """Try the original on what the output will be compared on."""
    options = job.options
    in_sample = calibration is not None and judged is calibration
    if judged is not None and judged.is_generated:
        judged = judged[:GENERATED_SAMPLES]
    beside = None if in_sample or calibration is None or judged is None else calibration[: len(judged)]
    passages = _passages(job, judged) if options.wants_perplexity else None
    with telling_remedy(calibrated=calibration is not None):
        inputs = prepare_inputs(
            original,
            judged,
            "in-sample" if in_sample else "held-out",
            samples=options.samples or OTHER_SAMPLES,
            seed=options.seed,
            in_sample=beside,
            passages=passages,
        )
        comparison = prepare_comparison(original, inputs, progress)
    return replace(comparison, reached=reached_outputs(job.graph, [p.target.node for p in job.planned]))


def _judged(job: Job) -> Feeds | None:
    """What the user named for the comparison; None where that are samples of `calib`, or made up."""
    options, signature = job.options, job.graph.signature
    if not options.validate:
        return None
    if options.eval_data is None:
        passages = _eval_text(job) if options.eval_text is not None else None
        return None if passages is None else passages.feeds
    tokenizer, samples, seq_len = _tokenizer(job), options.samples or OTHER_SAMPLES, options.seq_len
    if not isinstance(options.eval_data, str | Path):
        given = options.eval_data
        return given_feeds(
            given, signature, samples=samples, what="eval_data", tokenizer=tokenizer, seq_len=seq_len
        )  # fmt: skip
    return load_feeds(Path(options.eval_data), signature, tokenizer=tokenizer, samples=samples, seq_len=seq_len)


def _notes(job: Job, calibration: Feeds | None, held_out: Feeds | None, comparison: Comparison | None) -> Iterator[str]:
    """That calibration had few data, and that figures are of the very samples that it was fitted to."""
    if calibration is None:
        return
    parts = [part for part in (calibration, held_out) if part is not None]
    samples, counts = sum(map(len, parts)), [count_tokens(part, job.graph.signature) for part in parts]
    tokens = None if None in counts else sum(count or 0 for count in counts)
    few = list(_few(samples, tokens))
    if few:
        held = f", {len(held_out)} samples of it held back" if held_out else ""
        yield (
            f"FEW DATA: `calib` gave {' and '.join(few)}{held}. {_more_data(job, calibration)}: the error becomes "
            "smaller, and its figure surer."
        )
    if comparison is not None and comparison.inputs.measured_on == "in-sample":
        yield (
            "IN-SAMPLE: the errors were measured on the very samples that calibration was fitted to, where they are "
            f"several times smaller than on others. Of {ENOUGH_SAMPLES} different samples or more some are held back; "
            "`eval_data=FILE` names others."
        )


def _few(samples: int, tokens: int | None) -> Iterator[str]:
    """What there is too little of, and how much is wanted."""
    if samples < ENOUGH_SAMPLES:
        yield f"{samples} sample{'' if samples == 1 else 's'} (wanted: {ENOUGH_SAMPLES} or more)"
    if tokens is not None and tokens < ENOUGH_TOKENS:
        yield f"{tokens} token{'' if tokens == 1 else 's'} in all (wanted: {ENOUGH_TOKENS} or more)"


def _more_data(job: Job, calibration: Feeds) -> str:
    """How there come to be more."""
    limit = job.options.samples
    larger = "" if limit is None or len(calibration) < limit else f"a larger `samples` (got {limit})"
    if calibration.is_generated:
        return f"Set {larger or 'a longer `seq_len`'}, or give data of the kind that the model will meet"
    return f"Give more, of the kind that the model will meet{f', and {larger}' if larger else ''}"


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
    if options.eval_text is not None and options.eval_data is not None:
        return _eval_text(job)
    if feeds is None and options.eval_text is not None:
        return None  # it is no language model
    if feeds is None:
        raise UsageError(
            "`max_ppl_increase` needs text, and this algorithm takes no calibration data. "
            "Give it with `eval_text=FILE`."
        )
    return given_perplexity_text(feeds, signature)


def _eval_text(job: Job) -> PerplexityText | None:
    """The text that the user named for the perplexity; None for a model that is no language model."""
    options = job.options
    return read_perplexity_text(
        Path(str(options.eval_text)),
        job.graph.signature,
        tokenizer=_tokenizer(job),
        samples=options.samples or OTHER_SAMPLES,
        seq_len=options.seq_len,
    )


def _tokenizer(job: Job) -> Path:
    given = job.options.tokenizer
    return settings_folder(job.graph.path, TOKENIZER) if given is None else Path(given)


def _refuse_large(job: Job, original: Original) -> None:
    """A model that writes its own data runs as a whole, again and again.

    Raises:
        UsageError: it takes more memory than it is given.
    """
    wanted, given = original.loaded, job.options.memory
    if not original.fits_memory:
        raise UsageError(
            f"`calib=\"self\"` runs '{job.graph.path}' as a whole, which takes about {size_text(wanted)} of memory "
            f"(got `memory={size_text(given)}`). Give data with `calib=FILE`, which needs no more than that, or a "
            "larger `memory`."
        )


def _feeds(job: Job, original: Original, *, holds_back: bool, progress: Progress) -> Feeds | None:
    """The data that the user named, with some more to hold back where there are; None where none are named."""
    options = job.options
    parts = _parts(job)
    if options.calib is None:
        return None
    samples, tokens = options.samples or MOST_SAMPLES, None if options.samples else MOST_TOKENS
    if holds_back:
        more = with_held_out(OTHER_SAMPLES, parts) / OTHER_SAMPLES
        samples, tokens = with_held_out(samples, parts), tokens and int(tokens * more)
    tokenizer = _tokenizer(job)
    if not isinstance(options.calib, str | Path):
        given, signature = options.calib, job.graph.signature
        return given_feeds(
            given, signature, samples=samples, tokenizer=tokenizer, seq_len=options.seq_len, tokens=tokens
        )
    if options.calibrates_itself:
        if not job.solver.calibrated:
            return None
        _refuse_large(job, original)
        original.fit(original.longest)
        return generate_self(
            original.session,
            job.graph.signature,
            samples=original.affordable(
                (options.samples or OTHER_SAMPLES) + (parts * GENERATED_SAMPLES if holds_back else 0)
            ),
            seq_len=original.longest,
            seed=options.seed,
            progress=progress,
            tokenizer=None if options.tokenizer is None else tokenizer,
            encoder=original.encoder,
        )
    progress("reading data", 0, 1)
    path, signature = Path(options.calib), job.graph.signature
    return load_feeds(path, signature, tokenizer=tokenizer, samples=samples, seq_len=options.seq_len, tokens=tokens)
