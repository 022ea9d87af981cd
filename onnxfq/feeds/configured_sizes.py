"""Sizes of a model's inputs that the configuration files beside it name: images, sounds, heads, hidden states."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxfq.errors import DataError
from onnxfq.feeds.axis_kinds import axis_kind, holds_images
from onnxfq.feeds.configurations import CONFIG, GENAI_CONFIG, Settings, read_configuration
from onnxfq.feeds.content import content, side_axes
from onnxfq.feeds.names import role, stem
from onnxfq.signature import Signature, TensorSpec

_LOGGER = logging.getLogger(__name__)

MOST_SIDE = 1 << 12  # pixels; larger ones are taken for damage
MOST_CHANNELS = 512
MOST_LENGTH = 1 << 22  # of anything else
LARGEST_EDGE = 512  # to which images are scaled where the model takes any: a larger one only takes longer
LARGEST_LATENT = 128  # the same of images that are made, not seen
_PREPROCESSOR, _PROCESSOR = "preprocessor_config.json", "processor_config.json"
_FILES = (CONFIG, GENAI_CONFIG, _PREPROCESSOR, _PROCESSOR)
_VISION = ("vision_config", "image_config", "backbone_config", "encoder", "pretrained_cfg", "vision")
_AUDIO = ("audio_config", "audio_encoder", "speech_config", "encoder", "audio")
_TEXT = ("text_config", "decoder", "llm_config", "language_config")
_PROCESSORS = ("image_processor", "feature_extractor", "audio_processor", "video_processor")
_HEADS = ("num_attention_heads", "decoder_attention_heads", "n_head", "num_heads", "n_heads")
_WIDTHS = ("hidden_size", "d_model", "n_embd", "dim", "n_embed")
_CHANNELS = ("num_channels", "in_channels", "in_chans", "num_input_channels")
_WHOLE_SOUND = ("audio-spectrogram-transformer",)  # models that are nothing but an encoder of spectrograms
_EDGES = ("image_size", "img_size", "input_size")


@dataclass(frozen=True, slots=True)
class Configured:
    """What the configurations name; None where they say nothing.

    Attributes:
        sides: height and width of images.
        channels: of images.
        latent: channels of an encoded image.
        features: of a frame of sound.
        frames: of a sound.
        samples: one second of a sound.
        heads: of keys and values.
        head_size: of each of them.
        hidden: width of hidden states.
        encoder_hidden: width of those of an encoder.
    """

    sides: tuple[int, int] | None = None
    channels: int | None = None
    latent: int | None = None
    features: int | None = None
    frames: int | None = None
    samples: int | None = None
    heads: int | None = None
    head_size: int | None = None
    hidden: int | None = None
    encoder_hidden: int | None = None


def with_configured_sizes(signature: Signature, model: Path) -> Signature:
    """A model's signature with the sizes that its configurations name where nothing else is known of an axis.

    Files that cannot be read, and sizes that cannot be meant, are passed over.

    Args:
        signature: the model's inputs.
        model: the file, beside which the configurations lie.
    """
    known = configured(_read(model))
    return replace(signature, inputs=tuple(_fill(spec, known) for spec in signature.inputs))


def configured(files: Mapping[str, Settings]) -> Configured:
    """What configurations name.

    Args:
        files: their settings, by file name.
    """
    config, genai = files.get(CONFIG, {}), _section(files.get(GENAI_CONFIG, {}), "model")
    processors = [files.get(_PREPROCESSOR, {}), files.get(_PROCESSOR, {})]
    processors += [_section(processor, name) for processor in processors for name in _PROCESSORS]
    vision, audio, text = ([config, *(_section(config, name) for name in names)] for names in (_VISION, _AUDIO, _TEXT))
    text = [_section(genai, "decoder"), *text]
    encoder = [_section(genai, "encoder"), _section(config, "encoder"), *text]
    heads = _first(text, *_HEADS)
    return Configured(
        sides=_sides(vision) or _processed_sides(processors),
        channels=_first(vision, *_CHANNELS, most=MOST_CHANNELS),
        latent=_first([config], "latent_channels", most=MOST_CHANNELS),
        features=_features(processors, audio),
        frames=_frames(processors, audio),
        samples=_first([*processors, *audio], "sampling_rate"),
        heads=_first(text, "num_key_value_heads", "num_kv_heads") or heads,
        head_size=_first(text, "head_size", "head_dim", "d_kv") or _share(_first(text, *_WIDTHS), heads),
        hidden=_first(text, *_WIDTHS),
        encoder_hidden=_first([config], "cross_attention_dim") or _first(encoder, *_WIDTHS),
    )


def _read(model: Path) -> dict[str, Settings]:
    """The configurations beside a model, or one folder above where exporters leave them."""
    found: dict[str, Settings] = {}
    for file in _FILES:
        try:
            found[file] = read_configuration(model, file)
        except (DataError, OSError) as error:
            _LOGGER.debug("passed over: %s", error)
    return found


def _fill(spec: TensorSpec, known: Configured) -> TensorSpec:
    """An input with the configured sizes of its open axes, beside those that are known already."""
    if spec.shape is None:
        return spec
    fitting = spec.fitting or (None,) * len(spec.shape)
    sizes = tuple(
        _size(spec, axis, known) if known_size is None and not isinstance(spec.shape[axis], int) else known_size
        for axis, known_size in enumerate(fitting)
    )
    return spec if sizes == fitting else replace(spec, fitting=sizes)


def _size(spec: TensorSpec, axis: int, known: Configured) -> int | None:
    """What the configurations name for one axis."""
    latent = "latent" in stem(spec.name)
    match axis_kind(spec, axis):
        case "side":
            return None if known.sides is None or latent else known.sides[_is_width(spec, axis)]
        case "channels":
            return (known.latent or known.channels if latent else known.channels) if holds_images(spec) else None
        case "samples":
            return known.samples
        case "features":
            return known.features if content(spec) == "spectrogram" else None
        case "frames":
            return known.frames if content(spec) == "spectrogram" else None
        case "heads":
            return known.heads if role(spec) == "cache" else None
        case "head size":
            return known.head_size if len(spec.shape or ()) > 3 else None
        case "hidden":
            return known.encoder_hidden if "encoder" in stem(spec.name) else known.hidden
        case _:
            return None


def _is_width(spec: TensorSpec, axis: int) -> bool:
    """Whether a side is the second of the two."""
    shape = spec.shape or ()
    return axis == (side_axes(shape)[1] if holds_images(spec) else len(shape) - 1)


def _section(settings: Settings, name: str) -> Settings:
    found = settings.get(name)
    return found if isinstance(found, dict) else {}


def _whole(value: object, most: int = MOST_LENGTH) -> int | None:
    """A size that can be meant."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most else None


