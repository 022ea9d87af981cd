"""What an axis of an input counts, told from the input's name and rank and the dimension's name."""

from __future__ import annotations

from typing import Literal

from onnxfq.feeds.names import is_float, is_integer, role, stem
from onnxfq.signature import Dimension, TensorSpec

AxisKind = Literal[
    "batch", "channels", "side", "samples", "features", "tokens", "frames", "past", "heads", "head size", "hidden",
    "follows", "other",
]  # fmt: skip

_WAVES = ("audio", "wav", "speech", "signal", "pcm", "sound")
_STATES = ("inputs_embeds", "hidden_states", "encoder_hidden_states", "encoder_outputs")
_IMAGES = ("pixel", "image", "img", "latent")
_FEATURE_WORDS = ("feature", "mel", "bins", "freq", "mfcc")
_CHANNELS = 8  # of sound, at most
_LENGTH_WORDS = ("seq", "len", "time", "token", "frame", "samples")


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
    return _by_word(spec, word) or _by_position(spec, shape, axis)


def holds_images(spec: TensorSpec) -> bool:
    """Whether an input holds images [batch, channels, height, width], or several of them a row."""
    rank = len(spec.shape or ())
    if role(spec) != "data" or (is_integer(spec) and spec.dtype != "uint8") or holds_spectra(spec):
        return False
    return rank == 4 or (rank == 5 and any(word in stem(spec.name) for word in _IMAGES))


def holds_waves(spec: TensorSpec) -> bool:
    """Whether an input holds sound as it is sampled: [samples], [batch, samples] or [batch, channels, samples]."""
    rank, name = len(spec.shape or ()), stem(spec.name)
    if role(spec) != "data" or not is_float(spec) or not 1 <= rank <= 3 or holds_spectra(spec):
        return False
    return (name == "input_values" and rank == 2) or name.startswith(_WAVES) or name.endswith(_WAVES)


def holds_spectra(spec: TensorSpec) -> bool:
    """Whether an input holds sound as features of frames."""
    rank, name = len(spec.shape or ()), stem(spec.name)
    named = "input_features" in name or any(word in name for word in ("mel", "fbank", "spectr", "mfcc"))
    sound = name == "input_values" or (rank == 3 and _has_features(spec) and any(word in name for word in _WAVES))
    return is_float(spec) and rank >= 3 and (named or (sound and rank == 3))


def _has_features(spec: TensorSpec) -> bool:
    """Whether an input [batch, …, …] has more features than sound has channels, or counts frames."""
    return any(
        "frame" in size.lower() if isinstance(size, str) else (size or 0) > _CHANNELS
        for size in (spec.shape or ())[1:2]
    )


def channels_axis(shape: tuple[Dimension, ...]) -> int:
    """Where images have their channels: before the sides, or behind them where the last size is one of channels."""
    return len(shape) - (1 if shape[-1] in (1, 3, 4) and shape[-3] not in (1, 3, 4) else 3)


def _of_cache(rank: int, axis: int, word: str) -> AxisKind:
    """Caches are [..., batch, heads, tokens, head size]."""
    if axis == rank - 2 or "past" in word or "seq" in word:
        return "past"
    if axis == rank - 1:
        return "head size"
    return "heads" if axis == rank - 3 and rank > 3 else "batch"


def _by_word(spec: TensorSpec, word: str) -> AxisKind | None:
    """What the name of a dimension speaks of; None where it says nothing."""
    if "batch" in word:
        return "batch"
    if "channel" in word:
        return "channels"
    if holds_images(spec) and any(part in word for part in ("height", "width", "image_size")):
        return "side"
    if any(part in word for part in _FEATURE_WORDS) and is_float(spec):
        return "features"
    if any(part in word for part in _LENGTH_WORDS):
        return _length_kind(spec)
    return "hidden" if any(part in word for part in ("hidden", "embed", "d_model")) else None


def _length_kind(spec: TensorSpec) -> AxisKind:
    if holds_waves(spec):
        return "samples"
    return "tokens" if is_integer(spec) or stem(spec.name) in _STATES else "frames"


def _by_position(spec: TensorSpec, shape: tuple[Dimension, ...], axis: int) -> AxisKind:
    rank = len(shape)
    if holds_waves(spec):
        return "samples" if axis == rank - 1 else "channels" if axis == rank - 2 and rank > 2 else "batch"
    if axis == 0:
        return "batch"
    if holds_images(spec):
        return _of_image(shape, axis)
    if rank == 2:
        return "tokens" if is_integer(spec) else "other"
    if axis == rank - 1 and is_float(spec):
        return "hidden" if stem(spec.name) in _STATES else "features"
    return _length_kind(spec) if axis == rank - 2 else "other"


def _of_image(shape: tuple[Dimension, ...], axis: int) -> AxisKind:
    channels = channels_axis(shape)
    if axis == channels:
        return "channels"
    first = len(shape) - 3  # the image's own three axes
    return "side" if axis >= first else "other"
