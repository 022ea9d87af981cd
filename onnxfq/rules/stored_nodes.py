"""The nodes that make a float constant of a small one; ONNX Runtime computes them once, when a session is made.

    8 bits   Cast(codes)                        · scales  [→ Reshape → Slice] [→ Reshape] [→ Transpose] [→ Cast]
    4 bits   Cast(Gather(table, bytes) in blocks) · scales  [→ …]

Two codes of 4 bits in a byte are looked up in a table of all 256 bytes, which every operator set can do.
DequantizeLinear would say the same in one node, but ONNX Runtime keeps it and computes it in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onnxfq.graph import ONNX_TYPES, NodeProto, make_node
from onnxfq.quantized import STORED_TYPES
from onnxfq.rules.channels import Channels, Ints
from onnxfq.rules.kernel import Kernel

_FLOAT, _INT32 = ONNX_TYPES[np.dtype(np.float32)], ONNX_TYPES[np.dtype(np.int32)]
_SLICE_INPUTS = 10  # the operator set from which Slice takes its ends as inputs
_MIDDLE = 8

Name = Callable[[str], str]  # a name that is free, like the one given
Add = Callable[
    [str, npt.NDArray[np.generic]], str
]  # stores a small constant under such a name, and gives the one it has


@dataclass(slots=True)
class StoredNodes:
    """Nodes that follow each other, as they are made.

    Attributes:
        name: gives a free name.
        add: stores a constant, once for all that ask for the same.
        opset: the operator set that the nodes are for.
        nodes: those made so far.
    """

    name: Name
    add: Add
    opset: int
    nodes: list[NodeProto] = field(default_factory=list)

    def make(self, tensors: Mapping[str, str], kernel: Kernel, channels: Channels) -> str:
        """Make all nodes.

        Args:
            tensors: names of the weight's tensors.
            kernel: how it is stored.
            channels: how the constant was seen as a matrix.

        Returns:
            The name of the constant.
        """
        n, k, block = channels.n, channels.k, kernel.block_size
        blocks = -(-k // block)
        codes = tensors["codes"] if kernel.bits == 8 else self._looked_up(tensors["codes"], (n, blocks, block))
        scales = tensors["scales"]
        scales = scales if kernel.activation_type == "float32" else self._then("Cast", scales, to=_FLOAT)
        value = self._then("Mul", self._then("Cast", codes, to=_FLOAT), scales)
        shape: Ints = (n, blocks, block)
        if blocks * block != k:
            value, shape = self._cut(self._shaped(value, shape, (n, blocks * block)), k), (n, k)
        if channels.back:
            value = self._shaped(value, shape, channels.ordered)
            value, shape = self._then("Transpose", value, perm=list(channels.back)), channels.parts
        value = self._shaped(value, shape, channels.shape)
        if kernel.activation_type != "float32":
            value = self._then("Cast", value, to=ONNX_TYPES[STORED_TYPES[kernel.activation_type]])
        return value

    def _then(self, op_type: str, *inputs: str, **attributes: int | list[int]) -> str:
        output = self.name(op_type.lower())
        self.nodes.append(make_node(op_type, list(inputs), [output], domain="", **attributes))
        return output

    def _looked_up(self, packed: str, shape: Ints) -> str:
        found = self._then("Gather", self.add("bytes", _byte_table()), self._then("Cast", packed, to=_INT32))
        return self._shaped(found, (*shape[:2], shape[2] // 2, 2), shape)

    def _shaped(self, value: str, shape: Ints, wanted: Ints) -> str:
        if shape == wanted:
            return value
        return self._then("Reshape", value, self.add("shape", np.array(wanted, np.int64)))

    def _cut(self, value: str, k: int) -> str:
        """The first k columns."""
        if self.opset < _SLICE_INPUTS:
            return self._then("Slice", value, axes=[1], starts=[0], ends=[k])
        ends = (self.add(name, np.array([at], np.int64)) for name, at in (("from", 0), ("to", k), ("axis", 1)))
        return self._then("Slice", value, *ends)


def _byte_table() -> npt.NDArray[np.int8]:
    """What the two codes in each byte stand for, low bits first: [256, 2]."""
    both = np.arange(256)
    return np.stack([both & 15, both >> 4], axis=1).astype(np.int8) - np.int8(_MIDDLE)
