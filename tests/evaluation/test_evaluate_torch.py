"""`onnxfq evaluate` against figures computed apart from it: transformers and PyTorch on the same checkpoint, MiniLM."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxfq
from conftest import export
from onnxfq.evaluation.encoder_decoder import EncoderDecoder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
OPT = ROOT / "models" / "opt-4m"
DATA = Path(os.environ.get("ONNXFQ_DATA", ROOT.parent / "shared" / "data"))
WINDOW, WINDOWS, PASSAGES = 256, 40, 60


def data(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"needs {name} in ONNXFQ_DATA")
    return DATA / name


@dataclass
class Pair:
    """The same two language models in PyTorch and as ONNX files: opt-4m, and opt-4m with noise on its weights."""

    torch_models: list[Any]
    folders: list[Path]
    tokenizer: Any


@contextmanager
def quiet() -> Iterator[Any]:
    """PyTorch without gradients, and transformers without its warnings."""
    import warnings

    torch = pytest.importorskip("torch", reason="pip install 'onnxfq[export]'")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield torch


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    transformers = pytest.importorskip("transformers", reason="pip install 'onnxfq[export]'")
    data("lambada-test.jsonl")
    with quiet() as torch:
        tokenizer = transformers.AutoTokenizer.from_pretrained(OPT)
        first = rebuilt(transformers, torch)
        second = transformers.OPTForCausalLM(first.config).eval()
        generator = torch.Generator().manual_seed(0)
        second.load_state_dict(
            {n: w + 0.1 * w.std() * torch.randn(w.shape, generator=generator) for n, w in first.state_dict().items()}
        )
        second.tie_weights()
        folders = []
        for name, model in (("first", first), ("second", second)):
            checkpoint, folder = (tmp_path_factory.mktemp(f"{name}-{kind}") for kind in ("torch", "onnx"))
            model.save_pretrained(checkpoint)
            tokenizer.save_pretrained(checkpoint)
            export(checkpoint, folder, "text-generation-with-past")
            folders.append(folder)
    return Pair([first, second], folders, tokenizer)


def rebuilt(transformers: Any, torch: Any) -> Any:  # noqa: ANN401
    """opt-4m in PyTorch, from the weights in its ONNX file."""
    import onnx
    from onnx import numpy_helper

    model = transformers.OPTForCausalLM(transformers.AutoConfig.from_pretrained(OPT)).eval()
    graph = onnx.load(str(OPT / "model.onnx")).graph
    arrays = {t.name.removesuffix(".half"): numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:  # weights of linear layers have names of their own, and are transposed
        if node.op_type == "MatMul" and node.input[1] in arrays:
            layer = node.name.strip("/").replace("/", ".").removesuffix(".MatMul")
            arrays[f"model.{layer}.weight"] = arrays[node.input[1]].T
    state = model.state_dict()
    missing = [name for name in state if name not in arrays and name != "lm_head.weight"]
    assert not missing, missing
    loaded = {n: torch.from_numpy(np.array(arrays[n], np.float32)) for n in state if n != "lm_head.weight"}
    model.load_state_dict(loaded, strict=False)
    model.tie_weights()
    return model


def test_perplexity_kl_and_last_words_are_those_of_transformers(pair: Pair) -> None:
    text, passages = data("wikitext2-test.txt"), data("lambada-test.jsonl")
    found = onnxfq.evaluate(
        pair.folders[1], pair.folders[0], text=text, data=passages, seq_len=WINDOW, samples=WINDOWS, provider="cpu"
    )
    with quiet() as torch:
        losses, kl, kl_tokens, same = by_torch(pair, text.read_text(encoding="utf-8"), torch)
    ppl = np.exp(losses.mean(axis=0))
    assert found["perplexity"].samples == WINDOWS
    assert found["perplexity"].value == pytest.approx(ppl[1], rel=1e-3)
    assert found["perplexity"].baseline == pytest.approx(ppl[0], rel=1e-3)
    assert ppl[1] > 1.01 * ppl[0]
    assert found["perplexity"].difference == pytest.approx(ppl[1] - ppl[0], rel=1e-3)
    assert found["kl"].value == pytest.approx(kl, rel=1e-3)
    assert found["kl_p999"].value == pytest.approx(np.quantile(kl_tokens, 0.999), rel=1e-3)
    assert found["top1"].value == pytest.approx(same, abs=1e-3)


def by_torch(pair: Pair, text: str, torch: Any) -> tuple[Any, float, Any, float]:  # noqa: ANN401
    """Loss of each window and model, mean KL, KL of each token, and agreement: the GPTQ protocol in PyTorch."""
    ids = pair.tokenizer(text, return_tensors="pt", verbose=False).input_ids
    losses, kl, same = [], [], []
    for index in range(WINDOWS):
        window = ids[:, index * WINDOW : (index + 1) * WINDOW]
        logits = [model(window).logits[0].double() for model in pair.torch_models]
        losses.append([float(torch.nn.functional.cross_entropy(x[:-1], window[0, 1:])) for x in logits])
        p, q = (torch.log_softmax(x, dim=-1) for x in logits)
        kl.append(torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(dim=-1).numpy())
        same.append(float((p.argmax(dim=-1) == q.argmax(dim=-1)).double().mean()))
    return np.array(losses), float(np.mean(kl)), np.concatenate(kl), float(np.mean(same))


def test_last_words_are_those_of_transformers(pair: Pair, tmp_path: Path) -> None:
    lines = data("lambada-test.jsonl").read_text(encoding="utf-8").splitlines()[:PASSAGES]
    texts = [json.loads(line)["text"] for line in lines]
    texts += [easy(pair, text) for text in texts[:8]]  # ends with a word that the model finds
    path = tmp_path / "passages.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = onnxfq.evaluate(pair.folders[1], pair.folders[0], data=path, provider="cpu")
    with quiet() as torch:
        wanted = [[last_word(pair, model, text, torch) for text in texts] for model in pair.torch_models]
    (old_hits, old_loss), (hits, loss) = (np.mean(figures, axis=0) for figures in wanted)
    assert old_hits >= 8 / len(texts)
    assert (found["lambada_accuracy"].baseline, found["lambada_accuracy"].value) == (old_hits, hits)
    assert found["lambada_loss"].baseline == pytest.approx(old_loss, rel=1e-3)
    assert found["lambada_loss"].value == pytest.approx(loss, rel=1e-3)


def easy(pair: Pair, text: str) -> str:
    """A text, and after it the words that greedy decoding writes, as far as the last whole one."""
    with quiet() as torch:
        ids = pair.tokenizer(text[:200], return_tensors="pt").input_ids
        for _ in range(24):
            ids = torch.cat([ids, pair.torch_models[0](ids).logits[:, -1].argmax(dim=-1)[:, None]], dim=1)
    return str(pair.tokenizer.decode(ids[0], skip_special_tokens=True).rstrip().rsplit(" ", 1)[0])


def last_word(pair: Pair, model: Any, text: str, torch: Any) -> tuple[float, float]:  # noqa: ANN401
    """Whether the model finds the last word, and the word's loss: context and whole text encoded one after another."""
    context = text.rstrip().rsplit(None, 1)[0]
    whole = pair.tokenizer(text.rstrip(), return_tensors="pt").input_ids
    start = pair.tokenizer(context, return_tensors="pt").input_ids.shape[1]
    log_p = torch.log_softmax(model(whole[:, -512:]).logits[0].double(), dim=-1)
    target = whole[0, start:]
    rows = log_p[-len(target) - 1 : -1]
    hit = bool((rows.argmax(dim=-1) == target).all())
    return float(hit), float(-rows.gather(1, target[:, None]).sum())


