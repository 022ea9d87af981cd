"""What is written runs where it is meant to run: onnxruntime-genai, transformers.js, optimum."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

import onnxfq
from conftest import export
from onnxfq.feeds import fill, with_configured_sizes
from onnxfq.graph import Graph

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
LICENCE = (ROOT / "LICENSE").read_text(encoding="utf-8")
PROMPT = (5, 6, 7, 8)
PYTHON = Path("bin", "python")
PACKAGE = Path("node_modules", "@huggingface", "transformers", "dist", "transformers.node.mjs")
Array = npt.NDArray[Any]

pytestmark = pytest.mark.slow


def run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text(LICENCE, encoding="utf-8")
    return path


# onnxruntime-genai


def generated(genai: Path, folder: Path, tokens: int = 24) -> list[int]:
    found: list[int] = json.loads(run(genai / PYTHON, HERE / "genai.py", folder, str(tokens), *map(str, PROMPT)))
    assert tuple(found[: len(PROMPT)]) == PROMPT
    return found


def scores(folder: Path, ids: list[int]) -> Array:
    """Logits of every token, from the file and nothing else."""
    path = folder / "model.onnx"
    signature = with_configured_sizes(Graph.load(path).signature, path)
    feed = fill({"input_ids": np.array([ids])}, signature)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    logits: Array = session.run(["logits"], feed)[0][0].astype(np.float64)
    return logits


GRAPHS = {
    "packed": (),
    "separate": ("--options", "fuse_qkv=false"),
    "half": ("--dtype", "fp16"),
    "heads and ties": ("--family", "qwen3"),
    "rings": ("--family", "gpt-oss"),
    "last logits": ("--options", "prune_lm_head=true"),
}


@pytest.mark.parametrize(
    ("graph", "calib"), [*((graph, "texts") for graph in GRAPHS), ("packed", "self"), ("rings", "self")]
)
def test_graphs_of_the_builder_are_calibrated_and_generate(
    genai: Path, graph: str, calib: str, texts: Path, tmp_path: Path
) -> None:
    source, result = tmp_path / "source", tmp_path / "result"
    run(genai / PYTHON, ROOT / "tools" / "build_genai.py", source, *GRAPHS[graph])
    data = {"calib": texts if calib == "texts" else "self", "samples": 40, "seq_len": 48}
    report = onnxfq.quantize(source, result, **data)  # type: ignore[arg-type]
    assert report.algorithm == "gptq"
    assert report.measured_on == "held-out"
    (logits,) = (output for output in report.outputs if output.name == "logits")
    assert logits.kl is not None
    assert logits.kl < 0.3
    assert {p.name for p in source.iterdir()} == {p.name for p in result.iterdir()}
    assert (result / "genai_config.json").read_bytes() == (source / "genai_config.json").read_bytes()
    ids = generated(genai, result)
    if graph == "last logits":
        return
    rows = scores(result, ids[:-1])[len(PROMPT) - 1 :]
    chosen = rows[np.arange(len(rows)), ids[len(PROMPT) :]]
    np.testing.assert_allclose(chosen, rows.max(axis=1), atol=0.02 * rows.std())  # another ONNX Runtime: ties may turn


def test_what_is_built_is_evaluated_and_timed(genai: Path, texts: Path, tmp_path: Path) -> None:
    source, result = tmp_path / "source", tmp_path / "result"
    run(genai / PYTHON, ROOT / "tools" / "build_genai.py", source, "--dtype", "fp16")
    onnxfq.quantize(source, result, validate=False)
    found = onnxfq.evaluate(result, source, text=texts, samples=4, seq_len=64)
    assert {metric.name for metric in found.metrics} >= {"perplexity", "kl", "top1"}
    timed = onnxfq.benchmark(result, [source], lengths=(16,), seconds=0.1, loads=1)
    assert {case.kind for case in timed.cases} == {"prefill", "decode"}


def test_exports_of_optimum_run_in_genai(genai: Path, checkpoint: Path, texts: Path, tmp_path: Path) -> None:
    """The builder's `config_only` describes them; their keys and values grow, so that no buffer is shared."""
    source, result = tmp_path / "source", tmp_path / "result"
    export(checkpoint, source, "text-generation-with-past")
    options = ("-p", "fp32", "-e", "cpu", "--extra_options", "config_only=true")
    run(genai / PYTHON, "-m", "onnxruntime_genai.models.builder", "-i", checkpoint, "-o", tmp_path / "config", *options)
    config = json.loads((tmp_path / "config" / "genai_config.json").read_text())
    config["search"]["past_present_share_buffer"] = False
    (source / "genai_config.json").write_text(json.dumps(config))
    onnxfq.quantize(source, result, calib=texts, samples=40, seq_len=48)
    ids = generated(genai, result)
    rows = scores(result, ids[:-1])[len(PROMPT) - 1 :]
    chosen = rows[np.arange(len(rows)), ids[len(PROMPT) :]]
    np.testing.assert_allclose(chosen, rows.max(axis=1), atol=0.02 * rows.std())


