"""In which floating-point type a model keeps its weights."""

from __future__ import annotations

from collections import Counter

from onnxfq.graph.iter_tensors import iter_tensors
from onnxfq.graph.model import Graph
from onnxfq.graph.tensors import read_header, type_name

_FLOATS = ("float32", "float16", "bfloat16", "float64")


def float_type(graph: Graph) -> str:
    """Numpy's name of the floating-point type that most bytes of a model's tensors have; float32 where none has any."""
    found = Counter({"float32": 0})
    for held in iter_tensors(graph.model):
        header = read_header(held.proto, graph.path, held.label)
        found[type_name(header.type)] += header.nbytes
    return max((name for name in found if name in _FLOATS), key=lambda name: found[name])