def test_minilm_has_its_published_rank_correlation(minilm: Path) -> None:
    found = onnxfq.evaluate(minilm, data=data("stsb-test.csv"), task="sts", provider="cpu")
    assert found["spearman"].value == pytest.approx(0.8203, abs=1e-4)
    assert found["spearman"].samples == 1379


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_encoder_decoders_write_what_transformers_writes(family: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="pip install 'onnxfq[export]'")
    with quiet() as torch:
        torch.manual_seed(0)
        model = random_model(transformers, family).eval()
        checkpoint, folder = tmp_path / "torch", tmp_path / "onnx"
        model.save_pretrained(checkpoint)
        tokenizer = transformers.AutoTokenizer.from_pretrained(OPT)
        tokenizer.save_pretrained(checkpoint)
        export(checkpoint, folder, "text2text-generation-with-past")
        sources = ["The old man looked at the sea.", "She went home.", "It was raining, and nobody spoke a word."]
        wanted = [
            model.generate(**inputs(tokenizer, source), do_sample=False, num_beams=1, max_length=20)[0, 1:].tolist()
            for source in sources
        ]
    (folder / "generation_config.json").write_text(json.dumps({
        "decoder_start_token_id": 2, "eos_token_id": 2, "max_length": 20, "forced_bos_token_id": 0}))  # fmt: skip
    names = {path.name for path in folder.glob("*.onnx")}
    assert {"encoder_model.onnx", "decoder_model.onnx"} <= names
    for unused in ((), ("decoder_model_merged.onnx",), ("decoder_with_past_model.onnx",)):
        for name in unused:
            (folder / name).unlink(missing_ok=True)
        translator = EncoderDecoder(folder, folder, seq_len=128, provider="cpu")
        assert [translator.tokens(source, "a test") for source in sources] == wanted, sorted(names - set(unused))
    assert len({tuple(tokens) for tokens in wanted}) == 3


def inputs(tokenizer: Any, source: str) -> dict[str, Any]:  # noqa: ANN401
    found = tokenizer(source, return_tensors="pt")
    return {name: found[name] for name in ("input_ids", "attention_mask")}


def random_model(transformers: Any, family: str) -> Any:  # noqa: ANN401
    """A small encoder–decoder whose random weights are large enough to write different texts."""
    shared = {"vocab_size": 4096, "decoder_start_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
    rules = {"forced_bos_token_id": 0, "forced_eos_token_id": None}
    if family == "bart":
        config = transformers.BartConfig(
            d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
            encoder_ffn_dim=128, decoder_ffn_dim=128, max_position_embeddings=128, init_std=0.4, **shared, **rules,
        )  # fmt: skip
        return transformers.BartForConditionalGeneration(config)
    config = transformers.T5Config(
        d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, initializer_factor=8.0, **shared, **rules
    )
    return transformers.T5ForConditionalGeneration(config)
