"""Running a segment on some of the samples: here, in order, or a shard of them in another process.

samples → [segment] → what later segments want, errors of outputs, chunks of the stage's statistics
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from onnxfq.arrays import Array
from onnxfq.calibration.lost_texts import lost_texts, without_texts
from onnxfq.calibration.side_by_side import in_order, runs_at_once
from onnxfq.calibration.statistics_session import Chunk, Gram
from onnxfq.errors import DataError
from onnxfq.executors.serialization import dump, load, load_once, serializable
from onnxfq.graph import QUANTIZED_SUFFIX, Submodel
from onnxfq.held_tokens import HeldTokens
from onnxfq.int8_rows import round_to_int8
from onnxfq.providers import ProviderName
from onnxfq.session import Session

SHARD_TOKENS = 2048  # about so many make a shard: a chunk of the statistics
_BATCH_RANK = 3  # dimensions of a batch of matrices
_HELD_ROWS = 128  # tokens of a held-back sample that are kept, at most
_AT_ONCE = 1 << 18  # elements compared at once: they stay in the processor's cache

Squares = tuple[float, float]  # of an error and of what it is relative to
# Of a sample: values by name, masks, whether held back, how many texts it is.
Known = tuple[Mapping[str, Array], Sequence[Array], bool, int]

serializable(Submodel)
serializable(HeldTokens)


@serializable
@dataclass(frozen=True, slots=True)
class Measured:
    """A stage's inputs, of which statistics are wanted.

    Attributes:
        names: of the value in the original, and in the quantized model where it differs.
        transposed: it is [K, tokens], or [..., K, tokens].
        rounded_in: columns that share a scale where the stage's kernels round their input to int8; None otherwise.
        k: columns (rows where transposed) that the stage's weights want.
        part: where it is a batch of matrices, which of them counts; None: all.
        residuals: values that the product is added to, those that differ in the quantized model.
        n: their columns; 0 without any.
    """

    names: tuple[str, ...]
    transposed: bool
    rounded_in: int | None
    k: int
    part: int | None = None
    residuals: tuple[str, ...] = ()
    n: int = 0

    @property
    def all_names(self) -> tuple[str, ...]:
        """Every value that is looked at."""
        return (*self.names, *(name for r in self.residuals for name in (r, r + QUANTIZED_SUFFIX)))


@serializable
@dataclass(frozen=True, slots=True)
class Program:
    """A segment, and what is wanted of it.

    Attributes:
        part: what runs; None where nothing does.
        inputs: what it is fed.
        keeps: values to return.
        points: values whose errors are wanted.
        sources: values that drop a sample when they are not finite.
        measured: of what statistics are wanted; None of nothing.
        provider: "cpu" or "cuda".
        threads: for sessions.
        longest: tokens of the longest sample.
    """

    part: Submodel | None
    inputs: tuple[str, ...]
    keeps: tuple[str, ...]
    points: tuple[str, ...]
    sources: frozenset[str]
    measured: Measured | None
    provider: ProviderName
    threads: int | None
    longest: int

    @property
    def given(self) -> tuple[str, ...]:
        """What must be known of a sample."""
        computed = self.part.outputs if self.part else ()
        measured = self.measured.all_names if self.measured else ()
        return tuple(dict.fromkeys((*self.inputs, *(name for name in measured if name not in computed))))


@serializable
@dataclass(frozen=True, slots=True)
class Outcome:
    """What a segment made of a sample.

    Attributes:
        bad: the value that was not finite; "" where all were, but for those of lost texts.
        kept: values by name.
        errors: of each point, a few rows at a time.
        held: some of its tokens, where the sample is held back from the statistics.
        lost: texts of which a value was not finite, with its name; they do not count.
        masks: of the sample without them; None where none was lost.
    """

    bad: str = ""
    kept: dict[str, Array] = field(default_factory=dict)
    errors: dict[str, list[Squares]] = field(default_factory=dict)
    held: HeldTokens | None = None
    lost: dict[int, str] = field(default_factory=dict)
    masks: list[Array] | None = None


class Running:
    """A program that was loaded.

    Args:
        program: what runs.
        apart: chunks of the statistics are kept apart instead of being added up.

    Attributes:
        gram: the statistics; None before the first sample.
    """

    def __init__(self, program: Program, *, apart: bool = False) -> None:
        self._program, self._apart, part = program, apart, program.part
        self.gram: Gram | None = None
        self._at_once = runs_at_once(program.provider, program.threads, program.longest)
        threads = 1 if self._at_once > 1 else program.threads
        self._session = (
            Session(part.model, provider=program.provider, threads=threads, external_data_folder=part.folder)
            if part
            else None
        )

    def run(self, samples: Iterable[Known]) -> Iterator[Outcome]:
        """Run samples, some at a time; what comes of each, in order.

        Args:
            samples: the values of each that the program names, its masks (see `token_masks`), whether it is held
                back from the statistics, and how many texts it is.
        """
        measured = self._program.measured
        for (given, masks, held, _), (found, outcome) in in_order(self._run, samples, self._at_once):
            if outcome.bad or measured is None:
                yield outcome
            else:
                counted = masks if outcome.masks is None else outcome.masks
                yield replace(outcome, held=self._measure(measured, {**given, **found}, counted, held=held))

    def _run(self, sample: Known) -> tuple[Known, tuple[dict[str, Array], Outcome]]:
        """Run one sample, in any thread: all that is computed, and what of it is kept."""
        program, (given, masks, _, texts) = self._program, sample
        found = self._session.run({name: given[name] for name in program.inputs}) if self._session else {}
        lost, counted = dict[int, str](), list(masks)
        for name in (name for name, array in found.items() if self._is_bad(name, array)):
            texts_lost = lost_texts(found[name], counted, texts)
            if texts_lost is None:
                return sample, (found, Outcome(name.removesuffix(QUANTIZED_SUFFIX)))
            lost |= dict.fromkeys(np.flatnonzero(texts_lost).tolist(), name.removesuffix(QUANTIZED_SUFFIX))
            counted = without_texts(counted, texts_lost, math.prod(found[name].shape[:2]))
        errors = {name: _squares(found[name], found[name + QUANTIZED_SUFFIX], counted) for name in program.points}
        kept = {name: found[name] for name in program.keeps}
        return sample, (found, Outcome("", kept, errors, None, lost, counted if lost else None))

    def end_shard(self) -> list[Chunk]:
        """Add what is still waiting to the statistics; returns the chunks since the last shard where these are kept."""
        return self.gram.flush() if self.gram else []

    def _is_bad(self, name: str, array: Array) -> bool:
        watched = array.dtype.kind in "fV" and name.removesuffix(QUANTIZED_SUFFIX) in self._program.sources
        return watched and not np.isfinite(array).all()

    def _measure(
        self, measured: Measured, values: Mapping[str, Array], masks: Sequence[Array], *, held: bool
    ) -> HeldTokens | None:
        original, *twin = (values[name] for name in measured.names)
        if twin and twin[0].shape != original.shape:  # a loop or branch chose otherwise: no row has a counterpart
            original = twin[0]
        if measured.part is not None:
            original, *twin = (one_of(value, measured.part) for value in (original, *twin))
        k, transposed = measured.k, measured.transposed
        if transposed and original.ndim > 2:
            original, *twin = (np.swapaxes(value, -1, -2) for value in (original, *twin))
            transposed = False
        if not transposed:
            original, *twin = (inputs_together(value, k) for value in (original, *twin))
        if original.ndim == 0 or original.shape[0 if transposed else -1] != k:
            raise DataError(
                f"'{measured.names[0]}' has shape {list(original.shape)} with these data, but is multiplied with a "
                f"weight of {k} rows. Give data that fit the model (`calib`), or export it again."
            )
        if self.gram is None:
            self.gram = Gram(
                original.dtype,
                k,
                crossed=bool(twin),
                transposed=transposed,
                rounded_in=measured.rounded_in,
                provider=self._program.provider,
                threads=self._program.threads,
                apart=self._apart,
                drifts=measured.n or None,
            )
        rows = token_rows(masks, original.size // max(1, k))
        if held:
            rows = rows[:: -(-len(rows) // _HELD_ROWS) or 1]
        difference = _difference(measured, values, original.size // max(1, k), rows) if measured.n else None
        if held:
            streams = [original, *twin]
            return _held_tokens(streams, rows, difference, measured, transposed=transposed) if len(rows) else None
        self.gram.add(original, twin[0] if twin else None, rows, difference)
        return None


@dataclass(frozen=True, slots=True)
class Shard:
    """Some samples to be run elsewhere.

    Attributes:
        program: the file that holds it.
        samples: the file that holds what is given of each, and its masks.
        nbytes: of that file.
        files: what else is read.
    """

    program: Path
    samples: Path
    nbytes: int
    sources: tuple[Path, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that is read."""
        return (self.program, self.samples, *self.sources)


