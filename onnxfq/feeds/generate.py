"""Inputs made up from a model's signature, and the inputs that follow from others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np

from onnxfq.arrays import Array
from onnxfq.errors import DataError
from onnxfq.feeds.axis_kinds import axis_kind
from onnxfq.feeds.configurations import longest
from onnxfq.feeds.explained_values import explained, follows, length
from onnxfq.feeds.feed import Feed, Feeds
from onnxfq.feeds.names import is_float, is_integer, role, takes_token_ids
from onnxfq.feeds.natural import drawn, natural
from onnxfq.feeds.shapes import Sizes, sizes_of
from onnxfq.session import NOT_ARRAYS
from onnxfq.signature import Signature, TensorSpec

UNKNOWN_VOCABULARY = 100  # ids that nearly every embedding has
UNKNOWN_RANGE = 2  # integers of which nothing is known
CACHE_SCALE = 0.1  # standard deviation of made-up keys and values
_NO_DATA = "No file of data holds such values: skip the comparison with `validate=False`."
_REMEDY = "Give inputs with `calib=FILE.npz`, or skip the comparison with `validate=False`."


def generate(
    signature: Signature,
    *,
    samples: int,
    seq_len: int,
    seed: int,
    past: int = 0,
    shortest: int | None = None,
    batch: int = 1,
) -> Feeds:
    """Make inputs up from the signature alone.

    Ids are uniform over the vocabulary, masks ones; images, sounds and spectrograms are like real ones, what else its
    name explains is plausible, and other floats are standard normal. Sample i depends on `seed` and i only.

    Args:
        signature: the model's inputs.
        samples: how many feeds.
        seq_len: tokens of a sample, and the size of whatever else looks like a length.
        seed: of the random generator.
        past: with a number above 0, a decoding step: one new token after that many cached ones.
        shortest: with a number, samples have between that many and `seq_len` tokens, by chance.
        batch: rows of a sample, where the model leaves that open.

    Raises:
        DataError: an input that nothing can be made up for, or `past` for a model without a cache.
    """
    if past and not has_cache(signature):
        raise DataError(f"The model takes no cached keys and values (got past={past}). Use past=0.")
    _refuse_what_cannot_be_made_up(signature)
    if past:
        signature, past = _behind(signature, past)
    made = []
    for rng in (np.random.default_rng([seed, index]) for index in range(samples)):
        length = seq_len if shortest is None else int(rng.integers(min(shortest, seq_len), seq_len + 1))
        sizes = sizes_of({}, signature, sequence=1 if past else length, past=past, encoder=length, batch=batch)
        made.append(_complete({}, signature, sizes, rng))
    return Feeds(tuple(made), "generated", is_generated=True)


def fill(
    feed: Mapping[str, Array],
    signature: Signature,
    rng: np.random.Generator | None = None,
    *,
    seq_len: int = 1,
    past: int = 0,
) -> Feed:
    """Add the inputs that follow from those given: masks, positions, token types, an empty cache and its branch.

    Args:
        feed: inputs by name; kept as they are, in the model's order.
        signature: the model's inputs.
        rng: makes up what follows from nothing; None refuses to.
        seq_len: tokens, where the feed does not say.
        past: cached tokens, where the feed does not say.

    Raises:
        DataError: inputs are missing that follow from nothing, or whose shape or type is out of reach.
    """
    if rng is None:
        _refuse_missing(feed, signature)
    return _complete(feed, signature, sizes_of(feed, signature, sequence=seq_len, past=past, encoder=seq_len), rng)


def _behind(signature: Signature, past: int) -> tuple[Signature, int]:
    """A signature for one new token, and after how many cached ones it may come.

    Where a model takes so many tokens and no others, that is their number with the new one.
    """
    inputs, lengths = [], [past]
    for spec in signature.inputs:
        axes = [axis for axis, size in enumerate(spec.fitting) if size and axis_kind(spec, axis) == "tokens"]
        lengths += [(spec.fitting[axis] or 2) - 1 for axis in axes]
        inputs.append(replace(spec, fitting=tuple(None if a in axes else s for a, s in enumerate(spec.fitting))))
    return replace(signature, inputs=tuple(inputs)), max(1, min(lengths))


def within(seq_len: int, signature: Signature, configurations: Path | None) -> int:
    """The length asked for, within what the model is known to take.

    Args:
        seq_len: in tokens.
        signature: the model's inputs.
        configurations: the folder of those that know the longest input, if any.

    Raises:
        DataError: a configuration is no JSON.
    """
    positions = [spec.vocabulary for spec in signature.inputs if role(spec) == "position"]
    return min(limit for limit in (seq_len, longest(configurations), *positions) if limit is not None)


def has_cache(signature: Signature) -> bool:
    """Whether the model takes keys and values of earlier tokens."""
    return any(role(spec) == "cache" for spec in signature.inputs)


def element_type(spec: TensorSpec) -> np.dtype[np.generic]:
    """Numpy's type for an input's elements.

    Raises:
        DataError: the input is not an array of numbers.
    """
    try:
        return np.dtype(getattr(ml_dtypes, spec.dtype, None) or spec.dtype)
    except TypeError as error:
        raise DataError(_not_numbers([spec])) from error


def _complete(feed: Mapping[str, Array], signature: Signature, sizes: Sizes, rng: np.random.Generator | None) -> Feed:
    made = {name: array for name, array in feed.items() if name in signature.feedable}
    for spec in sorted(signature.inputs, key=follows):
        if spec.name not in made:
            made[spec.name] = _make(spec, sizes, rng, made, signature)
    return {name: made[name] for name in signature.feedable if name in made}


def _make(
    spec: TensorSpec, sizes: Sizes, rng: np.random.Generator | None, made: Mapping[str, Array], signature: Signature
) -> Array:
    dtype = element_type(spec)
    shape = sizes.shape(spec)
    match role(spec):
        case "cache":
            if rng is None or not is_float(spec):
                return np.zeros(shape, dtype)
            return (CACHE_SCALE * rng.standard_normal(shape)).astype(dtype)
        case "cache_branch":
            return np.full(shape, sizes.past > 0, dtype)
        case "mask":
            return _mask(spec, shape).astype(dtype)
        case "zeros":
            return np.zeros(shape, dtype)
        case "position":
            return np.broadcast_to(sizes.past + np.arange(shape[-1]), shape).astype(dtype)
        case "past_length":
            return np.full(shape, sizes.past, dtype)
        case "total_length":
            return np.full(shape, sizes.past + sizes.sequence, dtype)
        case "length":
            return np.full(shape, length(spec, signature, made, sizes.sequence), dtype)
        case "data":  # `fill` has refused it where there is no generator
            return _random(spec, shape, made, rng or np.random.default_rng(0)).astype(dtype)


def _mask(spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """All may be seen: ones, or zeros where a mask of floats is added to scores [batch, heads, rows, columns]."""
    return np.zeros(shape) if is_float(spec) and len(shape) > 2 else np.ones(shape)


def _random(spec: TensorSpec, shape: tuple[int, ...], made: Mapping[str, Array], rng: np.random.Generator) -> Array:
    values = explained(spec, shape, made, rng)
    if values is not None:
        return values
    what = drawn(spec, shape)
    if what is not None:
        return natural(spec, shape, what, rng)
    if is_float(spec):
        return rng.standard_normal(shape, dtype=np.float32)
    if spec.dtype == "bool":
        return rng.integers(2, size=shape)
    unknown = UNKNOWN_VOCABULARY if takes_token_ids(spec) else UNKNOWN_RANGE
    return rng.integers(spec.vocabulary or unknown, size=shape)


def _refuse_missing(feed: Mapping[str, Array], signature: Signature) -> None:
    missing = [spec.name for spec in signature.inputs if role(spec) == "data" and spec.name not in feed]
    if missing:
        raise DataError(
            f"Inputs are missing that do not follow from the others: {', '.join(missing)} "
            f"(got {', '.join(feed) or 'none'}). Give all of them with `calib=FILE.npz`."
        )


def _refuse_what_cannot_be_made_up(signature: Signature) -> None:
    odd = [spec for spec in signature.inputs if not (is_float(spec) or is_integer(spec) or spec.dtype == "bool")]
    if odd:
        raise DataError(_not_numbers(odd))


def _not_numbers(specs: list[TensorSpec]) -> str:
    listed = ", ".join(f"{spec.name} ({spec.dtype})" for spec in specs)
    remedy = _NO_DATA if any(spec.dtype in NOT_ARRAYS for spec in specs) else _REMEDY
    return f"No data can be made up for inputs that are not arrays of numbers: {listed}. {remedy}"
