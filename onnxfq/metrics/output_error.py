"""How far a model's outputs are from another's, summed up feed by feed: no output is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from onnxfq.arrays import Array
from onnxfq.errors import DataError, ModelError
from onnxfq.feeds import Feed, Feeds
from onnxfq.metrics.metric import Metric
from onnxfq.metrics.running_sums import EqualSums, FloatSums
from onnxfq.session import NOT_ARRAYS, Session
from onnxfq.signature import Signature, TensorSpec

LOGITS_WORDS = ("logits", "scores")


@dataclass(frozen=True, slots=True)
class OutputAccuracy:
    """One output of the candidate against the reference's, over all feeds. All values are safe to write as JSON.

    None stands for a value that does not apply, or that is not finite; `note` then says why.

    Attributes:
        name: of the output.
        dtype: element type in the reference.
        elements: how many elements of the reference were compared.
        relative_mse: Σ(y−y₀)² / Σ(y₀−mean y₀)², the mean per feature (last axis) over all rows and feeds. Where every
            row is the same, and so this denominator 0, the mean is taken over all elements; where all elements are
            the same, the error is 0 if the candidate's are equal and otherwise infinite (None).
        cosine: mean over rows of the cosine between y and y₀ along the last axis.
        max_abs: largest |y−y₀|.
        kl: of outputs that are logits, mean over rows of KL(reference ‖ candidate) in nats, softmax over the last axis.
        top1: of outputs that are logits, the fraction of rows with the same largest element.
        equal: of outputs that are not floating-point, the fraction of equal elements.
        nonfinite: elements that are NaN or infinite in one model and different in the other.
        shared_nonfinite: elements that are NaN in both, or the same infinity; left out of all other values.
        note: what to know about these values; None where there is nothing.
        samples: how many feeds they come from, without those for which the reference gave no elements; 0: not known.
    """

    name: str
    dtype: str
    elements: int = 0
    relative_mse: float | None = None
    cosine: float | None = None
    max_abs: float | None = None
    kl: float | None = None
    top1: float | None = None
    equal: float | None = None
    nonfinite: int = 0
    shared_nonfinite: int = 0
    note: str | None = None
    samples: int = 0

    @property
    def is_float(self) -> bool:
        """Whether the elements are floating-point numbers."""
        return self.dtype.startswith(("float", "bfloat"))

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing to compare: the reference gave no elements."""
        return self.elements == 0


def has_logits(signature: Signature) -> bool:
    """Whether KL can be measured: an output holds logits, as its name says."""
    return any(_are_logits(spec.name) and OutputAccuracy(spec.name, spec.dtype).is_float for spec in signature.outputs)


def _are_logits(name: str) -> bool:
    return any(word in name.lower() for word in LOGITS_WORDS)


def compare(reference: Session, candidate: Session, feeds: Iterable[Feed]) -> list[OutputAccuracy]:
    """Run both models on the same feeds and compare every output of the reference.

    Raises:
        DataError: no feeds, or the models cannot run on them.
        ModelError: a model does not run.
    """
    return compare_outputs(reference.signature().outputs, run_both(reference, candidate, feeds))


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
    specs: Iterable[TensorSpec], pairs: Iterable[tuple[Mapping[str, Array], Mapping[str, Array]]]
) -> list[OutputAccuracy]:
    """Compare every output of the reference.

    Args:
        specs: the reference's outputs.
        pairs: for each sample what the reference gave, and what the candidate gave, by name.

    Raises:
        DataError: no samples.
    """
    outputs = [_Output(spec) for spec in specs]
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


def no_inputs(error: Exception, tried: int = 0) -> DataError:
    """That inputs which were made up do not suit a model, and the remedy.

    Args:
        error: what it said.
        tried: how many inputs of other sizes were made up.
    """
    sizes = f" (nor of {tried} other sizes)" if tried else ""
    return DataError(
        f"The original model does not run on made-up inputs{sizes}, so that nothing can be compared: {error} "
        "Give inputs that suit it with `calib=FILE`, or skip the comparison with `validate=False`."
    )


class _Output:
    """What has been seen of one output."""

    def __init__(self, spec: TensorSpec) -> None:
        self.name = spec.name
        self.blank = OutputAccuracy(spec.name, spec.dtype)
        self.sums = FloatSums(logits=_are_logits(spec.name)) if self.blank.is_float else EqualSums()
        self.seen = self.samples = 0
        self.trouble: str | None = None

    def add(self, expected: Array | None, got: Array | None) -> None:
        """Add one run; None where the model gave no array."""
        if expected is None:
            return
        self.seen += expected.size
        self.samples += expected.size > 0
        if got is None:
            self.trouble = "the candidate has no such output"
        elif got.shape != expected.shape:
            self.trouble = f"shapes differ: {list(expected.shape)} in the reference, {list(got.shape)} in the candidate"
        else:
            self.sums.add(expected, got)

    def result(self) -> OutputAccuracy:
        """The errors; none but counts where outputs could not be compared."""
        result = replace(self.blank, elements=self.seen, samples=self.samples)
        if result.dtype in NOT_ARRAYS:
            return replace(result, note="not compared: it is no array")
        if not self.seen:
            return replace(result, note="not compared: it has no elements")
        if self.trouble:
            return replace(result, note=self.trouble)
        if isinstance(self.sums, EqualSums):
            return replace(result, equal=self.sums.equal / self.seen)
        return _float_result(result, self.sums)


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


def worst_metrics(outputs: Iterable[OutputAccuracy], samples: int | None = None) -> list[Metric]:
    """Each metric of the floating outputs where it is worst, with the output's name as its note.

    A value that one output should have and has not, because something in it is not finite, is worse than any number.

    Args:
        outputs: what `compare` found.
        samples: how many samples that were, where that is known.
    """
    floats = [output for output in outputs if output.is_float and not output.is_empty]
    broken = next((output for output in floats if output.relative_mse is None), None)
    if broken is not None:
        return [Metric(name, None, samples=samples, note=f"{broken.name}: {broken.note}") for name in WORST]
    metrics = []
    for name, worst in WORST.items():
        known = [(value, output.name) for output in floats if (value := getattr(output, name)) is not None]
        if known:
            value, output_name = worst(known)
            metrics.append(Metric(name, value, samples=samples, note=f"of {output_name}"))
    return metrics


WORST: dict[str, Callable[[list[tuple[float, str]]], tuple[float, str]]] = {
    "relative_mse": max,
    "cosine": min,
    "kl": max,
    "top1": min,
}
