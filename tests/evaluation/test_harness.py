"""The adapter to lm-eval against numpy, and a task of lm-eval's own run on an ONNX file."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onnxfq import DataError, ModelError, UsageError
from onnxfq.arrays import Array
from support.evaluated import VOCABULARY, bigram, encode, softmax, table, words, write_lines, write_tokenizer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lm_eval = pytest.importorskip("lm_eval", reason="pip install 'onnxfq[lm-eval]'")
    from onnxfq.harness import OnnxModel

ROOT = Path(__file__).resolve().parents[2]
OPT = ROOT / "models" / "opt-4m"
TABLE = table()
NAMES = {index: word for word, index in VOCABULARY.items()}


@pytest.fixture
def model(tmp_path: Path) -> OnnxModel:
    write_tokenizer(tmp_path, eos_token_id=3, bos_token_id=0, max_position_embeddings=12)
    return OnnxModel(bigram(tmp_path / "model.onnx", TABLE), provider="cpu")


def requests(*arguments: Any) -> list[Any]:
    return [SimpleNamespace(args=each) for each in arguments]


def log_p(ids: list[int]) -> Array:
    """Log probability of each token but the first."""
    return np.log(softmax(TABLE[ids[:-1]])[np.arange(len(ids) - 1), ids[1:]])


def test_loglikelihood_is_that_of_the_continuation(model: OnnxModel) -> None:
    likeliest = NAMES[int(TABLE[encode("w3 w4")[-1]].argmax())]
    pairs = [("w1 w2", " w3 w4 w5"), ("w3 w4", f" {likeliest}"), ("", "w7 w8"), (words(30), " w1")]
    found = model.loglikelihood(requests(*pairs), disable_tqdm=True)
    wanted = [log_p(encode(a + b))[-len(b.split()) :].sum() for a, b in pairs]
    assert [score for score, _ in found] == pytest.approx(wanted)
    assert [greedy for _, greedy in found][:2] == [False, True]


def test_a_whole_text_is_scored_token_by_token_once(model: OnnxModel) -> None:
    text = words(40)
    (found,) = model.loglikelihood_rolling(requests((text,)))
    assert found == pytest.approx(log_p([0, *encode(text)]).sum())


def test_texts_are_written_greedily_until_a_stop(model: OnnxModel) -> None:
    wanted: list[str] = []
    token = encode("w5")[-1]
    while len(wanted) < 6:
        token = int(TABLE[token].argmax())
        if token == 3:
            break
        wanted.append(NAMES[token])
    assert len(wanted) >= 3
    context = "w1 w5"
    found = model.generate_until(requests((context, {"max_gen_toks": 6}), (context, {"until": [wanted[2]]})))
    assert found == [" ".join(wanted), " ".join(wanted[:2]) + " "]


def test_what_it_cannot_do_is_refused(model: OnnxModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="greedily only"):
        model.generate_until(requests(("w1", {"do_sample": True})))
    with pytest.raises(DataError, match=r"longer than the model takes \(got 13 tokens, at most 12\)"):
        model.loglikelihood(requests(("w1", " " + words(13))), disable_tqdm=True)
    write_tokenizer(tmp_path)
    with pytest.raises(UsageError, match="which token ends a text"):
        OnnxModel(tmp_path, provider="cpu")


def test_scores_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, eos_token_id=3)
    model = OnnxModel(bigram(tmp_path / "m.onnx", np.full_like(TABLE, np.nan)), provider="cpu")
    with pytest.raises(ModelError, match=r"NaN or infinite"):
        model.loglikelihood(requests(("w1", " w2")), disable_tqdm=True)
    with pytest.raises(ModelError, match=r"NaN or infinite"):
        model.generate_until(requests(("w1", {"max_gen_toks": 2})))


def test_a_cache_writes_what_the_whole_text_says() -> None:
    model = OnnxModel(OPT, provider="cpu")
    assert model._writer is not None
    prompt = requests(("The old man looked at", {"max_gen_toks": 12, "until": []}))
    cached = model.generate_until(prompt)
    model._writer = None
    assert model.generate_until(prompt) == cached
    assert len(cached[0].split()) > 4


def test_a_task_of_the_harness_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: OnnxModel) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows: list[dict[str, Any]] = [
        {"question": words(3, i), "choices": [words(2, 10 + i), words(2, 20 + i)], "answer": i % 2} for i in range(6)
    ]
    data = write_lines(tmp_path / "task.jsonl", *rows)
    task = {
        "task": "pairs",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_target": "answer",
        "doc_to_choice": "choices",
        "metric_list": [{"metric": "acc"}],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = lm_eval.simple_evaluate(model=model, tasks=[task], bootstrap_iters=0)
    right = []
    for row in rows:
        scores = [log_p(encode(f"{row['question']} {choice}"))[-2:].sum() for choice in row["choices"]]
        right.append(int(np.argmax(scores)) == row["answer"])
    assert json.loads(json.dumps(found["results"]["pairs"]["acc,none"])) == pytest.approx(np.mean(right))
    assert found["n-samples"]["pairs"]["effective"] == 6
