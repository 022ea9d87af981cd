"""Constants that are stored small, in the written file: whether ONNX Runtime makes of them what was meant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxfq.errors import ModelError, VerificationError
from onnxfq.graph import Graph, Node, Packed, read_constant, written_constant
from onnxfq.providers import ProviderName
from onnxfq.quantization.expected import Expected, check_decoded
from onnxfq.quantized import STORED_TYPES
from onnxfq.rules import Channels, Tensors, take_rows
from onnxfq.session import Session

_MOST_RUN = 1 << 28  # weights; of a larger constant some rows are run, apart from the file
_ROWS = 256


def verify_stored(path: Path, graph: Graph, expected: Sequence[Expected], provider: ProviderName) -> int:
    """Hold each constant against what was meant: its codes, and the floats that its nodes make of them.

    Args:
        path: the file.
        graph: the same, reopened.
        expected: one entry for each node and weight.
        provider: where they are made.

    Returns:
        How many kinds there were.

    Raises:
        VerificationError: a node reads something else, or something else is made.
    """
    readers: defaultdict[str, list[Node]] = defaultdict(list)
    for node in graph.nodes() if expected else ():
        readers[node.name].append(node)
    checked = set[tuple[str, Channels | None]]()
    for entry in expected:
        reader, model = _reader(path, graph, readers[entry.node], entry)
        if (entry.codes, entry.channels) not in checked:
            tensors = _read(graph, reader, entry)
            check_decoded(path, entry, tensors)
            _check_made(path, entry, tensors, model, provider)
            checked.add((entry.codes, entry.channels))
    return len({(entry.kernel, entry.k % entry.kernel.block_size == 0) for entry in expected})


def _reader(path: Path, graph: Graph, nodes: Sequence[Node], entry: Expected) -> tuple[Node, bytes]:
    """The node that reads what is made of some codes and scales, and a model of those that make it."""
    for node in nodes:
        try:
            model, names = written_constant(graph, node, entry.slot)
        except ModelError:
            continue
        if names.issuperset(entry.names.values()):
            return node, model
    raise VerificationError(
        f"'{entry.node}' in '{path}' does not read the constant that is made of '{entry.codes}'. Please report this."
    )


def _read(graph: Graph, node: Node, entry: Expected) -> Tensors:
    maker = graph.producer(node, entry.slot)
    body = node.body if maker is None else maker.body
    try:
        found = {name: read_constant(body, stored, graph.path) for name, stored in entry.names.items()}
    except ModelError as error:
        raise VerificationError(f"'{entry.node}' cannot be read back: {error}") from error
    return {name: np.asarray(array) for name, array in found.items() if not isinstance(array, Packed)}


def _check_made(path: Path, entry: Expected, tensors: Tensors, model: bytes, provider: ProviderName) -> None:
    """Run the nodes: they must give the dequantized weight, bit for bit."""
    channels, kernel = entry.channels, entry.kernel
    if entry.n * entry.k > _MOST_RUN or channels is None:
        rows = min(entry.n, _ROWS)
        probe = entry.rule.probe(take_rows(tensors, slice(0, rows)), kernel, rows, entry.k)
        (got,) = Session(probe.model, provider=provider).run({}).values()
        wanted = probe.expected.astype(got.dtype)
    else:
        (got,) = Session(model, provider=provider, passing=True).run({}).values()
        values = entry.rule.unpack(tensors, kernel, entry.k).dequantize()
        wanted = channels.restore(values.astype(STORED_TYPES[kernel.activation_type], copy=False))
    if got.dtype != wanted.dtype or not np.array_equal(got, wanted):
        raise VerificationError(
            f"ONNX Runtime makes something else of the constant that '{entry.node}' reads in '{path}' than its codes "
            f"say ({kernel.bits} bits, {provider}). Leave it in float with `exclude`, or all such with `others`."
        )
