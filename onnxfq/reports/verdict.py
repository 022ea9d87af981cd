"""What a run came to, in one sentence: gates that fail, else how much was lost, in a word of a scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnxfq.reports.bands import Level, Loss, loss_of
from onnxfq.reports.measured import not_compared, telling
from onnxfq.reports.report import Report
from onnxfq.system.terminal import size_text

_WORDS: dict[Level, str] = {
    "negligible": "NEGLIGIBLE LOSS",
    "small": "SMALL LOSS",
    "noticeable": "NOTICEABLE LOSS",
    "damaged": "DAMAGED",
    "broken": "BROKEN",
    "unclear": "UNCLEAR",
    "": "NOT COMPARED",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run came to.

    Attributes:
        kind: "failed" or "passed", where there are gates; "compared" with the original, without gates; "unproven",
            written and verified but not compared; "inspected", nothing written.
        word: the same for people: how much was lost, unless a gate failed.
        text: the rest of the sentence.
        level: how much was lost; "" where nothing was compared.
    """

    kind: Literal["failed", "passed", "compared", "unproven", "inspected"]
    word: str
    text: str
    level: Level = ""

    def __str__(self) -> str:
        """For people: `SMALL LOSS: mean KL 0.026, top-1 agreement 88 %, on generated inputs.`."""
        return f"{self.word}: {self.text}"


def verdict(report: Report) -> Verdict:
    """The verdict on a run; what was not compared with the original is never called passed."""
    size = f"{size_text(report.size.source_bytes)} → {size_text(report.size.output_bytes)}"
    loss = loss_of(telling(report.outputs, changed=report.changes_weights))
    failed = [gate for gate in report.gates if not gate.passed]
    if failed:
        told = "; ".join(f"{gate.name} {gate.measured_text}, limit {gate.limit_text}" for gate in failed)
        many = len(report.gates)
        which = (
            "the gate does" if many == 1 else f"{len(failed)} of {many} gates {'does' if len(failed) == 1 else 'do'}"
        )
        besides = f" {_WORDS[loss.level].capitalize()}: {_figures(report, loss)}." if loss.level else ""
        return Verdict("failed", "FAILED", f"{which} not hold: {told}.{besides}", loss.level)
    if report.output is None:
        nodes = _count(len(report.targets), "node")
        return Verdict("inspected", "INSPECTED", f"{nodes} would be quantized, {size}; nothing was written.")
    if not (report.outputs or report.latency):
        could_not = any(warning.startswith(_WORDS[""]) for warning in report.warnings)
        word = _WORDS[""] if could_not else "NOT VALIDATED"
        return Verdict("unproven", word, f"{size}; the written file was verified, but not compared with the original.")
    holds = "the gate holds" if len(report.gates) == 1 else f"all {len(report.gates)} gates hold"
    text = f"{_figures(report, loss)}{f'; {holds}' if report.gates else ''}."
    word = _WORDS[loss.level] + (", IN-SAMPLE" if loss.level and report.measured_on == "in-sample" else "")
    return Verdict("passed" if report.gates else "compared", word, text, loss.level)


def _figures(report: Report, loss: Loss) -> str:
    """What the word rests on, and which data that was measured on."""
    if report.shows_nothing:
        return "no output changed at all, so that no quantized weight was met"
    if not loss.level:
        reasons = "; ".join(not_compared(report.outputs))
        return f"no output could be compared{f': {reasons}' if reasons else ''}"
    return f"{loss.text}{_measured_on(report, loss.samples)}"


def _measured_on(report: Report, samples: int) -> str:
    if not report.inputs:
        return ""
    count = f"{samples} " if samples else ""
    noun = "sample" if samples == 1 else "samples"
    if report.measured_on == "in-sample":
        return f", on the {count}{noun} that calibrated it"
    kind = "generated" if report.inputs == "generated" else report.measured_on
    where = "" if kind == "generated" else f" ({report.inputs})"
    return f", on {count}{f'{kind} ' if kind else ''}{noun}{where}"


def in_sample_text(report: Report) -> str:
    """How much was lost on samples that calibration was fitted to, where that stands beside others; else nothing."""
    loss = loss_of(report.in_sample)
    if not loss.level:
        return ""
    samples = f"{loss.samples} " if loss.samples else ""
    return f"In-sample, on {samples}of the samples that calibrated it: {loss.text}."


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
