"""What an input holds is one notion: its axes, the shape made up for it and the values drawn agree on it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onnxfq.feeds import generate
from onnxfq.feeds.axis_kinds import axis_kind
from onnxfq.feeds.content import Content, channels_axis, content, side_axes, time_axis
from onnxfq.feeds.natural import drawn
from onnxfq.signature import Dimension, Signature, TensorSpec

Shape = tuple[Dimension, ...]
SECOND = 16_000

# name, type, shape; what it holds, the shape made up for it, what its axes count
INPUTS: list[tuple[str, str, Shape, Content | None, tuple[int, ...], str]] = [
    ("image", "uint8", ("h", "w", 3), "image", (224, 224, 3), "side side channels"),
    ("image", "float32", (3, "height", "width"), "image", (3, 224, 224), "channels side side"),
    ("image", "float32", ("n", "height", "width", "channels"), "image", (1, 224, 224, 3), "batch side side channels"),
    ("x", "float32", ("n", "c", "h", "w"), "image", (1, 3, 224, 224), "batch channels side side"),
    ("x", "uint8", ("n", 3, "h", "w"), "image", (1, 3, 224, 224), "batch channels side side"),
    ("x", "int32", ("n", 3, 16, 16), None, (1, 3, 16, 16), "batch other tokens other"),
    ("video", "float32", ("batch", 3, 16, "h", "w"), "image", (1, 3, 16, 224, 224), "batch channels other side side"),
    ("video", "float32", ("batch", 16, 3, "h", "w"), "image", (1, 16, 3, 224, 224), "batch other channels side side"),
    ("frames", "float32", ("batch", 9, "h", "w", 3), "image", (1, 9, 224, 224, 3), "batch other side side channels"),
    ("sample", "float32", ("batch", 4, "height", "width"), "map", (1, 4, 224, 224), "batch channels side side"),
    ("noise", "float32", ("batch", 3, "h", "w"), "map", (1, 3, 224, 224), "batch channels side side"),
    ("latents", "float32", ("batch", 4, "h", "w"), "map", (1, 4, 32, 32), "batch channels side side"),
    ("embedding", "float32", ("batch", "c", "h", "w"), "map", (1, 3, 224, 224), "batch channels side side"),
    ("x", "float32", ("batch", 256, 56, 56), "map", (1, 256, 56, 56), "batch channels side side"),
    ("waveform", "int16", ("batch", "n"), "sound", (1, SECOND), "batch samples"),
    ("waveform", "float32", ("n",), "sound", (SECOND,), "samples"),
    ("input", "float32", ("batch", "num_samples"), "sound", (1, SECOND), "batch samples"),
    ("voice", "float32", ("batch", "n"), "sound", (1, SECOND), "batch samples"),
    ("audio", "float32", ("batch", "c", "n"), "sound", (1, 1, SECOND), "batch channels samples"),
    ("audio_values", "float32", ("batch", 2, "n"), "sound", (1, 2, SECOND), "batch channels samples"),
    ("input_values", "float32", ("batch", "s"), "sound", (1, SECOND), "batch samples"),
    ("x", "float32", ("batch", SECOND), "sound", (1, SECOND), "batch samples"),
    ("audio_tokens", "int32", ("batch", "n"), None, (1, 64), "batch tokens"),
    ("audio_embeds", "float32", ("batch", 512), None, (1, 512), "batch other"),
    ("audio_features", "float32", ("batch", "n", 80), "spectrogram", (1, 64, 80), "batch frames features"),
    ("audio_signal", "float32", ("batch", 80, "t"), "spectrogram", (1, 80, 64), "batch features frames"),
    ("speech", "float32", ("batch", "time", 560), "spectrogram", (1, 64, 560), "batch frames features"),
    ("spec", "float32", ("batch", 257, "t"), "spectrogram", (1, 257, 64), "batch features frames"),
    ("feats", "float32", ("batch", "t", 80), "spectrogram", (1, 64, 80), "batch frames features"),
    ("mel", "float32", ("batch", 1, "n_mels", "t"), "spectrogram", (1, 1, 80, 64), "batch other features frames"),
    ("x", "float32", ("batch", "frames", 40), "spectrogram", (1, 64, 40), "batch frames features"),
    ("x", "float32", ("batch", "time", 40), None, (1, 64, 40), "batch frames features"),
    ("image_embeds", "float32", ("batch", 50, 3), None, (1, 50, 3), "batch frames features"),
    ("pixel_values", "float32", ("batch", "patches", 3), None, (1, 64, 3), "batch frames features"),
    ("input_ids", "int64", ("batch", "n"), None, (1, 64), "batch tokens"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "dtype", "shape", "held", "made", "kinds"), INPUTS)
def test_axes_shapes_and_values_agree_on_what_an_input_holds(
    name: str, dtype: str, shape: Shape, held: Content | None, made: tuple[int, ...], kinds: str
) -> None:
    spec = TensorSpec(name, dtype, shape)
    assert content(spec) == held
    assert " ".join(axis_kind(spec, axis) for axis in range(len(shape))) == kinds
    array = generate(Signature((spec,), ()), samples=1, seq_len=64, seed=0)[0][name]
    assert array.shape == made
    assert drawn(spec, array.shape) == (None if held == "map" else held)


@pytest.mark.parametrize(
    ("fitting", "held"), [((1, 3, 64, 64), "image"), ((1, 12, 64, 64), None), ((1, 3, 4, 4), None)]
)
def test_the_made_shape_refines_what_sizes_left_open(fitting: tuple[int, ...], held: Content | None) -> None:
    spec = replace(TensorSpec("x", "float32", ("n", "c", "h", "w")), fitting=fitting)
    assert content(spec) == "image"
    assert drawn(spec, fitting) == held


def test_a_long_row_is_drawn_as_sound() -> None:
    spec = TensorSpec("x", "float32", ("n", "m"))
    assert content(spec) is None
    assert [drawn(spec, (1, size)) for size in (64, SECOND)] == [None, "sound"]


@pytest.mark.parametrize(
    ("shape", "channels", "sides"),
    [
        ((3, 48, 40), 0, (1, 2)),
        ((48, 40, 3), 2, (0, 1)),
        (("n", "c", "h", "w"), 1, (2, 3)),
        (("n", "h", "w", 4), 3, (1, 2)),
        (("n", 1, 4, 4), 1, (2, 3)),
        (("n", 3, 16, "h", "w"), 1, (3, 4)),
        (("n", 16, 3, "h", "w"), 2, (3, 4)),
        (("n", "f", "h", "w", 3), 4, (2, 3)),
        (("n", 256, 56, 56), 1, (2, 3)),
    ],
)
def test_where_channels_and_sides_are(shape: Shape, channels: int, sides: tuple[int, int]) -> None:
    assert channels_axis(shape) == channels
    assert side_axes(shape) == sides


@pytest.mark.parametrize(
    ("shape", "made", "axis"),
    [
        (("b", "time", "n"), None, 1),
        (("b", "n", "time"), None, 2),
        (("b", "n_mels", "n"), None, 2),
        (("b", 80, "n"), None, 2),
        (("b", "m", "n"), None, 1),
        (("b", "m", "n"), (1, 80, 300), 2),
        ((1, 80, 300), None, 2),
        ((1, 1, 300, 80), None, 2),
    ],
)
def test_which_axis_counts_time(shape: Shape, made: tuple[int, ...] | None, axis: int) -> None:
    assert time_axis(shape, made) == axis
