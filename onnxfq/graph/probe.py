"""Models of a single node, to run one kernel by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

_OPSET, _IR_VERSION = 17, 8


def single_node(
    op_type: str,
    domain: str,
    constants: Mapping[str, npt.NDArray[Any] | None],
    attributes: Mapping[str, Any],
    *,
    activation: npt.DTypeLike,
    columns: int,
) -> bytes:
    """Serialise a model `Y = op_type(A, *constants)`.

    Args:
        op_type: the operator.
        domain: its domain.
        constants: inputs after A in order; None leaves an optional one out.
        attributes: of the node.
        activation: element type of A and Y.
        columns: last dimension of A, which is [rows, columns].
    """
    dtype = np.dtype(activation)
    a, y = gs.Variable("A", dtype, ["rows", columns]), gs.Variable("Y", dtype, None)
    inputs = [a, *(gs.Variable.empty() if v is None else gs.Constant(k, v) for k, v in constants.items())]
    node = gs.Node(op_type, "node", dict(attributes), inputs, [y], domain=domain)
    model = gs.export_onnx(gs.Graph([node], [a], [y], opset=_OPSET))
    if domain not in {known.domain for known in model.opset_import}:
        model.opset_import.add(domain=domain, version=1)
    model.ir_version = _IR_VERSION
    return bytes(model.SerializeToString())
