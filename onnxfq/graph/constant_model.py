"""Models of the nodes that make a constant of others, to see what ONNX Runtime makes of them."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx.helper import make_opsetid

from onnxfq.errors import ModelError
from onnxfq.graph.bodies import Node
from onnxfq.graph.constant_makers import constant_makers
from onnxfq.graph.external_data import FileSlice
from onnxfq.graph.model import Graph
from onnxfq.graph.tensors import embed, read_header

_IR_VERSION = 8


def written_constant(graph: Graph, node: Node, index: int) -> tuple[bytes, frozenset[str]]:
    """A model without inputs that gives a node's input number `index`, and the constants that it is made of.

    Raises:
        ModelError: it is not made of constants.
    """
    maker = graph.producer(node, index)
    makers = constant_makers(maker) if maker is not None else []
    if maker is None or not makers:
        raise ModelError(f"Input {index} of '{node.name}' is not made of constants.")
    homes = {name: home for made in makers for name in made.inputs if name and (home := made.body.home_of(name))}
    held = {name: home.initializers[name] for name, home in homes.items() if name in home.initializers}
    places = {output: place for place, output in enumerate(maker.body.producers)}
    ordered = sorted(makers, key=lambda made: places.get(made.outputs[0], -1))
    copies = [_embedded(proto, graph) for proto in held.values()]
    opset, ir_version = graph.opset(node), max(graph.model.ir_version, _IR_VERSION)
    return _model([made.proto for made in ordered], copies, opset, ir_version), frozenset(homes)


def _model(nodes: Sequence[NodeProto], tensors: Sequence[TensorProto], opset: int, ir_version: int) -> bytes:
    model = ModelProto(ir_version=ir_version, opset_import=[make_opsetid("", opset)])
    model.graph.name = "constant"
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(tensors)
    model.graph.output.append(ValueInfoProto(name=nodes[-1].output[0]))
    return bytes(model.SerializeToString())


def _embedded(proto: TensorProto, graph: Graph) -> TensorProto:
    piece = read_header(proto, graph.path).piece
    copy = TensorProto()
    copy.CopyFrom(proto)
    if piece is not None:
        embed(copy, bytes(FileSlice(piece.path, piece.offset, piece.length).read()))
    return copy
