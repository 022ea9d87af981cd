"""Whether given inputs fit a model: everything wrong with a sample in one message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from onnxfq.arrays import Array
from onnxfq.errors import DataError
from onnxfq.feeds.convert import PIXELS, fits
from onnxfq.feeds.names import is_float, is_integer, role, takes_token_ids
from onnxfq.session import dtype_name
from onnxfq.signature import Dimension, Signature, TensorSpec

_NAN = "NaN"


def check(feed: Mapping[str, Array], signature: Signature, where: str) -> None:
    """Refuse inputs that do not fit.

    Args:
        feed: what was given for one run, by input name.
        signature: the model's inputs.
        where: names the sample, such as "line 3 of data.jsonl".

    Raises:
        DataError: with every problem: unknown names, types, shapes, ids beyond the vocabulary, NaN and infinity.
    """
    check_names(feed, signature, where)
    given = [spec for name, spec in signature.feedable.items() if name in feed]
    problems = [problem for spec in given for problem in _problems(spec, feed[spec.name])]
    if problems:
        raise DataError(f"The data do not fit the model (in {where}): {'; '.join(problems)}.")


def check_names(names: Mapping[str, object], signature: Signature, where: str, remedy: str = "") -> None:
    """Refuse names that the model does not have; what else could be done about it ends the message."""
    known = signature.feedable
    unknown = [str(name) for name in names if name not in known]
    if unknown:
        raise DataError(
            f"The model has no such inputs (in {where}; got {', '.join(unknown)}). Its inputs: {', '.join(known)}."
            f"{remedy}"
        )


def shape_text(shape: tuple[Dimension, ...] | None) -> str:
    """A shape for people: `[batch, 3, ?]`."""
    return "any shape" if shape is None else f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _problems(spec: TensorSpec, array: Array) -> Iterator[str]:
    got = dtype_name(array)
    if got != spec.dtype and is_integer(spec) and array.dtype.kind == "f" and (odd := _fraction(array)):
        yield f"{spec.name} holds {odd}, and {noun(spec)} must be whole numbers{_remedy(spec, odd)}"
        return
    if got != spec.dtype:
        yield f"{spec.name} is {got}, wanted {spec.dtype}{_why_not_converted(spec, array)}"
        return
    if not fits(spec.shape, array.shape):
        yield f"{spec.name} has shape {shape_text(array.shape)}, wanted {shape_text(spec.shape)}{_turned(spec, array)}"
    if array.size == 0:
        if role(spec) != "cache":
            yield f"{spec.name} is empty"
        return
    if is_float(spec) and not np.isfinite(array).all():
        yield f"{spec.name} holds NaN or infinity"
    if spec.vocabulary is not None and not (array.min() >= 0 and array.max() < spec.vocabulary):
        yield (
            f"{spec.name} holds ids from {array.min()} to {array.max()}, wanted 0 to {spec.vocabulary - 1} "
            "(is the tokenizer that of this model?)"
        )


def noun(spec: TensorSpec) -> str:
    """What an input of integers holds: ids, if they are of tokens."""
    return "ids" if takes_token_ids(spec) else "values"


def _fraction(array: Array) -> str:
    """The first float that is no whole number, and where; "" where all are."""
    odd = np.argwhere(~np.isfinite(array) | (array != np.trunc(array)))
    if not len(odd):
        return ""
    value = array[tuple(odd[0])]
    return f"{_NAN if np.isnan(value) else value} at index {odd[0].tolist()}"


def _remedy(spec: TensorSpec, odd: str) -> str:
    """What to do about NaN among ids, which mostly stands where a row was shorter than others."""
    missing = odd.startswith(_NAN) and takes_token_ids(spec)
    return " (was a row shorter? fill it up with the id of the padding, and mask that)" if missing else ""


def _why_not_converted(spec: TensorSpec, array: Array) -> str:
    """What speaks against turning numbers of one type into those of another."""
    if is_float(spec) and array.dtype == PIXELS:
        return " (pixels? give them scaled as the model wants them, with .astype)"
    numbers = spec.dtype == "bool" or is_integer(spec) or is_float(spec)
    return " (some values do not fit into that type)" if numbers and array.dtype.kind in "fiub" else ""


def _turned(spec: TensorSpec, array: Array) -> str:
    """The remedy where the channels of images stand at the wrong end."""
    if spec.shape is None or array.ndim < 3 or len(spec.shape) != array.ndim:
        return ""
    axes = range(array.ndim)
    for order in ((0, axes[-1], *axes[1:-1]), (0, *axes[2:], 1)):
        fixed = sum(isinstance(size, int) for size in spec.shape[1:])
        if fixed and fits(spec.shape, tuple(array.shape[axis] for axis in order)):
            return f" (channels at the other end: array.transpose{order} has them where the model wants them)"
    return ""
