"""Tables of measurements, made from the results, for `benchmarks/README.md` and the README's summary."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.tools import NOT_INSTALLED
from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.reports.bands import loss_of
from onnxfq.reports.figures import cosine_text, figure_text, share_text

RESULTS = Path(__file__).parent / "results"
BEYOND = {"bits2-minilm": "2 bits", "self-minilm": "4 bits, `--calib self`: no data given"}


def read(name: str) -> dict[str, Any]:
    """One result."""
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def markdown(rows: Iterable[Iterable[object]]) -> str:
    """A table; the first row is its heading."""
    lines = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    columns = lines[0].count(" | ") + 1
    return "\n".join([lines[0], "|" + "---|" * columns, *lines[1:]])


def summary(size: str) -> str:
    """Before and after with the default settings, for the top of the README.

    Args:
        size: of opt-4m's files, as they are in the repository and as the README's first command writes them.
    """
    rows: list[list[object]] = [["model", "size", "original", "quantized", "with `--calib`", "speed, one token"]]
    rows.append(["opt-4m, in `models/`", size, *_figures("embeddings-opt-4m", "perplexity", "WikiText-2 perplexity")])
    minilm = read("embeddings-minilm")
    shrunk = f"{_size(minilm['original_bytes'])} → {_size(_row(minilm, 'hqq')['file_bytes'])}"
    rows.append(["all-MiniLM-L6-v2", shrunk, *_figures("embeddings-minilm", "spearman", "STS-B Spearman")])
    decoder = {(row["file"], row.get("from"), row.get("block_size")): row for row in read("throughput-1b")["rows"]}
    before, after = decoder["float32", None, None], decoder["4 bits", "float32", 32]
    shrunk = f"{_size(before['file_bytes'])} → {_size(after['file_bytes'])}"
    rows.append(["generated decoder, 1.1 billion weights", shrunk, *[""] * 3, _ratio(after["decode"], "float32")])
    return markdown(rows)


def _row(result: dict[str, Any], algorithm: str) -> dict[str, Any]:
    """Of the default settings."""
    rows: list[dict[str, Any]] = result["rows"]
    return next(r for r in rows if r["algorithm"] == algorithm and r["embeddings"] == 8)


def _figures(name: str, key: str, label: str) -> list[str]:
    """A model's quality, original, quantized without and with data, and how much faster one token is."""
    result = read(name)
    plain, calibrated = _row(result, "hqq"), _row(result, "gptq")
    quality = [f"{label} {result['original'][key]:.4g}", f"{plain[key]:.4g}", f"{calibrated[key]:.4g}"]
    return [*quality, f"{plain['one_token_speedup']:.2f}x"]


def embeddings(name: str, figures: dict[str, str]) -> str:
    """A model's files by what became of its embeddings; `figures` maps keys to headings."""
    result = read(name)
    rows: list[list[object]] = [["embeddings", "algorithm", "file", *figures.values(), "one token"]]
    original = [f"{result['original'][key]:.4g}" if key in result["original"] else "" for key in figures]
    rows.append(["original", "", _size(result["original_bytes"]), *original, ""])
    for row in result["rows"]:
        kind = row["embeddings"] if row["embeddings"] == "float" else f"{row['embeddings']} bits"
        values = [f"{row[key]:.4g}" for key in figures]
        rows.append([kind, row["algorithm"], _size(row["file_bytes"]), *values, f"{row['one_token_speedup']:.2f}x"])
    return markdown(rows)


def formats() -> str:
    """Size, error, score and times of an encoder's files by format."""
    first, *others = read("formats")["rows"]
    cases = [key for key, value in others[0].items() if isinstance(value, dict)]
    speeds = [f"speed, {case}" for case in cases]
    rows: list[list[object]] = [["file", "size", "relative MSE", "Spearman", *speeds, "loading"]]
    for row in (first, *others):
        error = "" if row is first else figure_text(row["relative_mse"])
        faster = [f"{row[case]['ratio']:.2f}x" if case in row else "" for case in cases]
        judged = [_size(row["file_bytes"]), error, f"{row['spearman']:.4f}"]
        rows.append([row["file"], *judged, *faster, f"{row['load_ms']:.0f} ms"])
    return markdown(rows)


def tuning(name: str) -> str:
    """A model's files by bits and passes of tuning."""
    result = read(name)
    rows: list[list[object]] = [["embeddings", "bits", "block", "passes", "mean KL", "top-1", "perplexity"]]
    rows.append(["original", "", "", "", "", "", f"{result['original']['perplexity']:.4g}"])
    for row in result["rows"]:
        kind = row["embeddings"] if row["embeddings"] == "float" else f"{row['embeddings']} bits"
        judged = [f"{row['mean_kl']:.4g}", share_text(row["top1"]), f"{row['perplexity']:.4g}"]
        rows.append([kind, row["bits"], row["block_size"], row["passes"], *judged])
    return markdown(rows)


