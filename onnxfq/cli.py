"""The command line: verbs → public API → exit code."""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from onnxfq.arguments import (
    ActivationChoice,
    Activations,
    Algorithm,
    AllowSlow,
    Appended,
    AtMost,
    Baseline,
    Baselines,
    Batches,
    Bits,
    BlockSize,
    Calib,
    CheckpointArgument,
    ClockChoice,
    ClockOption,
    ConfigFile,
    Cpus,
    DataFile,
    DtypeChoice,
    DtypeOption,
    EvalText,
    Exclude,
    ExecutorOption,
    ExportFolder,
    ExportTask,
    Include,
    JsonFlag,
    Lengths,
    Loads,
    MaxDrop,
    MaxError,
    MaxKl,
    MaxPplIncrease,
    Memory,
    MinCosine,
    MinSpeedup,
    ModelArgument,
    NoValidate,
    Only,
    OnlyChoice,
    Output,
    ProviderChoice,
    ProviderOption,
    Quiet,
    ReportFile,
    ReportOutput,
    ReportsArgument,
    Resume,
    Samples,
    SaveConfig,
    Seconds,
    Seed,
    SeqLen,
    Symmetric,
    TaskChoice,
    TaskOption,
    TextFile,
    Threads,
    Tokenizer,
    Verbose,
    Window,
    WorkDir,
    save_settings,
)
from onnxfq.console import (
    GATE_FAILED,
    INTERRUPTED,
    WRONG_USAGE,
    complain,
    messages,
    print_json,
    reported,
    show,
    show_runs,
    telling,
)
from onnxfq.errors import OnnxfqError, OutputError
from onnxfq.process import handle_signals, ignore_signals, occupy_standard_streams, settle_streams
from onnxfq.terminal import one_line

if TYPE_CHECKING:
    from onnxfq.compare import Comparison
    from onnxfq.report import Report

