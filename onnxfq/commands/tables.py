"""Reports as tables for people, readable from 80 columns on. Whatever comes from a model is made harmless."""

from __future__ import annotations

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
from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.reports.bands import is_cache, worst_cache
from onnxfq.reports.compare import ReportComparison
from onnxfq.reports.figures import cosine_text, figure_text, share_text, uncertain_text
from onnxfq.reports.parts import parts_of
from onnxfq.reports.report import Report, SkipReport, TargetReport
from onnxfq.reports.verdict import in_sample_text, verdict
from onnxfq.rules.speed_table import SpeedTable
from onnxfq.system.terminal import one_line, printable, size_text

_FEW = 12
_NOTHING = "-"


def show_report(report: Report, console: Console) -> None:
    """What it came to, in a word; what it gained and cost; what was left alone; and whether the gates hold."""
    heading = Text(printable(report.output or report.source), style="bold")
    _say(console, heading.append(f"  {report.scheme}, {report.algorithm}", style="not bold"))
    _show_verdict(report, console)
    console.print(_summary(report))
    _show_expected(report, console)
    for mix in report.mixes:
        _say(console, one_line(str(mix)))
    if report.outputs:
        _show_accuracy(report, console)
    _show_skips(report, console)
    _show_gates(report, console)


def _show_verdict(report: Report, console: Console) -> None:
    found = verdict(report)
    bad = found.kind == "failed" or found.level in ("damaged", "broken")
    good = found.level in ("negligible", "small") and report.measured_on != "in-sample"
    style = "bold red" if bad else "bold green" if good else "bold yellow"
    _say(console, Text(found.word, style=style).append(f": {one_line(found.text)}", style="default not bold"))


