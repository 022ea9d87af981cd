"""Sizes that a model's inputs and outputs leave open under a name, written in where they are known."""

from __future__ import annotations

from collections.abc import Mapping

from onnxfq.graph.model import Graph


def set_named_sizes(graph: Graph, sizes: Mapping[str, int]) -> None:
    """Give open sizes of the inputs and outputs of a model a value, wherever their name stands.

    Args:
        graph: the model; changed.
        sizes: by the name of the dimension.
    """
    for value in (*graph.model.graph.input, *graph.model.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param in sizes:
                dimension.dim_value = sizes[dimension.dim_param]  # takes the name's place
