"""What an input holds that one sees or hears, told from its name, its type and its shape; and where it has its axes."""

from __future__ import annotations

from typing import Literal

from onnxfq.feeds.names import is_float, is_integer, role, stem, takes_token_ids, words
from onnxfq.signature import Dimension, TensorSpec

Shape = tuple[Dimension, ...]
Content = Literal["image", "map", "sound", "spectrogram"]

CHANNELS = (1, 3, 4)  # of an image
SAMPLING_RATE = 16_000  # of a sound of which nothing is known
LENGTH_WORDS = ("seq", "len", "time", "token", "frame", "samples")  # in the name of a dimension
FEATURE_WORDS = ("feature", "mel", "bins", "freq", "mfcc")
SIDE_WORDS = ("height", "width", "image_size")
_LEAST_SIDE = 8  # of an image whose name does not say that it is one, and of anything that is drawn
_LONG = 8_000  # values of a row: nothing but a sound has so many
_LONG_ROWS = 2  # of a sound whose name does not say that it is one
_MOST_ROWS = 8  # of a sound, at most: microphones
_IMAGES = frozenset({"pixel", "pixels", "image", "images", "img", "imgs", "picture", "pictures", "photo", "photos",
                     "video", "videos", "frame"})  # fmt: skip
_FEATURES = frozenset({"feature", "features"})
_SAMPLES = frozenset({"sample", "samples"})  # of noise; but `audio_samples` are sound
_MAPS = _FEATURES | _SAMPLES | frozenset({"latent", "latents", "noise", "embed", "embeds", "embedding", "embeddings",
                                          "hidden"})  # fmt: skip
_SOUNDS = frozenset({"audio", "audios", "wav", "wavs", "wave", "waves", "waveform", "waveforms", "pcm", "sound",
                     "sounds", "speech", "signal", "signals", "voice"})  # fmt: skip
_SPECTRA = frozenset({"mel", "mels", "logmel", "spec", "specs", "feats"})
_PARTS_OF_SPECTRA = ("spectr", "melspec", "fbank", "mfcc")
_CODES = frozenset({"code", "codes", "tokens", "token", "ids", "label", "labels"})
_FROM_PROCESSOR = "input_values"  # a wave, or features of frames
_SOUND_TYPES = ("int16", "int32")


def content(spec: TensorSpec, made: tuple[int, ...] | None = None) -> Content | None:
    """What an input holds; "map" is what has sides like an image and is none: noise, latents, maps of features.

    Args:
        spec: the input.
        made: the shape that it will have, where that is known; else what is open may be anything.
    """
    shape = spec.shape if made is None else made
    if shape is None or 0 in shape or role(spec) != "data" or not (is_float(spec) or is_integer(spec)):
        return None
    if is_float(spec) and _is_spectrogram(spec, shape):
        return "spectrogram"
    if is_float(spec) or spec.dtype == "uint8":
        found = _image(spec, shape)
        if found is not None:
            return found
    return "sound" if _is_sound(spec, shape) else None


def is_named_sound(spec: TensorSpec) -> bool:
    """Whether an input's name says that it is sound as it is sampled."""
    return bool(words(spec.name) & _SOUNDS)


def is_from_processor(spec: TensorSpec) -> bool:
    """Whether an input is what a processor made of sound, with mean 0 and variance 1."""
    return stem(spec.name) == _FROM_PROCESSOR


def channels_axis(*shapes: Shape) -> int:
    """Where images have their channels: before the sides unless sizes or names say that they are last, or second.

    Args:
        shapes: of one input, the first that tells decides: [3, 48, 40], [1, 3, "h", "w"], [1, "h", "w", "channels"],
            [1, 3, 16, "h", "w"].
    """
    rank = len(shapes[0])
    order = (rank - 3, rank - 1, *((1,) if rank == 5 else ()))
    return next((axis for shape in shapes for axis in order if _counts_channels(shape[axis])), rank - 3)


def side_axes(*shapes: Shape) -> tuple[int, int]:
    """Where images have their height and width."""
    rank, channels = len(shapes[0]), channels_axis(*shapes)
    return (rank - 3, rank - 2) if channels == rank - 1 else (rank - 2, rank - 1)


def looks_like_image(shape: Shape) -> bool:
    """Whether the sizes are those of images: of so many channels, and no fixed side that is too short."""
    if not 3 <= len(shape) <= 5:
        return False
    sides = (shape[axis] for axis in side_axes(shape))
    channels = shape[channels_axis(shape)]
    return channels in CHANNELS and all(not isinstance(side, int) or side >= _LEAST_SIDE for side in sides)


