"""How far a model's outputs are from another's, summed up feed by feed: no output is kept."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from onnxfq.arrays import Array
from onnxfq.errors import DataError, ModelError
from onnxfq.feeds import Feed, Feeds
from onnxfq.metrics.likeness import Likeness
from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.metrics.running_sums import EqualSums, FloatSums
from onnxfq.metrics.worst_outputs import LOGITS_WORDS
from onnxfq.session import NOT_ARRAYS, Session
from onnxfq.signature import Dimension, Signature, TensorSpec


def has_logits(signature: Signature) -> bool:
    """Whether KL can be measured: an output holds logits, as its name says."""
    return any(are_logits(spec.name) and OutputAccuracy(spec.name, spec.dtype).is_float for spec in signature.outputs)


def are_logits(name: str) -> bool:
    """Whether an output holds logits, as its name says."""
    return any(word in name.lower() for word in LOGITS_WORDS)


def compare(
    reference: Session, candidate: Session, feeds: Iterable[Feed], reached: Collection[str] | None = None
) -> list[OutputAccuracy]:
    """Run both models on the same feeds and compare every output of the reference.

    Args:
        reference: the model before.
        candidate: the model after.
        feeds: what to run them on.
        reached: outputs that a quantized weight reaches; None where that is not known.

    Raises:
        DataError: no feeds, or the models cannot run on them.
        ModelError: a model does not run.
    """
    return compare_outputs(reference.signature().outputs, run_both(reference, candidate, feeds), reached)


def run_both(
    reference: Session, candidate: Session, feeds: Iterable[Feed], outputs: Sequence[str] | None = None
) -> Iterator[tuple[Mapping[str, Array], Mapping[str, Array]]]:
    """What both models give for each feed, reference first.

    Args:
        reference: the model before.
        candidate: the model after.
        feeds: what to run them on.
        outputs: those that are wanted, of both; None for all of the reference's.

    Raises:
        DataError: the models cannot run on them.
        ModelError: a model does not run.
    """
    generated = isinstance(feeds, Feeds) and feeds.is_generated
    if outputs is not None:
        return ((reference.run(feed, outputs), candidate.run(feed, outputs)) for feed in feeds)
    shared = _shared_outputs(reference, candidate)
    return ((run_reference(reference, feed, generated=generated), candidate.run(feed, shared)) for feed in feeds)


def compare_outputs(
    specs: Iterable[TensorSpec],
    pairs: Iterable[tuple[Mapping[str, Array], Mapping[str, Array]]],
    reached: Collection[str] | None = None,
) -> list[OutputAccuracy]:
    """Compare every output of the reference.

    Args:
        specs: the reference's outputs.
        pairs: for each sample what the reference gave, and what the candidate gave, by name.
        reached: outputs that a quantized weight reaches; None where that is not known.

    Raises:
        DataError: no samples.
    """
    outputs = [_Output(spec, reached=reached is None or spec.name in reached) for spec in specs]
    count = 0
    for expected, got in pairs:
        for output in outputs:
            output.add(expected.get(output.name), got.get(output.name))
        count += 1
    if not count:
        raise DataError("There is nothing to compare the models on (got 0 samples). Give at least one.")
    return [output.result() for output in outputs]


def _shared_outputs(reference: Session, candidate: Session) -> list[str]:
    wanted = {spec.name for spec in reference.signature().outputs}
    return [s.name for s in candidate.signature().outputs if s.name in wanted and s.dtype not in NOT_ARRAYS]


def run_reference(reference: Session, feed: Feed, *, generated: bool) -> dict[str, Array]:
    """Run the reference once; where made-up inputs do not suit it, say what to do about that.

    Raises:
        DataError: it does not run on the feed.
        ModelError: it does not run, and the feed was not made up.
    """
    try:
        return reference.run(feed)
    except (DataError, ModelError) as error:
        if not generated:
            raise
        raise no_inputs(error) from error


def no_inputs(error: Exception, tried: int = 0, *, timed_out: bool = False) -> DataError:
    """That inputs which were made up do not suit a model, and the remedy.

    Args:
        error: what it said.
        tried: how many inputs of other sizes were made up.
        timed_out: more would have been, had there been time.
    """
    ended = ", when the time for that was over: a faster machine may find some" if timed_out else ""
    sizes = f" (nor of {tried} other sizes{ended})" if tried or timed_out else ""
    return DataError(
        f"The original model does not run on made-up inputs{sizes}, so that nothing can be compared: {error} "
        "Give inputs that suit it with `calib=FILE`, or skip the comparison with `validate=False`."
    )


class _Output:
    """What has been seen of one output."""

    def __init__(self, spec: TensorSpec, *, reached: bool) -> None:
        self.name, self.shape = spec.name, spec.shape
        self.blank = OutputAccuracy(spec.name, spec.dtype, reached=reached)
        self.sums = FloatSums(logits=are_logits(spec.name)) if self.blank.is_float else EqualSums()
        self.likeness = Likeness()
        self.seen = self.samples = self.unmatched = 0
        self.trouble: str | None = None

    def add(self, expected: Array | None, got: Array | None) -> None:
        """Add one run; None where the model gave no array."""
        if expected is None:
            return
        self.seen += expected.size
        self.samples += expected.size > 0
        self.likeness.add(expected)
        if got is None:
            self.trouble = "the candidate has no such output"
        elif got.shape == expected.shape:
            self.sums.add(expected, got)
        else:
            differ = f"{list(expected.shape)} in the reference, {list(got.shape)} in the candidate"
            if follows_from_values(self.shape, expected.shape, got.shape):
                self.unmatched += 1
                self.seen += got.size if not expected.size else 0  # rows that are found in one model only
                self.trouble = self.trouble or f"not compared: its length follows from the values ({differ}"
            else:
                self.trouble = f"shapes differ: {differ}"

    def result(self) -> OutputAccuracy:
        """The errors; none but counts where outputs could not be compared."""
        result = replace(
            self.blank, elements=self.seen, samples=self.samples, unmatched=self.unmatched,
            variation=self.likeness.variation,
        )  # fmt: skip
        if result.dtype in NOT_ARRAYS:
            return replace(result, note=f"not compared: it is {_CONTAINERS[result.dtype]}, and no array")
        if not self.seen:
            return replace(result, note="not compared: it has no elements")
        if self.trouble:
            part = f", in {self.unmatched} of the samples)" if self.trouble.startswith("not compared") else ""
            return replace(result, note=self.trouble + part)
        if isinstance(self.sums, EqualSums):
            return _with_notes(replace(result, equal=self.sums.equal / self.seen))
        return _with_notes(_float_result(result, self.sums))


_CONTAINERS = {"sequence": "a sequence", "optional": "an optional value", "map": "a map", "sparse": "a sparse tensor"}


def follows_from_values(wanted: Sequence[Dimension] | None, first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether two shapes of one output differ only along axes that the model leaves open.

    For equal inputs these have the same length, unless it follows from values, as that of what is found or written.

    Args:
        wanted: the output's shape as the model says it.
        first: that of one model's.
        second: that of the other's.
    """
    if len(first) != len(second) or (wanted is not None and len(wanted) != len(first)):
        return False
    return not any(
        isinstance(size, int) for size, a, b in zip(wanted or [None] * len(first), first, second, strict=True) if a != b
    )


