"""Perplexity, KL, top-1 and last words against the same formulas in numpy, over all logits at once."""

from __future__ import annotations

import json
import tracemalloc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxfq
from onnxfq import DataError, Evaluation, ModelError
from onnxfq.arrays import Array
from onnxfq.metrics import distributions as rooms
from onnxfq.metrics.perplexity import perplexity
from onnxfq.session import Session
from support.evaluated import (
    SIZE,
    VOCABULARY,
    bigram,
    encode,
    peeking,
    softmax,
    table,
    words,
    write_lines,
    write_tokenizer,
)

WINDOW = 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path / "model", max_position_embeddings=64)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(words(90))
    return path


def evaluate(folder: Path, text: Path, new: Array, old: Array | None = None, **changes: object) -> Evaluation:
    """Evaluate a bigram model on running text."""
    model = bigram(folder / "new.onnx", new)
    baseline = None if old is None else bigram(folder / "old.onnx", old)
    found = onnxfq.evaluate(model, baseline, text=text, **{"seq_len": WINDOW, **changes})  # type: ignore[arg-type]
    json.dumps(found.to_json(), allow_nan=False)
    return found


def windows(text: Path, length: int = WINDOW) -> Array:
    ids = np.array(encode(text.read_text()))
    return np.asarray(ids[: len(ids) // length * length].reshape(-1, length))


def losses(weight: Array, ids: Array) -> Array:
    """Mean loss of each window."""
    p = softmax(weight[ids[:, :-1]])
    return np.asarray(-np.log(np.take_along_axis(p, ids[:, 1:, None], axis=2)).mean(axis=(1, 2)))


def test_figures_equal_the_formulas(folder: Path, text: Path) -> None:
    new, old = table(noise=0.4), table()
    found = evaluate(folder, text, new, old)
    ids = windows(text)
    a, b = losses(new, ids), losses(old, ids)
    metric = found["perplexity"]
    assert metric.value == pytest.approx(np.exp(a.mean()))
    assert metric.baseline == pytest.approx(np.exp(b.mean()))
    assert metric.difference == pytest.approx(np.exp(a.mean()) - np.exp(b.mean()))
    parts = np.exp(a.mean()) * a - np.exp(b.mean()) * b
    assert metric.difference_error == pytest.approx(parts.std(ddof=1) / np.sqrt(len(ids)))
    p, q = softmax(old[ids]), softmax(new[ids])
    kl = (p * np.log(p / q)).sum(axis=2)
    assert found["kl"].value == pytest.approx(kl.mean())
    assert found["kl"].standard_error == pytest.approx(kl.mean(axis=1).std(ddof=1) / np.sqrt(len(ids)))
    assert found["kl_p999"].value == pytest.approx(np.quantile(kl, 0.999))
    assert found["top1"].value == pytest.approx((p.argmax(axis=2) == q.argmax(axis=2)).mean())
    assert found["perplexity"].samples == len(ids) == 11
    assert found.task == "language"


def test_a_model_against_itself_differs_in_nothing(folder: Path, text: Path) -> None:
    found = evaluate(folder, text, table(), table())
    assert (found["perplexity"].difference, found["perplexity"].difference_error) == (0.0, 0.0)
    assert (found["kl"].value, found["kl_p999"].value, found["top1"].value) == (0.0, 0.0, 1.0)


def test_pairing_makes_the_standard_error_small(folder: Path, text: Path) -> None:
    metric = evaluate(folder, text, table(noise=0.02), table())["perplexity"]
    assert metric.difference_error is not None
    assert metric.standard_error is not None
    assert metric.difference_error < metric.standard_error / 10


def test_without_a_baseline_there_is_only_the_perplexity(folder: Path, text: Path) -> None:
    found = evaluate(folder, text, table())
    assert [metric.name for metric in found.metrics] == ["perplexity"]
    assert found["perplexity"].baseline is None
    assert "`baseline`" in found.warnings[0]


@pytest.mark.parametrize(("samples", "seq_len", "count"), [(3, 8, 3), (None, 13, 7), (None, 91, 1), (99, 30, 3)])
def test_only_full_windows_count(folder: Path, text: Path, samples: int | None, seq_len: int, count: int) -> None:
    write_tokenizer(folder)
    found = evaluate(folder, text, table(), samples=samples, seq_len=seq_len)["perplexity"]
    assert found.samples == count
    assert found.value == pytest.approx(np.exp(losses(table(), windows(text, seq_len)[:count]).mean()))
    assert (found.standard_error is None) is (count == 1)


def test_windows_are_no_longer_than_the_model_takes(folder: Path, text: Path) -> None:
    write_tokenizer(folder, max_position_embeddings=10)
    assert evaluate(folder, text, table(), seq_len=512)["perplexity"].samples == 9


def test_a_fixed_length_is_the_window(folder: Path, text: Path) -> None:
    model = bigram(folder / "m.onnx", table(), length=7)
    found = onnxfq.evaluate(model, text=text)["perplexity"]
    assert found.value == pytest.approx(np.exp(losses(table(), windows(text, 7)).mean()))


def test_half_precision_is_summed_in_double(folder: Path, text: Path) -> None:
    half = table().astype(np.float16)
    found = evaluate(folder, text, half, table())
    ids = windows(text)
    assert found["perplexity"].value == pytest.approx(np.exp(losses(half, ids).mean()), rel=1e-12)
    p, q = softmax(table()[ids]), softmax(half[ids])
    assert found["kl"].value == pytest.approx((p * np.log(p / q)).sum(axis=2).mean(), rel=1e-6)


def test_logits_beyond_the_tokenizer_count(folder: Path, text: Path) -> None:
    wide = table(columns=SIZE + 10)
    found = evaluate(folder, text, wide)["perplexity"]
    assert found.value == pytest.approx(np.exp(losses(wide, windows(text)).mean()))


def test_blocks_of_rows_do_not_show(folder: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate(folder, text, table(noise=0.4), table())
    monkeypatch.setattr(rooms, "BLOCK", 3 * SIZE)
    assert evaluate(folder, text, table(noise=0.4), table()).metrics == whole.metrics


def test_no_more_than_one_window_of_logits_is_held_and_none_is_copied(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[Array]] = []
    alive = []
    run = Session.run

    def watched(session: Session, *arguments: Any) -> dict[str, Array]:
        alive.append(sum(reference() is not None for reference in held))
        found = run(session, *arguments)
        held.extend(weakref.ref(array) for array in found.values())
        return found

    monkeypatch.setattr(Session, "run", watched)
    monkeypatch.setattr(rooms, "BLOCK", 1 << 14)
    path = tmp_path / "long.txt"
    path.write_text(words(4000))
    write_tokenizer(folder)
    models = [bigram(folder / f"{name}.onnx", table(columns=2000)) for name in ("new", "old")]
    onnxfq.evaluate(*models, text=path, seq_len=400, samples=1)
    tracemalloc.start()
    onnxfq.evaluate(*models, text=path, seq_len=400)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(alive) >= 20
    assert max(alive[-20:]) == 1  # the model's, while the baseline runs
    assert peak < 400 * 2000 * 4  # what numpy allocated at any time: less than one window


# What cannot be measured


@pytest.mark.parametrize(("value", "whose"), [(np.nan, "new"), (np.inf, "new"), (np.nan, "old"), (np.inf, "old")])
def test_logits_that_are_no_numbers_are_told(folder: Path, text: Path, value: float, whose: str) -> None:
    tables = {"new": table(noise=0.1), "old": table()}
    tables[whose][VOCABULARY["w3"], 5] = value
    found = evaluate(folder, text, tables["new"], tables["old"])
    for name in ("kl", "kl_p999", "top1"):
        assert found[name].value is None
        assert "NaN or infinity" in (found[name].note or "")
    metric = found["perplexity"]
    assert (metric.value if whose == "new" else metric.baseline) is None
    assert (metric.baseline if whose == "new" else metric.value) is not None
    assert metric.difference is None
    assert "NaN or infinity" in (metric.note or "")


def test_a_token_that_is_ruled_out_is_no_fault(folder: Path, text: Path) -> None:
    old = table()
    old[:, 1] = -np.inf
    found = evaluate(folder, text, old, old)
    assert found["kl"].value == 0.0
    assert found["perplexity"].value == pytest.approx(np.exp(losses(old, windows(text)).mean()))


def test_an_infinite_loss_is_told(folder: Path, text: Path) -> None:
    new = table()
    new[:, VOCABULARY["w3"]] = -np.inf
    found = evaluate(folder, text, new, table())
    assert found["perplexity"].value is None
    assert found["kl"].value is None


def test_a_perplexity_beyond_all_numbers_is_told() -> None:
    metric = perplexity([1e4, 1e4])
    assert (metric.value, metric.note) == (None, "too large for a number")
    assert perplexity([1e4], [1.0]).note == "too large for a number"


def test_a_text_without_a_full_window_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text(words(5))
    with pytest.raises(DataError, match=r"too short for one window \(got 6 tokens, wanted 8\).*`seq_len=6`"):
        evaluate(folder, path, table())
    path.write_text("")
    with pytest.raises(DataError, match=r"too short for one window \(got 1 tokens, wanted 8\)\. Give a longer text\.$"):
        evaluate(folder, path, table())


def test_a_window_of_one_token_is_refused(folder: Path, text: Path) -> None:
    with pytest.raises(DataError, match="2 tokens or more"):
        evaluate(folder, text, table(), seq_len=1)


def test_ids_beyond_the_scores_are_refused(folder: Path, text: Path) -> None:
    with pytest.raises(DataError, match=r"does not score .*`tokenizer=DIR`"):
        evaluate(folder, text, table(columns=SIZE - 5))


def test_ids_beyond_the_embedding_are_refused(folder: Path, text: Path) -> None:
    with pytest.raises(DataError, match="is the tokenizer that of this model"):
        evaluate(folder, text, table(rows=SIZE - 5))


def test_models_of_different_vocabularies_are_not_compared(folder: Path, text: Path) -> None:
    with pytest.raises(ModelError, match=r"scores 25 tokens or classes, the baseline 22"):
        evaluate(folder, text, table(columns=25), table())


@pytest.mark.parametrize("as_baseline", [False, True])
def test_a_masked_language_model_has_no_perplexity(folder: Path, text: Path, as_baseline: bool) -> None:
    model = peeking(folder / "m.onnx", table())
    with pytest.raises(ModelError, match=r'sees the tokens after the one it scores.*`task="outputs"`'):
        onnxfq.evaluate(model, model if as_baseline else None, text=text, seq_len=8)


def test_a_decoder_with_a_cache_is_a_language_model(folder: Path, text: Path, tiny_decoder: bytes) -> None:
    model = folder / "decoder.onnx"
    model.write_bytes(tiny_decoder)
    text.write_text(" ".join(f"w{n % 12}" for n in range(90)))  # the decoder knows 16 ids
    found = onnxfq.evaluate(model, model, text=text, seq_len=8)
    assert found["kl"].value == 0.0
    assert found["perplexity"].value is not None


# Last words


def last_words(folder: Path, data: Path, new: Array, old: Array | None = None, **changes: object) -> Evaluation:
    model = bigram(folder / "new.onnx", new)
    baseline = None if old is None else bigram(folder / "old.onnx", old)
    return onnxfq.evaluate(model, baseline, data=data, **changes)  # type: ignore[arg-type]


def test_last_words_equal_the_formulas(folder: Path, tmp_path: Path) -> None:
    passages = [words(int(n), seed=i) for i, n in enumerate([5, 9, 4, 30, 7, 12])]
    new, old = table(noise=0.5), table()
    for passage in passages[:3]:  # the likeliest word after the one before the last
        before, after = encode(passage)[-2:]
        old[before, after] = new[before, after] = 20.0
    data = write_lines(tmp_path / "l.jsonl", *({"text": passage + "\n"} for passage in passages))
    found = last_words(folder, data, new, old)
    pairs = np.array([encode(passage)[-2:] for passage in passages])
    for weight, accuracy, loss in (
        (new, found["lambada_accuracy"].value, found["lambada_loss"].value),
        (old, found["lambada_accuracy"].baseline, found["lambada_loss"].baseline),
    ):
        p = softmax(weight[pairs[:, 0]])
        assert accuracy == (p.argmax(axis=1) == pairs[:, 1]).mean() >= 0.5
        assert loss == pytest.approx(-np.log(p[np.arange(6), pairs[:, 1]]).mean())
    assert found["lambada_accuracy"].samples == 6
    assert found["lambada_accuracy"].standard_error is not None


def test_all_tokens_of_the_last_word_must_be_right(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path / "bytes"
    folder.mkdir()
    letters = {letter: index for index, letter in enumerate("abcdefĠ")}
    tokenizer = Tokenizer(models.BPE(vocab={**letters, "ab": 7, "Ġab": 8}, merges=[("a", "b"), ("Ġ", "ab")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    weight = np.zeros((9, 9), np.float32)
    weight[2, 8] = weight[8, 3] = weight[3, 4] = 9.0  # c → " ab" → d → e
    data = write_lines(tmp_path / "l.jsonl", {"text": "f c abde"}, {"text": "f c abdf"}, {"text": "f f abde"})
    found = last_words(folder, data, weight)
    assert found["lambada_accuracy"].value == pytest.approx(1 / 3)
    p = softmax(weight)
    chain = [[(2, 8), (8, 3), (3, 4)], [(2, 8), (8, 3), (3, 5)], [(5, 8), (8, 3), (3, 4)]]
    loss = -np.mean([sum(np.log(p[pair]) for pair in word) for word in chain])
    assert found["lambada_loss"].value == pytest.approx(loss)


def test_long_passages_lose_their_beginning(folder: Path, tmp_path: Path) -> None:
    passage = words(60)
    data = write_lines(tmp_path / "l.jsonl", {"text": passage})
    whole = last_words(folder, data, table())
    assert last_words(folder, data, table(), seq_len=4).metrics == whole.metrics


@pytest.mark.parametrize("passage", ["w3", "  w3 \n"])
def test_a_word_needs_a_context(folder: Path, tmp_path: Path, passage: str) -> None:
    write_tokenizer(folder)
    data = write_lines(tmp_path / "l.jsonl", {"text": "w1 w2"}, {"text": passage})
    with pytest.raises(DataError, match=r"no last word with a context before it \(in line 2 of l.jsonl"):
        last_words(folder, data, table())


def test_text_and_passages_together_give_all_figures(folder: Path, text: Path, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "l.jsonl", {"text": "w1 w2"})
    found = evaluate(folder, text, table(noise=0.1), table(), data=data)
    names = ["perplexity", "kl", "kl_p999", "top1", "lambada_accuracy", "lambada_loss"]
    assert [metric.name for metric in found.metrics] == names


def test_nan_in_last_words_is_told(folder: Path, tmp_path: Path) -> None:
    broken = table()
    broken[VOCABULARY["w1"]] = np.nan
    data = write_lines(tmp_path / "l.jsonl", {"text": "w1 w2"}, {"text": "w2 w2"})
    found = last_words(folder, data, broken)
    for metric in found.metrics:
        assert metric.value is None
        assert metric.note == "1 of 2 samples gave NaN or infinity"
