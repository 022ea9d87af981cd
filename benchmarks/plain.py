"""A model rewritten so that every tool finds its weights: constants folded to float32, Gemm split into MatMul and Add.

Other quantizers skip, without a word, weights behind Cast or Transpose and all Gemm nodes; comparing files would then
compare how much was left in float. This puts all of them on the same ground.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper


def write_plain(source: Path, target: Path) -> None:
    """Rewrite one model."""
    model = onnx.load(str(source))
    _fold(model)
    _split_gemms(model)
    _drop_unused(model)
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def _fold(model: ModelProto) -> None:
    """Replace Cast and Transpose of initializers by initializers."""
    values = {t.name: t for t in model.graph.initializer}
    for node in list(model.graph.node):
        if node.op_type not in ("Cast", "Transpose") or node.input[0] not in values:
            continue
        array = numpy_helper.to_array(values[node.input[0]])
        array = array.astype(np.float32) if node.op_type == "Cast" else np.ascontiguousarray(array.T)
        values[node.output[0]] = numpy_helper.from_array(array, node.output[0])
        model.graph.initializer.append(values[node.output[0]])
        model.graph.node.remove(node)


def _split_gemms(model: ModelProto) -> None:
    values = {t.name: t for t in model.graph.initializer}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0 and not attributes.get("transA")
        if node.op_type != "Gemm" or not plain or len(node.input) != 3:
            nodes.append(node)
            continue
        weight = node.input[1]
        if attributes.get("transB"):
            array = np.ascontiguousarray(numpy_helper.to_array(values[weight]).T)
            weight = f"{weight}.transposed"
            model.graph.initializer.append(numpy_helper.from_array(array, weight))
        product = f"{node.output[0]}.product"
        nodes.append(helper.make_node("MatMul", [node.input[0], weight], [product], name=node.name))
        nodes.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]], name=f"{node.name}.bias"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _drop_unused(model: ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    kept = [t for t in model.graph.initializer if t.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
