"""Sentence pairs: pooling, cosine and rank correlation against numpy."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import onnxfq
from onnxfq import DataError, ModelError, UsageError
from onnxfq.arrays import Array
from onnxfq.evaluation.tasks.sts import cosine, spearman
from support.evaluated import SIZE, VOCABULARY, encode, encoder, table, words, write_graph, write_lines, write_tokenizer

SENTENCES = [(words(3 + i % 4, i), words(2 + i % 5, 50 + i)) for i in range(11)]
SCORES = [round(5 * ((i * 7) % 11) / 10, 1) for i in range(11)]
PAIRS = [(*sentences, score) for sentences, score in zip(SENTENCES, SCORES, strict=True)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path / "model")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(PAIRS)
    return path


def ranks(values: Array) -> Array:
    """Mean ranks, by counting."""
    return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])


def vectors(weight: Array) -> tuple[Array, Array]:
    """Means of the rows of each sentence's tokens."""
    first, second = ([weight[encode(pair[i])].astype(np.float64).mean(axis=0) for pair in SENTENCES] for i in (0, 1))
    return np.array(first), np.array(second)


def similarities(weight: Array) -> Array:
    a, b = vectors(weight)
    return np.asarray((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def expected(weight: Array) -> float:
    scores = np.array(SCORES)
    return float(np.corrcoef(ranks(similarities(weight)), ranks(scores))[0, 1])


@pytest.mark.parametrize("length", ["tokens", 12])
def test_figures_equal_the_formulas_with_and_without_padding(folder: Path, pairs: Path, length: int | str) -> None:
    new, old = table(columns=6, noise=0.7), table(columns=6)
    models = [encoder(folder / f"{i}.onnx", weight, length=length) for i, weight in enumerate((new, old))]
    found = onnxfq.evaluate(*models, data=pairs, task="sts")
    assert found["spearman"].value == pytest.approx(expected(new))
    assert found["spearman"].baseline == pytest.approx(expected(old))
    assert found["spearman"].difference == pytest.approx(expected(new) - expected(old))
    both = [np.concatenate(vectors(weight)) for weight in (new, old)]
    cosines = (both[0] * both[1]).sum(axis=1) / np.linalg.norm(both[0], axis=1) / np.linalg.norm(both[1], axis=1)
    assert found["cosine"].value == pytest.approx(cosines.mean())
    assert found["cosine"].samples == 2 * len(PAIRS)


def test_a_table_of_pairs_is_enough_to_recognise_the_task(folder: Path, pairs: Path) -> None:
    found = onnxfq.evaluate(encoder(folder / "m.onnx", table(columns=6)), data=pairs)
    assert found.task == "sts"
    assert [metric.name for metric in found.metrics] == ["spearman"]


@pytest.mark.parametrize("suffix", ["tsv", "jsonl", "csv"])
def test_files_of_all_kinds_say_the_same(folder: Path, pairs: Path, tmp_path: Path, suffix: str) -> None:
    model = encoder(folder / "m.onnx", table(columns=6))
    path = tmp_path / f"other.{suffix}"
    if suffix == "jsonl":
        write_lines(path, *({"score": score, "sentence1": a, "sentence2": b} for a, b, score in PAIRS))
    else:
        delimiter = "\t" if suffix == "tsv" else ","
        rows = [
            ("index", "score", "sentence2", "sentence1"),
            *((str(i), str(s), b, a) for i, (a, b, s) in enumerate(PAIRS)),
        ]
        path.write_text("\n".join(delimiter.join(row) for row in rows))
    assert onnxfq.evaluate(model, data=path, task="sts").metrics == onnxfq.evaluate(model, data=pairs).metrics


def test_a_vector_that_the_model_gives_itself_is_taken(folder: Path, pairs: Path) -> None:
    weight = table(columns=6)
    own = write_graph(
        """m (int64[1, n] input_ids) => (float[1, n, 6] token_embeddings, float[1, 6] sentence_embedding) {
            token_embeddings = Gather(weight, input_ids)
            first = Gather<axis = 1>(token_embeddings, one)
            sentence_embedding = Squeeze(first, one)
        }""",
        folder / "own.onnx",
        {"weight": weight, "one": np.array([1])},
    )
    found = onnxfq.evaluate(own, data=pairs, task="sts")["spearman"]
    a, b = (weight[[encode(pair[i])[1] for pair in SENTENCES]].astype(np.float64) for i in (0, 1))
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    scores = np.array(SCORES)
    assert found.value == pytest.approx(np.corrcoef(ranks(cosines), ranks(scores))[0, 1])


def test_vectors_that_are_no_numbers_are_told(folder: Path, pairs: Path) -> None:
    broken = table(columns=6)
    broken[VOCABULARY[PAIRS[0][0].split()[0]]] = np.nan
    found = onnxfq.evaluate(
        encoder(folder / "new.onnx", broken), encoder(folder / "old.onnx", table(columns=6)), data=pairs
    )
    assert found["spearman"].value is None
    assert found["spearman"].baseline is not None
    assert "NaN" in (found["spearman"].note or "")
    assert found["cosine"].value is None


def test_vectors_that_are_all_the_same_have_no_ranks(folder: Path, pairs: Path) -> None:
    found = onnxfq.evaluate(encoder(folder / "m.onnx", np.ones((SIZE, 6), np.float32)), data=pairs)
    assert found["spearman"].value is None
    assert found["spearman"].note == "all similarities, or all scores, are the same"


def test_other_models_and_data_are_refused(folder: Path, pairs: Path, tmp_path: Path) -> None:
    model = encoder(folder / "m.onnx", table(columns=6))
    other = write_graph("m (float[1, n] x) => (float[1, n] y) { y = Relu(x) }", folder / "other.onnx", {})
    with pytest.raises(ModelError, match=r'embeds no sentences.*got outputs y.*`task="outputs"`'):
        onnxfq.evaluate(other, data=pairs, task="sts")
    with pytest.raises(UsageError, match=r"task sts needs pairs of sentences with their scores, with `data=FILE"):
        onnxfq.evaluate(model)
    for line, message in (
        ("a,b", "wanted 3"),
        ("a,b,c", "must be a number"),
        (",b,1", "must be text"),
        ("a,b,nan", ""),
    ):
        path = tmp_path / "bad.csv"
        path.write_text(f"w1,w2,1\nw1,w3,2\n{line}\n")
        if message:
            with pytest.raises(DataError, match=rf"{message}|in line 3 of bad\.csv"):
                onnxfq.evaluate(model, data=path)
        else:
            assert onnxfq.evaluate(model, data=path)["spearman"].value is None
    path.write_text("w1,w2,1\n")
    with pytest.raises(DataError, match="two pairs of sentences or more"):
        onnxfq.evaluate(model, data=path)


def test_equal_values_share_a_mean_rank() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, (2, 40)).astype(np.float64)
    assert spearman(a, b) == pytest.approx(np.corrcoef(ranks(a), ranks(b))[0, 1])
    assert spearman(a, a) == pytest.approx(1.0)
    assert spearman(a, -a) == pytest.approx(-1.0)
    assert spearman(np.zeros(3), np.arange(3.0)) is None
    assert cosine(np.zeros(3), np.ones(3)) == 0.0
