"""Models as graphs on disk. The only room that imports onnx and onnx_graphsurgeon."""

from onnx import NodeProto

from onnxfq.graph.bodies import Body, Node
from onnxfq.graph.chain_steps import Cut, Reshape, Transpose
from onnxfq.graph.constant_makers import constant_makers, holds_codes
from onnxfq.graph.constant_model import written_constant
from onnxfq.graph.constants import Constant, NotConstant, OnDisk
from onnxfq.graph.external_data import Scratch
from onnxfq.graph.float_type import float_type
from onnxfq.graph.flow import Flow, Step
from onnxfq.graph.gram_model import gram_model
from onnxfq.graph.in_memory import IN_MEMORY, AnyModel, model_name, on_disk
from onnxfq.graph.layered_model import layered_model
from onnxfq.graph.memory import loaded_bytes, partition, weight_bytes
from onnxfq.graph.model import MICROSOFT, Graph, make_node
from onnxfq.graph.named_sizes import set_named_sizes
from onnxfq.graph.new_values import set_values
from onnxfq.graph.operator_sets import can_raise_opset, raise_opset
from onnxfq.graph.packed import Packed, StoredArray, read_constant
from onnxfq.graph.probe import Fed, several_nodes, single_node
from onnxfq.graph.reached import reached_outputs
from onnxfq.graph.save import save
from onnxfq.graph.stored_tensors import StoredTensor, stored_tensors
from onnxfq.graph.submodel import QUANTIZED_SUFFIX, Submodel, ValueInfo, changed, extract_submodel
from onnxfq.graph.tensor_file import TensorFile
from onnxfq.graph.tensors import NUMPY_TYPES, ONNX_TYPES, type_name
from onnxfq.graph.training_model import LOSS, Loss, TrainingModel, factor, teacher
from onnxfq.graph.weight_chain import is_detour

__all__ = [
    "IN_MEMORY",
    "LOSS",
    "MICROSOFT",
    "NUMPY_TYPES",
    "ONNX_TYPES",
    "QUANTIZED_SUFFIX",
    "AnyModel",
    "Body",
    "Constant",
    "Cut",
    "Fed",
    "Flow",
    "Graph",
    "Loss",
    "Node",
    "NodeProto",
    "NotConstant",
    "OnDisk",
    "Packed",
    "Reshape",
    "Scratch",
    "Step",
    "StoredArray",
    "StoredTensor",
    "Submodel",
    "TensorFile",
    "TrainingModel",
    "Transpose",
    "ValueInfo",
    "can_raise_opset",
    "changed",
    "constant_makers",
    "extract_submodel",
    "factor",
    "float_type",
    "gram_model",
    "holds_codes",
    "is_detour",
    "layered_model",
    "loaded_bytes",
    "make_node",
    "model_name",
    "on_disk",
    "partition",
    "raise_opset",
    "reached_outputs",
    "read_constant",
    "save",
    "set_named_sizes",
    "set_values",
    "several_nodes",
    "single_node",
    "stored_tensors",
    "teacher",
    "type_name",
    "weight_bytes",
    "written_constant",
]
