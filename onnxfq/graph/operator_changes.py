"""What ONNX changed about an operator between two operator sets, and the same node in the later one's form.

Most changes only admit more types or add an attribute whose default is what was done before. The others are rewritten
here, each of them exactly; what is in no table is refused by name, so that nothing is ever taken to mean the same
because it looks the same.

Source: the operators' schemas (`onnx.defs`) and ONNX's Changelog.md, from operator set 11 on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx.defs
import onnx.helper
from onnx import NodeProto

from onnxfq.arrays import Array
from onnxfq.graph.bodies import Node

OLDEST_OPSET = 11  # older ones wrote attributes where inputs are now, and other things besides
# What they gained does, by default, what they did before.
_EXTENDED = frozenset(
    {"ArgMax", "ArgMin", "AveragePool", "Cast", "CastLike", "Constant", "DequantizeLinear", "GRU", "GatherND"}
    | {"LSTM", "LpPool", "OptionalHasElement", "Pad", "QuantizeLinear", "RNN", "Reshape", "ScatterElements"}
    | {"ScatterND", "Shape"}
)
# What ONNX Runtime 1.31.1 has kernels for in earlier operator sets only, and since when ONNX has the later form.
_NOT_RUN = {"Bernoulli": 22, "RoiAlign": 22}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known of a node beside itself.

    Attributes:
        rank: how many dimensions its first input has; None where nothing tells.
        empty: by position, whether an input is a constant without elements.
        constant: makes a constant that the node can read, and returns its name.
        fresh: a name that nothing bears.
    """

    rank: int | None
    empty: Callable[[int], bool]
    constant: Callable[[str, Array], str]
    fresh: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Unchangeable:
    """Why a node cannot be written for a later operator set."""

    reason: str


Rewritten: TypeAlias = "Sequence[NodeProto] | Unchangeable | None"  # None: it stays as it is
_Form: TypeAlias = tuple[Any, ...]


def smallest_ir(opset: int) -> int:
    """The first version of ONNX's format that came with an operator set."""
    return int(onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)]))


def rewritten(node: Node, old: int, new: int, around: Surroundings) -> Rewritten:
    """A node of ONNX's own domain as a later operator set writes it."""
    op_type = node.op_type
    if not onnx.defs.has(op_type, ""):
        return None  # a local function in ONNX's own domain
    before, after = (_schema(op_type, version) for version in (old, new))
    if before is None or after is None or after.deprecated:
        return Unchangeable(f"operator set {new} has no {op_type} any more")
    if before.since_version == after.since_version:
        return None
    if after.since_version >= _NOT_RUN.get(op_type, new + 1):
        return Unchangeable(f"ONNX Runtime does not run {op_type} of operator set {after.since_version}")
    if _form(before) == _form(after):
        return None
    if op_type not in _REWRITERS:
        return None if op_type in _EXTENDED else Unchangeable(f"{op_type} changed its meaning")
    if node.references:
        return Unchangeable(f"the caller of a function chooses {', '.join(node.references)} of {op_type}")
    return _REWRITERS[op_type](node, around)


def _schema(op_type: str, version: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, version, "")
    except onnx.defs.SchemaError:
        return None


def _form(schema: onnx.defs.OpSchema) -> _Form:
    """All of a schema but the types that it admits."""
    attributes = [(a.name, str(a.type), a.required, str(a.default_value)) for a in schema.attributes.values()]
    ends = [[(end.name, str(end.option)) for end in group] for group in (schema.inputs, schema.outputs)]
    return sorted(attributes), ends


def _written(node: Node, inputs: Sequence[str], changes: Mapping[str, Any], dropped: Sequence[str] = ()) -> NodeProto:
    """The node with other inputs and attributes."""
    proto = NodeProto(op_type=node.op_type, domain=node.domain, input=inputs, output=node.outputs)
    proto.attribute.extend(a for a in node.proto.attribute if a.name not in {*changes, *dropped})
    proto.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in changes.items())
    return proto


