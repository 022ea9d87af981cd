"""What to quantize to: bits, granularity, symmetry, activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from onnxfq.errors import SchemeError
from onnxfq.weight_formats import FORMATS, USUAL_FORMAT, Format

Activations = Literal["int8", "float"]
Granularity = Literal["channel", "tensor"]
ScaleType = Literal["float32", "float16", "bfloat16"]

BITS = (2, 4, 8)
BLOCK_SIZES = (16, 32, 64, 128, 256)
_OF_THE_FORMAT: Any = None  # a value that is left to the format


@dataclass(frozen=True, slots=True)
class Scheme:
    """How weights become integers: `weight ≈ scale · (code − zero_point)`.

    What is not given is what the format usually has.

    Attributes:
        bits: 2, 4 or 8 bits a code.
        block_size: how many weights along K (the input dimension) share a scale and a zero point: a power of two
            from 16 to 256, "channel" (one scale per output row) or "tensor" (one scale for all).
        symmetric: the zero point is fixed at `2**(bits-1)` and not stored; scales may be negative.
        activations: "int8" lets the kernel round its input to int8 on the fly (`accuracy_level=4`), "float" does not.
        format: what runs it: "matmulnbits", ONNX Runtime's kernels for weights of few bits; "int8", products of int8
            with one scale for each row of the activations and each output; "dgq", the same for weights of 4 bits, in
            blocks; "qdq", DequantizeLinear of ONNX itself.

    Raises:
        SchemeError: a value that no kernel has, with the values that exist.

    Example:
        >>> print(Scheme(bits=4, block_size=128))
        int4, block 128, asymmetric, activations int8
    """

    bits: int = _OF_THE_FORMAT
    block_size: int | Granularity = _OF_THE_FORMAT
    symmetric: bool = _OF_THE_FORMAT
    activations: Activations = _OF_THE_FORMAT
    format: Format = USUAL_FORMAT

    def __post_init__(self) -> None:
        """Fill in what was left to the format, and refuse what does not exist anywhere."""
        if self.format not in FORMATS:
            raise SchemeError(f"Unknown format (got format={self.format!r}). Use {_listed(list(FORMATS))}.")
        for name, value in FORMATS[self.format].usual.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if not isinstance(self.symmetric, bool):
            raise SchemeError(f"Symmetric is yes or no (got symmetric={self.symmetric!r}). Use true or false.")
        if type(self.bits) is not int or self.bits not in BITS:
            raise SchemeError(f"{self.bits} bits a weight do not exist (got bits={self.bits}). Use 2, 4 or 8.")
        if type(self.block_size) not in (int, str) or self.block_size not in (*BLOCK_SIZES, *get_args(Granularity)):
            raise SchemeError(_block_size_message(self.block_size))
        if self.activations not in get_args(Activations):
            raise SchemeError(f"Unknown activations (got activations={self.activations!r}). Use 'int8' or 'float'.")
        self._check_format()

    def _check_format(self) -> None:
        """Refuse what the format fixes to another value."""
        usual = FORMATS[self.format]
        for name in usual.fixed:
            got, wanted = getattr(self, name), getattr(usual, name)
            if got != wanted:
                raise SchemeError(
                    f"The format {self.format} has {name}={_text(wanted)} (got {name}={_text(got)}). Leave that out, "
                    f"or choose another format: {_listed([name for name in FORMATS if name != self.format])}."
                )
        if self.dual_grained and not isinstance(self.block_size, int):
            raise SchemeError(
                f"The format {self.format} has weights in blocks (got block_size={self.block_size}). Use "
                f"{', '.join(map(str, BLOCK_SIZES[:-1]))} or {BLOCK_SIZES[-1]}."
            )

    @property
    def dual_grained(self) -> bool:
        """Whether weights lie on dual grids: integers of two sizes, and a real scale for each row only."""
        return FORMATS[self.format].dual_grained

    @property
    def fits_pairs(self) -> bool:
        """Whether two neighbours in a row must be small together (`solvers.pairs`)."""
        return FORMATS[self.format].fits_pairs

    @property
    def levels(self) -> int:
        """Number of codes, `2**bits`."""
        return 1 << self.bits

    @property
    def default_zero_point(self) -> int:
        """The zero point of symmetric schemes, `2**(bits-1)`."""
        return 1 << (self.bits - 1)

    def columns_per_block(self, k: int) -> int:
        """How many columns of a row of `k` weights share a scale (all of them for "channel" and "tensor")."""
        return self.block_size if isinstance(self.block_size, int) else k

    def changed(self, changes: Mapping[str, Any]) -> Scheme:
        """The same with some values replaced, by the names of the attributes; numbers may be given as text.

        With another format, what is not given is what that format usually has.

        Raises:
            SchemeError: no such attribute, or a value that no kernel has.
        """
        unknown = sorted(set(changes) - {f.name for f in fields(self)})
        if unknown:
            known = ", ".join(f.name for f in fields(self))
            raise SchemeError(f"A scheme has no {' or '.join(unknown)} (got {dict(changes)}). It has {known}.")
        values = {name: _value(name, value) for name, value in changes.items()}
        other = values.get("format", self.format) != self.format
        return Scheme(**values) if other else replace(self, **values)

    def __str__(self) -> str:
        """For people: `int4, block 32, asymmetric, activations int8`."""
        granularity = f"block {self.block_size}" if isinstance(self.block_size, int) else f"per {self.block_size}"
        symmetry = "symmetric" if self.symmetric else "asymmetric"
        words = f"int{self.bits}, {granularity}, {symmetry}, activations {self.activations}"
        of_format = FORMATS[self.format].words
        return f"{words}, {of_format}" if of_format else words


def usual_bits(format: str | None) -> int:
    """How many bits a format has where nothing is said; those of the usual format for what is none."""
    return next((known.bits for name, known in FORMATS.items() if name == format), FORMATS[USUAL_FORMAT].bits)


def _listed(values: Sequence[str]) -> str:
    *first, last = (repr(value) for value in values)
    return f"{', '.join(first)} or {last}"


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


_WORDS = {"true": True, "yes": True, "false": False, "no": False}


def _value(name: str, value: Any) -> Any:  # noqa: ANN401
    """A value as it was meant, where it was given as text."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if name in ("bits", "block_size") and text.removeprefix("-").isdecimal():
        return int(text)
    return _WORDS.get(text.lower(), text) if name == "symmetric" else text


def _block_size_message(block_size: object) -> str:
    got = f"(got block_size={block_size})"
    wanted = "Use 16, 32, 64, 128, 256, 'channel' or 'tensor'."
    if isinstance(block_size, int) and block_size > 0 and block_size & (block_size - 1):
        return f"Block size {block_size} is not a power of two {got}. {wanted}"
    if isinstance(block_size, int):
        return f"Block size {block_size} is out of range {got}. {wanted}"
    return f"Unknown block size {block_size!r} {got}. {wanted}"
