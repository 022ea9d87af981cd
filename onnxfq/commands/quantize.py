"""The verbs `quantize` and `inspect`."""

from __future__ import annotations

import typer

from onnxfq.commands.arguments import (
    ActivationChoice,
    Activations,
    Algorithm,
    AllowSlow,
    Bits,
    BlockSize,
    Calib,
    ConfigFile,
    EvalText,
    Exclude,
    ExecutorOption,
    Include,
    JsonFlag,
    MaxError,
    MaxKl,
    MaxPplIncrease,
    Memory,
    MinCosine,
    MinSpeedup,
    ModelArgument,
    NoValidate,
    Output,
    ProviderChoice,
    ProviderOption,
    Quiet,
    ReportFile,
    Resume,
    Samples,
    SaveConfig,
    Seed,
    SeqLen,
    Symmetric,
    Threads,
    Tokenizer,
    Verbose,
    WorkDir,
)
from onnxfq.commands.console import (
    end_by_gates,
    report_progress,
    reported,
    show,
)
from onnxfq.commands.settings import save_settings
from onnxfq.errors import OutputError


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
    """Quantize a model, verify the written file, and compare it with the original."""
    from onnxfq import pipeline
    from onnxfq.commands.config import check_config_path
    from onnxfq.reports.files import check_report_path

    if report:
        check_report_path(report, model, output)
    if save_config:
        check_config_path(save_config, model, output)
    with report_progress(quiet=quiet, verbose=verbose) as told:
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
    end_by_gates(result.gates, f". The output is kept: {result.output}")


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
