"""Made-up values that their names explain: lengths, sizes of images, boxes, rates, steps, factors.

What is no array of anything measured (a sampling rate, a factor of speed) must not be a random number: models divide by
it, or make something that large.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxfq.arrays import Array
from onnxfq.feeds.content import SAMPLING_RATE, looks_like_image, side_axes
from onnxfq.feeds.names import is_float, is_integer, role, stem, words
from onnxfq.signature import IMAGE_SIDE, Signature, TensorSpec

STEPS = 1000  # of diffusion
PAGE = 1000  # a page is so wide and high to LayoutLM and its kin, whatever it measures
_SINGLE = 8  # values at most, where something is said about a whole sample
_RATES = ("sr", "sample_rate", "sampling_rate")
_FACTORS = frozenset({"speed", "scale", "scales", "temperature", "penalty", "factor", "beams", "guidance", "sequences"})
_SIZES, _OF_IMAGES = frozenset({"size", "sizes", "shape", "shapes"}), frozenset({"im", "image", "images", "img", "orig",
                                                                                "original", "target"})  # fmt: skip
_BOXES, _POINTS = frozenset({"bbox", "bboxes", "box", "boxes"}), frozenset({"points", "coords", "point"})
_CORNERS, _PLANE = 4, 2


def follows(spec: TensorSpec) -> bool:
    """Whether an input says something about others, so that they are made first."""
    return role(spec) == "length" or _is_image_size(spec) or bool(words(spec.name) & (_BOXES | _POINTS))


def length(spec: TensorSpec, signature: Signature, made: Mapping[str, Array], otherwise: int) -> int:
    """How long a sample is, for an input that says so: as long as the input that its name begins with, or the first.

    Args:
        spec: the input that counts.
        signature: all inputs.
        made: those that are there.
        otherwise: how long where no input has a length.
    """
    name = stem(spec.name).rpartition("_")[0]
    counted = {other.name: _length(other, made[other.name]) for other in signature.inputs if other.name in made}
    known = {other: size for other, size in counted.items() if size is not None}
    named = (size for other, size in known.items() if name and _begin_alike(name, stem(other)))
    return next(named, next(iter(known.values()), otherwise))


def explained(
    spec: TensorSpec, shape: tuple[int, ...], made: Mapping[str, Array], rng: np.random.Generator
) -> Array | None:
    """Values for an input whose name explains them; None for all others.

    Args:
        spec: the input.
        shape: of it.
        made: inputs that are there already.
        rng: decides where several values are plausible.
    """
    name, parts, last = stem(spec.name), words(spec.name), shape[-1] if shape else 1
    single = int(np.prod(shape)) <= _SINGLE
    if any(name == rate or name.endswith(f"_{rate}") for rate in _RATES) and single:
        return np.full(shape, SAMPLING_RATE)
    if _is_image_size(spec):
        return np.broadcast_to([*_image_size(made), 1][:last] if last > 1 else _image_size(made)[0], shape)
    if parts & _FACTORS and single and len(shape) <= _PLANE:
        return np.ones(shape)
    if name in ("timestep", "timesteps"):
        return rng.integers(STEPS, size=shape)
    if parts & _BOXES and last == _CORNERS:
        return _boxes(shape, _extent(spec, made), rng)
    if parts & _POINTS and last == _PLANE and is_float(spec):
        return rng.uniform(0, min(_image_size(made)), shape)
    if "onehot" in name.replace("_", "") and shape:
        return np.eye(last)[rng.integers(last, size=shape[:-1])]
    return rng.integers(2, size=shape) if parts & {"label", "labels"} and is_float(spec) else None


def _is_image_size(spec: TensorSpec) -> bool:
    """Whether an input says how large an image is: `orig_target_sizes`, `im_shape`, `im_info`."""
    parts, small = words(spec.name), spec.shape is not None and len(spec.shape) <= _PLANE
    named = bool(parts & _SIZES and parts & _OF_IMAGES) or stem(spec.name) == "im_info"
    return named and small and role(spec) == "data" and (is_float(spec) or is_integer(spec))


def _image_size(made: Mapping[str, Array]) -> tuple[int, int]:
    """Height and width of the first image."""
    for array in made.values():
        if array.ndim == 4 and looks_like_image(array.shape):
            height, width = side_axes(array.shape)
            return array.shape[height], array.shape[width]
    return IMAGE_SIDE, IMAGE_SIDE


def _extent(spec: TensorSpec, made: Mapping[str, Array]) -> int:
    """The largest coordinate of a box."""
    if is_integer(spec):
        return min(PAGE, (spec.vocabulary or PAGE + 1) - 1)
    return min(_image_size(made))


def _boxes(shape: tuple[int, ...], extent: int, rng: np.random.Generator) -> Array:
    """Left, top, right, bottom: the first corner is never beyond the second."""
    corners = np.sort(rng.integers(extent + 1, size=(*shape[:-1], _PLANE, _PLANE)), axis=-2)
    return corners.reshape(shape)


def _length(spec: TensorSpec, array: Array) -> int | None:
    """The axis of an input that counts time or tokens; None where it has none, as images have none."""
    if role(spec) != "data" or array.ndim not in (_PLANE, _PLANE + 1) or array.size <= _SINGLE or follows(spec):
        return None
    wanted = spec.shape if spec.shape is not None and len(spec.shape) == array.ndim else (None,) * array.ndim
    left_open: list[int] = [array.shape[axis] for axis in range(1, array.ndim) if not isinstance(wanted[axis], int)]
    return max(left_open or array.shape[1:])


def _begin_alike(name: str, other: str) -> bool:
    """Whether two names speak of the same: `speech_lengths` of `speech`, `target_length` of `targets`."""
    return other.startswith(name) or name.startswith(other)
