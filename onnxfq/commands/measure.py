"""The verbs `evaluate`, `benchmark` and `report`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxfq.commands import arguments as arg
from onnxfq.commands import benchmark_arguments as bench
from onnxfq.commands import evaluate_arguments as evaluation
from onnxfq.commands.console import (
    end_by_gates,
    report_progress,
    reported,
    show,
    show_as,
)
from onnxfq.commands.report_path import check_report, check_report_path
from onnxfq.errors import UsageError
from onnxfq.evaluation.task_choice import TaskChoice
from onnxfq.model_files import check_models

if TYPE_CHECKING:
    from onnxfq.reports.compare import ReportComparison
    from onnxfq.reports.report import Report


@reported
def evaluate(
    model: arg.ModelArgument,
    baseline: evaluation.Baseline = None,
    task: evaluation.TaskOption = TaskChoice.auto,
    text: evaluation.TextFile = None,
    data: evaluation.DataFile = None,
    tokenizer: arg.Tokenizer = None,
    seq_len: evaluation.Window = 512,
    samples: evaluation.AtMost = None,
    provider: arg.ProviderOption = arg.ProviderChoice.auto,
    max_ppl_increase: arg.MaxPplIncrease = None,
    max_kl: arg.MaxKl = None,
    min_cosine: arg.MinCosine = None,
    max_error: arg.MaxError = None,
    max_drop: evaluation.MaxDrop = None,
    as_json: arg.JsonFlag = False,
    quiet: arg.Quiet = False,
    verbose: arg.Verbose = False,
    threads: arg.Threads = None,
) -> None:
    """Measure how good a model is, and how far it is from the one it was made from. Changes nothing."""
    for path in filter(None, (model, baseline)):
        check_models(path)
    from onnxfq.commands.tables import show_evaluation
    from onnxfq.evaluation import evaluate as evaluating

    with report_progress(quiet=quiet, verbose=verbose) as progress:
        result = evaluating.evaluate(
            model, baseline, text=text, data=data, task=task.value, tokenizer=tokenizer, seq_len=seq_len,
            samples=samples, provider=provider.value, threads=threads, max_ppl_increase=max_ppl_increase,
            max_kl=max_kl, min_cosine=min_cosine, max_error=max_error, max_drop=max_drop, progress=progress,
        )  # fmt: skip
    show_as(result, show_evaluation, result.warnings, as_json=as_json, quiet=quiet)
    end_by_gates(result.gates)


@reported
def benchmark(
    model: arg.ModelArgument,
    baseline: bench.Baselines = None,
    only: bench.Only = bench.OnlyChoice.all,
    lengths: bench.Lengths = None,
    batches: bench.Batches = "1",
    tokens: bench.Appended = 32,
    seconds: bench.Seconds = 20.0,
    loads: bench.Loads = 3,
    provider: arg.ProviderOption = arg.ProviderChoice.auto,
    clock: bench.ClockOption = bench.ClockChoice.wall,
    cpus: bench.Cpus = None,
    threads: arg.Threads = None,
    min_speedup: arg.MinSpeedup = None,
    as_json: arg.JsonFlag = False,
    quiet: arg.Quiet = False,
    verbose: arg.Verbose = False,
) -> None:
    """Measure how fast a model is, beside what it was made from: decoding, prefill, load time, memory, size."""
    for path in (model, *(baseline or ())):
        check_models(path)
    given = (("--cpus", cpus), ("--lengths", lengths), ("--batches", batches))
    numbers = {name: None if text is None else _numbers(text, name) for name, text in given}
    from onnxfq.benchmarking import benchmark as benchmarking
    from onnxfq.commands.benchmark_tables import show_benchmark

    with report_progress(quiet=quiet, verbose=verbose) as progress:
        result = benchmarking.benchmark(
            model, baseline or (), provider=provider.value, threads=threads, clock=clock.value, only=only.value,
            cpus=numbers["--cpus"], lengths=numbers["--lengths"], batches=numbers["--batches"] or (),
            tokens=tokens, seconds=seconds, loads=loads,
            min_speedup=min_speedup, progress=progress,
        )  # fmt: skip
    show_as(result, show_benchmark, result.warnings, as_json=as_json, quiet=quiet)
    end_by_gates(result.gates)


@reported
def show_reports(reports: arg.ReportsArgument, output: arg.ReportOutput = None, as_json: arg.JsonFlag = False) -> None:
    """Show a report again or turn it into a page; several: compare the runs."""
    for path in reports:
        check_report(path)
        if output:
            check_report_path(output, path)
    from onnxfq.commands.tables import show_comparison
    from onnxfq.reports.compare import compare_reports
    from onnxfq.reports.report import Report

    loaded = [Report.load(path) for path in reports]
    result: Report | ReportComparison
    if len(loaded) == 1:
        (result,) = loaded
        show(result, as_json=as_json)
    else:
        result = compare_reports(reports, loaded)
        show_as(result, show_comparison, result.remarks, as_json=as_json)
    if output:
        result.save(output)


def _numbers(text: str, what: str) -> tuple[int, ...]:
    """Numbers from "1,4" or "0-3,8", as people write lists of them.

    Args:
        text: numbers and ranges, both ends included, with commas between them.
        what: names the setting, for messages.

    Raises:
        UsageError: the text is not such a list.
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not (first.isdecimal() and (last.isdecimal() if dash else not last)):
            raise UsageError(f"{what} must be numbers with commas between them (got {text!r}). Write 1,4 or 0-3,8.")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)
