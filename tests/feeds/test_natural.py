"""Made-up images, sounds and spectrograms: which inputs are such, and that they are like real ones."""

from __future__ import annotations

import numpy as np
import pytest

from onnxfq.arrays import Array
from onnxfq.feeds import Feed, generate
from onnxfq.feeds.content import Content
from onnxfq.feeds.natural import as_stored, drawn
from onnxfq.signature import Dimension, Signature, TensorSpec

Shape = tuple[Dimension, ...]


def made(*specs: TensorSpec, samples: int = 1, seed: int = 0) -> list[Feed]:
    return list(generate(Signature(specs, ()), samples=samples, seq_len=64, seed=seed))


def one(name: str, *shape: Dimension, dtype: str = "float32", samples: int = 1, seed: int = 0) -> Array:
    return np.concatenate([feed[name] for feed in made(TensorSpec(name, dtype, shape), samples=samples, seed=seed)])


def neighbours(array: Array, axis: int) -> float:
    """The correlation of values with those that come next along an axis."""
    array = array.astype(np.float64)
    first, second = np.delete(array, -1, axis), np.delete(array, 0, axis)
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "wanted"),
    [
        ("pixel_values", (1, 3, 32, 32), "float32", "image"),
        ("pixel_values", (1, 12, 32, 32), "float32", "image"),
        ("x", (1, 3, 32, 32), "float32", "image"),
        ("input_1:0", (1, 32, 32, 3), "float16", "image"),
        ("input1", (1, 1, 64, 224), "float32", "image"),
        ("image", (3, 32, 32), "float32", "image"),
        ("image", (1, 32, 32, 3), "uint8", "image"),
        ("pixel_values", (1, 4, 3, 32, 32), "float32", "image"),
        ("input_values", (1, 16000), "float32", "sound"),
        ("audio", (1, 1, 500), "float32", "sound"),
        ("x", (1, 16000), "float32", "sound"),
        ("wav", (500,), "int16", "sound"),
        ("input_features", (1, 80, 64), "float32", "spectrogram"),
        ("audio_signal", (1, 80, 64), "float32", "spectrogram"),
        ("input_values", (1, 64, 128), "float32", "spectrogram"),
        ("mel", (1, 80, 64), "float32", "spectrogram"),
        ("inputs_embeds", (1, 64, 768), "float32", None),
        ("encoder_hidden_states", (1, 64, 768), "float32", None),
        ("image_embeddings", (1, 3, 64, 64), "float32", None),
        ("latent_sample", (1, 4, 64, 64), "float32", None),
        ("x", (1, 256, 56, 56), "float32", None),
        ("x", (1, 4096), "float32", None),
        ("x", (1, 64, 80), "float32", None),
        ("pixel_values", (1, 196, 768), "float32", None),
        ("attention_mask", (1, 1, 64, 64), "float32", None),
        ("pixel_mask", (1, 3, 64, 64), "float32", None),
        ("input_ids", (1, 64), "int64", None),
        ("x", (1, 3, 0, 0), "float32", None),
    ],
)
def test_what_an_input_is_told_from_its_name_and_shape(
    name: str, shape: tuple[int, ...], dtype: str, wanted: Content | None
) -> None:
    assert drawn(TensorSpec(name, dtype, shape), shape) == wanted


@pytest.mark.parametrize("shape", [("b", 3, 48, 40), ("b", 48, 40, 3), ("b", 1, 48, 40), (1, 2, 3, 48, 40)])
def test_images_are_smooth_and_differ_in_brightness_and_contrast(shape: Shape) -> None:
    images = one("pixel_values", *shape, samples=60)
    assert images.shape == (60, *shape[1:])
    rows, columns = (i for i, size in enumerate(images.shape) if size in (48, 40))
    assert min(neighbours(images, rows), neighbours(images, columns)) > 0.8
    axes = tuple(range(1, images.ndim))
    means, deviations = images.mean(axis=axes), images.std(axis=axes)
    assert abs(float(images.mean())) < 0.3
    assert 0.7 < float(images.std()) < 1.3
    assert means.std() > 0.2
    assert deviations.max() > 2 * deviations.min()


def test_channels_of_an_image_are_nearly_alike_and_have_edges() -> None:
    images = one("pixel_values", "b", 3, 64, 64, samples=30)
    red, green = images[:, 0].ravel(), images[:, 1].ravel()
    assert 0.5 < np.corrcoef(red, green)[0, 1] < 0.99
    steps = np.abs(np.diff(images, axis=-1))
    assert np.quantile(steps, 0.999) > 5 * np.median(steps)


def test_large_images_are_as_smooth() -> None:
    image = one("pixel_values", 1, 3, 300, 520)
    assert image.shape == (1, 3, 300, 520)
    assert np.isfinite(image).all()
    assert neighbours(image, 3) > 0.95


def test_stored_images_use_the_whole_range_of_bytes() -> None:
    images = one("image", "b", 48, 48, 3, dtype="uint8", samples=20)
    assert images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 255)
    assert 60 < images.mean() < 190
    stored = as_stored(one("pixel_values", "b", 3, 48, 48, samples=20))
    assert float(stored.min()) == pytest.approx(0, abs=1e-3)
    assert float(stored.max()) == pytest.approx(255, abs=1e-3)


def test_films_move() -> None:
    film = one("pixel_values", 1, 4, 3, 32, 32)[0]
    assert all(np.abs(film[0] - frame).mean() < 2 * film.std() for frame in film)
    assert sorted(film[0].ravel().tolist()) == sorted(film[3].ravel().tolist())


