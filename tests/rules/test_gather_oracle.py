"""The oracle for embeddings: ONNX Runtime's GatherBlockQuantized equals `dequantize(q)[ids]` for every kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from onnxfq.quantized import STORED_TYPES, QuantizedWeight
from onnxfq.rules import Kernel
from onnxfq.rules.gather_block_quantized import GatherBlockQuantized
from support.kernels import kernel_name, offered
from support.weights import random_codes

RULE = GatherBlockQuantized()
ROWS = 37
IDS = {
    "1-D": [0, 36, 5, 5],
    "2-D": [[0, 1, 2], [36, 35, 0]],
    "negative": [[-1, -37], [0, -36]],
    "one": [[7]],
    "none": np.empty((2, 0)).tolist(),
}


def lookup(q: QuantizedWeight, kernel: Kernel, ids: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The rows that ONNX Runtime finds in the packed table."""
    initializers = [numpy_helper.from_array(array, name) for name, array in RULE.pack(q, kernel).items()]
    names = [initializer.name for initializer in initializers]
    node = helper.make_node(
        "GatherBlockQuantized",
        [names[0], "ids", *names[1:]],
        ["Y"],
        domain="com.microsoft",
        gather_axis=0,
        quantize_axis=1,
        bits=kernel.bits,
        block_size=kernel.block_size,
    )
    element = helper.np_dtype_to_tensor_dtype(STORED_TYPES[kernel.activation_type])
    graph = helper.make_graph(
        [node],
        "oracle",
        [helper.make_tensor_value_info("ids", helper.np_dtype_to_tensor_dtype(ids.dtype), [None] * ids.ndim)],
        [helper.make_tensor_value_info("Y", element, None)],
        initializers,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: npt.NDArray[Any] = session.run(None, {"ids": ids})[0]
    return found


@pytest.mark.parametrize("kernel", offered(RULE), ids=kernel_name)
def test_rows_are_those_of_the_dequantized_table(kernel: Kernel) -> None:
    """Short last blocks, whole ones, rows shorter than a block; ids of both types, in every form."""
    for k in (2 * kernel.block_size + 8, 3 * kernel.block_size, 4 * kernel.block_size - 4, 8):
        q = random_codes(
            ROWS, k, kernel.bits, kernel.block_size, symmetric=kernel.symmetric, scale_type=kernel.activation_type
        )
        table = q.dequantize()
        for form, listed in IDS.items():
            for integer in (np.int32, np.int64):
                ids = np.array(listed, integer)
                got = lookup(q, kernel, ids)
                assert got.dtype == STORED_TYPES[kernel.activation_type]
                assert got.shape == (*ids.shape, k), (form, integer)
                np.testing.assert_allclose(got.astype(np.float32), table[ids], rtol=tolerance(kernel))


def tolerance(kernel: Kernel) -> float:
    """Products of float16 scales and codes are rounded to float16."""
    return 0.0 if kernel.activation_type == "float32" else 2.0**-10