def time_axis(shape: Shape, made: tuple[int, ...] | None = None) -> int:
    """The axis of a spectrogram [..., …, …] that counts time: the one so called, the one left open, or the longer one.

    Args:
        shape: of the input, of rank 3 or more.
        made: that it will have, where that is known.
    """
    before, last = len(shape) - 2, len(shape) - 1
    lengths, features = (
        [axis for axis in (before, last) if has_word(shape[axis], parts)] for parts in (LENGTH_WORDS, FEATURE_WORDS)
    )
    left_open = [axis for axis in (before, last) if not isinstance(shape[axis], int)]
    for axes in (lengths, [before + last - axis for axis in features], left_open):
        if len(axes) == 1:
            return axes[0]
    sizes = made if made is not None else shape
    first, second = sizes[before], sizes[last]
    return last if isinstance(first, int) and isinstance(second, int) and second > first else before


def has_word(dimension: Dimension, parts: tuple[str, ...]) -> bool:
    """Whether the name of a dimension has one of some words in it."""
    return isinstance(dimension, str) and any(part in dimension.lower() for part in parts)


def _counts_channels(dimension: Dimension) -> bool:
    if isinstance(dimension, str):
        return "channel" in dimension.lower() or dimension.lower() == "c"
    return dimension in CHANNELS


def _is_spectrogram(spec: TensorSpec, shape: Shape) -> bool:
    """Whether an input holds sound as features of frames, [batch, …, …] or [batch, channels, …, …]."""
    parts, rank = words(spec.name), len(shape)
    least = 2 if rank == 3 else _LEAST_SIDE
    if not 3 <= rank <= 4 or any(isinstance(size, int) and size < least for size in shape[-2:]):
        return False
    if parts & _SPECTRA or any(part in stem(spec.name) for part in (*_PARTS_OF_SPECTRA, "input_features")):
        return True
    if rank != 3 or parts & (_MAPS - _FEATURES):
        return False
    if any(has_word(size, ("frame",)) for size in spec.shape or ()) and not parts & _IMAGES:
        return True
    return is_from_processor(spec) or (is_named_sound(spec) and (_has_features(shape) or bool(parts & _FEATURES)))


def _has_features(shape: Shape) -> bool:
    """Whether [batch, …, …] has more features than sound has channels: in the middle, or last where that is fixed."""
    middle, last = shape[1], shape[2]
    if isinstance(middle, int):
        return middle > _MOST_ROWS and not (isinstance(last, int) and last < _LEAST_SIDE)
    return isinstance(last, int) and last < _LONG


def _image(spec: TensorSpec, shape: Shape) -> Content | None:
    """Images [batch, channels, height, width], several of them a row, or a single one without a batch."""
    parts, rank = words(spec.name), len(shape)
    named, sized = bool(parts & _IMAGES), looks_like_image(shape)
    if rank == 3:
        single = sized and shape[0] != 1 and not _is_batch((spec.shape or ("",))[0])  # else that is the batch
        return "image" if single and (named or spec.dtype == "uint8") and not parts & _MAPS else None
    if rank == 4 or (rank == 5 and (named or sized)):
        open_channels = not isinstance(shape[channels_axis(shape)], int)
        sized = sized or (open_channels and looks_like_image(_with_channels(shape)))
        return "image" if (named or sized) and not parts & _MAPS else "map"
    return None


def _with_channels(shape: Shape) -> Shape:
    axis = channels_axis(shape)
    return (*shape[:axis], CHANNELS[1], *shape[axis + 1 :])


def _is_batch(dimension: Dimension) -> bool:
    return isinstance(dimension, str) and ("batch" in dimension.lower() or dimension.lower() in ("b", "n", "bs"))


def _is_sound(spec: TensorSpec, shape: Shape) -> bool:
    """Whether an input holds sound as it is sampled: [samples], [batch, samples] or [batch, channels, samples]."""
    parts, rank = words(spec.name), len(shape)
    if not 1 <= rank <= 3 or parts & (_MAPS - (_SAMPLES if is_named_sound(spec) else frozenset())):
        return False
    rows, last = shape[1] if rank == 3 else 1, shape[-1]
    called = is_named_sound(spec) or has_word((spec.shape or ("",))[-1], ("samples", "audio_len"))
    named = called or (is_from_processor(spec) and rank == 2)
    if is_integer(spec):
        return called and spec.dtype in _SOUND_TYPES and not (takes_token_ids(spec) or parts & _CODES)
    if named:
        return (not isinstance(rows, int) or rows <= _MOST_ROWS) and (not isinstance(last, int) or last >= _LEAST_SIDE)
    return isinstance(last, int) and last >= _LONG and isinstance(rows, int) and rows <= _LONG_ROWS
