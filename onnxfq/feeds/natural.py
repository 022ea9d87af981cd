"""Made-up images, sounds and spectrograms that are like real ones: smooth, with edges, and each unlike the others.

White noise looks the same to a model whatever its seed, so that outputs hardly differ, and an error relative to their
differences says nothing.
"""

from __future__ import annotations

import math

import numpy as np

from onnxfq.arrays import Array, Float32Array
from onnxfq.feeds.content import (
    SAMPLING_RATE,
    Content,
    channels_axis,
    content,
    is_from_processor,
    is_named_sound,
    time_axis,
)
from onnxfq.feeds.names import is_float, is_integer
from onnxfq.signature import TensorSpec

_LOUDEST_16_BITS = 2**15 - 1
_BLACK, _WHITE = -2.2, 2.6  # what they become by the usual normalization
_LOUDEST = 4  # standard deviations of a spectrogram
_DRAWN = 128  # the largest side of an image that is drawn; larger ones are that, enlarged


def drawn(spec: TensorSpec, shape: tuple[int, ...]) -> Content | None:
    """What an input is made like; None where it holds nothing that one sees or hears.

    Args:
        spec: the input.
        shape: that it will have.
    """
    found = content(spec, shape)
    return None if found == "map" else found


def natural(spec: TensorSpec, shape: tuple[int, ...], what: Content, rng: np.random.Generator) -> Array:
    """An image, a sound or a spectrogram.

    Args:
        spec: the input that it is for, which decides about the range of its values.
        shape: of it.
        what: which of them.
        rng: decides about everything else.
    """
    if what == "image":
        return _in_range(_images(shape, channels_axis(spec.shape or shape, shape), rng), spec)
    if what == "sound":
        return _loud(np.stack([_sound(shape[-1], rng) for _ in range(math.prod(shape[:-1]))]).reshape(shape), spec, rng)
    frames = time_axis(spec.shape or shape, shape) - len(shape) + 2
    return np.stack([_spectrogram(shape[-2:], frames, rng) for _ in range(math.prod(shape[:-2]))]).reshape(shape)


# Images


def _images(shape: tuple[int, ...], channels: int, rng: np.random.Generator) -> Float32Array:
    """Images of any rank: the axes besides channels and sides count images, and the frames of a film."""
    others = [size for axis, size in enumerate(shape) if axis != channels]
    *counts, height, width = others
    films, frames = (counts[0], math.prod(counts[1:])) if counts else (1, 1)
    made = np.empty((films, frames, shape[channels], height, width), np.float32)
    for film in made:
        picture, steps = _image(shape[channels], (height, width), rng), rng.integers(-3, 4, 2)
        for index, frame in enumerate(film):
            frame[:] = np.roll(picture, tuple(index * steps), axis=(1, 2))  # a camera that moves
    return _placed(made, others, channels)


def _placed(films: Float32Array, others: list[int], channels: int) -> Float32Array:
    """Films [film, frame, channel, height, width] with their channels at another axis."""
    last = np.moveaxis(films, 2, -1)
    return np.moveaxis(last.reshape(*others, last.shape[-1]), -1, channels)


def _image(channels: int, sides: tuple[int, int], rng: np.random.Generator) -> Float32Array:
    """One image [channels, height, width] of 1/f noise, a gradient and some objects, about mean 0 and variance 1.

    How bright, how rich in contrast and in detail it is, and in which colours, differs from image to image as it does
    in photographs.
    """
    height, width = (min(side, _DRAWN) for side in sides)
    colours = _colours(channels, rng)
    ground: Array = np.tensordot(colours, _fractal((channels, height, width), rng.uniform(0.8, 1.8), rng), 1)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, np.newaxis]
    x = np.linspace(-1, 1, width, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.float32(rng.normal()) * (np.float32(np.sin(angle)) * y + np.float32(np.cos(angle)) * x)
    ground = 0.5 * ground + (colours @ rng.standard_normal(channels))[:, None, None] * slope
    for _ in range(int(rng.integers(2, 9))):
        inside = _object(y, x, rng)
        colour = (colours @ rng.standard_normal(channels)).astype(np.float32)
        ground = np.where(inside, colour[:, None, None] + np.float32(rng.uniform(0, 0.6)) * ground, ground)
    drawn = _standard(ground, rng)
    return drawn if (height, width) == sides else _enlarged(drawn, *sides)


def _enlarged(image: Float32Array, height: int, width: int) -> Float32Array:
    """An image [channels, …, …] with sides of another length, linear in between."""
    return np.asarray(_between(height, image.shape[1]) @ image @ _between(width, image.shape[2]).T)


def _between(size: int, of: int) -> Float32Array:
    """What makes `size` values of some, [size, of]."""
    at = np.linspace(0, of - 1, size)
    weights = np.maximum(0, 1 - np.abs(at[:, np.newaxis] - np.arange(of)))
    return np.asarray(weights, np.float32)


def _colours(channels: int, rng: np.random.Generator) -> Float32Array:
    """What mixes independent patterns into channels that are nearly alike, as colours of one scene are."""
    mixed = 0.35 * rng.standard_normal((channels, channels)) / math.sqrt(channels)
    mixed[:, 0] += 1
    return mixed.astype(np.float32)


def _object(y: Float32Array, x: Float32Array, rng: np.random.Generator) -> Array:
    """Where an ellipse or a box is, turned by an angle; `y` and `x` go from −1 to 1."""
    middle, sides, angle = rng.uniform(-0.9, 0.9, 2), rng.uniform(0.08, 0.6, 2), rng.uniform(0, np.pi)
    sine, cosine = np.float32(np.sin(angle)), np.float32(np.cos(angle))
    across, along = y - np.float32(middle[0]), x - np.float32(middle[1])
    first = (cosine * across + sine * along) / np.float32(sides[0])
    second = (cosine * along - sine * across) / np.float32(sides[1])
    return first**2 + second**2 < 1 if rng.random() < 0.5 else np.maximum(np.abs(first), np.abs(second)) < 1


def _fractal(shape: tuple[int, ...], power: float, rng: np.random.Generator) -> Float32Array:
    """Noise whose amplitude falls with a power of the frequency along the last two axes, variance 1."""
    down = np.fft.fftfreq(shape[-2])[:, np.newaxis]
    frequency = np.hypot(down, np.fft.rfftfreq(shape[-1]))
    frequency.flat[0] = np.inf  # no mean
    found = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape, np.float32)) * frequency**-power, shape[-2:])
    deviation = found.std(axis=(-2, -1), keepdims=True)
    return np.asarray(found / np.where(deviation > 0, deviation, 1), np.float32)


