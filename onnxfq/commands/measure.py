"""The verbs `evaluate`, `benchmark` and `report`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxfq.commands.arguments import (
    Appended,
    AtMost,
    Baseline,
    Baselines,
    Batches,
    ClockChoice,
    ClockOption,
    Cpus,
    DataFile,
    JsonFlag,
    Lengths,
    Loads,
    MaxDrop,
    MaxError,
    MaxKl,
    MaxPplIncrease,
    MinCosine,
    MinSpeedup,
    ModelArgument,
    Only,
    OnlyChoice,
    ProviderChoice,
    ProviderOption,
    Quiet,
    ReportOutput,
    ReportsArgument,
    Seconds,
    TaskChoice,
    TaskOption,
    TextFile,
    Threads,
    Tokenizer,
    Verbose,
    Window,
)
from onnxfq.commands.console import (
    end_by_gates,
    report_progress,
    reported,
    show,
    show_as,
)

if TYPE_CHECKING:
    from onnxfq.reports.compare import ReportComparison
    from onnxfq.reports.report import Report


@reported
def evaluate(
    model: ModelArgument,
    baseline: Baseline = None,
    task: TaskOption = TaskChoice.auto,
    text: TextFile = None,
    data: DataFile = None,
    tokenizer: Tokenizer = None,
    seq_len: Window = 512,
    samples: AtMost = None,
    provider: ProviderOption = ProviderChoice.auto,
    max_ppl_increase: MaxPplIncrease = None,
    max_kl: MaxKl = None,
    min_cosine: MinCosine = None,
    max_error: MaxError = None,
    max_drop: MaxDrop = None,
    as_json: JsonFlag = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    threads: Threads = None,
) -> None:
    """Measure how good a model is, and how far it is from the one it was made from. Changes nothing."""
    from onnxfq.commands.tables import show_evaluation
    from onnxfq.evaluation import evaluate as evaluating

    with report_progress(quiet=quiet, verbose=verbose) as told:
        result = evaluating.evaluate(
            model, baseline, text=text, data=data, task=task.value, tokenizer=tokenizer, seq_len=seq_len,
            samples=samples, provider=provider.value, threads=threads, max_ppl_increase=max_ppl_increase,
            max_kl=max_kl, min_cosine=min_cosine, max_error=max_error, max_drop=max_drop, progress=told,
        )  # fmt: skip
    show_as(result, show_evaluation, as_json=as_json, quiet=quiet)
    end_by_gates(result.gates)


@reported
def benchmark(
    model: ModelArgument,
    baseline: Baselines = None,
    only: Only = OnlyChoice.all,
    lengths: Lengths = None,
    batches: Batches = "1",
    tokens: Appended = 32,
    seconds: Seconds = 20.0,
    loads: Loads = 3,
    provider: ProviderOption = ProviderChoice.auto,
    clock: ClockOption = ClockChoice.wall,
    cpus: Cpus = None,
    threads: Threads = None,
    min_speedup: MinSpeedup = None,
    as_json: JsonFlag = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure how fast a model is, beside what it was made from: decoding, prefill, load time, memory, size."""
    from onnxfq.benchmarking import benchmark as benchmarking
    from onnxfq.commands.benchmark_tables import show_benchmark
    from onnxfq.commands.numbers import parse_numbers

    with report_progress(quiet=quiet, verbose=verbose) as told:
        result = benchmarking.benchmark(
            model, baseline or (), provider=provider.value, threads=threads, clock=clock.value, only=only.value,
            cpus=None if cpus is None else parse_numbers(cpus, "--cpus"),
            lengths=None if lengths is None else parse_numbers(lengths, "--lengths"),
            batches=parse_numbers(batches, "--batches"), tokens=tokens, seconds=seconds, loads=loads,
            min_speedup=min_speedup, progress=told,
        )  # fmt: skip
    show_as(result, show_benchmark, as_json=as_json, quiet=quiet)
    end_by_gates(result.gates)


@reported
def show_reports(reports: ReportsArgument, output: ReportOutput = None, as_json: JsonFlag = False) -> None:
    """Show a report again or turn it into a page; several: compare the runs."""
    from onnxfq.commands.tables import show_comparison
    from onnxfq.reports.compare import compare_reports
    from onnxfq.reports.files import check_report_path
    from onnxfq.reports.report import Report

    if output:
        for path in reports:
            check_report_path(output, path)
    loaded = [Report.load(path) for path in reports]
    result: Report | ReportComparison
    if len(loaded) == 1:
        (result,) = loaded
        show(result, as_json=as_json)
    else:
        result = compare_reports(reports, loaded)
        show_as(result, show_comparison, as_json=as_json)
    if output:
        result.save(output)
