"""A copy of a model that ONNX's checker can judge: no large tensors, no operators of ONNX Runtime's own."""

from __future__ import annotations

from onnx import ModelProto, TensorProto

from onnxfq.graph.bodies import bodies
from onnxfq.graph.iter_tensors import tensors

# What ONNX Runtime has added to ONNX's own domain and model builders and optimisers write, and the version of the
# operator set from which ONNX knows it.
_RUNTIME_OPERATORS = {"SimplifiedLayerNormalization": 1 << 30, "LayerNormalization": 17}
_UNCHECKED = "unchecked"  # a domain of which the checker knows that it knows nothing


def standin(model: ModelProto) -> ModelProto:
    """Copy the model with empty tensors (shape [0]) in place of those that are stored in files.

    ONNX Runtime's additions to ONNX's own domain get another domain in the copy, where the checker lets them be. Inputs
    and outputs of unknown rank get a shape: exporters leave it out, and the checker alone insists on it.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    for info in (*copy.graph.input, *copy.graph.output):
        if info.type.HasField("tensor_type"):
            info.type.tensor_type.shape.SetInParent()
    for held in tensors(copy):
        if held.proto.data_location == TensorProto.EXTERNAL:
            held.proto.CopyFrom(TensorProto(name=held.proto.name, data_type=held.proto.data_type, dims=[0]))
    version = max((known.version for known in copy.opset_import if known.domain in ("", "ai.onnx")), default=0)
    added = [
        node
        for body in bodies(copy)
        for node in body.proto.node
        if node.domain in ("", "ai.onnx") and version < _RUNTIME_OPERATORS.get(node.op_type, 0)
    ]
    for node in added:
        node.domain = _UNCHECKED
    for holder in (copy, *copy.functions) if added else ():
        holder.opset_import.add(domain=_UNCHECKED, version=1)
    return copy
