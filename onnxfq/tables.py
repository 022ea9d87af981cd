"""Reports as tables for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onnxfq.evaluate import OutputAccuracy
from onnxfq.report import Report, SkipReport

_FEW = 12


def show_report(report: Report, console: Console) -> None:
    """What was done, what it gained and cost, and whether the gates hold."""
    console.print(f"[bold]{escape(report.output or report.source)}[/]  {escape(report.scheme)}, {report.algorithm}")
    console.print(_summary(report))
    if report.outputs:
        console.print(_accuracy(report))
    _show_skips(report, console)
    for warning in report.warnings:
        console.print(f"[yellow]Note:[/] {escape(warning)}")
    for gate in report.gates:
        console.print(f"[{'green' if gate.passed else 'bold red'}]Gate {escape(str(gate))}[/]")
    if not report.passed:
        console.print(f"[bold red]A gate failed.[/] The output is kept: {escape(str(report.output))}")


def show_inspection(report: Report, console: Console) -> None:
    """What would be quantised, and what not."""
    table = Table("node", "operator", "N x K", "bits", "block", "kernel", "before", "after", title="Targets")
    for t in report.targets:
        after = f"shared with {t.shares}" if t.shares else size_text(t.bytes)
        name = f"{t.model}: {t.name}" if t.model else t.name
        row = (name, t.op_type, f"{t.n} x {t.k}", str(t.bits), str(t.block_size), t.speed)
        table.add_row(*map(escape, (*row, size_text(t.float_bytes), after)))
    console.print(table)
    skipped = Table("node", "operator", "reason", title="Left alone")
    for s in report.skipped:
        skipped.add_row(*map(escape, (f"{s.model}: {s.name}" if s.model else s.name, s.op_type, s.reason)))
    if report.skipped:
        console.print(skipped)
    console.print(_summary(report))
    seconds, memory = report.estimate.seconds, report.estimate.memory_bytes
    console.print(f"Estimate: {seconds:.0f} s and {size_text(memory)} of memory with --algorithm {report.algorithm}.")
    for warning in report.warnings:
        if not report.targets:
            console.print(f"[yellow]Note:[/] {escape(warning)}")


def show_doctor(
    environment: Mapping[str, str], columns: Sequence[str], kernels: Sequence[tuple[str, ...]], console: Console
) -> None:
    """What is here, and which formats are fast."""
    for name, value in environment.items():
        console.print(f"[bold]{escape(name)}[/]  {escape(value)}")
    table = Table(*columns, title="MatMulNBits: which block sizes are faster than floating point")
    for row in kernels:
        table.add_row(*map(escape, row))
    console.print(table)


def size_text(count: float) -> str:
    """Bytes in decimal units: `12.3 MB`."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _summary(report: Report) -> Table:
    table = Table("", "original", "quantised", "ratio", show_edge=False)
    size = report.size
    table.add_row("file size", size_text(size.source_bytes), size_text(size.output_bytes), f"{size.ratio:.1%}")
    if size.target_weights:
        before = 8 * size.target_float_bytes / size.target_weights
        bits = f"{size.bits_per_weight:.2f}"
        table.add_row("bits a quantised weight", f"{before:.2f}", bits, f"{size.bits_per_weight / before:.1%}")
    for latency in report.latency:
        old, new = f"{latency.reference_ms:.3g} ms", f"{latency.candidate_ms:.3g} ms"
        table.add_row(escape(f"time, {latency.case}"), old, new, f"{latency.speedup:.2f}x as fast")
    floats = Counter(bool(s.float_bytes) for s in report.skipped)
    table.add_row(
        "MatMul and Gemm with weights", f"{len(report.targets) + floats[True]}", f"{len(report.targets)}", ""
    )
    table.add_row("bytes quantised", "", "", f"{size.coverage:.1%}")
    return table


def _accuracy(report: Report) -> Table:
    table = Table(
        "output", "relative MSE", "cosine", "KL", "top-1", title=f"Error against the original (inputs {report.inputs})"
    )
    shown = [o for o in report.outputs if o.note or o.elements]
    caches = [o for o in shown if _is_cache(o)] if len(shown) > _FEW else []
    for output in shown:
        if output not in caches:
            table.add_row(*map(escape, _output_row(output)))
    if caches:
        worst = max(caches, key=lambda o: float("inf") if o.relative_mse is None else o.relative_mse)
        table.add_row(*map(escape, (f"worst of {len(caches)} cache outputs: {worst.name}", *_output_row(worst)[1:])))
    return table


def _is_cache(output: OutputAccuracy) -> bool:
    return output.name.split(": ")[-1].startswith(("present", "past"))


def _output_row(output: OutputAccuracy) -> tuple[str, ...]:
    figures = (output.relative_mse, output.cosine, output.kl, output.top1)
    texts = tuple("" if f is None else f"{f:.4g}" for f in figures)
    if output.equal is not None:
        texts = (f"{output.equal:.2%} equal", *texts[1:])
    if output.note:
        texts = (output.note, *texts[1:]) if not texts[0] else texts
    return (output.name, *texts)


def _show_skips(report: Report, console: Console) -> None:
    """How many nodes were left alone for which reason; those with weights by name."""
    reasons: dict[str, list[SkipReport]] = {}
    for skip in report.skipped:
        reasons.setdefault(skip.reason, []).append(skip)
    for reason, skips in sorted(reasons.items(), key=lambda item: -len(item[1])):
        named = [s.name for s in skips if s.float_bytes][:3]
        names = f" ({', '.join(named)}{', …' if len(skips) > len(named) else ''})" if named else ""
        console.print(f"[dim]Left alone: {len(skips)}x {escape(reason)}{escape(names)}[/]")
