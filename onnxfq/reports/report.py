"""What a run did and what it measured: as data and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxfq.benchmarking.latency import Latency
from onnxfq.errors import DataError
from onnxfq.metrics.gates import Gate, Gated, Gates
from onnxfq.metrics.metric import Metric
from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.reports.brief import brief_error, brief_rows
from onnxfq.reports.contents import Content
from onnxfq.reports.expectations import Estimate, ExpectedSpeed
from onnxfq.reports.formats import writer_of
from onnxfq.reports.measured import measured, telling
from onnxfq.reports.mix import MixReport
from onnxfq.reports.reading import build, read_object
from onnxfq.rules import Skip
from onnxfq.system.notebook import notebook_table
from onnxfq.system.terminal import one_line, size_text

JSON_VERSION = 1  # of report.schema.json: new members leave it, a member that goes or changes its meaning raises it


@dataclass(frozen=True, slots=True)
class TargetReport:
    """One quantized node.

    Attributes:
        name: the node's.
        op_type: what it was.
        n: outputs.
        k: inputs.
        bits: bits a code.
        block_size: of the kernel that runs it.
        granularity: what shares a scale: the block size asked for, "channel" or "tensor".
        algorithm: what chose the codes.
        weighted: what made errors in some inputs count more than in others; "" where all counted alike.
        relative_error: Σ(w−ŵ)² / Σw², weights only; None until solved.
        float_bytes: the weight in the source; 0 of a second copy of it.
        bytes: codes, scales and zero points together; 0 where they are shared with an earlier target.
        speed: "fast" or "slow", as the kernel table says; "unknown" where it was not measured on such a processor.
        shares: the earlier target with which the weight is shared, or "".
        model: the file it belongs to, where there are several.
        output_error: Σ(y−ŷ)² / Σy² over the calibration samples, of the node's output after its bias, original against
            quantized model as far as that node; None without calibration.
        tokens: of calibration; 0 without.
        weights: smallest and largest weight.
        activations: smallest and largest input in calibration; None without.
        remarks: what the solver had to do differently.
        operator: what runs it in the output.
        scheme: what it was quantized to, in words; "" in reports of versions before 0.2.
    """

    name: str
    op_type: str
    n: int
    k: int
    bits: int
    block_size: int
    granularity: int | str
    algorithm: str
    relative_error: float | None
    float_bytes: int
    bytes: int
    speed: str
    shares: str = ""
    weighted: str = ""
    model: str = ""
    output_error: float | None = None
    tokens: int = 0
    weights: tuple[float, float] | None = None
    activations: tuple[float, float] | None = None
    remarks: tuple[str, ...] = ()
    operator: str = "MatMulNBits"
    scheme: str = ""


@dataclass(frozen=True, slots=True)
class SkipReport:
    """One node left alone, with the reason."""

    name: str
    op_type: str
    reason: str
    quantized: bool = False
    float_bytes: int = 0
    model: str = ""

    @classmethod
    def of(cls, skip: Skip) -> SkipReport:
        """From what a rule said."""
        return cls(skip.name, skip.op_type, skip.reason, skip.quantized, skip.nbytes)


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes before and after.

    Attributes:
        source_bytes: all files of the source.
        output_bytes: all files of the output (predicted by `inspect`, measured by `quantize`).
        target_float_bytes: the targets' weights in the source, each counted once.
        target_bytes: the same after: codes, scales and zero points.
        target_weights: how many weights that are.
    """

    source_bytes: int
    output_bytes: int
    target_float_bytes: int
    target_bytes: int
    target_weights: int

    @property
    def ratio(self) -> float:
        """Output size relative to the source."""
        return self.output_bytes / self.source_bytes

    @property
    def bits_per_weight(self) -> float:
        """True bits of a quantized weight, scales and zero points included."""
        return 8 * self.target_bytes / self.target_weights if self.target_weights else 0.0

    @property
    def coverage(self) -> float:
        """The part of the source's bytes that was quantized."""
        return min(1.0, self.target_float_bytes / self.source_bytes)

    def as_json(self) -> dict[str, float | int]:
        """All of it, derived figures included."""
        return {n: getattr(self, n) for n in (*asdict(self), "ratio", "bits_per_weight", "coverage")}