@pytest.mark.parametrize(("name", "dtype"), [("input_values", "float32"), ("audio", "float32"), ("wav", "int16")])
def test_sounds_are_smooth_and_as_loud_as_their_input_has_them(name: str, dtype: str) -> None:
    sounds = one(name, "b", 9000, dtype=dtype, samples=12).astype(np.float64)
    assert neighbours(sounds, 1) > 0.7
    peaks, deviations = np.abs(sounds).max(axis=1), sounds.std(axis=1)
    if name == "input_values":
        np.testing.assert_allclose(deviations, 1, rtol=1e-3)
    else:
        peaks = peaks / (1 if dtype == "float32" else 2**15)
        assert 0 < peaks.min() < peaks.max() < 1
        assert peaks.max() > 2 * peaks.min()


@pytest.mark.parametrize(("shape", "time"), [((1, 80, "frames"), 2), ((1, "frames", 80), 1), ((1, 80, 300), 2)])
def test_spectrograms_are_smooth_in_time(shape: Shape, time: int) -> None:
    found = np.concatenate([one("input_features", *shape, seed=seed) for seed in range(12)])
    assert neighbours(found, time) > 0.9
    assert 0.6 < found.std() < 1.4
    assert np.abs(found).max() <= 4
    assert found.std(axis=(1, 2)).max() > 1.2 * found.std(axis=(1, 2)).min()


@pytest.mark.parametrize("name", ["pixel_values", "input_values", "input_features", "x"])
def test_a_sample_depends_on_seed_and_index_only(name: str) -> None:
    shape = {"pixel_values": (1, 3, 32, 32), "input_values": (1, 500), "input_features": (1, 40, 30)}.get(name, (1, 9))
    few, many, other = (one(name, *shape, samples=n, seed=seed) for n, seed in ((2, 3), (5, 3), (2, 4)))
    np.testing.assert_array_equal(few, many[:2])
    assert (few[0] != few[1]).any()
    assert (few != other).any()


# What names explain

IMAGE = TensorSpec("image", "float32", (1, 3, 48, 40))
IDS = TensorSpec("input_ids", "int64", ("batch", "seq"), 50)


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (TensorSpec("sr", "int64", ()), 16000),
        (TensorSpec("sampling_rate", "int32", (1,)), [16000]),
        (TensorSpec("speed", "float32", (1,)), [1]),
        (TensorSpec("scales", "float32", (3,)), [1, 1, 1]),
        (TensorSpec("scale_factor", "float32", (1, 2)), [[1, 1]]),
        (TensorSpec("num_beams", "int32", (1,)), [1]),
        (TensorSpec("im_shape", "float32", (1, 2)), [[48, 40]]),
        (TensorSpec("orig_target_sizes", "int64", (1, 2)), [[48, 40]]),
        (TensorSpec("im_info", "float32", (1, 3)), [[48, 40, 1]]),
    ],
)
def test_what_is_no_measurement_is_no_random_number(spec: TensorSpec, value: object) -> None:
    for inputs in ((spec, IMAGE), (IMAGE, spec)):
        (feed,) = made(*inputs)
        assert list(feed) == [other.name for other in inputs]
        np.testing.assert_array_equal(feed[spec.name], value)
        assert feed[spec.name].dtype.name == spec.dtype


@pytest.mark.parametrize(
    ("spec", "most"),
    [
        (TensorSpec("bbox", "int64", (1, 200, 4)), 1000),
        (TensorSpec("bbox", "int64", (1, 200, 4), 256), 255),
        (TensorSpec("boxes", "float32", (1, 200, 4)), 40),
    ],
)
def test_boxes_have_their_corners_in_order(spec: TensorSpec, most: int) -> None:
    (feed,) = made(spec, IMAGE)
    boxes = feed[spec.name]
    assert (boxes[..., :2] <= boxes[..., 2:]).all()
    assert boxes.min() >= 0
    assert most * 0.8 < boxes.max() <= most


def test_steps_points_and_classes() -> None:
    specs = TensorSpec("timestep", "int64", (50,)), TensorSpec("one_hot", "float32", (9, 5))
    points = TensorSpec("point_coords", "float32", (1, 99, 2)), TensorSpec("point_labels", "float32", (1, 99))
    (feed,) = made(*specs, *points, IMAGE)
    assert 500 < feed["timestep"].max() < 1000
    assert (feed["one_hot"].sum(axis=1) == 1).all()
    assert 30 < feed["point_coords"].max() < 40
    assert set(feed["point_labels"].flat) == {0, 1}


@pytest.mark.parametrize(
    ("spec", "others", "wanted"),
    [
        (TensorSpec("length", "int64", (1,)), (TensorSpec("audio_signal", "float32", (1, 80, 33)),), 80),
        (TensorSpec("length", "int64", (1,)), (TensorSpec("audio_signal", "float32", (1, 80, "frames")),), 64),
        (TensorSpec("speech_lengths", "int32", (1,)), (IDS, TensorSpec("speech", "float32", (1, 33, 20))), 33),
        (TensorSpec("x_lengths", "int64", (1,)), (TensorSpec("x", "int64", (1, 21), 9), IMAGE), 21),
        (TensorSpec("target_length", "int32", (1,)),
         (TensorSpec("encoded", "float32", (1, 640, 9)), TensorSpec("targets", "int32", (1, 11))), 11),
        (TensorSpec("input_lengths", "int64", (1,)), (IMAGE,), 64),
    ],
)  # fmt: skip
def test_lengths_are_those_of_the_input_that_they_are_about(
    spec: TensorSpec, others: tuple[TensorSpec, ...], wanted: int
) -> None:
    for inputs in ((spec, *others), (*others, spec)):
        assert made(*inputs)[0][spec.name] == wanted


def test_series_of_time_are_no_caches() -> None:
    (feed,) = made(TensorSpec("past_values", "float32", (1, 64, 7)))
    assert feed["past_values"].shape == (1, 64, 7)
    assert feed["past_values"].std() > 0.8
