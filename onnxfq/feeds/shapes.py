"""Sizes for the symbolic dimensions of a model's inputs: one name, one size, in all inputs of a run.

What is surer goes before what is less sure: given data, the shape of the model itself, `TensorSpec.fitting` (what a
search found, before what the graph implies, before what configurations name), words in names, the position of an axis.
"""

from __future__ import annotations

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from onnxfq.arrays import Array
from onnxfq.errors import DataError
from onnxfq.feeds.axis_kinds import AxisKind, axis_kind, holds_images
from onnxfq.feeds.content import LENGTH_WORDS, SAMPLING_RATE, SIDE_WORDS, channels_axis, content, has_word
from onnxfq.feeds.names import is_integer, role, stem
from onnxfq.signature import IMAGE_CHANNELS, IMAGE_SIDE, Dimension, Signature, TensorSpec

Shape = tuple[Dimension, ...]

LATENT_SIDE = 32  # of an encoded image
FEATURES = 80  # of a frame of sound
HEAD_SIZE = 64  # of cached keys and values
OTHER = 4  # a dimension of which nothing is known
MOST_SUGGESTED = 1 << 24  # elements of an input whose sizes are chosen: others would suit the model as well
MOST_ELEMENTS = 1 << 28  # of an input that is made up: what a model claims must not fill the memory
_MOST_DIMENSIONS = 32
_LONGEST_EXPRESSION = 200  # characters; Python's parser is not made for what may stand in a model

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
}


