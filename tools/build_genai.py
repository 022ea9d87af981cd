"""Builds a small model with random weights as onnxruntime-genai's own model builder does, into a new folder.

    python tools/build_genai.py FOLDER --family llama --dtype fp16 --options fuse_qkv=false

Needs onnxruntime-genai, transformers 5 or newer, torch and onnx_ir, in an environment of their own: onnxruntime-genai
brings an ONNX Runtime that would overwrite another. Graphs in float16 are built for CUDA, which alone has them, and run
on CPUs as well: their genai_config.json names no provider.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from tools.zoo.weights import liven  # noqa: E402

TOKENIZER = ROOT / "models" / "opt-4m"
SIZES = {
    "vocab_size": 4096, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
}  # fmt: skip
# What is special about each: heads that are no share of the width, tied embeddings, experts, windows of attention.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {}),
    "qwen3": ("Qwen3ForCausalLM", {"head_dim": 48, "tie_word_embeddings": True}),
    "gemma": ("GemmaForCausalLM", {"head_dim": 48}),
    "gpt-oss": (
        "GptOssForCausalLM",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 32, "sliding_window": 16},
    ),
}


def write_checkpoint(family: str, folder: Path) -> None:
    """A checkpoint of transformers with random weights, and a tokenizer."""
    import torch
    import transformers

    torch.manual_seed(0)
    name, special = FAMILIES[family]
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**{**SIZES, **special})).eval()
    liven(model)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(TOKENIZER / file, folder / file)


def build(checkpoint: Path, folder: Path, dtype: str, options: list[str]) -> None:
    """Have the builder make a graph of a checkpoint."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(checkpoint), "-o", str(folder)]
    command += ["-p", dtype, "-e", "cuda" if dtype == "fp16" else "cpu"]
    command += ["--extra_options", *options] if options else []
    subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    file = folder / "genai_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["model"]["decoder"]["session_options"]["provider_options"] = []
    file.write_text(json.dumps(config, indent=4), encoding="utf-8")


def main() -> None:
    """Build what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--family", choices=FAMILIES, default="llama")
    parser.add_argument("--dtype", choices=("fp32", "fp16"), default="fp32")
    parser.add_argument("--options", nargs="*", default=[], metavar="NAME=VALUE", help="--extra_options of the builder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        checkpoint = Path(place, "checkpoint")
        write_checkpoint(given.family, checkpoint)
        build(checkpoint, given.folder, given.dtype, given.options)


if __name__ == "__main__":
    main()
