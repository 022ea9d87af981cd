"""What a written file must hold of one weight, and whether its tensors decode to that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnxfq.errors import VerificationError
from onnxfq.packing import fingerprint, join_digests, row_chunks
from onnxfq.quantization.assign import Planned
from onnxfq.rules import Channels, Kernel, Rule, WrittenTensors


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
        channels: how a constant that is stored small was seen as a matrix; None of weights that kernels read.
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
    channels: Channels | None = None

    @classmethod
    def of(cls, planned: Planned, names: Mapping[str, str], digest: str) -> Expected:
        """From what was planned, and what was stored."""
        target, rule, kernel = planned.target, planned.rule, planned.kernel
        return cls(
            target.name,
            rule,
            target.slot,
            names,
            target.n,
            target.k,
            kernel,
            digest,
            attributes=rule.node_attributes(target, kernel),
            stacked=target.experts > 0,
            channels=target.channels,
        )

    @property
    def codes(self) -> str:
        """The name of the tensor that holds the codes."""
        return next(iter(self.names.values()))


def check_decoded(path: Path, entry: Expected, tensors: WrittenTensors) -> None:
    """Whether tensors have the shapes that are read, and decode to what the solver returned.

    Raises:
        VerificationError: they do not.
    """
    rule, kernel = entry.rule, entry.kernel
    if not rule.fits(tensors, entry.n, entry.k, kernel):
        raise VerificationError(f"'{entry.node}' in '{path}' has tensors of other shapes or types than meant.")
    packed = (rule.rows(tensors, rows, kernel, entry.n, entry.k) for rows in row_chunks(entry.n, entry.k))
    chunks = (rule.unpack(part, kernel, entry.k) for part in packed)
    if join_digests(fingerprint(q.codes, q.scale, q.zero_point) for q in chunks) != entry.fingerprint:
        raise VerificationError(
            f"'{entry.node}' in '{path}' decodes to other codes, scales or zero points than the solver returned. "
            "The disk or memory may be faulty; if it happens again, please report it."
        )
