"""The written file against what the solver meant: decode it again, and run each kind of kernel once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import replace
from pathlib import Path

from onnxfq.errors import ModelError, VerificationError
from onnxfq.graph import Graph, Node, Packed, Scratch, StoredArray, read_constant
from onnxfq.providers import ProviderName
from onnxfq.quantization.expected import Expected, check_decoded
from onnxfq.quantization.verify_stored import verify_stored
from onnxfq.quantization.written_products import leaf_name
from onnxfq.rules import ALL_RULES, Rule, WrittenTensors
from onnxfq.session import Session

_PROBE_ROWS = 256  # a multiple of what kernels take at a time


def verify(path: Path, expected: Iterable[Expected], provider: ProviderName) -> int:
    """Reopen a written model and hold it against what was meant.

    Args:
        path: the file.
        expected: one entry for each quantized weight of each node.
        provider: where kernels are run.

    Returns:
        How many kinds of kernel were run.

    Raises:
        VerificationError: a node is missing, decodes to something else, or computes something else.
    """
    graph = _load(path)
    written = _written(graph)
    wanted: defaultdict[tuple[str, str], list[Expected]] = defaultdict(list)
    stored: list[Expected] = []
    for entry in expected:
        if entry.channels is None:
            wanted[entry.rule.operator, entry.codes].append(entry)
        else:
            stored.append(entry)
    kinds: dict[Hashable, tuple[Expected, Node]] = {}
    scratch = Scratch()
    for key, entries in wanted.items():
        entry, nodes = entries[0], written[key]
        _check_nodes(path, graph, nodes, entries)
        check_decoded(path, entry, _read(graph, nodes[0], entry, scratch))
        kind = (entry.rule.operator, entry.kernel, entry.k % entry.kernel.block_size == 0)
        if kind not in kinds or entry.n * entry.k < kinds[kind][0].n * kinds[kind][0].k:
            kinds[kind] = (entry, nodes[0])
    for entry, node in kinds.values():
        _check_kernel(path, graph, node, entry, provider)
    return len(kinds) + verify_stored(path, graph, stored, provider)


def _load(path: Path) -> Graph:
    try:
        return Graph.load(path)
    except ModelError as error:
        raise VerificationError(f"The written file cannot be read back: {error}") from error


def _written(graph: Graph) -> defaultdict[tuple[str, str], list[Node]]:
    """The nodes that read each tensor, or what is made of it, by operator."""
    rules: defaultdict[tuple[str, str], list[Rule]] = defaultdict(list)
    for rule in ALL_RULES:
        rules[rule.operator, rule.domain].append(rule)
    found: defaultdict[tuple[str, str], list[Node]] = defaultdict(list)
    for node in graph.nodes():
        for name in set[str]().union(*(rule.tensor_names(graph, node) for rule in rules[node.op_type, node.domain])):
            found[node.op_type, name].append(node)
    return found


def _leaves(graph: Graph, node: Node, entry: Expected) -> list[str]:
    """The tensors that a written node reads of a weight, some after a Reshape of its own."""
    names = entry.rule.written_names(graph, node, entry.slot).values()
    return [leaf_name(graph, node, node.inputs.index(name)) if name in node.inputs else name for name in names]


def _check_nodes(path: Path, graph: Graph, nodes: list[Node], entries: list[Expected]) -> None:
    """Whether the nodes that read some codes are as many as meant, with the attributes and tensors that were meant."""
    entry = entries[0]
    if len(nodes) != len(entries):
        names = ", ".join(f"'{one.node}'" for one in entries)
        raise VerificationError(
            f"'{path}' has {len(nodes)} nodes that read '{entry.codes}', wanted {len(entries)}: {names}. "
            "Please report this."
        )
    wanted = dict(entry.attributes)
    for node in nodes:
        got = dict(node.attributes)
        if got != wanted:
            raise VerificationError(
                f"'{node.name}' in '{path}' has other attributes than meant (got {got}, wanted {wanted}). "
                "Please report this."
            )
        if _leaves(graph, node, entry) != _leaves(graph, nodes[0], entry):
            raise VerificationError(
                f"'{node.name}' and '{nodes[0].name}' in '{path}' share codes, but not scales and zero points. "
                "Please report this."
            )


def _read(graph: Graph, node: Node, entry: Expected, scratch: Scratch | None = None) -> WrittenTensors:
    """The node's tensors; codes in `scratch` if given."""
    names = entry.rule.written_names(graph, node, entry.slot)
    codes = next(iter(names), "")
    try:
        found = {
            name: read_constant(node.body, value, graph.path, scratch if name == codes else None)
            for name, value in names.items()
        }
    except ModelError as error:
        raise VerificationError(f"'{entry.node}' cannot be read back: {error}") from error
    if not entry.stacked:
        return found
    layout = entry.rule.layout(entry.n, entry.k, entry.kernel)
    return {name: _as(array, layout[name][0]) for name, array in found.items()}


def _as(array: StoredArray, shape: tuple[int, ...]) -> StoredArray:
    """In another shape, where it has as many elements."""
    return array if isinstance(array, Packed) or array.size != math.prod(shape) else array.reshape(shape)


def _check_kernel(path: Path, graph: Graph, node: Node, entry: Expected, provider: ProviderName) -> None:
    rows, kernel = _probe_rows(entry.n), replace(entry.kernel, provider=provider)  # wherever it is made for
    tensors = entry.rule.rows(_read(graph, node, entry), slice(0, rows), kernel, entry.n, entry.k)
    probe = entry.rule.probe(tensors, kernel, rows, entry.k)
    (found,) = Session(probe.model, provider=provider).run(dict(probe.feed)).values()
    got = found.astype(probe.expected.dtype)
    error = float(((got - probe.expected) ** 2).sum() / max(float((probe.expected**2).sum()), 1e-300))
    if not error <= probe.tolerance:
        raise VerificationError(
            f"The kernel of '{entry.node}' in '{path}' computes something else than its codes say: relative MSE "
            f"{error:.2g}, at most {probe.tolerance:g} allowed ({kernel.bits} bits, block {kernel.block_size}, "
            f"{provider}). This ONNX Runtime cannot run this format correctly; choose another one, or other `bits`."
        )


def _probe_rows(n: int) -> int:
    """How many outputs are enough to see whether a kernel computes right: some, with the same remainder as all."""
    return n if n <= _PROBE_ROWS else _PROBE_ROWS + n % _PROBE_ROWS
