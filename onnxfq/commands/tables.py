"""Reports as tables for people, readable from 80 columns on. Whatever comes from a model is made harmless."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxfq.benchmarking.latency import Latency
from onnxfq.commands.option_names import with_option_names
from onnxfq.commands.printing import add as _add
from onnxfq.commands.printing import say as _say
from onnxfq.commands.printing import table as _table
from onnxfq.evaluation.result import Evaluation
from onnxfq.metrics.output_error import OutputAccuracy
from onnxfq.reports.compare import ReportComparison
from onnxfq.reports.layers import groups_of, layers_of
from onnxfq.reports.report import Report, SkipReport, TargetReport
from onnxfq.system.terminal import one_line, printable, size_text

_FEW = 12


def show_report(report: Report, console: Console) -> None:
    """What was done, what it gained and cost, and whether the gates hold."""
    heading = Text(printable(report.output or report.source), style="bold")
    _say(console, heading.append(f"  {report.scheme}, {report.algorithm}", style="not bold"))
    console.print(_summary(report))
    if report.outputs:
        _show_accuracy(report, console)
    _show_skips(report, console)
    _show_gates(report, console)


def show_inspection(report: Report, console: Console) -> None:
    """What would be quantized, and what not."""
    operators = list(dict.fromkeys(target.operator for target in report.targets))
    for operator in operators:
        _say(console, f"Targets: {operator}" if len(operators) > 1 else "Targets", style="bold")
        targets = _table("node", "", "N x K", "bits/block", "before", "after")
        for target in report.targets:
            if target.operator == operator:
                _add(targets, *_target_row(target))
        console.print(targets)
    if report.skipped:
        _say(console, "Left alone", style="bold")
        skipped = _table("node", "")
        skipped.add_column("reason", ratio=1)
        for skip in report.skipped:
            _add(skipped, _name(skip), skip.op_type, with_option_names(skip.reason))
        console.print(skipped)
    console.print(_summary(report))
    seconds, memory = report.estimate.seconds, size_text(report.estimate.memory_bytes)
    _say(console, f"Estimate: {seconds:.0f} s and {memory} of memory with --algorithm {report.algorithm}.")


def show_comparison(comparison: ReportComparison, console: Console) -> None:
    """Runs side by side: figures, settings that differ, and the layers that changed most."""
    for run in comparison.runs:
        heading = Text(f"{run.label}  {printable(run.path)}  ", style="bold")
        _say(console, heading.append(one_line(str(run.verdict)), style="not bold"))
    labels = [run.label for run in comparison.runs]
    figures = _table("", *labels)
    for figure in comparison.figures:
        if any(figure.texts):
            cells = [f"{text}{' *' if best else ''}" for text, best in zip(figure.texts, figure.best, strict=True)]
            _add(figures, figure.name, *cells)
    console.print(figures)
    if comparison.settings:
        _say(console, "Settings that differ", style="bold")
        settings = Table("", *labels, box=box.SIMPLE_HEAD, pad_edge=False)
        for name, values in comparison.settings:
            _add(settings, name, *values)
        console.print(settings)
    _show_changes(comparison, labels, console)


def _show_changes(comparison: ReportComparison, labels: Sequence[str], console: Console) -> None:
    changed = comparison.changed
    if not changed:
        _say(
            console,
            f"The errors of all {len(comparison.layers)} layers are alike." if comparison.layers else "No layers.",
        )
        return
    shown = changed[:_FEW]
    title = f"Error and bits/block of the layers, largest changes first ({len(shown)} of {len(changed)})"
    _say(console, title, style="bold")
    table = _table("node", *labels)
    for layer in shown:
        cells = zip(layer.errors, layer.formats, strict=True)
        _add(table, layer.name, *("not quantized" if f is None else _with_format(e, f) for e, f in cells))
    console.print(table)


def _with_format(error: float | None, layer_format: str) -> str:
    return layer_format if error is None else f"{error:.4g} {layer_format}"


def show_evaluation(evaluation: Evaluation, console: Console) -> None:
    """What was measured of a model, beside its baseline where it has one."""
    heading = Text(printable(evaluation.model), style="bold")
    against = f" against {printable(evaluation.baseline)}" if evaluation.baseline else ""
    _say(console, heading.append(f"  {evaluation.task}{against}", style="not bold"))
    compared = any(metric.baseline is not None for metric in evaluation.metrics)
    table = _table("", "model", "baseline", "difference", "samples") if compared else _table("", "model", "samples")
    for metric in evaluation.metrics:
        value, samples = _with_error(metric.value, metric.standard_error), f"{metric.samples or ''}"
        before, difference = _with_error(metric.baseline), _with_error(metric.difference, metric.difference_error, "+")
        cells = (value, before, difference, samples) if compared else (value, samples)
        _add(table, metric.name.replace("_", " "), *cells)
    console.print(table)
    if len(evaluation.outputs) > 1 or not evaluation.metrics:
        console.print(_output_table(evaluation.outputs))
    for metric in evaluation.metrics:
        if metric.note:
            _say(console, f"{metric.name.replace('_', ' ')}: {metric.note}", style="dim")
    _show_gates(evaluation, console)


def show_doctor(
    environment: Mapping[str, str], columns: Sequence[str], kernels: Sequence[tuple[str, ...]], console: Console
) -> None:
    """What is here, and which formats are fast.

    Args:
        environment: what there is, by name.
        columns: headings of the kernel table; the last is that of a note, which goes below the table.
        kernels: its rows.
        console: where to print.
    """
    for name, value in environment.items():
        _say(console, Text(f"{name}  ", style="bold").append(printable(value), style="not bold"))
    notes = list(dict.fromkeys(row[-1] for row in kernels if row[-1]))
    _say(console, "MatMulNBits: which block sizes are faster than floating point", style="bold")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns[:-1]:
        heading = column.replace("_", " ")
        table.add_column(heading, min_width=max(map(len, heading.split())))
    table.add_column("", no_wrap=True, min_width=3)
    for row in kernels:
        _add(table, *row[:-1], f"[{notes.index(row[-1]) + 1}]" if row[-1] else "")
    console.print(table)
    for number, note in enumerate(notes, start=1):
        _say(console, f"[{number}] {note}")


def _name(row: TargetReport | SkipReport) -> str:
    return f"{row.model}: {row.name}" if row.model else row.name


def _target_row(target: TargetReport) -> tuple[str, ...]:
    kernel = f"{target.bits}/{target.block_size}{'' if target.speed == 'fast' else ' ' + target.speed}"
    after = "shared" if target.shares else size_text(target.bytes)
    shape = f"{target.n} x {target.k}"
    return (_name(target), target.op_type, shape, kernel, size_text(target.float_bytes), after)


def _summary(report: Report) -> Table:
    table = Table("", "original", "quantized", "ratio", box=box.SIMPLE_HEAD, pad_edge=False)
    size = report.size
    _add(table, "file size", size_text(size.source_bytes), size_text(size.output_bytes), f"{size.ratio:.1%}")
    if size.target_weights:
        before = 8 * size.target_float_bytes / size.target_weights
        after = size.bits_per_weight
        _add(table, "bits a quantized weight", f"{before:.2f}", f"{after:.2f}", f"{after / before:.1%}")
    for figure in report.language:
        change = figure.relative_difference
        rise = "" if change is None else f"{100 * change:+.3g} %"
        _add(table, figure.name, _with_error(figure.baseline), _with_error(figure.value), rise)
    for latency in report.latency:
        old, new = (f"{time} ms" for time in latency.time_texts)
        _add(table, f"time, {latency.label}", old, new, f"{latency.speedup_text}{_interval(latency)}")
    floats = Counter(bool(s.float_bytes) for s in report.skipped)
    _add(table, "nodes with weights", f"{len(report.targets) + floats[True]}", f"{len(report.targets)}", "")
    for row in _group_rows(report):
        _add(table, *row)
    _add(table, "bytes quantized", "", "", f"{size.coverage:.1%}")
    return table


def _interval(latency: Latency) -> str:
    ends = latency.interval_texts
    return "" if ends is None else f" [{', '.join(ends)}]"


def _group_rows(report: Report) -> Iterator[tuple[str, ...]]:
    """Size before and after of the layers of each operator and format, where there are several."""
    groups = groups_of(layers_of(report))
    several = len({group.operator for group in groups}) > 1
    for group in groups if len(groups) > 1 else ():
        before, after = group.float_bytes, group.bytes
        ratio = f"{after / before:.1%}" if before else ""
        kind = f"{group.operator} " if several else ""
        sizes = (size_text(before), size_text(after)) if after else ("shared", "shared")
        yield (f"{len(group.layers)}x {kind}{group.bits}-bit/{group.granularity}", *sizes, ratio)


def _show_accuracy(report: Report, console: Console) -> None:
    _say(console, f"Error against the original (inputs {report.inputs})", style="bold")
    shown = [o for o in report.outputs if o.note or o.elements]
    console.print(_output_table(shown))
    for output in shown:
        if output.note:
            _say(console, f"{output.name}: {output.note}")


def _output_table(shown: Sequence[OutputAccuracy]) -> Table:
    """A line an output; of many outputs that are caches only the worst."""
    table = _table("output", "relative MSE", "cosine", "KL", "top-1")
    caches = [o for o in shown if _is_cache(o)] if len(shown) > _FEW else []
    for output in shown:
        if output not in caches:
            _add(table, output.name, *_figures(output))
    if caches:
        worst = max(caches, key=lambda o: float("inf") if o.relative_mse is None else o.relative_mse)
        _add(table, f"worst of {len(caches)} cache outputs: {worst.name}", *_figures(worst))
    return table


def _is_cache(output: OutputAccuracy) -> bool:
    return output.name.split(": ")[-1].startswith(("present", "past"))


def _figures(output: OutputAccuracy) -> tuple[str, ...]:
    if output.equal is not None:
        return (f"{output.equal:.2%} equal", "", "", "")
    figures = (output.relative_mse, output.cosine, output.kl, output.top1)
    return tuple("" if figure is None else f"{figure:.4g}" for figure in figures)


def _show_skips(report: Report, console: Console) -> None:
    """How many nodes were left alone for which reason; those with weights by name."""
    reasons: dict[str, list[SkipReport]] = {}
    for skip in report.skipped:
        reasons.setdefault(skip.reason, []).append(skip)
    for reason, skips in sorted(reasons.items(), key=lambda item: -len(item[1])):
        _say(console, f"Left alone: {len(skips)}x {reason}{''.join(_some_names(skips))}", style="dim")


def _some_names(skips: Sequence[SkipReport]) -> Iterator[str]:
    named = [_name(skip) for skip in skips if skip.float_bytes][:3]
    if named:
        yield f" ({', '.join(named)}{', …' if len(skips) > len(named) else ''})"


def _with_error(value: float | None, error: float | None = None, sign: str = "") -> str:
    """`48.75 ± 0.31`; a dash where there is no value."""
    if value is None:
        return "-"
    return f"{value:{sign}.5g}" + (f" ± {error:.2g}" if error is not None else "")


def _show_gates(report: Report | Evaluation, console: Console) -> None:
    for gate in report.gates:
        _say(console, f"Gate {gate}", style="green" if gate.passed else "bold red")
