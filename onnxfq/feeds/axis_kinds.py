"""What an axis of an input counts, told from the input's name and rank and the dimension's name."""

from __future__ import annotations

from typing import Literal

from onnxfq.feeds.content import (
    FEATURE_WORDS,
    LENGTH_WORDS,
    SIDE_WORDS,
    channels_axis,
    content,
    has_word,
    side_axes,
    time_axis,
)
from onnxfq.feeds.names import is_float, is_integer, role, stem
from onnxfq.signature import Dimension, TensorSpec

AxisKind = Literal[
    "batch", "channels", "side", "samples", "features", "tokens", "frames", "past", "heads", "head size", "hidden",
    "follows", "other",
]  # fmt: skip

_STATES = ("inputs_embeds", "hidden_states", "encoder_hidden_states", "encoder_outputs")


def axis_kind(spec: TensorSpec, axis: int) -> AxisKind:
    """What an axis counts; "follows" where it is as long as one of another input, "other" where nothing tells.

    Args:
        spec: the input, of known rank.
        axis: its position.
    """
    shape = spec.shape or ()
    dimension = shape[axis]
    word = dimension.lower() if isinstance(dimension, str) else ""
    if role(spec) == "cache":
        return _of_cache(len(shape), axis, word)
    if role(spec) != "data":
        return "side" if "pixel" in stem(spec.name) and len(shape) > 2 and axis >= len(shape) - 2 else "follows"
    return _by_word(spec, dimension) or _by_position(spec, shape, axis)


def holds_images(spec: TensorSpec) -> bool:
    """Whether an input has sides and channels as images have them."""
    return content(spec) in ("image", "map")


def _of_cache(rank: int, axis: int, word: str) -> AxisKind:
    """Caches are [..., batch, heads, tokens, head size]."""
    if axis == rank - 2 or "past" in word or "seq" in word:
        return "past"
    if axis == rank - 1:
        return "head size"
    return "heads" if axis == rank - 3 and rank > 3 else "batch"


def _by_word(spec: TensorSpec, dimension: Dimension) -> AxisKind | None:
    """What the name of a dimension speaks of; None where it says nothing."""
    if has_word(dimension, ("batch",)):
        return "batch"
    if has_word(dimension, ("channel",)):
        return "channels"
    if has_word(dimension, SIDE_WORDS) and holds_images(spec):
        return "side"
    if has_word(dimension, FEATURE_WORDS) and is_float(spec):
        return "features"
    if has_word(dimension, LENGTH_WORDS):
        return _length_kind(spec)
    return "hidden" if has_word(dimension, ("hidden", "embed", "d_model")) else None


def _length_kind(spec: TensorSpec) -> AxisKind:
    if content(spec) == "sound":
        return "samples"
    return "tokens" if is_integer(spec) or stem(spec.name) in _STATES else "frames"


def _by_position(spec: TensorSpec, shape: tuple[Dimension, ...], axis: int) -> AxisKind:
    rank = len(shape)
    match content(spec):
        case "image" | "map":
            return _of_image(shape, axis)
        case "sound":
            return "samples" if axis == rank - 1 else "channels" if axis == rank - 2 and rank > 2 else "batch"
        case "spectrogram" if axis >= rank - 2:
            return "frames" if axis == time_axis(shape) else "features"
    if axis == 0:
        return "batch"
    if rank == 2:
        return "tokens" if is_integer(spec) else "other"
    if axis == rank - 1 and is_float(spec):
        return "hidden" if stem(spec.name) in _STATES else "features"
    return _length_kind(spec) if axis == rank - 2 else "other"


def _of_image(shape: tuple[Dimension, ...], axis: int) -> AxisKind:
    if axis == channels_axis(shape):
        return "channels"
    if axis in side_axes(shape):
        return "side"
    return "other" if axis else "batch"
