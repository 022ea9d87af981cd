"""What a run came to, in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnxfq.reports.report import Report
from onnxfq.system.terminal import size_text


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run came to.

    Attributes:
        kind: "failed" or "passed", where there are gates; "compared" with the original, without gates; "unproven",
            written and verified but not compared; "inspected", nothing written.
        word: the same for people.
        text: the rest of the sentence.
    """

    kind: Literal["failed", "passed", "compared", "unproven", "inspected"]
    word: str
    text: str

    def __str__(self) -> str:
        """For people: `FAILED: 1 of 2 gates does not hold: …`."""
        return f"{self.word}: {self.text}"


def verdict(report: Report) -> Verdict:
    """The verdict on a run; what was not compared with the original is never called passed."""
    size = f"{size_text(report.size.source_bytes)} → {size_text(report.size.output_bytes)}"
    failed = [gate for gate in report.gates if not gate.passed]
    if failed:
        told = "; ".join(f"{gate.name} {gate.measured_text}, limit {gate.limit_text}" for gate in failed)
        many = len(report.gates)
        which = (
            "the gate does" if many == 1 else f"{len(failed)} of {many} gates {'does' if len(failed) == 1 else 'do'}"
        )
        return Verdict("failed", "FAILED", f"{which} not hold: {told}.")
    if report.output is None:
        nodes = _count(len(report.targets), "node")
        return Verdict("inspected", "INSPECTED", f"{nodes} would be quantized, {size}; nothing was written.")
    if not (report.outputs or report.latency):
        return Verdict(
            "unproven", "NOT VALIDATED", f"{size}; the written file was verified, but not compared with the original."
        )
    if report.gates:
        holds = "the gate holds" if len(report.gates) == 1 else f"all {len(report.gates)} gates hold"
        return Verdict("passed", "PASSED", f"{holds}, {size}.")
    return Verdict("compared", "COMPARED", f"with the original, {size}{_worst(report)}; no gates were set.")


def _worst(report: Report) -> str:
    errors = [o.relative_mse for o in report.outputs if o.relative_mse is not None]
    return f", relative MSE up to {max(errors):.3g}" if errors else ""


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