app = typer.Typer(
    name="onnxfq",
    help="Make exported ONNX models small and fast without making them worse, and prove it.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
@reported
def quantize(
    context: typer.Context,
    model: ModelArgument,
    output: Output = None,
    bits: Bits = 4,
    block_size: BlockSize = "32",
    symmetric: Symmetric = None,
    activations: Activations = ActivationChoice.int8,
    algorithm: Algorithm = "auto",
    calib: Calib = None,
    tokenizer: Tokenizer = None,
    samples: Samples = 128,
    seq_len: SeqLen = 512,
    seed: Seed = 0,
    provider: ProviderOption = ProviderChoice.auto,
    include: Include = None,
    exclude: Exclude = None,
    allow_slow: AllowSlow = False,
    max_error: MaxError = None,
    max_kl: MaxKl = None,
    min_cosine: MinCosine = None,
    max_ppl_increase: MaxPplIncrease = None,
    eval_text: EvalText = None,
    min_speedup: MinSpeedup = None,
    no_validate: NoValidate = False,
    report: ReportFile = None,
    as_json: JsonFlag = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: ConfigFile = None,
    save_config: SaveConfig = None,
    work_dir: WorkDir = None,
    resume: Resume = False,
    memory: Memory = "2GB",
    threads: Threads = None,
    executor: ExecutorOption = None,
) -> None:
    """Quantise a model, verify the written file, and compare it with the original."""
    from onnxfq import pipeline
    from onnxfq.config import check_config_path
    from onnxfq.report import check_report_path

    if report:
        check_report_path(report, model, output)
    if save_config:
        check_config_path(save_config, model, output)
    with telling(quiet=quiet, verbose=verbose) as told:
        result = pipeline.quantize(
            model, output, progress=told, bits=bits, block_size=block_size, symmetric=symmetric,
            activations=activations.value, algorithm=algorithm, provider=provider.value, include=include or (),
            exclude=exclude or (), allow_slow=allow_slow, calib=calib, tokenizer=tokenizer, samples=samples,
            seq_len=seq_len, seed=seed, max_error=max_error, max_kl=max_kl, min_cosine=min_cosine,
            max_ppl_increase=max_ppl_increase, eval_text=eval_text, min_speedup=min_speedup, validate=not no_validate,
            work_dir=work_dir, resume=resume, memory=memory, threads=threads, executor=executor,
        )  # fmt: skip
    try:
        show(result, as_json=as_json, quiet=quiet)
    except OutputError as error:
        error.add_note(f"The model is complete: '{result.output}'.")
        raise
    finally:
        if report:
            result.save(report)
        if save_config:
            save_settings(context, save_config, result)
    if not result.passed:
        failed = "; ".join(str(gate) for gate in result.gates if not gate.passed)
        complain(f"Failed: a gate does not hold: {failed}. The output is kept: {result.output}")
        raise typer.Exit(GATE_FAILED)


@app.command()
@reported
def inspect(
    model: ModelArgument,
    bits: Bits = 4,
    block_size: BlockSize = "32",
    symmetric: Symmetric = None,
    activations: Activations = ActivationChoice.int8,
    algorithm: Algorithm = "auto",
    provider: ProviderOption = ProviderChoice.auto,
    include: Include = None,
    exclude: Exclude = None,
    allow_slow: AllowSlow = False,
    as_json: JsonFlag = False,
) -> None:
    """Show what quantize would do: targets, what is skipped and why, and the size. Changes nothing."""
    from onnxfq import pipeline

    result = pipeline.inspect(
        model, bits=bits, block_size=block_size, symmetric=symmetric, activations=activations.value,
        algorithm=algorithm, provider=provider.value, include=include or (), exclude=exclude or (),
        allow_slow=allow_slow,
    )  # fmt: skip
    show(result, as_json=as_json)


@app.command("report")
@reported
def show_reports(reports: ReportsArgument, output: ReportOutput = None, as_json: JsonFlag = False) -> None:
    """Show a report again or turn it into a page; several: compare the runs."""
    from onnxfq.compare import compare_reports
    from onnxfq.report import Report, check_report_path

    if output:
        for path in reports:
            check_report_path(output, path)
    loaded = [Report.load(path) for path in reports]
    result: Report | Comparison
    if len(loaded) == 1:
        (result,) = loaded
        show(result, as_json=as_json)
    else:
        result = compare_reports(reports, loaded)
        show_runs(result, as_json=as_json)
    if output:
        result.save(output)


@app.command()
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
    from onnxfq import evaluating
    from onnxfq.tables import show_evaluation

    with telling(quiet=quiet, verbose=verbose) as told:
        result = evaluating.evaluate(
            model, baseline, text=text, data=data, task=task.value, tokenizer=tokenizer, seq_len=seq_len,
            samples=samples, provider=provider.value, threads=threads, max_ppl_increase=max_ppl_increase,
            max_kl=max_kl, min_cosine=min_cosine, max_error=max_error, max_drop=max_drop, progress=told,
        )  # fmt: skip
    if as_json:
        print_json(result.to_json())
    else:
        show_evaluation(result, messages(quiet=quiet))
    if not result.passed:
        failed = "; ".join(str(gate) for gate in result.gates if not gate.passed)
        complain(f"Failed: a gate does not hold: {failed}")
        raise typer.Exit(GATE_FAILED)


@app.command()
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
    from onnxfq import benchmarking
    from onnxfq.benchmark_tables import show_benchmark
    from onnxfq.numbers import parse_numbers

    with telling(quiet=quiet, verbose=verbose) as told:
        result = benchmarking.benchmark(
            model, baseline or (), provider=provider.value, threads=threads, clock=clock.value, only=only.value,
            cpus=None if cpus is None else parse_numbers(cpus, "--cpus"),
            lengths=None if lengths is None else parse_numbers(lengths, "--lengths"),
            batches=parse_numbers(batches, "--batches"), tokens=tokens, seconds=seconds, loads=loads,
            min_speedup=min_speedup, progress=told,
        )  # fmt: skip
    if as_json:
        print_json(result.to_json())
    else:
        show_benchmark(result, messages(quiet=quiet))
    if not result.passed:
        failed = "; ".join(str(gate) for gate in result.gates if not gate.passed)
        complain(f"Failed: a gate does not hold: {failed}")
        raise typer.Exit(GATE_FAILED)


@app.command()
@reported
def export(
    model: CheckpointArgument,
    output: ExportFolder,
    task: ExportTask = "auto",
    dtype: DtypeOption = DtypeChoice.fp32,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Export a transformers model to a folder with ONNX files, through optimum."""
    from onnxfq import exporting

    with telling(quiet=quiet, verbose=verbose) as told:
        files = exporting.export(model, output, task=task, dtype=dtype.value, progress=told)
    for file in files:
        messages(quiet=quiet).print(one_line(str(file)), markup=False, highlight=False, soft_wrap=True, emoji=False)


@app.command()
@reported
def doctor(as_json: JsonFlag = False) -> None:
    """Show providers, kernels, and which formats are fast here."""
    from onnxfq import doctor as facts
    from onnxfq.tables import show_doctor

    environment, kernels = dict(facts.environment()), facts.kernel_rows()
    if as_json:
        print_json({**environment, "kernels": [dict(zip(facts.COLUMNS, row, strict=True)) for row in kernels]})
    else:
        show_doctor(environment, facts.COLUMNS, facts.brief(kernels), messages())


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False
) -> None:
    if version:
        from onnxfq.version import VERSION

        typer.echo(VERSION)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(WRONG_USAGE)


def main() -> NoReturn:
    """Run the command line and exit with its code; a crash is no failed gate and gets another code than 1."""
    # Threads of compiled loops sleep between loops instead of spinning: on a busy machine that is several times faster.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    occupy_standard_streams()
    handle_signals()
    try:
        code = run(sys.argv[1:])
    except Exception:  # noqa: BLE001 - shown in full, with what to do about it
        traceback.print_exc()
        complain("Bug: this should not have happened. Please report it with all of the above.")
        code = OnnxfqError.exit_code
    ignore_signals()
    settle_streams()
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    try:
        app(arguments, prog_name="onnxfq")
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    return 0