@dataclass
class Sizes:
    """The sizes of one run.

    Attributes:
        sequence: new tokens, and whatever else looks like a length.
        past: tokens already in the cache.
        encoder: length of what an encoder-decoder's encoder read.
        batch: rows fed at once.
        cached: whether the model takes cached tokens at all.
        known: size of each symbolic dimension, as it becomes known.
    """

    sequence: int
    past: int = 0
    encoder: int = 1
    batch: int = 1
    cached: bool = False
    known: dict[str, int] = field(default_factory=dict)

    def shape(self, spec: TensorSpec) -> tuple[int, ...]:
        """The shape to feed an input with.

        Raises:
            DataError: even the rank is unknown.
        """
        if spec.shape is None:
            raise DataError(
                f"Nothing is known about the shape of input {spec.name} (got no rank), so that no data can be made up "
                "for it. Give inputs with `calib=FILE.npz`, or skip the comparison with `validate=False`."
            )
        size = self._cache_size if role(spec) == "cache" else self._size
        shape = tuple(size(spec, spec.shape, axis) for axis in range(len(spec.shape)))
        if len(shape) > _MOST_DIMENSIONS or any(d < 0 for d in shape) or math.prod(shape) > MOST_ELEMENTS:
            raise DataError(
                f"Input {spec.name} would have an impossible shape (got {_few(shape)}; at most {MOST_ELEMENTS} values "
                "are made up). Give inputs with `calib=FILE.npz`, or skip the comparison with `validate=False`."
            )
        return shape

    def bind(self, spec: TensorSpec, array: Array) -> None:
        """Learn the sizes of an input's symbolic dimensions from what was given for it."""
        if spec.shape is None or len(spec.shape) != array.ndim:
            return
        for dimension, size in zip(spec.shape, array.shape, strict=True):
            if isinstance(dimension, str):
                self.known.setdefault(dimension, size)

    def suggest(self, spec: TensorSpec) -> None:
        """Take over the sizes that suit the model, for every input with dimensions of these names."""
        for axis, dimension in enumerate(spec.shape or ()):
            size = _fitting(spec, axis)
            if isinstance(dimension, str) and size is not None:
                self.known.setdefault(dimension, size)

    def _size(self, spec: TensorSpec, shape: Shape, axis: int) -> int:
        dimension = shape[axis]
        if isinstance(dimension, int):
            return dimension
        if self.cached and axis == 1 and _is_token_mask(spec):
            # Not by its name, which exporters choose loosely ("past_sequence_length + 1" for a whole prompt).
            return self.past + self.sequence
        if dimension is None:
            fitting = _fitting(spec, axis)
            return self._by_position(spec, shape, axis) if fitting is None else fitting
        if axis == 0 and len(shape) > 3 and holds_images(spec):
            return self.known.setdefault(dimension, self.batch)  # whatever it is called
        if dimension not in self.known:
            value = _evaluate(dimension, lambda name: self.known.get(name, self._by_word(name)))
            self.known[dimension] = self._by_position(spec, shape, axis) if value is None else value
        return self.known[dimension]

    def _cache_size(self, spec: TensorSpec, shape: Shape, axis: int) -> int:
        """Caches are [..., tokens, head size], and [batch, ...] unless the batch is named elsewhere."""
        dimension = shape[axis]
        if isinstance(dimension, int):
            return dimension
        name, counts_tokens = dimension or "", axis == len(shape) - 2
        ring = ring_length(spec)
        if counts_tokens and ring is not None:
            return ring
        if _of_encoder(name) or (counts_tokens and _of_encoder(stem(spec.name))):
            return self.known.get(name, self.encoder)
        return self.past if counts_tokens or "past" in name else self._size(spec, shape, axis)

    def _by_word(self, name: str) -> int | None:
        """The size that a name speaks of; None where it says nothing."""
        word = name.lower()
        if "batch" in word:
            return self.batch
        if "past" in word:
            return self.past
        if _of_encoder(word):
            return self.encoder
        if has_word(word, LENGTH_WORDS):
            return self.sequence + self.past * ("total" in word or "mask" in word)
        if "channel" in word:
            return IMAGE_CHANNELS
        side = LATENT_SIDE if "latent" in word else IMAGE_SIDE
        return side if has_word(word, SIDE_WORDS) else None

    def _by_position(self, spec: TensorSpec, shape: Shape, axis: int) -> int:
        """The size of an axis by what it counts; where that tells none, the second of few axes counts tokens.

        Four axes are those of images, and of what is laid over them.
        """
        size = self._of_kind(axis_kind(spec, axis), spec)
        if size is not None:
            return size
        if axis == 0:
            return self.batch
        if len(shape) == 4 and role(spec) != "cache":
            return IMAGE_CHANNELS if axis == channels_axis(shape) else IMAGE_SIDE
        return self.sequence if axis == 1 and len(shape) <= 3 else OTHER

    def _of_kind(self, kind: AxisKind, spec: TensorSpec) -> int | None:
        match kind:
            case "batch":
                return self.batch
            case "side":
                return LATENT_SIDE if "latent" in stem(spec.name) else IMAGE_SIDE
            case "channels":
                return 1 if content(spec) == "sound" else IMAGE_CHANNELS
            case "features" if content(spec) == "spectrogram":
                return FEATURES
            case "frames" if content(spec) == "spectrogram":
                return self.sequence
            case "head size":
                return HEAD_SIZE
            case _:
                return None


def sizes_of(
    feed: Mapping[str, Array], signature: Signature, *, sequence: int, past: int, encoder: int, batch: int = 1
) -> Sizes:
    """The sizes that the signature or a feed already fix, and the given ones for the rest.

    Args:
        feed: what was given so far, by input name.
        signature: the model's inputs.
        sequence: how many new tokens where nothing says.
        past: how many cached tokens where nothing says.
        encoder: how many tokens an encoder read where nothing says.
        batch: how many rows where nothing says.
    """
    caches = [spec for spec in signature.inputs if role(spec) == "cache"]
    sizes = Sizes(sequence, past=_fixed_past(caches, past), encoder=encoder, batch=batch, cached=bool(caches))
    for spec in signature.inputs:
        array = feed.get(spec.name)
        if array is not None:
            sizes.bind(spec, array)
        _learn(sizes, spec, _fitted(spec) if array is None else array.shape)
    for spec in signature.inputs:
        sizes.suggest(spec)
    return sizes


def _fitted(spec: TensorSpec) -> Shape | None:
    """An input's shape with what suits the model where that is open."""
    if spec.shape is None or not spec.fitting:
        return spec.shape
    return tuple(_fitting(spec, a) or d if not isinstance(d, int) else d for a, d in enumerate(spec.shape))


