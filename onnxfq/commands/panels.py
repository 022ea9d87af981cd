"""How `--help` is arranged: options in panels by what they are about, and examples below them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import get_type_hints

from typer.models import OptionInfo

# Panel → parameters, in every command that has them; those of no panel stand first, under "Options".
PANELS = {
    "Weights": (
        "format", "bits", "block_size", "symmetric", "activations", "schemes", "embeddings", "others", "algorithm",
        "tune", "target_size", "include", "exclude", "allow_slow", "constant_inputs", "unshare",
    ),
    "Data": ("calib", "tokenizer", "samples", "seq_len", "seed", "text", "data"),
    "Comparison and gates": (
        "eval_data", "eval_text", "no_validate", "max_error", "max_kl", "min_cosine", "max_ppl_increase", "max_drop",
        "min_speedup",
    ),
    "Timing": ("only", "lengths", "batches", "tokens", "seconds", "loads", "clock", "cpus"),
    "Machine": ("target", "workload", "provider", "memory", "threads", "executor", "work_dir", "resume"),
    "What is printed and kept": ("layout", "report", "as_json", "quiet", "verbose", "config", "save_config"),
}  # fmt: skip

EXAMPLES = {
    "quantize": (
        "onnxfq quantize model.onnx",
        "onnxfq quantize model.onnx -o int4/ --calib texts.txt --samples 256",
        "onnxfq quantize FOLDER -o FOLDER-int8 --bits 8 --block-size 128 --max-kl 0.1 --report report.html",
    ),
    "inspect": (
        "onnxfq inspect model.onnx",
        "onnxfq inspect FOLDER --bits 8 --exclude lm_head",
        "onnxfq inspect model.onnx --scheme lm_head=bits:8,block_size:128 --json",
    ),
    "evaluate": (
        "onnxfq evaluate model.int4.onnx --baseline model.onnx --text held-back.txt",
        "onnxfq evaluate FOLDER-int4 --baseline FOLDER --data pairs.csv --max-drop 0.01",
        "onnxfq evaluate model.int4.onnx --baseline model.onnx --data inputs.npz --min-cosine 0.99 --json",
    ),
    "benchmark": (
        "onnxfq benchmark model.int4.onnx --baseline model.onnx",
        "onnxfq benchmark model.int4.onnx --baseline model.onnx --only decode --lengths 128,1024 --threads 4",
        "onnxfq benchmark FOLDER-int4 --baseline FOLDER --seconds 5 --min-speedup 1.2 --json",
    ),
    "report": (
        "onnxfq report report.json",
        "onnxfq report report.json -o report.html",
        "onnxfq report int4.json int8.json -o comparison.html",
    ),
    "export": (
        "onnxfq export sentence-transformers/all-MiniLM-L6-v2 minilm",
        "onnxfq export ./checkpoint llm-onnx --task text-generation-with-past",
        "onnxfq export ./checkpoint llm-fp16 --dtype fp16",
    ),
}


def arranged(command: Callable[..., None]) -> Callable[..., None]:
    """Put the options of a command into their panels."""
    panels = {name: panel for panel, names in PANELS.items() for name in names}
    hints = get_type_hints(command, include_extras=True)
    for name in inspect.signature(command).parameters:
        for info in getattr(hints[name], "__metadata__", ()):
            if isinstance(info, OptionInfo):
                info.rich_help_panel = panels.get(name, info.rich_help_panel)
    return command


def examples(verb: str) -> str:
    """What stands below the options of a verb."""
    return "\n\n".join(("Examples:", *EXAMPLES[verb]))