def _standard(image: Array, rng: np.random.Generator) -> Float32Array:
    """Mean 0 and variance 1 over all images; of a single one, both differ."""
    deviation = float(image.std())
    contrast, brightness = math.exp(rng.normal(-0.25, 0.35)), rng.normal(0, 0.5)
    scaled = (image - image.mean()) * np.float32(contrast / (deviation or 1.0)) + np.float32(brightness)
    return np.asarray(np.clip(scaled, _BLACK, _WHITE), np.float32)


def _in_range(images: Float32Array, spec: TensorSpec) -> Array:
    """Images in the range of their input: normalized ones of floats, and integers from 0 to 255."""
    return images if is_float(spec) else np.rint(as_stored(images))


def as_stored(images: Array) -> Array:
    """Normalized images with black at 0 and white at 255, as some models take floats too."""
    return (images - np.float32(_BLACK)) * np.float32(255 / (_WHITE - _BLACK))


# Sounds


def _sound(length: int, rng: np.random.Generator) -> Float32Array:
    """A voice that comes and goes, of a fundamental that glides and its harmonics, above pink noise; variance 1."""
    time = np.arange(length) / SAMPLING_RATE
    pitch = rng.uniform(80, 350) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(0.3, 5) * time + rng.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLING_RATE
    voice, formant = np.zeros(length), rng.uniform(300, 2500)
    for harmonic in range(1, 13):
        strength = 1 / harmonic + np.exp(-(((harmonic * pitch.mean() - formant) / 300) ** 2))
        voice += strength * np.sin(harmonic * phase + rng.uniform(0, 6))
    noise = _fractal((1, length), 0.5, rng)[0]
    found = voice * _envelope(length, rng) + rng.uniform(0.05, 0.5) * noise
    return np.asarray((found - found.mean()) / (found.std() or 1.0), np.float32)


def _envelope(length: int, rng: np.random.Generator) -> Array:
    """How loud a sound is: some syllables with silence between them."""
    at, envelope = np.linspace(0, 1, length), np.zeros(length)
    for middle, width in zip(rng.random(6), rng.uniform(0.02, 0.15, 6), strict=True):
        envelope += rng.uniform(0.3, 1) * np.exp(-(((at - middle) / width) ** 2))
    return envelope


def _loud(sounds: Float32Array, spec: TensorSpec, rng: np.random.Generator) -> Array:
    """Sounds as loud as their input has them: variance 1, within [−1, 1], or integers of 16 bits."""
    if is_from_processor(spec) or not (is_integer(spec) or is_named_sound(spec)):
        return sounds
    shares = sounds * np.float32(rng.uniform(0.1, 0.9) / (np.abs(sounds).max() or 1.0))
    return np.rint(_LOUDEST_16_BITS * shares) if is_integer(spec) else shares


def _spectrogram(shape: tuple[int, ...], frames: int, rng: np.random.Generator) -> Float32Array:
    """Bands that come and go in time over a smooth ground; `frames` is the axis of time; variance about 1."""
    bands, times = shape[1 - frames], shape[frames]
    made = 0.5 * _fractal((bands, times), 1.2, rng)
    at = np.linspace(0, 1, bands, dtype=np.float32)[:, np.newaxis]
    for _ in range(int(rng.integers(3, 9))):
        middle, width = rng.random(), rng.uniform(0.02, 0.2)
        band = np.exp(-(((at - np.float32(middle)) / np.float32(width)) ** 2))
        made += np.float32(2) * band * _envelope(times, rng).astype(np.float32)
    made = (made - made.mean()) * np.float32(math.exp(rng.normal(-0.1, 0.25)) / (float(made.std()) or 1.0))
    made += np.float32(rng.normal(0, 0.3))
    found: Float32Array = np.clip(made, -_LOUDEST, _LOUDEST)
    return found if frames == 1 else found.T