def _with_notes(result: OutputAccuracy) -> OutputAccuracy:
    """With what makes the figures say little or nothing."""
    notes = [result.note] if result.note else []
    if not result.reached:
        notes.append("no quantized weight reaches it")
    elif result.is_alike and result.variation == 0.0:
        notes.append("alike: it is the same for all samples")
    elif result.is_alike:
        notes.append(f"alike: from sample to sample it changes by {result.variation:.1g} of its size")
    return replace(result, note="; ".join(notes) or None)


def _float_result(result: OutputAccuracy, sums: FloatSums) -> OutputAccuracy:
    result = replace(result, nonfinite=sums.nonfinite, shared_nonfinite=sums.shared_nonfinite)
    if sums.nonfinite:
        return replace(result, note=f"{sums.nonfinite} elements are NaN or infinite in only one of the models")
    if sums.shared_nonfinite == sums.elements:
        return replace(result, note="no element is finite in either model")
    spread = sums.spread.total()
    return replace(
        result,
        relative_mse=_relative(sums.squared, spread),
        cosine=_mean(sums.cosines, sums.rows),
        max_abs=_finite(sums.max_abs),
        kl=_mean(sums.divergence, sums.distributions),
        top1=_mean(sums.same_top, sums.distributions),
        note=_note(sums, spread),
    )


def _relative(squared: float, spread: float) -> float | None:
    if squared == 0.0:
        return 0.0
    return _finite(squared / spread) if spread != 0.0 and math.isfinite(spread) else None


def _note(sums: FloatSums, spread: float) -> str | None:
    if sums.squared != 0.0 and spread == 0.0:
        return "the reference is constant and the candidate differs: the relative error is infinite"
    if sums.squared != 0.0 and not (math.isfinite(sums.squared) and math.isfinite(spread)):
        return "the values are too large for sums of their squares"
    if sums.spread.widths_differ:
        return "the last axis varies in length: the error is relative to the variance about the mean of all elements"
    if sums.shared_nonfinite:
        return f"{sums.shared_nonfinite} elements, NaN or infinite alike in both models, are left out"
    return None


def _mean(total: float, count: int) -> float | None:
    return _finite(total / count) if count else None


def _finite(value: float) -> float | None:
    """None in place of NaN and infinity, which JSON cannot hold."""
    return value if math.isfinite(value) else None
