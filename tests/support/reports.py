"""Reports of runs that never were, of any size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from onnxfq.benchmarking.latency import Latency
from onnxfq.metrics.gates import Gate
from onnxfq.metrics.metric import Metric
from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.reports.contents import QUANTIZED, REST, SMALL, WEIGHTS, Content
from onnxfq.reports.expectations import Estimate
from onnxfq.reports.report import Report, Size, SkipReport, TargetReport

EVIL = (
    "<script>alert(1)</script>\" onload='x' [bold]\x1b[31mred\x07 \u202egpj.exe\u2066 & {{ 7*7 }} --> ]]> \x00 \ud800"
)
LONG = "/model/" + "decoder_layer_with_a_very_long_name/" * 40 + "MatMul"


def layer(number: int, **changes: object) -> TargetReport:
    """The target of a number from 0; its errors come from the number."""
    base = TargetReport(
        name=f"/decoder/layers.{number // 6}/part_{number % 6}/MatMul",
        op_type="MatMul",
        n=256,
        k=512,
        bits=4,
        block_size=32,
        granularity=32,
        algorithm="gptq",
        relative_error=0.01 + (number % 7) / 1000,
        float_bytes=4 * 256 * 512,
        bytes=84_000,
        speed="fast",
        weighted="by calibration",
        output_error=1e-4 * (1 + number * 37 % 101),
        tokens=512,
        weights=(-0.5 - number % 3, 0.7),
        activations=(-1.0 - number % 5, 2.0 + number % 11),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def run(layers: int = 4, **changes: object) -> Report:
    """A calibrated and compared run."""
    base = Report(
        source="models/m.onnx",
        output="out/m.int4.onnx",
        scheme="int4, block 32, asymmetric, activations int8",
        algorithm="gptq",
        provider="cpu",
        targets=tuple(layer(i) for i in range(layers)),
        skipped=(
            SkipReport("/attention/MatMul", "MatMul", "no constant weight: both inputs are computed"),
            SkipReport("/lm_head/MatMul", "MatMul", "excluded by the user (--exclude lm_head)", float_bytes=400_000),
        ),
        size=Size(2_000_000 + 524_288 * layers, 1_500_000, 524_288 * layers, 84_000 * layers, 131_072 * layers),
        estimate=Estimate(12.5, 400_000_000),
        outputs=(
            OutputAccuracy("logits", "float32", 640, relative_mse=0.0123, cosine=0.99, max_abs=1.5, kl=0.01, top1=0.95),
            OutputAccuracy("ids", "int64", 64, equal=0.5),
        ),
        latency=(
            Latency("prefill", 20.0, 25.0, 30.0, 40.0, 0.67, 50, 0.65, 0.69),
            Latency("decode, 1 token", 4.0, 5.0, 2.0, 3.0, 2.0, 90),
        ),
        language=(Metric("perplexity", 51.5, 2.0, 50.0, 1.5, 0.25, 7, "texts given: held-back.txt"),),
        inputs="given: texts.jsonl",
        calibration="given: texts.jsonl",
        warnings=("Slower than the original in some cases (prefill, 0.67x).",),
        kernels_run=1,
        onnxfq_version="0.1.0",
        runtime_version="1.31.1",
        settings={"bits": 4, "block_size": 32, "symmetric": False, "calib": "texts.jsonl", "exclude": ["lm_head"]},
        seconds=31.5,
        contents=(
            Content(QUANTIZED, "MatMulNBits", 84_000 * layers),
            Content(WEIGHTS, "MatMul", 400_000),
            Content(SMALL, "", 10_000),
            Content(REST, "", max(0, 1_090_000 - 84_000 * layers)),
        ),
        source_contents=(
            Content(WEIGHTS, "MatMul", 524_288 * layers + 400_000),
            Content(SMALL, "", 10_000),
            Content(REST, "", 1_590_000),
        ),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


_TEXTS = ("name", "op_type", "granularity", "algorithm", "speed", "operator", "scheme")


def evil() -> Report:
    """Every text that may come from a model, a path or a file is an attack."""
    hostile = replace(
        run(3),
        source=EVIL,
        output=EVIL,
        scheme=EVIL,
        algorithm=EVIL,
        inputs=EVIL,
        calibration=EVIL,
        onnxfq_version=EVIL,
        runtime_version=EVIL,
        warnings=(EVIL,),
        settings={"include": [EVIL], "algorithm": EVIL, "calib": EVIL, EVIL: EVIL},
        gates=(Gate(EVIL, 1.0, 2.0, passed=False),),
        skipped=(SkipReport(EVIL, EVIL, EVIL, float_bytes=9, model=EVIL),),
        outputs=(OutputAccuracy(EVIL, EVIL, 4, relative_mse=0.1, note=EVIL),),
        latency=(Latency(EVIL, 1.0, 1.0, 1.0, 1.0, 1.0, 5),),
        language=(Metric("perplexity", None, note=EVIL),),
        contents=(Content(WEIGHTS, EVIL, 7),),
    )
    texts = dict.fromkeys((*_TEXTS, "shares", "weighted", "model"), EVIL)
    return replace(
        hostile, targets=(layer(0, **texts, remarks=(EVIL,)), layer(1, name=LONG), layer(2, name="שלום עולם"))
    )


def unknown() -> Report:
    """No figure that could be missing is there."""
    targets = [
        layer(i, relative_error=None, output_error=None, weights=None, activations=None, tokens=0) for i in range(3)
    ]
    outputs = (OutputAccuracy("logits", "float32", 4, note="the reference is constant and the candidate differs"),)
    return run(
        targets=tuple(targets), outputs=outputs, gates=(Gate("max-error", 0.1, None, passed=False),), seconds=None
    )


def inspected() -> Report:
    """What `inspect` gives: nothing was written, run or compared."""
    return replace(
        unknown(), output=None, outputs=(), latency=(), language=(), inputs="", gates=(), calibration="", kernels_run=0
    )


def folder() -> Report:
    """A run on a folder with two models."""
    targets = [layer(i, model=f"model_{i % 2}.onnx") for i in range(6)]
    return run(
        targets=tuple(targets), outputs=(OutputAccuracy("model_0.onnx: logits", "float32", 4, relative_mse=0.0),)
    )


def mixed() -> Report:
    """Layers of several bits, shared weights, layers without data, an exact one, a huge one."""
    changes: list[dict[str, object]] = [
        {"bits": 2, "bytes": 50_000, "algorithm": "hqq", "weighted": ""},
        {"bits": 8, "bytes": 150_000, "output_error": 1e-7},
        {"shares": layer(1).name, "bytes": 0, "remarks": ("damping raised to 0.5",)},
        {"output_error": None, "weighted": "", "tokens": 0, "activations": None},
        {"output_error": 0.0, "relative_error": 0.0},
        {"output_error": 25.0, "speed": "slow", "activations": (-900.0, 4000.0)},
        {
            "op_type": "Gather",
            "operator": "GatherBlockQuantized",
            "bits": 8,
            "block_size": 128,
            "granularity": 128,
            "scheme": "int8, block 128, symmetric",
        },
    ]
    scheme = "int4, block 32, asymmetric, activations int8; 3 nodes otherwise"
    return run(scheme=scheme, targets=tuple(layer(i, **change) for i, change in enumerate(changes)))


ODD: dict[str, Callable[[], Report]] = {
    "usual": run,
    "no target": lambda: run(0),
    "one target": lambda: run(1),
    "2000 targets": lambda: run(
        2000, skipped=tuple(SkipReport(f"n{i}", "MatMul", "no constant weight") for i in range(2000))
    ),
    "evil": evil,
    "unknown": unknown,
    "inspected": inspected,
    "folder": folder,
    "mixed": mixed,
    "gates hold": lambda: run(
        gates=(Gate("max-error", 0.2, 0.1, passed=True), Gate("min-speedup", 1.0, 2.0, passed=True))
    ),
    "not validated": lambda: run(outputs=(), latency=(), language=(), inputs=""),
    "many outputs": lambda: run(
        outputs=tuple(OutputAccuracy(f"present.{i}", "float32", 4, relative_mse=0.1) for i in range(60))
    ),
}
