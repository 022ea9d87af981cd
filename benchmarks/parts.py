"""What the suite measures: each result, the command that makes it, and what that needs.

Commands are templates; what stands in braces is given to `python -m benchmarks`, or made from what was given.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

GENERATED = ("decoder_1b", "decoder_7b", "decoder_13b")
# Inputs that are made before they are needed.
PREPARED = {
    "encoder_calib": "benchmarks.calibration encoder {encoder} --sts {sts_train} --samples 192 --out {encoder_calib}",
    "encoder_texts": "benchmarks.calibration encoder {encoder} --sts {sts_train} --samples 64 --out {encoder_texts}",
    "decoder_calib": "benchmarks.calibration decoder {decoder} --text {text_valid} --samples 128 --out {decoder_calib}",
    "zoo": "tools.make_zoo {zoo}",
    **{name: f"tools.generate_decoder {{{name}}} --preset {name.removeprefix('decoder_')}" for name in GENERATED},
}
# Files of the folder given as --data.
DATA = {
    "sts_train": "stsb-train.csv",
    "sts_test": "stsb-test.csv",
    "text_valid": "wikitext2-valid.txt",
    "text_test": "wikitext2-test.txt",
    "lambada": "lambada-test.jsonl",
}


@dataclass(frozen=True, slots=True)
class Part:
    """Something that is measured.

    Attributes:
        title: of its section.
        about: a sentence or two on how.
        results: for each result the command that makes it, without `python -m` and `--out`.
        asked: it takes long, or much disk, or a machine of its own: only where asked for.
    """

    title: str
    about: str
    results: Mapping[str, str]
    asked: bool = False


PARTS: dict[str, Part] = {
    "encoder": Part(
        "Every tool on all-MiniLM-L6-v2",
        "36 MatMuls, 4 bits. Calibrated on 192 rows spread over STS-B train, both sentences a sample each, judged on "
        "the whole STS-B test set. ONNX Runtime's HQQ stores floating-point zero points, with kernels that are five "
        "to ten times slower than not quantizing; its GPTQ, which leaves the error of rounding to nearest (see the "
        "decoder), was not run again.",
        {"minilm": "benchmarks.quality encoder {encoder} --sts {sts_test} --calib {encoder_calib}"},
    ),
    "decoder": Part(
        "Every tool on a decoder",
        "opt-4m as float32 (`benchmarks.plain`: every tool finds all weights). Calibrated on 128 windows of 256 tokens "
        "of WikiText-2's validation text, judged on 100 windows of its test text and on LAMBADA (mean loss of the last "
        "word; a model of this size never guesses it). ONNX Runtime's GPTQ rounds its result a second time, which "
        "leaves the error of rounding to nearest.",
        {
            "opt-4m": "benchmarks.quality decoder {decoder} --text {text_test} --windows 100 --lambada {lambada} "
            "--calib {decoder_calib}"
        },
    ),
    "formats": Part(
        "Formats on an encoder",
        "all-MiniLM-L6-v2 as it is, default settings but for the format, beside "
        "`onnxruntime.quantization.quantize_dynamic(per_channel=True)`. Calibrated on 192 texts of STS-B train, judged "
        "on the whole STS-B test set; relative MSE is that of the hidden states. Loading and speeds, against the "
        "original with texts x tokens, are the processor's time of one thread, all files in turns. What is fast "
        "depends on the processor: these ratios are of this one, a Xeon with AMX; `onnxfq doctor --measure` tells "
        "those of another.",
        {"formats": "benchmarks.formats {encoder} --sts {sts_test} --calib {encoder_calib}"},
    ),
    "embeddings": Part(
        "Embeddings",
        "The model as it is, quantized with the default settings but for `embeddings`, without data (hqq) and "
        "calibrated (gptq). opt-4m's table is its output head too and stored once.",
        {
            "embeddings-opt-4m": "benchmarks.embeddings decoder {decoder} --text {text_test} --calib {decoder_calib}",
            "embeddings-minilm": "benchmarks.embeddings encoder {encoder} --sts {sts_test} --calib {encoder_calib}",
        },
    ),
    "steps": Part(
        "What each step of the calibrated stack is worth",
        "Built up one by one, then switched off one by one; below it fewer bits, and no data at all.",
        {
            "steps-minilm": "benchmarks.ablation encoder {encoder} --sts {sts_test} --calib {encoder_calib}",
            "bits2-minilm": "benchmarks.ablation encoder {encoder} --sts {sts_test} --calib {encoder_calib} --bits 2 "
            "--rows 'round to nearest' '+ refinement: the full stack'",
            "self-minilm": "benchmarks.ablation encoder {encoder} --sts {sts_test} --calib self "
            "--rows '+ refinement: the full stack'",
        },
    ),
    "tuning": Part(
        "Tuning by gradients",
        "The calibrated stack, and so many passes of `--tune` behind it over the same samples; judged on text that "
        "neither saw.",
        {"tuning-opt-4m": "benchmarks.tuning {decoder} --text {text_test} --calib {decoder_calib}"},
    ),
    "bands": Part(
        "Errors, and what they cost at the task",
        "What the bands of a report's verdict rest on. Changes are from the original's score, with their standard "
        "error: from windows of text; from drawing pairs again.",
        {
            "bands-opt-4m": "benchmarks.bands decoder {decoder} --text {text_test} --calib {decoder_calib}",
            "bands-minilm": "benchmarks.bands encoder {encoder} --sts {sts_test} --calib {encoder_calib}",
        },
    ),
    "granularity": Part(
        "Granularity against perplexity",
        "How much the perplexity of opt-4m rises at 4 bits with one scale for a tensor, a channel, or 128 weights; "
        "published: FineQuant (Kim et al. 2023), on OPT-30B.",
        {
            "granularity": "benchmarks.granularity {decoder} --text {text_test} --windows 100 --calib {decoder_calib}",
        },
    ),
    "throughput": Part(
        "Size and throughput",
        "Decoding behind 128 tokens, and these 128 at once, by `onnxfq benchmark`, which runs all files in turns. ONNX "
        "Runtime computes float16 in float32 on a CPU. Published: FineQuant (Kim et al. 2023), on GPUs.",
        {"throughput": "benchmarks.throughput {decoder}"},
    ),
    "throughput-1b": Part(
        "Size and throughput, a model of a billion weights",
        "As above, with a generated decoder and 32 tokens. What is not 4 bits is mostly its embedding.",
        {"throughput-1b": "benchmarks.throughput {decoder_1b} --bits 4 --length 32"},
        asked=True,
    ),
    "repeatability": Part(
        "How far `onnxfq benchmark` can be trusted",
        "Speed-ups that processes of their own report for the same pair of models; wanted: within 3 %.",
        {"repeatability": "benchmarks.repeatability"},
    ),
    "time": Part(
        "Calibrating: time beside ONNX Runtime's GPTQ",
        "MiniLM with 128 samples, seconds of the whole process.",
        {
            "time-minilm": "benchmarks.quality encoder {encoder} --sts {sts_test} --calib {encoder_texts} --blocks 32 "
            "--tools 'onnxfq gptq' 'onnxruntime gptq'"
        },
    ),
    "depth": Part(
        "Calibrating: memory over depth",
        "Generated models of the same layers, each in a process of its own.",
        {"depth": "benchmarks.depth --width 256 --inner 1024"},
    ),
    "calibrated": Part(
        "Calibrating a model of 1 to 2 GB",
        "A generated decoder of 1.8 GB with 32 samples of 128 random tokens and `--memory 2GB`, in a process of its "
        "own on a busy machine: peak memory, and where the time goes.",
        {"calibrated": "benchmarks.calibrated"},
        asked=True,
    ),
    "kernels": Part(
        "Kernels",
        "One 4096 x 4096 product by MatMulNBits with zero points: times as fast as ONNX Runtime's float32 MatMul; "
        "below 1 it is slower than not quantizing. int8: activations are rounded on the fly (`accuracy_level=4`).",
        {"kernel_speed": "benchmarks.kernel_speed"},
        asked=True,
    ),
    "speed": Part(
        "One token through wide layers",
        "One row through eight 4096-wide layers, the files of all tools in turn.",
        {"decode_4096": "benchmarks.speed"},
        asked=True,
    ),
    "large": Part(
        "Some gigabytes",
        "Quantizing a generated model of 4.29 GB to 4 bits, block 32, without data: whole processes. rtn: file caches "
        "warm; the grids fitted to the weights: one run each, caches cold, on a busy machine.",
        {
            "large": "benchmarks.large",
            "large-hqq": "benchmarks.large --cold --runs 1 "
            "--tools 'onnxfq hqq' 'onnxruntime hqq' 'onnxruntime k-quant'",
        },
        asked=True,
    ),
    "streaming": Part(
        "Models larger than memory",
        "Without data and with all caches cold, beside copying the source's files and writing them back (13b: on a "
        "busy machine).",
        {
            "streaming-7b": "benchmarks.streaming {decoder_7b}/model.onnx --algorithms rtn hqq --validate",
            "streaming-13b": "benchmarks.streaming {decoder_13b}/model.onnx --algorithms rtn",
        },
        asked=True,
    ),
    "architectures": Part(
        "Many architectures",
        "Small exports with random weights (`tools/make_zoo.py`; optimum, torch's two exporters, plain onnx), 4 bits "
        "and default settings. Errors are relative MSEs of the first floating output on inputs that calibration did "
        "not see; *speed* is that of one such input, where these models gain little for being small (with a *: one "
        "thread on a busy machine). Beside them `onnxruntime.quantization.quantize_dynamic`, 8 bits, by default.",
        {"architectures": "benchmarks.zoo {zoo}"},
        asked=True,
    ),
    "faults": Part(
        "Faults",
        "Processes killed at system calls and at random, errors of the disk, sources that change, odd places. After "
        "each there is the whole output or none, and the source is what it was; a loss is anything else.",
        {"faults": "tools.faults --kills 200"},
        asked=True,
    ),
    "fuzz": Part(
        "Hostile models and data",
        "Mutated and generated files, judged in a process that is watched. A finding is a crash, a hang, memory "
        "without bound, an undeclared exception, a file opened outside the model's folder, or an output that computes "
        "something else. What was found before is held by tests.",
        {"fuzz": "tools.fuzz --seconds 600"},
        asked=True,
    ),
}


@dataclass(frozen=True, slots=True)
class Step:
    """A command to run.

    Attributes:
        what: the result it makes, or the input.
        command: the arguments of `python -m`.
        needs: steps that must have gone well before.
    """

    what: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()


def plan(
    parts: Sequence[str], given: Mapping[str, Path], work: Path, results: Path
) -> tuple[list[Step], dict[str, list[str]]]:
    """The commands to run, in order, and for results that cannot be made what is missing.

    Args:
        parts: names.
        given: inputs by name.
        work: folder for inputs that are made.
        results: folder for results.
    """
    inputs = {name: work / name for name in PREPARED} | dict(given)
    steps: dict[str, Step] = {}
    skipped: dict[str, list[str]] = {}
    for result, template in ((r, t) for part in parts for r, t in PARTS[part].results.items()):
        made = [name for name in fields(template) if name in PREPARED and name not in given]
        wanted = {*fields(template), *(name for one in made for name in fields(PREPARED[one]))}
        missing = sorted(name for name in wanted if name not in inputs)
        if missing:
            skipped[result] = missing
            continue
        for name in made:
            steps.setdefault(name, Step(name, fill(PREPARED[name], inputs)))
        command = (*fill(template, inputs), "--out", str(results / f"{result}.json"))
        steps[result] = Step(result, command, tuple(made))
    return list(steps.values()), skipped


def fields(template: str) -> list[str]:
    """Names in braces."""
    return [name for _, name, _, _ in string.Formatter().parse(template) if name]


def fill(template: str, inputs: Mapping[str, Path]) -> tuple[str, ...]:
    """The words of a template, with inputs in their places; words in quotes stay together."""
    return tuple(word.format(**inputs) for word in _words(template))


def shown(template: str) -> str:
    """A template as a reader types it, inputs in capitals."""
    return f"python -m {template.format(**{name: name.upper() for name in fields(template)})}"


def _words(template: str) -> Iterator[str]:
    for index, piece in enumerate(template.split("'")):
        yield from [piece] if index % 2 else piece.split()
