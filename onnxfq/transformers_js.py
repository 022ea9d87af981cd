"""How transformers.js names the files of a model: in a folder `onnx`, one data type a file, told by the name's end.

Source: `DEFAULT_DTYPE_SUFFIX_MAPPING` in packages/transformers/src/utils/dtypes.js of transformers.js 4.3.1. Its "q8"
is whatever has 8 bits, and what browsers load unless told; "int8" and "uint8" are products of integers.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from onnxfq.errors import ModelError, UsageError

TRANSFORMERS_JS, OF_THE_SOURCE = "transformers.js", "source"
LAYOUTS = (OF_THE_SOURCE, TRANSFORMERS_JS)
ONNX_FOLDER = "onnx"
DATA_SUFFIX = "_data"  # behind the name of a model, for the file of its tensors
FLOAT32, FLOAT16 = "fp32", "fp16"
ENDS = {
    FLOAT32: "", FLOAT16: "_fp16", "int8": "_int8", "uint8": "_uint8", "q8": "_quantized", "q4": "_q4", "q2": "_q2",
    "q1": "_q1", "q4f16": "_q4f16", "q2f16": "_q2f16", "q1f16": "_q1f16", "bnb4": "_bnb4",
}  # fmt: skip
# Bits of the weights and whether the rest is in half precision → what may be asked for, the usual one first.
_BY_BITS = {
    (2, False): ("q2",), (4, False): ("q4",), (8, False): ("q8",), (2, True): ("q2f16",), (4, True): ("q4f16",),
}  # fmt: skip
_OF_INTEGERS = ("int8", "uint8", "q8")
MADE = tuple(dict.fromkeys(dtype for dtypes in (*_BY_BITS.values(), _OF_INTEGERS) for dtype in dtypes))
_FLOATS = {"float32": FLOAT32, "float16": FLOAT16}
_MERGED, _UNMERGED = "decoder_model_merged", ("decoder_model", "decoder_with_past_model")


def parse_layout(text: str) -> str:
    """A layout as it was meant: "source", "transformers.js", or "transformers.js:DTYPE".

    Raises:
        UsageError: there is no such layout, or no such data type that could be made.
    """
    name, colon, dtype = text.strip().partition(":")
    if name not in LAYOUTS or (colon and name != TRANSFORMERS_JS):
        raise UsageError(
            f"`layout` must be {OF_THE_SOURCE}, {TRANSFORMERS_JS}, or {TRANSFORMERS_JS}:DTYPE where another data type "
            f"than the usual one is meant (got {text!r})."
        )
    if colon and dtype not in MADE:
        known = "is one of transformers.js, but not made here" if dtype in ENDS else "is unknown to transformers.js"
        raise UsageError(
            f"`layout`: the data type {dtype!r} {known} (got {text!r}). Use {', '.join(MADE[:-1])} or {MADE[-1]}, or "
            "leave it out: bits, format and model decide."
        )
    return f"{name}:{dtype}" if colon else name


def is_transformers_js(layout: str) -> bool:
    """Whether a layout is that of transformers.js."""
    return layout.partition(":")[0] == TRANSFORMERS_JS


def split_stem(stem: str) -> tuple[str, str]:
    """The name of a session and the data type that a file's name, without `.onnx`, stands for.

    Example:
        >>> split_stem("decoder_model_merged_q4f16")
        ('decoder_model_merged', 'q4f16')
    """
    dtype = max((d for d, end in ENDS.items() if stem.endswith(end)), key=lambda d: len(ENDS[d]))
    return stem.removesuffix(ENDS[dtype]), dtype


def file_name(model: Path, dtype: str) -> str:
    """What a source's file becomes in a data type: `model_fp16.onnx` in q4f16 becomes `model_q4f16.onnx`."""
    return f"{split_stem(model.stem)[0]}{ENDS[dtype]}.onnx"


def float_models(models: Iterable[Path]) -> list[Path]:
    """Those of a folder's models that can be quantized for transformers.js: in floating point, and loaded by it.

    Raises:
        ModelError: there are none, or a decoder that it would not load.
    """
    given = list(models)
    floats = [model for model in given if split_stem(model.stem)[1] in (FLOAT32, FLOAT16)]
    bases = {split_stem(model.stem)[0] for model in floats}
    if _MERGED in bases:
        floats = [model for model in floats if split_stem(model.stem)[0] not in _UNMERGED]
    elif unmerged := bases.intersection(_UNMERGED):
        raise ModelError(
            f"transformers.js loads a decoder as {_MERGED}.onnx (got {', '.join(sorted(unmerged))} in "
            f"'{floats[0].parent}'). Export with optimum and a task that ends in -with-past, which merges them."
        )
    if not floats:
        raise ModelError(
            f"'{given[0].parent}' holds no model in floating point (got {', '.join(m.name for m in given)}; by these "
            "names all are quantized). Give a folder with model.onnx or model_fp16.onnx."
        )
    return floats


def float_dtype(weights: str, model: Path) -> str:
    """The data type of a model that is in floating point.

    Args:
        weights: numpy's name of the type that most of its weights have.
        model: its file, for messages.

    Raises:
        ModelError: transformers.js has no name for it.
    """
    if weights not in _FLOATS:
        raise ModelError(
            f"transformers.js has no name for models of {weights} (got '{model}'; wanted float32 or float16). Export "
            "it anew with `dtype=fp16`, or use `layout=source`."
        )
    return _FLOATS[weights]


def choose_dtype(layout: str, *, bits: int, integers: bool, weights: str, model: Path) -> str:
    """The data type that a quantized model is, or the one that was asked for where it is that too.

    Args:
        layout: what was asked for.
        bits: of the weights.
        integers: products are of integers, with a scale for each row: what quantization in the sense of `int8` is.
        weights: numpy's name of the type that most of the source's weights have.
        model: the source's file, for messages.

    Raises:
        ModelError: transformers.js has no name for the source's type.
        UsageError: nor for these bits, or what was asked for is something else.
    """
    half = float_dtype(weights, model) == FLOAT16
    fitting = _OF_INTEGERS if integers and not half else _BY_BITS.get((bits, half), ())
    if not fitting:
        raise UsageError(
            f"transformers.js has no name for weights of {bits} bits in a model of float16 (got '{model}'). Use "
            "`bits=4`, or export the model with `dtype=fp32`."
        )
    asked = layout.partition(":")[2] or fitting[0]
    if asked not in fitting:
        kind = "float16" if half else "float32"
        what = "products of int8" if integers else f"weights of {bits} bits"
        raise UsageError(
            f"`layout={layout}`: {asked} is not what '{model}' becomes (got {what} in a model of {kind}, which is "
            f"{' or '.join(fitting)}). Leave the data type out, or change `bits`, the format or the model."
        )
    return asked