def _as_input(attribute: str, position: int, default: int | None = None) -> Callable[[Node, Surroundings], Rewritten]:
    """An attribute of integers that became an input."""

    def rewrite(node: Node, around: Surroundings) -> Rewritten:
        value = node.attributes.get(attribute, default)
        if value is None:
            return None
        inputs = [*node.inputs, *[""] * position][:position]
        name = around.constant(f"{node.outputs[0]}_{attribute}", np.array(value, np.int64))
        return [_written(node, [*inputs, name], {}, [attribute])]

    return rewrite


def _split(node: Node, around: Surroundings) -> Rewritten:
    """Sizes became an input; without them, the number of parts is said."""
    if node.has("split"):
        return _as_input("split", 1)(node, around)
    if len(node.inputs) > 1 and node.inputs[1]:
        return None
    return [_written(node, node.inputs, {"num_outputs": len(node.outputs)})]


def _softmax(node: Node, around: Surroundings) -> Rewritten:
    """It went over all dimensions from `axis` on, and now goes over that one."""
    axis, rank = node.integer("axis", 1), around.rank
    if axis == -1 or (rank is not None and axis % rank == rank - 1):
        return [_written(node, node.inputs, {"axis": -1})]
    (x,), (y,) = node.inputs, node.outputs
    shape, flat, result = (around.fresh(f"{y}_{word}") for word in ("shape", "flat", "rows"))
    softmax = _written(node, [flat], {"axis": -1})
    softmax.output[0] = result
    return [
        onnx.helper.make_node("Shape", [x], [shape]),
        onnx.helper.make_node("Flatten", [x], [flat], axis=axis),
        softmax,
        onnx.helper.make_node("Reshape", [result, shape], [y]),
    ]


def _dropout(node: Node, around: Surroundings) -> Rewritten:
    """How much is dropped became an input, that counts in training alone."""
    return [_written(node, node.inputs, {}, ["ratio"])] if node.has("ratio") else None


def _batch_normalization(node: Node, around: Surroundings) -> Rewritten:
    """Outputs of training became fewer."""
    outputs = [name for name in node.outputs if name]
    return None if len(outputs) == 1 else Unchangeable("BatchNormalization has outputs of training")


def _grid_sample(node: Node, around: Surroundings) -> Rewritten:
    """Two modes got other names."""
    names = {"bilinear": "linear", "bicubic": "cubic"}
    mode = node.text("mode") or "bilinear"
    return [_written(node, node.inputs, {"mode": names.get(mode, mode)})]


def _roi_align(node: Node, around: Surroundings) -> Rewritten:
    """The default became another than what was done before there was a choice."""
    return [_written(node, node.inputs, {"coordinate_transformation_mode": "output_half_pixel"})]


def _resize(node: Node, around: Surroundings) -> Rewritten:
    """Sizes and scales exclude each other now: where sizes are given, scales were empty."""
    if node.text("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        return Unchangeable("Resize knows tf_half_pixel_for_nn no more")
    inputs = list(node.inputs)
    if len(inputs) < 4 or not inputs[3] or not inputs[2]:
        return None
    if not around.empty(2):
        return Unchangeable("Resize has both scales and sizes")
    inputs[2] = ""
    return [_written(node, inputs, {})]


_AXES_FROM_13 = ("ReduceSum", "Squeeze", "Unsqueeze")
_AXES_FROM_18 = tuple(f"Reduce{name}" for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod",
                                                  "SumSquare"))  # fmt: skip
_REWRITERS: dict[str, Callable[[Node, Surroundings], Rewritten]] = {
    **dict.fromkeys((*_AXES_FROM_13, *_AXES_FROM_18), _as_input("axes", 1)),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    "BatchNormalization": _batch_normalization,
    "DFT": _as_input("axis", 2, default=1),
    "Dropout": _dropout,
    "GridSample": _grid_sample,
    "Resize": _resize,
    "RoiAlign": _roi_align,
    "Split": _split,
}
