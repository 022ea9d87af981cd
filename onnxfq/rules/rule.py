"""What an output operator is: which nodes it replaces, how it stores weights, and how it is tried out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Array, Float64Array
from onnxfq.graph import MICROSOFT, Constant, Graph, Node, Packed, StoredArray, TensorFile
from onnxfq.providers import ProviderName
from onnxfq.quantized import QuantizedWeight
from onnxfq.rules.kernel import Kernel
from onnxfq.rules.target import Skip, Target
from onnxfq.scheme import Scheme

Tensors = Mapping[str, Array]  # of one weight or some of its rows, by the names of the operator's inputs
WrittenTensors = Mapping[str, StoredArray]  # the same as they are written
TensorType = tuple[tuple[int, ...], np.dtype[np.generic]]  # shape and element type
WeightKind = Literal["weights", "embeddings", "others"]

# Largest relative MSE of a kernel against the dequantized weight, by what it rounds besides the weights.
TOLERANCE_FLOAT, TOLERANCE_INT8, TOLERANCE_HALF = 1e-5, 1e-3, 5e-3
PROBE_ROWS = 3  # of activations
MOST_SHIFT = 10.0  # a power of two by which activations of any float type may be scaled


@dataclass(frozen=True, slots=True, eq=False)
class WrittenWeight:
    """A quantized weight whose tensors are in the graph.

    Attributes:
        target: whose weight.
        kernel: what will run it.
        names: of its tensors, as the rule that wrote it calls them; those that are left out are missing.
        shift: [N], to be added to the bias of the target's own node; None where nothing is.
        input_scale: [K], what the node divides its inputs by before anything else; None where it does not.
    """

    target: Target
    kernel: Kernel
    names: Mapping[str, str]
    shift: Float64Array | None = None
    input_scale: Float64Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A model of one node, and what it must compute.

    Attributes:
        model: serialized.
        feed: its inputs.
        expected: its only output, from the dequantized weight in float64.
        tolerance: the largest relative MSE allowed.
    """

    model: bytes
    feed: Mapping[str, Array]
    expected: npt.NDArray[np.float64]
    tolerance: float


