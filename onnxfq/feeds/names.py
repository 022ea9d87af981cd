"""What an input is for, told from its name and type: exporters agree on names, and nothing else says it."""

from __future__ import annotations

from typing import Literal

from onnxfq.signature import TensorSpec

Role = Literal["cache", "cache_branch", "mask", "zeros", "position", "past_length", "total_length", "length", "data"]

_FLOATS = ("float", "bfloat")
_INTEGERS = ("int", "uint")
_POSITIONS = frozenset({"position_ids", "decoder_position_ids", "cache_position"})
# Segments of one text are all the first; "keep the last 0 logits" keeps all of them.
_ZEROS = frozenset({"token_type_ids", "segment_ids", "num_logits_to_keep", "logits_to_keep"})
_PAST_LENGTHS = frozenset({"past_length", "past_sequence_length", "past_seq_len", "cache_length"})
_TOTAL_LENGTHS = frozenset({"total_sequence_length", "total_length"})


def stem(name: str) -> str:
    """The name without the decorations of exporters: `model/Input_Ids:0` → `input_ids`."""
    return name.rsplit("/", 1)[-1].split(":", 1)[0].lower()


def is_float(spec: TensorSpec) -> bool:
    """Whether the elements are floating-point numbers."""
    return spec.dtype.startswith(_FLOATS)


def is_integer(spec: TensorSpec) -> bool:
    """Whether the elements are integers."""
    return spec.dtype.startswith(_INTEGERS)


def role(spec: TensorSpec) -> Role:
    """What an input is for; "data" is what only the caller can know, everything else follows from it."""
    name = stem(spec.name)
    if name == "use_cache_branch":
        return "cache_branch"
    if name in _POSITIONS:
        return "position"
    if name in _ZEROS or "masked" in name:
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


def _is_small(spec: TensorSpec) -> bool:
    return spec.shape is not None and len(spec.shape) <= 1


def _length_role(name: str) -> Role | None:
    if name in _PAST_LENGTHS:
        return "past_length"
    if name in _TOTAL_LENGTHS:
        return "total_length"
    return "length" if name.endswith(("length", "lengths")) else None


def _is_cache(spec: TensorSpec, name: str) -> bool:
    """Keys and values of earlier tokens: named so, or floats with a dimension that counts past tokens."""
    if spec.shape is None or len(spec.shape) < 3:
        return False
    if name.startswith(("past_", "past.")) or any(
        word in name for word in (".past", "past_key", "past_value", "cache")
    ):
        return True
    return is_float(spec) and any(_counts_past(dimension) for dimension in spec.shape)


def _counts_past(dimension: object) -> bool:
    return isinstance(dimension, str) and "past" in dimension and dimension.isidentifier()
