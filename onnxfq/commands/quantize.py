"""The verbs `quantize` and `inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import typer

from onnxfq.commands import arguments as arg
from onnxfq.commands import quantize_arguments as own
from onnxfq.commands.config import check_config_path, save_settings
from onnxfq.commands.console import (
    end_by_gates,
    remark,
    report_progress,
    reported,
    show,
)
from onnxfq.commands.report_path import check_report_path
from onnxfq.errors import OutputError
from onnxfq.model_files import check_models, output_of
from onnxfq.scheme import usual_bits
from onnxfq.transformers_js import OF_THE_SOURCE

if TYPE_CHECKING:
    from onnxfq.option_changes import Changes
    from onnxfq.options import Options


@reported
def quantize(
    context: typer.Context,
    model: arg.ModelArgument,
    output: own.Output = None,
    format: own.FormatOption = own.FormatChoice.matmulnbits,
    bits: own.Bits = None,
    block_size: own.BlockSize = None,
    symmetric: own.Symmetric = None,
    activations: own.Activations = None,
    schemes: own.Schemes = None,
    embeddings: own.Embeddings = "8",
    others: own.Others = own.OthersChoice.auto,
    algorithm: own.Algorithm = "auto",
    calib: own.Calib = None,
    tokenizer: arg.Tokenizer = None,
    samples: own.Samples = None,
    seq_len: own.SeqLen = 512,
    seed: own.Seed = 0,
    provider: arg.ProviderOption = arg.ProviderChoice.auto,
    target: own.TargetOption = "auto",
    workload: own.WorkloadOption = None,
    include: own.Include = None,
    exclude: own.Exclude = None,
    allow_slow: own.AllowSlow = False,
    constant_inputs: own.ConstantInputs = False,
    unshare: own.Unshare = False,
    layout: own.Layout = OF_THE_SOURCE,
    tune: own.Tune = 0,
    target_size: own.TargetSize = None,
    max_error: arg.MaxError = None,
    max_kl: arg.MaxKl = None,
    min_cosine: arg.MinCosine = None,
    max_ppl_increase: arg.MaxPplIncrease = None,
    eval_data: own.EvalData = None,
    eval_text: own.EvalText = None,
    min_speedup: arg.MinSpeedup = None,
    no_validate: own.NoValidate = False,
    report: own.ReportFile = None,
    as_json: arg.JsonFlag = False,
    quiet: arg.Quiet = False,
    verbose: arg.Verbose = False,
    config: own.ConfigFile = None,
    save_config: own.SaveConfig = None,
    work_dir: own.WorkDir = None,
    resume: own.Resume = False,
    memory: own.Memory = "2GB",
    threads: arg.Threads = None,
    executor: own.ExecutorOption = None,
) -> None:
    """Quantize a model, verify the written file, and compare it with the original."""
    check_models(model, layout)
    known_bits = None if target_size is not None else bits or usual_bits(format)
    place = None if output is None else output_of(model, output, known_bits, layout)
    if report:
        check_report_path(report, model, place)
    if save_config:
        check_config_path(save_config, model, place)
    with report_progress(quiet=quiet, verbose=verbose) as progress:
        chosen = _choose(
            target=target, workload=workload,
            format=format.value, bits=bits, block_size=block_size, symmetric=symmetric,
            activations=activations and activations.value, schemes=schemes or (), embeddings=embeddings,
            others=others.value, algorithm=algorithm, provider=provider.value, include=include or (),
            exclude=exclude or (), allow_slow=allow_slow, constant_inputs=constant_inputs, unshare=unshare,
            calib=calib, tokenizer=tokenizer, samples=samples,
            seq_len=seq_len, seed=seed, max_error=max_error, max_kl=max_kl, min_cosine=min_cosine,
            max_ppl_increase=max_ppl_increase, eval_data=eval_data, eval_text=eval_text, min_speedup=min_speedup,
            validate=not no_validate,
            work_dir=work_dir, resume=resume, memory=memory, threads=threads, executor=executor,
            layout=layout, tune=tune, target_size=target_size,
        )  # fmt: skip
        from onnxfq import pipeline

        result = pipeline.quantize(model, output, options=chosen, progress=progress)
    try:
        if result.output is None and not as_json:
            remark(f"'{model}' is already quantized: nothing was left to do, and nothing was written.", quiet=quiet)
        else:
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
    model: arg.ModelArgument,
    format: own.FormatOption = own.FormatChoice.matmulnbits,
    bits: own.Bits = None,
    block_size: own.BlockSize = None,
    symmetric: own.Symmetric = None,
    activations: own.Activations = None,
    schemes: own.Schemes = None,
    embeddings: own.Embeddings = "8",
    others: own.Others = own.OthersChoice.auto,
    algorithm: own.Algorithm = "auto",
    provider: arg.ProviderOption = arg.ProviderChoice.auto,
    target: own.TargetOption = "auto",
    workload: own.WorkloadOption = None,
    include: own.Include = None,
    exclude: own.Exclude = None,
    allow_slow: own.AllowSlow = False,
    constant_inputs: own.ConstantInputs = False,
    unshare: own.Unshare = False,
    target_size: own.TargetSize = None,
    as_json: arg.JsonFlag = False,
) -> None:
    """Show what quantize would do: targets, what is skipped and why, and the size. Changes nothing."""
    check_models(model)
    chosen = _choose(
        target=target, workload=workload,
        format=format.value, bits=bits, block_size=block_size, symmetric=symmetric,
        activations=activations and activations.value, schemes=schemes or (), embeddings=embeddings,
        others=others.value, algorithm=algorithm, provider=provider.value,
        include=include or (), exclude=exclude or (),
        allow_slow=allow_slow, constant_inputs=constant_inputs, unshare=unshare, target_size=target_size,
    )  # fmt: skip
    from onnxfq import pipeline

    show(pipeline.inspect(model, options=chosen), as_json=as_json)


def _choose(**given: Unpack[Changes]) -> Options:
    """The settings, refused where they make no sense before anything that takes long to import is needed."""
    from onnxfq.input_files import refuse_missing
    from onnxfq.option_changes import choose_options
    from onnxfq.options import SELF

    for data in (given.get("calib"), given.get("eval_data")):
        if isinstance(data, str | Path) and data != SELF:
            refuse_missing(Path(data))
    return choose_options(None, given)
