"""What a rule finds: nodes to quantize, and nodes to leave alone with the reason."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Float32Array
from onnxfq.graph import Constant, Node, OnDisk, Scratch, Transpose
from onnxfq.half import transposed
from onnxfq.rules.equations import Axes
from onnxfq.scheme import ScaleType, Scheme

SCALE_TYPES: dict[str, ScaleType] = {"float32": "float32", "float16": "float16", "bfloat16": "bfloat16"}


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A target's weight, still on disk, apart from the graph: it can be read in another process.

    Attributes:
        constant: where its values are.
        n: outputs.
        k: inputs.
        transposed: it is stored as [K, N] and must be turned into canonical [N, K].
        alpha: a factor that belongs into it (Gemm).
    """

    constant: OnDisk
    n: int
    k: int
    transposed: bool
    alpha: float

    def read(self, scratch: Scratch | None = None) -> npt.NDArray[np.generic]:
        """Read the weight as the node takes it: its own type, [K, N] where `transposed`; into `scratch` if given."""
        return self.constant.load(scratch)

    def rows(self, value: npt.NDArray[np.generic], rows: slice) -> Float32Array:
        """Some rows of the canonical weight, [rows, K] float32, contiguous; `value` is what `read` returned."""
        part = transposed(value[:, rows]) if self.transposed else np.ascontiguousarray(value[rows], np.float32)
        if self.alpha == 1.0:
            return part
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found, and named, with the weight
            return part * np.float32(self.alpha)


@dataclass(frozen=True, eq=False)
class Target:
    """A node whose weight will be quantized.

    Attributes:
        name: the node's, and which of its weights it is where there are several.
        node: where it stands.
        weight: the constant it multiplies by.
        n: outputs.
        k: inputs.
        transposed: the constant is [K, N] and must be turned into canonical [N, K].
        alpha: a factor that belongs into the weight (Gemm).
        scale_type: the type of the node's activations, in which scales are stored.
        source: the activations that the weight is multiplied with; "" where it is not, and no data tell about it.
        source_transposed: these are [K, tokens], or [..., K, tokens].
        slot: which of the node's weights it is.
        left: it is the product's left operand; the outputs are the product's last dimension but one.
        unit_dimensions: dimensions of 1 that stood before the weight's two, and count in the product's shape.
        axes: of an Einsum: how axes move around the product; then `source`'s last axes together are the inputs.
        part: where the activations are a batch of matrices, which of them it multiplies; None: all that there are.
        stacked: it is one of several weights that together make the node's result, or all of them in one.
        experts: how many weights stand one upon the other in this one, which is stored with an axis more for them.
        divided: what blocks of columns must divide; 0: nothing.
        scheme: what it is quantized to, whatever other weights are; None: as the user says.
        twin: a table with the same values, by which it is stored.
    """

    name: str
    node: Node = field(repr=False)
    weight: Constant = field(repr=False)
    n: int
    k: int
    transposed: bool
    alpha: float
    scale_type: ScaleType
    source: str = ""
    source_transposed: bool = False
    slot: int = 0
    left: bool = False
    unit_dimensions: int = 0
    axes: Axes | None = None
    part: int | None = None
    stacked: bool = False
    experts: int = 0
    divided: int = 0
    scheme: Scheme | None = None
    twin: Target | None = None

    @property
    def stored_as(self) -> Constant:
        """The constant after which the quantized weight is named, and in whose scope it stands."""
        return self.twin.weight if self.twin else self.weight

    @property
    def key(self) -> Hashable:
        """Equal for targets that share one quantized weight."""
        if self.twin:
            return self.twin.key
        turned = self.weight.way.then(Transpose((1, 0))) if self.transposed else self.weight.way
        return self.weight.key[:2], turned, self.alpha

    @property
    def operand(self) -> int:
        """Position of the activations among the node's inputs, of a product."""
        return self.axes.operand if self.axes else int(self.left)

    @property
    def last_axes(self) -> tuple[int, ...]:
        """Sizes of the result's last axes where these are the outputs of all its rows; () where they are not."""
        if self.stacked:
            return ()
        if self.axes:
            return self.axes.outputs if self.axes.outputs_last else ()
        return () if self.left else (self.n,)

    @property
    def float_bytes(self) -> int:
        """Bytes of the weight as stored in the source."""
        return self.weight.nbytes

    @property
    def matrix(self) -> Weight:
        """The weight apart from the graph."""
        return Weight(self.weight.on_disk, self.n, self.k, self.transposed, self.alpha)

    def load(self) -> Float32Array:
        """Read the whole weight into canonical space: [N, K] float32, contiguous."""
        matrix = self.matrix
        return matrix.rows(matrix.read(), slice(0, self.n))


@dataclass(frozen=True, slots=True)
class Skip:
    """A node that is left as it is.

    Attributes:
        name: the node's.
        op_type: its operator.
        reason: why, for people.
        quantized: it is quantized already.
        nbytes: bytes of its constant weight, 0 where it has none.
    """

    name: str
    op_type: str
    reason: str
    quantized: bool = False
    nbytes: int = 0