# transformers.js


def in_javascript(place: Path, model: Path, task: str, dtype: str | dict[str, str]) -> dict[str, Any]:
    arguments = (f"{model.parent}/", model.name, task, json.dumps(dtype), "The quick brown fox")
    found: dict[str, Any] = json.loads(run("node", HERE / "transformers.mjs", place / PACKAGE, *arguments))
    return found


def test_an_encoder_runs_in_transformers_js(transformers_js: Path, minilm: Path, tmp_path: Path) -> None:
    web = tmp_path / "web"
    (web / "onnx").mkdir(parents=True)
    shutil.copyfile(minilm / "model.onnx", web / "onnx" / "model.onnx")
    for bits in (4, 8):
        onnxfq.quantize(minilm, web, layout="transformers.js", bits=bits, validate=False)
    made = {dtype: in_javascript(transformers_js, web, "feature-extraction", dtype) for dtype in ("fp32", "q4", "q8")}
    vectors = {dtype: np.array(found["made"]) / np.linalg.norm(found["made"]) for dtype, found in made.items()}
    assert all(sorted(found["found"]) == ["fp32", "q4", "q8"] for found in made.values())
    assert vectors["fp32"] @ vectors["q8"] > 0.995
    assert 0.95 < vectors["fp32"] @ vectors["q4"] < vectors["fp32"] @ vectors["q8"]


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_decoder_writes_in_transformers_js(
    transformers_js: Path, checkpoint: Path, tmp_path: Path, dtype: str
) -> None:
    source, web, name = tmp_path / "source", tmp_path / "web", {"fp32": "q4", "fp16": "q4f16"}[dtype]
    pytest.importorskip("optimum.exporters.onnx", reason="pip install 'onnxfq[export]'")
    onnxfq.export(checkpoint, source, task="text-generation-with-past", dtype=dtype)
    onnxfq.quantize(source, web, layout="transformers.js", validate=False)
    found = in_javascript(transformers_js, web, "text-generation", name)
    assert found["found"] == [name]
    assert len(found["made"]) > len("The quick brown fox")


def test_an_encoder_and_a_decoder_of_different_types_in_transformers_js(
    transformers_js: Path, seq2seq: Path, tmp_path: Path
) -> None:
    web = tmp_path / "web"
    onnxfq.quantize(seq2seq / "encoder_model.onnx", web, layout="transformers.js", bits=8, validate=False)
    onnxfq.quantize(seq2seq / "decoder_model_merged.onnx", web, layout="transformers.js", validate=False)
    dtypes = {"encoder_model": "q8", "decoder_model_merged": "q4"}
    found = in_javascript(transformers_js, web, "text2text-generation", dtypes)
    assert found["found"] == [], "no type has both files"
    assert isinstance(found["made"], str)


def test_data_beside_a_model_load_in_transformers_js(transformers_js: Path, genai: Path, tmp_path: Path) -> None:
    """Graphs of genai's builder are such, and lack the configuration that transformers.js reads."""
    source, web = tmp_path / "source", tmp_path / "web"
    run(genai / PYTHON, ROOT / "tools" / "build_genai.py", source)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "eos_token_id": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 128, "vocab_size": 4096}  # fmt: skip
    (source / "config.json").write_text(json.dumps(config))
    onnxfq.quantize(source, web, layout="transformers.js", validate=False)
    assert (web / "onnx" / "model_q4.onnx_data").is_file()
    assert len(in_javascript(transformers_js, web, "text-generation", "q4")["made"]) > len("The quick brown fox")


