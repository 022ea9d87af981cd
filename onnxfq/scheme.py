"""What to quantize to: bits, granularity, symmetry, activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from onnxfq.errors import SchemeError

Activations = Literal["int8", "float"]
Granularity = Literal["channel", "tensor"]
ScaleType = Literal["float32", "float16", "bfloat16"]

BITS = (2, 4, 8)
BLOCK_SIZES = (16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class Scheme:
    """How weights become integers: `weight ≈ scale · (code − zero_point)`.

    Attributes:
        bits: 2, 4 or 8 bits a code.
        block_size: how many weights along K (the input dimension) share a scale and a zero point: a power of two
            from 16 to 256, "channel" (one scale per output row) or "tensor" (one scale for all).
        symmetric: the zero point is fixed at `2**(bits-1)` and not stored; scales may be negative.
        activations: "int8" lets the kernel round its input to int8 on the fly (`accuracy_level=4`), "float" does not.

    Raises:
        SchemeError: a value that no kernel has, with the values that exist.

    Example:
        >>> print(Scheme(bits=4, block_size=128))
        int4, block 128, asymmetric, activations int8
    """

    bits: int = 4
    block_size: int | Granularity = 32
    symmetric: bool = False
    activations: Activations = "int8"

    def __post_init__(self) -> None:
        """Refuse what does not exist anywhere."""
        if not isinstance(self.symmetric, bool):
            raise SchemeError(f"Symmetric is yes or no (got symmetric={self.symmetric!r}). Use true or false.")
        if type(self.bits) is not int or self.bits not in BITS:
            raise SchemeError(f"{self.bits} bits a weight do not exist (got bits={self.bits}). Use 2, 4 or 8.")
        if type(self.block_size) not in (int, str) or self.block_size not in (*BLOCK_SIZES, *get_args(Granularity)):
            raise SchemeError(_block_size_message(self.block_size))
        if self.activations not in get_args(Activations):
            raise SchemeError(f"Unknown activations (got activations={self.activations!r}). Use 'int8' or 'float'.")

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

        Raises:
            SchemeError: no such attribute, or a value that no kernel has.
        """
        unknown = sorted(set(changes) - {f.name for f in fields(self)})
        if unknown:
            known = ", ".join(f.name for f in fields(self))
            raise SchemeError(f"A scheme has no {' or '.join(unknown)} (got {dict(changes)}). It has {known}.")
        return replace(self, **{name: _value(name, value) for name, value in changes.items()})

    def __str__(self) -> str:
        """For people: `int4, block 32, asymmetric, activations int8`."""
        granularity = f"block {self.block_size}" if isinstance(self.block_size, int) else f"per {self.block_size}"
        symmetry = "symmetric" if self.symmetric else "asymmetric"
        return f"int{self.bits}, {granularity}, {symmetry}, activations {self.activations}"


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
