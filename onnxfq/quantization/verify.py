"""The written file against what the solver meant: decode it again, and run each kind of kernel once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from onnxfq.arrays import Array
from onnxfq.errors import ModelError, VerificationError
from onnxfq.graph import Constant, Graph, Node, Scratch
from onnxfq.packing import fingerprint, join_digests, row_chunks
from onnxfq.providers import ProviderName
from onnxfq.quantization.assign import Planned
from onnxfq.rules import ALL_RULES, Kernel, Rule, Tensors, take_rows
from onnxfq.session import Session

_PROBE_ROWS = 256  # a multiple of what kernels take at a time


@dataclass(frozen=True, slots=True)
class Expected:
    """What one written node must hold of a weight.

    Attributes:
        node: the node's name (or first output).
        rule: of its operator.
        slot: which of its weights it is.
        names: of the weight's tensors, codes first.
        n: outputs.
        k: inputs.
        kernel: what must run it.
        fingerprint: of the solver's codes, scales and zero points, in the kernel's blocks, chunk by chunk.
        attributes: of the node.
        stacked: tensors have an axis more, of experts or directions.
    """

    node: str
    rule: Rule
    slot: int
    names: Mapping[str, str]
    n: int
    k: int
    kernel: Kernel
    fingerprint: str
    attributes: Mapping[str, object]
    stacked: bool = False

    @classmethod
    def of(cls, planned: Planned, names: Mapping[str, str], digest: str) -> Expected:
        """From what was planned, and what was stored."""
        target, rule, kernel = planned.target, planned.rule, planned.kernel
        attributes, stacked = rule.node_attributes(target, kernel), target.experts > 0
        return cls(target.name, rule, target.slot, names, target.n, target.k, kernel, digest, attributes, stacked)

    @property
    def codes(self) -> str:
        """The name of the tensor that holds the codes."""
        return next(iter(self.names.values()))


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
    for entry in expected:
        wanted[entry.rule.operator, entry.codes].append(entry)
    kinds: dict[Hashable, tuple[Expected, Node]] = {}
    scratch = Scratch()
    for key, entries in wanted.items():
        entry, nodes = entries[0], written[key]
        _check_nodes(path, graph, nodes, entries)
        _check_decoded(path, graph, nodes[0], entry, scratch)
        kind = (entry.rule.operator, entry.kernel, entry.k % entry.kernel.block_size == 0)
        if kind not in kinds or entry.n * entry.k < kinds[kind][0].n * kinds[kind][0].k:
            kinds[kind] = (entry, nodes[0])
    for entry, node in kinds.values():
        _check_kernel(path, graph, node, entry, provider)
    return len(kinds)


def _load(path: Path) -> Graph:
    try:
        return Graph.load(path)
    except ModelError as error:
        raise VerificationError(f"The written file cannot be read back: {error}") from error


def _written(graph: Graph) -> defaultdict[tuple[str, str], list[Node]]:
    """The nodes that read each tensor, some after a Reshape, by operator."""
    operators = {(rule.operator, rule.domain) for rule in ALL_RULES}
    found: defaultdict[tuple[str, str], list[Node]] = defaultdict(list)
    for node in graph.nodes():
        if (node.op_type, node.domain) in operators:
            for name in dict.fromkeys(_leaf(graph, node, index) for index in range(len(node.inputs))):
                found[node.op_type, name].append(node)
    return found


def _leaf(graph: Graph, node: Node, index: int) -> str:
    """The tensor that an input is, or is made of."""
    name = node.inputs[index]
    value = graph.constant(node, index) if name else None
    return value.leaf.name if isinstance(value, Constant) else name


def _leaves(graph: Graph, node: Node, entry: Expected) -> list[str]:
    """The tensors that a written node reads of a weight, some after a Reshape of its own."""
    names = entry.rule.stored_names(graph, node, entry.slot).values()
    return [_leaf(graph, node, node.inputs.index(name)) if name in node.inputs else name for name in names]


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


def _read(graph: Graph, node: Node, entry: Expected, scratch: Scratch | None = None) -> Tensors:
    """The node's tensors; codes in `scratch` if given."""
    names = entry.rule.stored_names(graph, node, entry.slot)
    codes = next(iter(names), "")
    try:
        found = {
            name: graph.read_initializer(node.body, value, scratch if name == codes else None)
            for name, value in names.items()
        }
    except ModelError as error:
        raise VerificationError(f"'{entry.node}' cannot be read back: {error}") from error
    if not entry.stacked:
        return found
    layout = entry.rule.layout(entry.n, entry.k, entry.kernel)
    return {name: _as(array, layout[name][0]) for name, array in found.items()}


def _as(array: Array, shape: tuple[int, ...]) -> Array:
    """In another shape, where it has as many elements."""
    return array.reshape(shape) if array.size == math.prod(shape) else array


def _check_decoded(path: Path, graph: Graph, node: Node, entry: Expected, scratch: Scratch) -> None:
    """Whether the tensors have the shapes the kernel reads, and decode to what the solver returned."""
    tensors, rule, kernel = _read(graph, node, entry, scratch), entry.rule, entry.kernel
    if not rule.fits(tensors, entry.n, entry.k, kernel):
        raise VerificationError(f"'{entry.node}' in '{path}' has tensors of other shapes or types than meant.")
    chunks = (rule.unpack(take_rows(tensors, rows), kernel, entry.k) for rows in row_chunks(entry.n, entry.k))
    if join_digests(fingerprint(q.codes, q.scale, q.zero_point) for q in chunks) != entry.fingerprint:
        raise VerificationError(
            f"'{entry.node}' in '{path}' decodes to other codes, scales or zero points than the solver returned. "
            "The disk or memory may be faulty; if it happens again, please report it."
        )


def _check_kernel(path: Path, graph: Graph, node: Node, entry: Expected, provider: ProviderName) -> None:
    rows, kernel = _probe_rows(entry.n), entry.kernel
    probe = entry.rule.probe(take_rows(_read(graph, node, entry), slice(0, rows)), kernel, rows, entry.k)
    (found,) = Session(probe.model, provider=provider).run(dict(probe.feed)).values()
    got = found.astype(probe.expected.dtype)
    error = float(((got - probe.expected) ** 2).sum() / max(float((probe.expected**2).sum()), 1e-300))
    if not error <= probe.tolerance:
        raise VerificationError(
            f"The kernel of '{entry.node}' in '{path}' computes something else than its codes say: relative MSE "
            f"{error:.2g}, at most {probe.tolerance:g} allowed ({kernel.bits} bits, block {kernel.block_size}, "
            f"{provider}). This ONNX Runtime cannot run this format correctly; choose another block size or `bits`."
        )


def _probe_rows(n: int) -> int:
    """How many outputs are enough to see whether a kernel computes right: some, with the same remainder as all."""
    return n if n <= _PROBE_ROWS else _PROBE_ROWS + n % _PROBE_ROWS
