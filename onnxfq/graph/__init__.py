"""Models as graphs on disk. The only room that imports onnx and onnx_graphsurgeon."""

from onnx import NodeProto

from onnxfq.graph.bodies import Body, Node
from onnxfq.graph.constants import Constant, NotConstant, OnDisk
from onnxfq.graph.external_data import Scratch
from onnxfq.graph.flow import Flow, Step
from onnxfq.graph.gram_model import gram_model
from onnxfq.graph.loaded import loaded_bytes, partition
from onnxfq.graph.model import MICROSOFT, Graph, make_node
from onnxfq.graph.probe import single_node
from onnxfq.graph.save import save
from onnxfq.graph.submodel import TWIN, Excerpt, Held, changed, excerpt
from onnxfq.graph.tensor_file import Spool
from onnxfq.graph.tensors import NUMPY_TYPES, type_name
from onnxfq.graph.traffic import weight_bytes
from onnxfq.graph.weight_chain import Transpose

__all__ = [
    "MICROSOFT",
    "NUMPY_TYPES",
    "TWIN",
    "Body",
    "Constant",
    "Excerpt",
    "Flow",
    "Graph",
    "Held",
    "Node",
    "NodeProto",
    "NotConstant",
    "OnDisk",
    "Scratch",
    "Spool",
    "Step",
    "Transpose",
    "changed",
    "excerpt",
    "gram_model",
    "loaded_bytes",
    "make_node",
    "partition",
    "save",
    "single_node",
    "type_name",
    "weight_bytes",
]