def _difference(measured: Measured, values: Mapping[str, Array], tokens: int, rows: Array) -> Array:
    """How far residuals of some tokens are off together, [rows, N].

    Those of other shapes count as right, and so does what is not finite in one of the models, as a hidden score.
    """
    total = np.zeros((len(rows), measured.n), np.float32)
    for name in measured.residuals:
        original, twin = values[name], values[name + QUANTIZED_SUFFIX]
        if original.shape == twin.shape and original.size == tokens * measured.n:
            flat, other = (value.reshape(tokens, measured.n)[rows].astype(np.float32) for value in (original, twin))
            finite = np.isfinite(flat) & np.isfinite(other)
            total += np.subtract(flat, other, out=np.zeros_like(total), where=finite)
    return total


def _held_tokens(
    streams: Sequence[Array], rows: Array, difference: Array | None, measured: Measured, *, transposed: bool
) -> HeldTokens:
    """Some tokens of a sample, in both streams."""
    flat = [(value.T if transposed else value.reshape(-1, measured.k))[rows].astype(np.float32) for value in streams]
    inputs = flat[-1] if measured.rounded_in is None else round_to_int8(flat[-1], measured.rounded_in)
    return HeldTokens(inputs, flat[0], difference)


def run_shard(shard: Shard) -> Path:
    """Run samples; returns the file that holds the outcome of each, and the chunks of the statistics."""
    running = load_once(shard.program, _apart)
    outcomes = list(running.run(load(shard.samples)))
    return dump(shard.program.parent, (outcomes, running.end_shard()), answers=shard.samples)


