"""What an input is for, told from its name and type: exporters agree on names, and nothing else says it."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from onnxfq.signature import TensorSpec

Role = Literal["cache", "cache_branch", "mask", "zeros", "position", "past_length", "total_length", "length", "data"]

_FLOATS = ("float", "bfloat")
_INTEGERS = ("int", "uint")
# Exporters put words in front of these ("serving_default_token_type_ids"), seldom behind them.
_POSITIONS = ("position_ids", "cache_position", "pos_ids", "positions", "input_pos")
# Segments of one text are all the first, as is the beam of a single one; "keep the last 0 logits" keeps all of them.
_ZEROS = ("token_type_ids", "segment_ids", "input_type_ids", "sent_ids", "logits_to_keep", "beam_idx")
_PAST_LENGTHS = ("past_length", "past_sequence_length", "past_seq_len", "cache_length")
_TOTAL_LENGTHS = ("total_sequence_length", "total_length", "total_seq_len")
_LENGTHS = ("length", "lengths", "len", "lens", "seqlens", "ilens")
_HIDING = frozenset({"pad", "padding", "masked", "indices", "has"})  # beside "mask": true is what is not to be seen
_SERIES = frozenset({"past_values", "past_time_features", "past_observed_values"})  # of time, and no cache


def stem(name: str) -> str:
    """The name without the decorations of exporters: `model/Input_Ids:0` → `input_ids`."""
    return name.rsplit("/", 1)[-1].split(":", 1)[0].lower()


def is_float(spec: TensorSpec) -> bool:
    """Whether the elements are floating-point numbers."""
    return spec.dtype.startswith(_FLOATS)


def is_integer(spec: TensorSpec) -> bool:
    """Whether the elements are integers."""
    return spec.dtype.startswith(_INTEGERS)


@lru_cache(maxsize=4096)
def role(spec: TensorSpec) -> Role:
    """What an input is for; "data" is what only the caller can know, everything else follows from it."""
    name = stem(spec.name)
    if name == "use_cache_branch":
        return "cache_branch"
    if _ends_in(name, _POSITIONS) and is_integer(spec):
        return "position"
    if _ends_in(name, _ZEROS) or _hides(spec, name):
        return "zeros"
    if "mask" in name:
        return "mask"
    if is_integer(spec) and _is_small(spec):
        length = _length_role(name)
        if length is not None:
            return length
    return "cache" if _is_cache(spec, name) else "data"


def takes_token_ids(spec: TensorSpec) -> bool:
    """Whether an input takes the ids of tokens."""
    if not is_integer(spec) or role(spec) != "data":
        return False
    return spec.vocabulary is not None or stem(spec.name).endswith(("ids", "tokens", "token"))


def words(name: str) -> frozenset[str]:
    """The words of a name: `model/Pixel_Values:0` → pixel, values."""
    return frozenset(re.findall("[a-z]+", stem(name)))


def _ends_in(name: str, endings: tuple[str, ...]) -> bool:
    """Whether a name is one of some, with or without words before it."""
    return any(name == ending or name.endswith(f"_{ending}") for ending in endings)


def _hides(spec: TensorSpec, name: str) -> bool:
    """Whether an input names what is not to be seen: PyTorch's `key_padding_mask`, positions that are masked."""
    if "masked" in name:
        return True
    if "mask" not in name or not words(name) & _HIDING:
        return False
    return spec.dtype == "bool" or not words(name) & {"pad", "padding"}  # as numbers, padding is 0 like elsewhere


def _is_small(spec: TensorSpec) -> bool:
    return spec.shape is not None and len(spec.shape) <= 1


def _length_role(name: str) -> Role | None:
    if _ends_in(name, _PAST_LENGTHS):
        return "past_length"
    if _ends_in(name, _TOTAL_LENGTHS):
        return "total_length"
    return "length" if _ends_in(name, _LENGTHS) else None


def _is_cache(spec: TensorSpec, name: str) -> bool:
    """Keys and values of earlier tokens: named so, or floats with a dimension that counts past tokens."""
    if spec.shape is None or len(spec.shape) < 3 or name in _SERIES:
        return False
    if name.startswith(("past_", "past.")) or any(
        word in name for word in (".past", "past_key", "past_value", "cache")
    ):
        return True
    return is_float(spec) and any(_counts_past(dimension) for dimension in spec.shape)


def _counts_past(dimension: object) -> bool:
    return isinstance(dimension, str) and "past" in dimension and dimension.isidentifier()
