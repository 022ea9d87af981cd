"""Other values for an initializer, of the same type and shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxfq.graph.model import Graph
from onnxfq.graph.tensor_file import TensorFile
from onnxfq.graph.tensors import NEW, NUMPY_TYPES, embed, read_header, refer


def set_values(graph: Graph, name: str, array: npt.NDArray[Any], tensor_file: TensorFile) -> None:
    """Give an initializer of the main graph other values.

    Args:
        graph: the model.
        name: the initializer's.
        array: as many elements.
        tensor_file: takes the bytes of large ones.

    Raises:
        ValueError: the array is of another size.
    """
    proto = graph.bodies[0].initializers[name]
    held = read_header(proto, graph.path)
    values = np.ascontiguousarray(array, NUMPY_TYPES[held.type])
    if values.nbytes != held.nbytes:
        raise ValueError(f"'{name}' takes {held.nbytes} bytes (got {values.nbytes}).")
    if held.piece is None:
        embed(proto, values.tobytes())
    else:
        piece = tensor_file.append(values)
        refer(proto, NEW, piece.offset, piece.length)