def _fitting(spec: TensorSpec, axis: int) -> int | None:
    """What suits the model: what is known of it, and a second of sound."""
    too_many = math.prod(size or 1 for size in spec.fitting) > MOST_SUGGESTED
    known = spec.fitting[axis] if axis < len(spec.fitting) and not too_many else None
    return SAMPLING_RATE if known is None and axis_kind(spec, axis) == "samples" else known


def _learn(sizes: Sizes, spec: TensorSpec, shape: Shape | None) -> None:
    """Take over the sizes that an input's shape, of the signature or of given data, fixes."""
    if shape is None:
        return
    if role(spec) == "cache":
        if _has_token_axis(spec):
            sizes.past = _fixed(shape[-2], sizes.past)
    elif _holds_tokens(spec, len(shape)):
        sizes.batch, sizes.sequence = _fixed(shape[0], sizes.batch), _fixed(shape[1], sizes.sequence)
    elif stem(spec.name) == "encoder_hidden_states" and len(shape) == 3:
        sizes.encoder = _fixed(shape[1], sizes.encoder)


def _fixed_past(caches: list[TensorSpec], past: int) -> int:
    """Cached tokens of a cache [batch, heads, tokens, head size] of fixed size; states of other kinds count none."""
    if not any(_has_token_axis(spec) for spec in caches):
        fixed = [spec.shape[-2] for spec in caches if spec.shape is not None and len(spec.shape) == 4]
        return next((size for size in fixed if isinstance(size, int)), past)
    return past


def _has_token_axis(spec: TensorSpec) -> bool:
    """Whether a cache grows with the tokens seen."""
    fixed = spec.shape is None or isinstance(spec.shape[-2], int) or ring_length(spec) is not None
    return not fixed and not _of_encoder(stem(spec.name))


def ring_length(spec: TensorSpec) -> int | None:
    """Length of a cache that is a ring of the latest tokens, as the graph implies it; None of others."""
    return spec.fitting[-2] if role(spec) == "cache" and len(spec.fitting) == 4 else None


def _fixed(dimension: Dimension, otherwise: int) -> int:
    return dimension if isinstance(dimension, int) else otherwise


def _holds_tokens(spec: TensorSpec, rank: int) -> bool:
    """Whether an input holds the new tokens: their ids or embeddings."""
    if role(spec) != "data":
        return False
    return (is_integer(spec) and rank == 2) or (stem(spec.name) == "inputs_embeds" and rank == 3)


def _of_encoder(name: str) -> bool:
    return "encoder" in name.replace("decoder", "")


def _is_token_mask(spec: TensorSpec) -> bool:
    return stem(spec.name) in {"attention_mask", "decoder_attention_mask"} and len(spec.shape or ()) == 2


def _few(shape: tuple[int, ...]) -> str:
    """A shape for people, whatever is in it."""
    sizes = [str(d) if abs(d) < 1 << 64 else "more than 2^64" for d in shape[:8]]
    return f"[{', '.join(sizes)}{', …' if len(shape) > 8 else ''}]"


def _evaluate(expression: str, size: Callable[[str], int | None]) -> int | None:
    """The value of a dimension such as `past_sequence_length + sequence_length`; None where an operand is unknown."""
    if len(expression) > _LONGEST_EXPRESSION or not re.fullmatch(r"[\w\s.+*/%()-]+", expression):
        return size(expression)
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return size(expression)
    if isinstance(tree, ast.BinOp):
        return _calculate(tree, size)
    return size(expression)


def _calculate(node: ast.expr, size: Callable[[str], int | None]) -> int | None:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, int) else None
    if isinstance(node, ast.Name):
        return size(node.id)
    if not isinstance(node, ast.BinOp) or type(node.op) not in _OPERATORS:
        return None
    left, right = _calculate(node.left, size), _calculate(node.right, size)
    if left is None or right is None or (right == 0 and isinstance(node.op, ast.FloorDiv | ast.Div)):
        return None
    return _OPERATORS[type(node.op)](left, right)