def show_inspection(report: Report, console: Console) -> None:
    """What would be quantized, and what not: sizes first, then node by node."""
    _say(console, Text(printable(report.source), style="bold"))
    _show_verdict(report, console)
    console.print(_summary(report))
    _show_expected(report, console)
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
    seconds, memory = report.estimate.seconds, size_text(report.estimate.memory_bytes)
    if report.targets:
        told = (
            f"Estimate: {seconds:.0f} s and {memory} of memory to solve the weights with --algorithm {report.algorithm}"
        )
        _say(console, f"{told}; running the model, to calibrate and to compare, comes on top.")


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
    return layer_format if error is None else f"{figure_text(error)} {layer_format}"


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
        kernels: its rows; none where nothing was measured on such a machine.
        console: where to print.
    """
    for name, value in environment.items():
        _say(console, Text(f"{name}  ", style="bold").append(printable(with_option_names(value)), style="not bold"))
    if not kernels:
        return
    notes = list(dict.fromkeys(row[-1] for row in kernels if row[-1]))
    _say(
        console,
        "MatMulNBits: which block sizes have a kernel of their own (fast), and which a generic one (slow)",
        style="bold",
    )
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


def show_speeds(speeds: SpeedTable, rows: Sequence[tuple[str, ...]], console: Console) -> None:
    """How fast formats are beside float.

    Args:
        speeds: the table.
        rows: of it, as texts: the format, and a cell for each count of rows of activations.
        console: where to print.
    """
    widths = "/".join(map(str, speeds.widths))
    _say(
        console, f"Times as fast as float, weights {widths} wide ({speeds.instructions}, {speeds.source})", style="bold"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("bits/block", *(f"{count} row{'s' * (count > 1)}" for count in speeds.rows)):
        table.add_column(heading, no_wrap=heading != "bits/block")
    for row in rows:
        _add(table, *row)
    console.print(table)


def _name(row: TargetReport | SkipReport) -> str:
    return f"{row.model}: {row.name}" if row.model else row.name


def _target_row(target: TargetReport) -> tuple[str, ...]:
    stays = target.operator == target.op_type  # what is stored small for it, by channels or blocks
    kernel = (
        f"{target.bits}/{target.granularity if stays else target.block_size}{' slow' if target.speed == 'slow' else ''}"
    )
    after = "shared" if target.shares else size_text(target.bytes)
    shape = f"{target.n} x {target.k}"
    return (_name(target), target.op_type, shape, kernel, size_text(target.float_bytes), after)


def _summary(report: Report) -> Table:
    """Size, what it consists of, and speed."""
    table = Table("", "original", "quantized", "ratio", box=box.SIMPLE_HEAD, pad_edge=False)
    size = report.size
    _add(table, "file size", size_text(size.source_bytes), size_text(size.output_bytes), f"{size.ratio:.1%}")
    for row in _part_rows(report):
        _add(table, *row)
    if size.target_weights:
        before = 8 * size.target_float_bytes / size.target_weights
        after = size.bits_per_weight
        _add(table, "bits a quantized weight", f"{before:.2f}", f"{after:.2f}", f"{after / before:.1%}")
    for latency in report.latency:
        old, new = (f"{time} ms" for time in latency.time_texts)
        _add(table, f"time, {latency.label}", old, new, f"{latency.speedup_text}{_interval(latency)}")
    for figure in report.language:
        change, error = figure.relative_difference, figure.difference_error
        rise = "" if change is None else f"{100 * change:+.2g} %"
        old, new = (_NOTHING if v is None else uncertain_text(v, error) for v in (figure.baseline, figure.value))
        _add(table, figure.name, old, new, rise)
    return table


def _interval(latency: Latency) -> str:
    ends = latency.interval_texts
    return "" if ends is None else f" [{', '.join(ends)}]"


def _show_expected(report: Report, console: Console) -> None:
    """How fast the products are by tables, here and elsewhere."""
    if report.expected:
        rows = " and ".join(map(str, report.expected[0].rows))
        told = ", ".join(f"{e.times_faster:.2g}x on {one_line(e.machine)}" for e in report.expected)
        _say(console, f"Products at {rows} row{'' if rows == '1' else 's'}, by measured tables, beside float: {told}.")


def _part_rows(report: Report) -> Iterator[tuple[str, ...]]:
    """What the files consist of, before and after."""
    for part in parts_of(report):
        ratio = f"{part.after / part.before:.1%}" if part.quantized and part.before else ""
        sizes = ("shared", "shared") if part.is_shared else (size_text(part.before), size_text(part.after))
        yield (f"  {part.name}", *sizes, ratio)


def _show_accuracy(report: Report, console: Console) -> None:
    kind = f", {report.measured_on}" if report.measured_on in ("held-out", "in-sample") else ""
    _say(console, f"Error against the original (inputs {report.inputs}{kind})", style="bold")
    shown = [o for o in report.outputs if o.note or o.elements]
    console.print(_output_table(shown))
    for output in shown:
        if output.note:
            _say(console, f"{output.name}: {output.note}")
    if beside := in_sample_text(report):
        _say(console, beside, style="dim")


def _output_table(shown: Sequence[OutputAccuracy]) -> Table:
    """A line an output; of those that are caches only the worst."""
    table = _table("output", "relative MSE", "cosine", "KL", "top-1")
    caches = [o for o in shown if is_cache(o)]
    for output in shown:
        if not is_cache(output):
            _add(table, output.name, *_figures(output))
    worst = worst_cache(caches)
    if worst is not None:
        name = worst.name if len(caches) == 1 else f"worst of {len(caches)} cache outputs: {worst.name}"
        _add(table, name, *_figures(worst))
    return table


def _figures(output: OutputAccuracy) -> tuple[str, ...]:
    few = output.samples
    if output.equal is not None:
        return (f"{share_text(output.equal, few)} equal", "", "", "")
    texts = (figure_text, cosine_text, figure_text, share_text)
    figures = (output.relative_mse, output.cosine, output.kl, output.top1)
    return tuple("" if f is None else text(f, few) for f, text in zip(figures, texts, strict=True))


def _show_skips(report: Report, console: Console) -> None:
    """How many nodes were left alone for which reason; those with weights by name."""
    with_weights = sum(bool(skip.float_bytes) for skip in report.skipped)
    if with_weights:
        _say(
            console,
            f"Quantized: {len(report.targets)} of {len(report.targets) + with_weights} nodes with weights",
            style="dim",
        )
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
        return _NOTHING
    return uncertain_text(value, error, sign) + (f" ± {error:.2g}" if error is not None else "")


def _show_gates(report: Report | Evaluation, console: Console) -> None:
    for gate in report.gates:
        _say(console, f"Gate {gate}", style="green" if gate.passed else "bold red")
