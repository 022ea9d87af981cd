"""Formats that products can be written in: what is known of each, as data. Code asks for a fact, not for a name.

To add one: its name, a row here, and its rule in `onnxfq.rules.PRODUCT_RULES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Format = Literal["matmulnbits", "int8", "dgq", "qdq"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """Facts about a format.

    Attributes:
        bits: of a code, where nothing is said.
        block_size: weights that share a scale, where nothing is said.
        symmetric: without zero points, where nothing is said.
        activations: as they meet the weight, where nothing is said.
        fixed: those of the above that nobody can choose.
        words: what a scheme's text says of it; "" of the usual one.
        dual_grained: weights lie on dual grids: integers of two sizes, and a real scale for each row only.
        fits_pairs: two neighbours in a row are so small that no processor cuts off their products (`solvers.pairs`).
        runs_as: the format that ONNX Runtime makes of it when a session is made; "" where it stays what it is.
        proposed: what chooses formats, or advises one, thinks of it, with what it has where nothing is said.
    """

    bits: int = 4
    block_size: int | Literal["channel"] = 32
    symmetric: bool = False
    activations: Literal["int8", "float"] = "int8"
    fixed: tuple[str, ...] = ()
    words: str = ""
    dual_grained: bool = False
    fits_pairs: bool = False
    runs_as: Format | Literal[""] = ""
    proposed: bool = False

    @property
    def usual(self) -> dict[str, Any]:
        """What a scheme has where nothing is said."""
        return {name: getattr(self, name) for name in ("bits", "block_size", "symmetric", "activations")}


USUAL_FORMAT: Format = "matmulnbits"
FORMATS: dict[Format, WeightFormat] = {
    USUAL_FORMAT: WeightFormat(),
    "int8": WeightFormat(
        bits=8,
        block_size="channel",
        symmetric=True,
        fixed=("bits", "block_size", "symmetric", "activations"),
        words="products of int8",
        fits_pairs=True,
        proposed=True,
    ),
    "dgq": WeightFormat(
        fixed=("bits", "symmetric", "activations"),
        words="products of int8",
        dual_grained=True,
        runs_as="int8",
        proposed=True,
    ),
    "qdq": WeightFormat(words="as DequantizeLinear", runs_as="matmulnbits"),
}
