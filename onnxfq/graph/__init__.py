"""Models as graphs on disk. The only room that imports onnx and onnx_graphsurgeon."""

from onnx import NodeProto

from onnxfq.graph.bodies import Body, Node
from onnxfq.graph.constants import Constant, NotConstant
from onnxfq.graph.detours import Transpose
from onnxfq.graph.files import Scratch
from onnxfq.graph.model import MICROSOFT, Graph, make_node
from onnxfq.graph.probe import single_node
from onnxfq.graph.save import save
from onnxfq.graph.spool import Spool
from onnxfq.graph.tensors import NUMPY_TYPES, type_name

__all__ = [
    "MICROSOFT",
    "NUMPY_TYPES",
    "Body",
    "Constant",
    "Graph",
    "Node",
    "NodeProto",
    "NotConstant",
    "Scratch",
    "Spool",
    "Transpose",
    "make_node",
    "save",
    "single_node",
    "type_name",
]