# optimum


@pytest.fixture(scope="session")
def seq2seq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small encoder and its decoder, merged, with random weights."""
    transformers = pytest.importorskip("transformers", reason="pip install 'onnxfq[export]'")
    checkpoint, folder = tmp_path_factory.mktemp("bart"), tmp_path_factory.mktemp("seq2seq")
    config = transformers.BartConfig(
        vocab_size=4096, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, max_position_embeddings=128,
        pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=2,
    )  # fmt: skip
    transformers.BartForConditionalGeneration(config).save_pretrained(checkpoint)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(ROOT / "models" / "opt-4m" / name, checkpoint / name)
    export(checkpoint, folder, "text2text-generation-with-past")
    return folder


LOADED = """
import sys, numpy, torch
from optimum.onnxruntime import *
from transformers import AutoTokenizer
kind, folder, file, subfolder = sys.argv[1:]
options = {"provider": "CPUExecutionProvider", "local_files_only": True, "subfolder": subfolder}
options |= {"file_name": file} if file else {}  # encoders with decoders have several
model = globals()[kind].from_pretrained(folder, **options)
tokens = AutoTokenizer.from_pretrained(folder)("The quick brown fox", return_tensors="pt")
tokens.pop("token_type_ids", None) if "CausalLM" in kind else None
if "Feature" in kind:
    made = model(**tokens).last_hidden_state[0, 0].tolist()
else:
    made = model.generate(tokens["input_ids"], max_new_tokens=8, min_new_tokens=8, do_sample=False)[0].tolist()
print(made)
"""


def in_optimum(kind: str, folder: Path, file: str, subfolder: str = "") -> list[float]:
    pytest.importorskip("optimum.onnxruntime", reason="pip install 'onnxfq[export]'")
    made: list[float] = json.loads(run(sys.executable, "-c", LOADED, kind, folder, file, subfolder))
    return made


@pytest.mark.parametrize("layout", ["source", "transformers.js"])
def test_an_encoder_loads_in_optimum(minilm: Path, layout: str, tmp_path: Path) -> None:
    result = tmp_path / "result"
    onnxfq.quantize(minilm, result, layout=layout, validate=False)
    named = ("model.onnx", "") if layout == "source" else ("model_q4.onnx", "onnx")
    ours = np.array(in_optimum("ORTModelForFeatureExtraction", result, *named))
    original = np.array(in_optimum("ORTModelForFeatureExtraction", minilm, "model.onnx"))
    assert 0.95 < ours @ original / np.linalg.norm(ours) / np.linalg.norm(original) < 0.99999


@pytest.mark.parametrize("layout", ["source", "transformers.js"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_decoder_with_its_cache_loads_in_optimum(checkpoint: Path, layout: str, dtype: str, tmp_path: Path) -> None:
    source, result = tmp_path / "source", tmp_path / "result"
    pytest.importorskip("optimum.exporters.onnx", reason="pip install 'onnxfq[export]'")
    onnxfq.export(checkpoint, source, task="text-generation-with-past", dtype=dtype)
    onnxfq.quantize(source, result, layout=layout, bits=4, validate=False)
    name = "model.onnx" if layout == "source" else {"fp32": "model_q4.onnx", "fp16": "model_q4f16.onnx"}[dtype]
    made = in_optimum("ORTModelForCausalLM", result, name, "" if layout == "source" else "onnx")
    assert len(made) > 8


def test_an_encoder_and_a_decoder_load_in_optimum(seq2seq: Path, tmp_path: Path) -> None:
    onnxfq.quantize(seq2seq, tmp_path / "result", validate=False)
    kind, folder = "ORTModelForSeq2SeqLM", tmp_path / "result"
    assert len(in_optimum(kind, folder, "")) >= 8