def bands(name: str) -> str:
    """What a model's files lost at its task, beside their errors and what the verdict says of these."""
    result = read(name)
    decoder = "perplexity" in result["original"]
    figures = ["mean KL", "top-1", "perplexity"] if decoder else ["relative MSE", "cosine", "Spearman"]
    rows: list[list[object]] = [["bits", "block", "algorithm", *figures, "verdict"]]
    for row in result["rows"]:
        first = f"; 2 in `{next(iter(row['schemes']))}`" if "schemes" in row else ""
        rows.append([f"{row['bits']}{first}", row["block_size"], row["algorithm"], *_lost(row, result["original"])])
    return markdown(rows)


def _lost(row: dict[str, Any], original: dict[str, float]) -> list[str]:
    """Both errors, the change of the task's score with its standard error, and the word."""
    if "mean_kl" in row:
        found = OutputAccuracy("logits", "float32", 1, relative_mse=0.0, kl=row["mean_kl"], top1=row["top1"])
        rise, error = (100 * row[key] / original["perplexity"] for key in ("perplexity_rise", "perplexity_rise_error"))
        texts = [figure_text(row["mean_kl"]), share_text(row["top1"]), f"{rise:+.2f} ± {error:.2f} %"]
    else:
        found = OutputAccuracy("hidden", "float32", 1, relative_mse=row["relative_mse"], cosine=row["cosine"])
        change = f"{row['spearman_change']:+.4f} ± {row['spearman_change_error']:.4f}"
        texts = [figure_text(row["relative_mse"]), cosine_text(row["cosine"]), change]
    return [*texts, loss_of([found]).level]


def quality(name: str, figures: dict[str, str]) -> str:
    """Every tool's figures at both block sizes; `figures` maps keys to headings."""
    result = read(name)
    rows: list[list[object]] = [["tool", "block", *figures.values(), "one token", "seconds", "memory"]]
    original = [f"{result['original'][key]:.4g}" if key in result["original"] else "" for key in figures]
    rows.append(["original", "", *original, "", "", ""])
    for row in result["rows"]:
        if "error" in row:
            why = NOT_INSTALLED if row["error"] == NOT_INSTALLED else "fails"
            rows.append([row["tool"], row["block_size"], why, *[""] * (len(figures) - 1), "", "", ""])
            continue
        values = [f"{row[key]:.4g}" for key in figures]
        taken = [f"{row['one_token_speedup']:.2f}x", f"{row['wall_s']:.1f}", f"{row['peak_bytes'] / 1e9:.2f} GB"]
        rows.append([row["tool"], row["block_size"], *values, *taken])
    return markdown(rows)


def steps(name: str, key: str, heading: str) -> str:
    """The calibrated stack, step by step."""
    rows: list[list[object]] = [["step", heading]]
    return markdown([*rows, *([row["step"], f"{row[key]:.4g}"] for row in read(name)["rows"])])


def beyond(names: Iterable[str] = tuple(BEYOND)) -> str:
    """Fewer bits, and no data at all."""
    rows: list[list[object]] = [["MiniLM, block 32", "relative MSE", "Spearman"]]
    for name in names:
        rows += [
            [f"{BEYOND[name]}, {row['algorithm']}", f"{row['relative_mse']:.4g}", f"{row['spearman']:.4g}"]
            for row in read(name)["rows"]
        ]
    return markdown(rows)


def depth() -> str:
    """How memory grows with depth."""
    result = read("depth")
    shallow, deep = (row["layers"] for row in result["rows"])
    return f"of {deep} layers is {result['memory_ratio']:.2f} times that on {shallow} layers"


def granularity() -> str:
    """What coarser grids cost in perplexity."""
    result = read("granularity")
    found = {(row["granularity"], row["algorithm"]): row for row in result["rows"]}
    algorithms = list(dict.fromkeys(row["algorithm"] for row in result["rows"]))
    rows: list[list[object]] = [["one scale for", *algorithms, "published, OPT-30B"]]
    for kind, published in result["published"].items():
        own = int(kind) if kind.isdecimal() else kind
        rises = [f"+{found[own, algorithm]['rise_percent']:.2f} %" for algorithm in algorithms]
        rows.append([f"{kind} weights" if kind.isdecimal() else f"a {kind}", *rises, f"+{published:.1f} %"])
    return markdown(rows)


def large(name: str = "large") -> str:
    """Time and memory on the generated model."""
    result = read(name)
    rows: list[list[object]] = [["tool", "seconds", "peak memory"]]
    for tool, medians in result["medians"].items():
        rows.append([tool, f"{medians['wall_s']:.1f}", f"{medians['peak_bytes'] / 1e9:.2f} GB"])
    return markdown(rows)


def streaming(names: Iterable[str] = ("7b", "13b")) -> str:
    """Models larger than the memory: time against copying the source's files, and peak memory."""
    rows: list[list[object]] = [["generated decoder, float16", "tool", "size", "copying", "seconds", "peak memory"]]
    for name in names:
        result = read(f"streaming-{name}")
        copying = f"{result['limits']['copy_and_sync_s']:.0f} s"
        for row in result["rows"]:
            sizes = f"{result['source_bytes'] / 1e9:.1f} → {row['output_bytes'] / 1e9:.1f} GB"
            rows.append(
                [name, row["tool"], sizes, copying, f"{row['wall_s']:.0f}", f"{row['peak_bytes'] / 1e9:.2f} GB"]
            )
    return markdown(rows)


