"""The residual that a target's product is added to: what earlier layers got wrong there, this one can make up for.

MatMul → (bias) → Add(·, r)        also behind a Reshape or a Cast, and in a chain of Adds
"""

from __future__ import annotations

from collections.abc import Collection

from onnxfq.graph import Flow

_PASSES = ("Cast", "Identity", "Reshape")  # the same numbers in the same order, each output's in a column of its own


def find_residuals(flow: Flow, product: str, outputs: Collection[str], known: Collection[str]) -> tuple[str, ...]:
    """The values that a product is added to and that are there before it; none where others see the product alone.

    Args:
        flow: the data flow.
        product: the target's output, after its bias.
        outputs: names that the model returns.
        known: names that are computed before the product.
    """
    found, value = list[str](), product
    while True:
        readers = flow.readers.get(value, [])
        if len(readers) != 1 or value in outputs or value in flow.read_elsewhere:
            return tuple(found)
        node = readers[0].node
        if node.op_type == "Add" and not node.domain:
            others = [name for name in node.inputs if name != value]
            if len(others) != 1:
                return tuple(found)
            found += [name for name in others if name in known]
        elif node.op_type not in _PASSES or node.domain or node.inputs[0] != value:
            return tuple(found)
        value = node.outputs[0]