def _apart(program: Program) -> Running:
    """A program that serves for all its shards."""
    return Running(program, apart=True)


def count_tokens(feed: Mapping[str, Array], masks: Sequence[Array]) -> int:
    """About how many tokens a sample has, as far as its inputs tell."""
    if masks:
        return int(masks[0].sum())
    sizes = [a.size if a.dtype.kind in "iub" or a.ndim < 2 else a.size // max(1, a.shape[-1]) for a in feed.values()]
    return max(sizes, default=0)


def _squares(original: Array, quantized: Array, masks: Sequence[Array]) -> list[Squares]:
    """Squared error and squared size of rows [..., N] of both models; what is not finite counts in neither.

    Nor do values whose rows differ in number: none has a counterpart.
    """
    if original.shape != quantized.shape:
        return []
    original = original.reshape(-1, original.shape[-1])
    rows = token_rows(masks, len(original))
    quantized = quantized.reshape(-1, quantized.shape[-1])
    if len(rows) < len(original):
        original, quantized = original[rows], quantized[rows]
    step = max(1, _AT_ONCE // original.shape[1])
    parts = (slice(start, start + step) for start in range(0, len(original), step))
    return [_squares_of(original[part], quantized[part]) for part in parts]


def _squares_of(original: Array, quantized: Array) -> Squares:
    """The same of a few rows."""
    if original.dtype == np.float32 == quantized.dtype:
        with np.errstate(over="ignore", invalid="ignore"):
            pair = _sum_squares(original - quantized), _sum_squares(original)
        if np.isfinite(pair).all():
            return pair
    y, twin = original.astype(np.float64), quantized.astype(np.float64)
    finite = np.isfinite(y) & np.isfinite(twin)
    return float(np.square(y[finite] - twin[finite]).sum()), float(np.square(y[finite]).sum())


def _sum_squares(rows: Array) -> float:
    return float(np.einsum("rn,rn->r", rows, rows).sum(dtype=np.float64))


def one_of(value: Array, part: int) -> Array:
    """One of a batch of matrices [..., batch, rows, columns]; all of what is multiplied with each."""
    return value[..., part, :, :] if value.ndim >= _BATCH_RANK and part < value.shape[-_BATCH_RANK] else value


def inputs_together(value: Array, k: int) -> Array:
    """Activations with their last axes as one where these together are `k`, as of an Einsum that sums over several."""
    axes = value.ndim
    while axes and math.prod(value.shape[axes - 1 :]) < k:
        axes -= 1
    fits = axes and math.prod(value.shape[axes - 1 :]) == k
    return value.reshape(*value.shape[: axes - 1], k) if fits else value


def token_rows(masks: Sequence[Array], count: int) -> Array:
    """Which of so many tokens count: those of the mask that is about so many, all where there is none."""
    for mask in masks:
        if mask.size == count:
            return np.flatnonzero(mask)
    return np.arange(count)