class Rule(ABC):
    """One output operator, all that is known of it in one place.

    Everything else (finding, solving, checkpoints, writing, verifying, reports) asks the rule. A weight is stored as
    one tensor or several, whose first axis is that of the weight's rows [N, …]: a weight is solved, packed and checked
    in chunks of rows.

    Attributes:
        operator: its name, in the domain `com.microsoft`; "" where the node stays and its weight is another.
        kind: which of the user's settings its weights take.
        replaces: operators in whose place it stands, for people.
        inputs: position of each of its weight's tensors among its inputs, the codes first. Where a node has several
            weights, of the first of them (see `positions`).
        shares: whether several nodes may read one written weight; else each has its own, in the scope where it stands.
        rounds_rows: activations are rounded to int8 with one scale for each row, after nodes of this operator have
            divided them by `WrittenWeight.input_scale` where there is one.
        slots: how many weights a node of the operator has.
    """

    operator: ClassVar[str]
    kind: ClassVar[WeightKind]
    replaces: ClassVar[tuple[str, ...]]
    inputs: ClassVar[Mapping[str, int]]
    domain: ClassVar[str] = MICROSOFT
    shares: ClassVar[bool] = True
    rounds_rows: ClassVar[bool] = False
    slots: ClassVar[int] = 1

    @abstractmethod
    def match(self, graph: Graph, node: Node) -> Sequence[Target] | Skip | None:
        """Decide about a node: its weights, why it is left alone, or None where it is no business of this rule."""

    @abstractmethod
    def kernel(self, provider: ProviderName, scheme: Scheme, target: Target) -> Kernel:
        """The kernel that will run a target.

        Raises:
            SchemeError: there is none; the message names the nearest scheme that has one.
        """

    def opset(self, kernel: Kernel) -> int:
        """The version of ONNX's operator set that the written node needs; 0 where any will do."""
        return 0

    def nearest_fast(self, provider: ProviderName, scheme: Scheme, target: Target) -> Scheme | None:
        """The scheme nearest to one whose kernel is slow that has a fast one; None where there is none."""
        return None

    @abstractmethod
    def layout(self, n: int, k: int, kernel: Kernel) -> dict[str, TensorType]:
        """Shape and type of each tensor of a weight [n, k], in the order in which they are stored, codes first."""

    @abstractmethod
    def pack(self, q: QuantizedWeight, kernel: Kernel) -> dict[str, Array]:
        """Lay a quantized weight out for a kernel, as `layout` says."""

    @abstractmethod
    def unpack(self, tensors: Tensors, kernel: Kernel, k: int) -> QuantizedWeight:
        """Exact inverse of `pack`, in the kernel's blocks.

        Args:
            tensors: of the weight, or of some of its rows.
            kernel: that runs it.
            k: inputs, which codes alone do not tell where the last block is padded.
        """

    def written(self, parts: Sequence[Tensors], kernel: Kernel, k: int) -> Mapping[str, Sequence[StoredArray]]:
        """What is written of a weight: each of its tensors, whole or as its rows in several parts.

        Args:
            parts: the weight's rows, as `pack` laid them out.
            kernel: for which.
            k: inputs.
        """
        return {name: [part[name] for part in parts] for name in parts[0]}

    def rows(self, written: WrittenTensors, rows: slice, kernel: Kernel, n: int, k: int) -> Tensors:
        """Some rows of a written weight [n, k], as `pack` laid them out."""
        return take_rows({name: value for name, value in written.items() if not isinstance(value, Packed)}, rows)

    @abstractmethod
    def attributes(self, n: int, k: int, kernel: Kernel) -> dict[str, int]:
        """The attributes of the written node."""

    def node_attributes(self, target: Target, kernel: Kernel) -> Mapping[str, object]:
        """All attributes of the node that takes a target's place, those that depend on the source's included."""
        return self.attributes(target.n, target.k, kernel)

    @abstractmethod
    def rewrite(self, graph: Graph, weights: Sequence[WrittenWeight], tensor_file: TensorFile) -> None:
        """Replace a node all of whose weights are written; its name and that of its output stay.

        Args:
            graph: the model; this is the only place where it gets the operator.
            weights: of one node, in the order in which `match` gave them.
            tensor_file: takes the bytes of new tensors.
        """

    @abstractmethod
    def probe(self, tensors: Tensors, kernel: Kernel, n: int, k: int) -> Probe:
        """A model of one node that shows whether the kernel computes with these codes.

        Args:
            tensors: some rows of a written weight.
            kernel: that runs it.
            n: rows of the tensors.
            k: inputs.
        """

    def reads(self, storage: Rule, kernel: Kernel, k: int) -> bool:
        """Whether nodes of this rule can read rows [k] as another rule stores them for a kernel: one copy then serves.

        `rewrite` is then given that rule's names.
        """
        return storage is self

    def rounded_block(self, kernel: Kernel, k: int) -> int | None:
        """Columns of k that share a scale where a kernel rounds its input to int8; None where it does not."""
        return None

    def positions(self, slot: int) -> Mapping[str, int]:
        """Where the tensors of the node's weight number `slot` stand among its inputs."""
        return self.inputs

    def written_names(self, graph: Graph, node: Node, slot: int) -> dict[str, str]:
        """The names of the tensors of a written node's weight number `slot`, as the rule that wrote them calls them.

        Args:
            graph: the written model.
            node: of this operator.
            slot: which of its weights.
        """
        names = {name: node.inputs[i] if i < len(node.inputs) else "" for name, i in self.positions(slot).items()}
        return {name: value for name, value in names.items() if value}

    def tensor_names(self, graph: Graph, node: Node) -> set[str]:
        """The names of all tensors that a written node reads, and of those that what it reads is made of."""
        values = {name: graph.constant(node, index) for index, name in enumerate(node.inputs) if name}
        return {value.leaf.name if isinstance(value, Constant) else name for name, value in values.items()}

    def nbytes(self, n: int, k: int, kernel: Kernel) -> int:
        """Bytes of a packed weight, without packing it."""
        return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in self.layout(n, k, kernel).values())

    def fits(self, written: WrittenTensors, n: int, k: int, kernel: Kernel) -> bool:
        """Whether written tensors have the shapes and types of a weight [n, k]."""
        found = {name: None if isinstance(a, Packed) else (a.shape, a.dtype) for name, a in written.items()}
        return found == self.layout(n, k, kernel)


def tensor_bytes(tensors: Tensors) -> int:
    """Bytes of a weight's tensors."""
    return sum(array.nbytes for array in tensors.values())


def take_rows(tensors: Tensors, rows: slice) -> dict[str, Array]:
    """Some rows of a packed weight."""
    return {name: array[rows] for name, array in tensors.items()}


def stacked_shape(rule: Rule, weight: WrittenWeight, name: str) -> tuple[int, ...]:
    """The shape of a tensor of weights that stand one upon the other, with an axis of its own for them."""
    target = weight.target
    (rows, *rest), _ = rule.layout(target.n, target.k, weight.kernel)[name]
    return target.experts, rows // target.experts, *rest