def _first(sections: Iterable[Settings], *keys: str, most: int = MOST_LENGTH) -> int | None:
    """The first size that any of some sections has under one of some keys; the sections before the keys."""
    return next((size for s in sections for key in keys if (size := _whole(s.get(key), most)) is not None), None)


def _share(width: int | None, heads: int | None) -> int | None:
    return width // heads if width and heads and width % heads == 0 else None


def _sides(sections: Sequence[Settings]) -> tuple[int, int] | None:
    """Height and width of the images that a model is made for."""
    named = next((sides for s in sections for key in _EDGES if (sides := _pair(s.get(key))) is not None), None)
    made = _whole(sections[0].get("sample_size"), LARGEST_LATENT)
    return named or ((made, made) if made else None)


def _processed_sides(processors: Sequence[Settings]) -> tuple[int, int] | None:
    """Height and width to which images are brought: cropped, else scaled."""
    for settings in processors:
        crop = _pair(settings.get("crop_size")) if settings.get("do_center_crop") is not False else None
        found = crop or _pair(settings.get("size"))
        if found:
            return found
    edges = (_whole(_section(s, "size").get("shortest_edge"), LARGEST_EDGE) for s in processors)
    return next(((edge, edge) for edge in edges if edge), None)


def _pair(value: object) -> tuple[int, int] | None:
    """Height and width, as any configuration spells them: 224, [224, 160], [3, 224, 160], {"height": …, "width": …}."""
    if isinstance(value, dict):
        value = [value.get("height"), value.get("width")]
    if isinstance(value, list) and len(value) in (2, 3):
        height, width = (_whole(side, MOST_SIDE) for side in value[-2:])
        return (height, width) if height and width else None
    side = _whole(value, MOST_SIDE)
    return (side, side) if side else None


def _features(processors: Sequence[Settings], audio: Sequence[Settings]) -> int | None:
    """How many numbers tell about a frame; a "feature size" of 1 is that of a wave."""
    wave = _first(processors, "feature_size") == 1
    return _first([*processors, *audio], "num_mel_bins", "n_mels", "input_feat_per_channel") or (
        None if wave else _first(processors, "feature_size")
    )


def _told_of_sound(audio: Sequence[Settings]) -> Sequence[Settings]:
    """The sections whose `max_length` counts frames: at the top, and of encoders, it mostly limits a text to write."""
    named = zip(("", *_AUDIO), audio, strict=True)
    return [s for name, s in named if name not in ("", "encoder") or s.get("model_type") in _WHOLE_SOUND]


def _frames(processors: Sequence[Settings], audio: Sequence[Settings]) -> int | None:
    """How many frames a model is made for: those of the longest sound, which some take only whole."""
    longest = _first(processors, "nb_max_frames") or _first([*_told_of_sound(audio), *processors], "max_length")
    positions = _first(audio, "max_source_positions") if any(s.get("model_type") == "whisper" for s in audio) else None
    return longest if positions is None else 2 * positions