@dataclass(frozen=True, slots=True, repr=False)
class Report(Gated):
    """Everything a run of `quantize` or `inspect` found, did and measured.

    Attributes:
        source: the model or folder.
        output: what was written; None for `inspect`.
        scheme: in words, the usual one first where targets differ.
        algorithm: what chose the codes.
        provider: "cpu" or "cuda".
        targets: quantized nodes.
        skipped: nodes left alone that are of a kind that can be quantized, or are quantized already.
        size: bytes before and after.
        estimate: expected time and memory.
        outputs: error of every output against the original, empty where nothing was compared. Gates are about these.
        in_sample: the same on as many samples that calibrated; empty where `outputs` are of those, or none did.
        measured_on: what the samples of `outputs` are to calibration: "held-out", "in-sample", "generated", or "".
        latency: original against output, empty where nothing was compared.
        language: perplexity of output and original (`baseline`) on texts, where it was asked for.
        inputs: where the inputs of the comparison came from; "" where nothing was compared.
        calibration: where the algorithm's data come from; "" where it had none.
        gates: limits and whether they hold.
        warnings: what the user should know.
        kernels_run: how many kinds of kernel were run against their codes.
        onnxfq_version: that made the report.
        runtime_version: of ONNX Runtime.
        settings: that decide about the result, to reproduce it with.
        seconds: the whole run took; None for `inspect`.
        contents: what the output's files consist of (predicted by `inspect`), which adds up to their size.
        source_contents: the same of the source.
        expected: how fast the quantized products are by tables, on the machine that the output is made for and others.
        mixes: of each model whose bits were chosen within a budget.

    Example:
        >>> report = onnxfq.Report.load("report.json")
        >>> for target in report.targets[:1]:
        ...     print(target.name, target.bits, target.block_size)
        /decoder/embed_tokens/Gather 8 128
    """

    source: str
    output: str | None
    scheme: str
    algorithm: str
    provider: str
    targets: tuple[TargetReport, ...]
    skipped: tuple[SkipReport, ...]
    size: Size
    estimate: Estimate
    outputs: tuple[OutputAccuracy, ...] = ()
    in_sample: tuple[OutputAccuracy, ...] = ()
    measured_on: str = ""
    latency: tuple[Latency, ...] = ()
    language: tuple[Metric, ...] = ()
    inputs: str = ""
    calibration: str = ""
    gates: tuple[Gate, ...] = ()
    warnings: tuple[str, ...] = ()
    kernels_run: int = 0
    onnxfq_version: str = ""
    runtime_version: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    contents: tuple[Content, ...] = ()
    source_contents: tuple[Content, ...] = ()
    expected: tuple[ExpectedSpeed, ...] = ()
    mixes: tuple[MixReport, ...] = ()

    def __repr__(self) -> str:
        models = " → ".join(one_line(path) for path in (self.source, self.output) if path)
        sizes = f"{size_text(self.size.source_bytes)} → {size_text(self.size.output_bytes)}"
        told = brief_error(telling(self.outputs, changed=self.changes_weights), written=self.output is not None)
        facts = (sizes, told, self._gates_text)
        return f"<Report {models}: {'; '.join(filter(None, facts))}>"

    def _repr_html_(self) -> str:
        sizes = (self.size.source_bytes, self.size.output_bytes)
        rows = list(brief_rows(sizes, self.outputs, self.latency, self.language))
        notes = [*(f"Gate {gate}" for gate in self.gates), *self.warnings]
        return notebook_table(self.output or self.source, ("", "original", "quantized", ""), rows, notes)

    def with_gates(self, gates: Gates) -> Report:
        """The report with its metrics held against limits, which become its gates."""
        checked = gates.check(measured(self.outputs, self.latency, self.language, changed=self.changes_weights))
        seen = self.measured_on == "in-sample"
        return replace(self, gates=tuple(replace(g, in_sample=seen and g.name != "min-speedup") for g in checked))

    @property
    def changes_weights(self) -> bool:
        """Whether a weight of the output is another one than that of the original."""
        return any(target.relative_error for target in self.targets)

    @property
    def shows_nothing(self) -> bool:
        """Whether weights have changed and no output has, so that the comparison cannot have met them."""
        unchanged = any(o.is_unchanged for o in self.outputs) and not any(o.unmatched for o in self.outputs)
        return unchanged and not telling(self.outputs, changed=self.changes_weights)

    def require(
        self,
        *,
        max_error: str | float | None = None,
        max_kl: str | float | None = None,
        min_cosine: str | float | None = None,
        max_ppl_increase: str | float | None = None,
        min_speedup: str | float | None = None,
    ) -> Report:
        """Return itself if every gate of the run holds, and every limit given here.

        A limit on what was not measured does not hold.

        Args:
            max_error: largest relative MSE over the floating outputs.
            max_kl: largest mean KL, in nats, over outputs that are logits.
            min_cosine: smallest mean cosine over the floating outputs.
            max_ppl_increase: how far the perplexity may be above the original's, 0.5 or "1%".
            min_speedup: smallest speed-up over all cases that were timed; the lower bounds of their intervals count.

        Raises:
            GateError: one does not hold.
            UsageError: a limit makes no sense.

        Example:
            >>> report = onnxfq.Report.load("report.json")
            >>> report.require(max_error=0.9, max_kl="0.5") is report
            True
        """
        gates = Gates.parse(
            {"max_error": max_error, "max_kl": max_kl, "min_cosine": min_cosine, "max_ppl_increase": max_ppl_increase,
             "min_speedup": min_speedup}
        )  # fmt: skip
        self._require(dict.fromkeys((*self.gates, *self.with_gates(gates).gates)))
        return self

    def _gated(self) -> str:
        return self.output or self.source

    def to_json(self) -> dict[str, Any]:
        """A JSON object, as `onnxfq/reports/report.schema.json` describes it; `version` is the layout's."""
        return {
            "version": JSON_VERSION,
            "onnxfq": self.onnxfq_version,
            "onnxruntime": self.runtime_version,
            "source": self.source,
            "output": self.output,
            "scheme": self.scheme,
            "algorithm": self.algorithm,
            "calibration": self.calibration,
            "provider": self.provider,
            "seconds": self.seconds,
            "settings": self.settings,
            "targets": [asdict(t) for t in self.targets],
            "skipped": [asdict(s) for s in self.skipped],
            "size": self.size.as_json(),
            "contents": [asdict(c) for c in self.contents],
            "source_contents": [asdict(c) for c in self.source_contents],
            "estimate": asdict(self.estimate),
            "expected": [asdict(e) for e in self.expected],
            "mixes": [asdict(m) for m in self.mixes],
            "inputs": self.inputs,
            "measured_on": self.measured_on,
            "outputs": [asdict(o) for o in self.outputs],
            "in_sample": [asdict(o) for o in self.in_sample],
            "latency": [asdict(x) for x in self.latency],
            "language": [asdict(f) for f in self.language],
            "gates": [asdict(g) for g in self.gates],
            "kernels_run": self.kernels_run,
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Report:
        """A report from what `to_json` gave, of this version of the layout or an earlier one.

        Raises:
            DataError: the object is no report, or one of a later version.
        """
        version = value.get("version")
        if type(version) is not int or version < 1:
            raise DataError("Not a report of onnxfq: it has no version. Give a JSON file that onnxfq wrote.")
        if version > JSON_VERSION:
            raise DataError(
                f"The report is of a newer onnxfq (got version {version}, wanted 1 to {JSON_VERSION}). Update it."
            )
        named = {"onnxfq_version": value.get("onnxfq", ""), "runtime_version": value.get("onnxruntime", "")}
        report = build(cls, {**value, **named}, "report")
        if report.size.source_bytes < 1 or any(t.n < 1 or t.k < 1 for t in report.targets):
            raise DataError("Not a report of onnxfq: the model or a weight has no size.")
        return report

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read a report that was saved as JSON.

        Raises:
            DataError: the file cannot be read, or is no report.
        """
        try:
            return cls.from_json(read_object(Path(path)))
        except DataError as error:
            if str(path) not in str(error):
                error.add_note(f"File: '{path}'.")
            raise

    def save(self, path: str | Path) -> None:
        """Write the report, whole or not at all: as JSON, or as a page for a browser, whichever the name ends in.

        Raises:
            UsageError: the name ends neither in .json nor in .html.
            OutputError: the file cannot be written.
        """
        writer_of(Path(path))(self, Path(path))
