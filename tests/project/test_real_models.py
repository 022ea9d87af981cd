"""Models with real weights: the small OPT of this repository, and MiniLM exported through optimum (slow)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxfq
from onnxfq import Report, Scheme
from onnxfq.feeds import load_tokenizer

ROOT = Path(__file__).resolve().parents[2]
OPT = ROOT / "models" / "opt-4m"
DATA = Path(os.environ.get("ONNXFQ_DATA", ROOT.parent / "shared" / "data"))


def logits_kl(report: Report) -> float:
    kl = next(o.kl for o in report.outputs if o.name == "logits")
    assert kl is not None
    return kl


def weight_error(report: Report) -> float:
    errors = [t.relative_error for t in report.targets]
    assert None not in errors
    return float(np.mean([e for e in errors if e is not None]))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    lines = [
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness.",
        "He looked at her for a long while without a word, and then he took his hat and went out into the rain.",
        "The village stood on a hill above the river, and from its church one saw the sea when the weather was clear.",
    ]
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


@dataclass(frozen=True, slots=True)
class Opt:
    """The small OPT, quantized once for each setting."""

    texts: Path
    folder: Path
    done: dict[tuple[Scheme, str], tuple[Report, Path]] = field(default_factory=dict)

    def quantized(self, scheme: Scheme, algorithm: str = "hqq") -> tuple[Report, Path]:
        key = (scheme, algorithm)
        if key not in self.done:
            out = self.folder / f"{len(self.done)}.onnx"
            settings: dict[str, Any] = {"algorithm": algorithm, "provider": "cpu", "tokenizer": OPT}
            report = onnxfq.quantize(OPT / "model.onnx", out, scheme=scheme, calib=self.texts, **settings)
            self.done[key] = report, out
        return self.done[key]


@pytest.fixture(scope="module")
def opt(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Opt:
    return Opt(texts, tmp_path_factory.mktemp("opt"))


def test_opt_every_node_is_accounted_for(opt: Opt) -> None:
    report, out = opt.quantized(Scheme())
    nodes = onnx.load(str(OPT / "model.onnx")).graph.node
    names = {n.name for n in nodes if n.op_type in ("MatMul", "Gemm")}
    assert names == {t.name for t in report.targets if t.op_type != "Gather"} | {s.name for s in report.skipped}
    assert len([t for t in report.targets if t.operator == "MatMulNBits"]) == 25
    assert len([t for t in report.targets if t.operator == "GatherBlockQuantized"]) == 2
    assert {s.reason for s in report.skipped} == {"no constant weight: both inputs are computed at run time"}
    onnx.checker.check_model(str(out))


def test_opt_error_falls_with_bits_and_with_smaller_blocks(opt: Opt) -> None:
    def kl(scheme: Scheme) -> float:
        return logits_kl(opt.quantized(scheme)[0])

    eight, four, two = (kl(Scheme(bits=bits)) for bits in (8, 4, 2))
    assert eight < four < two
    assert four < kl(Scheme(block_size=128)) < kl(Scheme(block_size="channel")) < kl(Scheme(block_size="tensor"))


def test_opt_hqq_weights_are_closer_than_rtn(opt: Opt) -> None:
    rtn, hqq = (opt.quantized(Scheme(), algorithm)[0] for algorithm in ("rtn", "hqq"))
    assert weight_error(hqq) < weight_error(rtn)


def test_opt_tied_table_and_head_are_one_quantized_tensor(opt: Opt) -> None:
    report, out = opt.quantized(Scheme())
    graph = onnx.load(str(out)).graph
    stored = {t.name for t in graph.initializer}
    assert not [name for name in stored if name.endswith("weight.half")]
    assert [name for name in stored if "embed_tokens" in name and name.endswith("_Q8")] == [
        "model.decoder.embed_tokens.weight.half_Q8"
    ]
    assert not [n for n in graph.node if n.op_type == "Transpose" and "embed_tokens" in n.input[0]]
    assert len([t for t in report.targets if t.shares]) == 1


@pytest.mark.slow
def test_minilm_keeps_its_sentence_similarity(minilm: Path, tmp_path: Path) -> None:
    if not (DATA / "stsb-test.csv").exists():
        pytest.skip("needs stsb-test.csv in ONNXFQ_DATA")
    for block_size, limit in ((32, 0.0440), (128, 0.0775)):
        out = tmp_path / f"{block_size}.onnx"
        onnxfq.quantize(minilm / "model.onnx", out, scheme=Scheme(block_size=block_size), provider="cpu")
        error, spearman, reference = judge_sts(minilm, out)
        assert reference == pytest.approx(0.8203, abs=5e-5)
        assert error < limit
        assert spearman > reference - 0.004


def judge_sts(folder: Path, out: Path) -> tuple[float, float, float]:
    """Relative MSE of the hidden states, and Spearman of the output and of the original, on STS-B test."""
    from benchmarks.quality import judge_encoder

    judge, original = judge_encoder(folder, DATA / "stsb-test.csv")
    figures = judge(out)
    return figures["relative_mse"], figures["spearman"], original["spearman"]


@pytest.mark.slow
def test_minilm_sessions_agree_through_transformers(minilm: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(minilm)
    ids = np.array([tokenizer.encode("A man is playing a guitar.").ids], np.int64)
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    out = tmp_path / "out.onnx"
    onnxfq.quantize(minilm / "model.onnx", out, scheme=Scheme(bits=8), provider="cpu")
    a, b = (ort.InferenceSession(str(p)).run(None, feed)[0] for p in (minilm / "model.onnx", out))
    assert np.square(a - b).sum() / np.square(a - a.mean()).sum() < 1e-3


@pytest.mark.slow
def test_an_optimum_folder_still_generates(tmp_path: Path) -> None:
    pytest.importorskip("optimum.onnxruntime", reason="pip install 'onnxfq[export]'")
    onnxfq.quantize(OPT, tmp_path / "opt-int4", provider="cpu")
    script = (
        "from optimum.onnxruntime import ORTModelForCausalLM; from transformers import AutoTokenizer; import sys\n"
        "m = ORTModelForCausalLM.from_pretrained(sys.argv[1]); t = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "i = t('The old man', return_tensors='pt'); i.pop('token_type_ids', None)\n"
        "print(t.decode(m.generate(**i, max_new_tokens=12, do_sample=False)[0]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "opt-int4")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 8