def decode() -> str:
    """Speed of one row on 4096-wide layers."""
    speeds = read("decode_4096")["speedup_over_float32"]
    return markdown([["file written by", "times as fast as float32"], *([t, f"{s:.2f}"] for t, s in speeds.items())])


def throughput(name: str) -> str:
    """Size and speed of a decoder's files, and the published figures."""
    result = read(name)
    files = ["file", "block", "size", "of float16", "bits a weight", "left in float"]
    speeds = ["decode, tokens/s", "against float32", "against float16", "prefill, tokens/s", "against float32"]
    rows: list[list[object]] = [[*files, *speeds], *(_throughput_row(row) for row in result["rows"])]
    said = result["published"]
    size, share = f"{said['float16_gb']:g} → {said['quantized_gb']:g} GB", f"{said['of_float16']:.0%}"
    faster = f"{said['decode_against_float16']:.2f}x"
    rows.append(["published, OPT-30B on GPUs", "", size, share, *[""] * 4, faster, "", ""])
    return markdown(rows)


def _throughput_row(row: dict[str, Any]) -> list[object]:
    title = f"{row['file']}, from {row['from']}" if "from" in row else row["file"]
    kinds, bits = row["contents"]["bytes"], row["contents"]["bits_a_weight"]
    left = 1 - sum(kinds[kind] for kind in ("codes", "scales", "zero points")) / row["file_bytes"]
    packed = [f"{bits:.2f}", f"{left:.0%}"] if bits else ["", ""]
    decode, prefill = row["decode"], row["prefill"]
    return [
        *(title, row.get("block_size", ""), _size(row["file_bytes"]), f"{row['of_float16']:.1%}", *packed),
        *(f"{decode['tokens_per_second']:.4g}", _ratio(decode, "float32"), _ratio(decode, "float16")),
        *(f"{prefill['tokens_per_second']:.4g}", _ratio(prefill, "float32")),
    ]


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _ratio(speed: dict[str, Any], name: str) -> str:
    return f"{speed['against'][name]['ratio']:.2f}x" if name in speed["against"] else ""


def repeatability() -> str:
    """How far apart the speed-ups of runs are."""
    rows: list[list[object]] = [["other load", "case", "clock", "speed-ups", "apart by"]]
    for row in read("repeatability")["rows"]:
        speedups = ", ".join(f"{ratio:.3f}x" for ratio in row["speedups"])
        clocks = ", ".join(dict.fromkeys(row["clocks"]))
        rows.append([row["load"], row["kind"], clocks, speedups, f"{row['varies']:.1%}"])
    return markdown(rows)


def calibrated() -> str:
    """Where the time of calibrating goes, and its memory."""
    result = read("calibrated")
    rows: list[list[object]] = [["part", "seconds"], *([part, f"{s:.1f}"] for part, s in result["seconds"].items())]
    rows += [["all", f"{result['wall_s']:.1f}"], ["peak memory", _size(result["peak_bytes"])]]
    times = f"{result['solving_times_bare_products']:.0f} times as long"
    return f"{markdown(rows)}\n\nSolving takes {times} as bare products of the same weights with their second moments."


def kernels() -> str:
    """How fast kernels with zero points are, against float32."""
    rows: list[list[object]] = [["bits", "block", "activations", "1 row", "128 rows"]]
    for row in read("kernel_speed")["formats"]:
        wanted = row["zero_points"] == "packed" and row["activation_type"] == "float32" and "error" not in row
        if wanted and row["block_size"] in (32, 64, 128):
            activations = "int8" if row["accuracy_level"] == 4 else "float"
            faster = [f"{row[count]['times_faster']:.2f}x" for count in ("M=1", "M=128")]
            rows.append([row["bits"], row["block_size"], activations, *faster])
    return markdown(rows)


def faults() -> str:
    """What was done to runs, by campaign and kind."""
    result = read("faults")
    rows: list[list[object]] = [["campaign", "faults"]]
    for campaign, kinds in result["outcomes"].items():
        rows.append([campaign, sum(sum(outcomes.values()) for outcomes in kinds.values())])
    lost = f"{result['faults']} faults, {result['kills']} of them kills, in {result['runs']} runs"
    return f"{lost}: {len(result['losses'])} losses.\n\n{markdown(rows)}"


def fuzz() -> str:
    """What became of hostile inputs."""
    result = read("fuzz")
    rows: list[list[object]] = [["outcome", "inputs"], *result["outcomes"].items()]
    tried = (
        f"{result['inputs']} inputs in {result['seconds'] / 60:.0f} minutes, {result['lines_reached']} lines reached"
    )
    return f"{tried}: {len(result['findings'])} kinds of findings.\n\n{markdown(rows)}"
