"""Classifiers of text and of arrays against numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxfq
from onnxfq import DataError, ModelError, UsageError
from onnxfq.arrays import Array
from support.evaluated import (
    VOCABULARY,
    classifier,
    encode,
    softmax,
    table,
    words,
    write_graph,
    write_lines,
    write_tokenizer,
)

TEXTS = [words(2 + i % 5, i) for i in range(9)]
LABELS = [i % 3 for i in range(9)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path / "model", id2label={"0": "no", "1": "perhaps", "2": "yes"})


def logits(weight: Array) -> Array:
    return np.array([weight[encode(text)].astype(np.float64).mean(axis=0) for text in TEXTS])


def test_figures_equal_the_formulas(folder: Path, tmp_path: Path) -> None:
    new, old = table(columns=3, noise=0.9), table(columns=3)
    data = write_lines(tmp_path / "d.jsonl", *({"text": t, "label": y} for t, y in zip(TEXTS, LABELS, strict=True)))
    found = onnxfq.evaluate(classifier(folder / "new.onnx", new), classifier(folder / "old.onnx", old), data=data)
    assert found.task == "classification"
    q, p = softmax(logits(new)), softmax(logits(old))
    hits = [(x.argmax(axis=1) == LABELS).astype(float) for x in (q, p)]
    assert found["accuracy"].value == pytest.approx(hits[0].mean())
    assert found["accuracy"].baseline == pytest.approx(hits[1].mean())
    assert found["accuracy"].difference_error == pytest.approx((hits[0] - hits[1]).std(ddof=1) / 3)
    assert found["loss"].value == pytest.approx(-np.log(q[np.arange(9), LABELS]).mean(), rel=1e-5)
    assert found["kl"].value == pytest.approx((p * np.log(p / q)).sum(axis=1).mean(), rel=1e-5)
    assert found["top1"].value == pytest.approx((p.argmax(axis=1) == q.argmax(axis=1)).mean())


def test_labels_may_be_names_and_texts_pairs(folder: Path, tmp_path: Path) -> None:
    weight = table(columns=3)
    path = tmp_path / "d.csv"
    path.write_text("premise,hypothesis,label\nw1 w2,w3,yes\nw4,w5 w6,0\n")
    found = onnxfq.evaluate(classifier(folder / "m.onnx", weight), data=path)
    rows = [np.concatenate([weight[encode(a)], 2 * weight[encode(b)[1:]]]).mean(axis=0) for a, b in
            (("w1 w2", "w3"), ("w4", "w5 w6"))]  # fmt: skip
    p = softmax(np.array(rows))
    assert found["loss"].value == pytest.approx(-np.log([p[0, 2], p[1, 0]]).mean(), rel=1e-5)


def test_a_classifier_of_arrays(tmp_path: Path) -> None:
    weight = table(columns=4, rows=5)
    model = write_graph(
        "m (float[batch, 5] pixels) => (float[batch, 4] output) { output = MatMul(pixels, weight) }",
        tmp_path / "m.onnx",
        {"weight": weight},
    )
    pixels = np.random.default_rng(0).standard_normal((7, 5), np.float32)
    labels = np.arange(7) % 4
    np.savez(tmp_path / "d.npz", pixels=pixels, labels=labels)
    found = onnxfq.evaluate(model, data=tmp_path / "d.npz", task="classification", samples=6)
    p = softmax(pixels @ weight)[:6]
    assert found["accuracy"].value == pytest.approx((p.argmax(axis=1) == labels[:6]).mean())
    assert found["loss"].value == pytest.approx(-np.log(p[np.arange(6), labels[:6]]).mean(), rel=1e-5)
    np.savez(tmp_path / "d.npz", pixels=pixels)
    with pytest.raises(DataError, match=r"no labels in .*got pixels"):
        onnxfq.evaluate(model, data=tmp_path / "d.npz", task="classification")
    np.savez(tmp_path / "d.npz", pixels=pixels[:3], labels=labels)
    with pytest.raises(DataError, match=r"other numbers of samples.*got pixels; wanted 7"):
        onnxfq.evaluate(model, data=tmp_path / "d.npz", task="classification")


def test_what_is_no_number_is_told(folder: Path, tmp_path: Path) -> None:
    weight = table(columns=3)
    weight[VOCABULARY["w1"]] = np.nan
    data = write_lines(tmp_path / "d.jsonl", {"text": "w1", "label": 0}, {"text": "w2", "label": 0})
    model = classifier(folder / "m.onnx", weight)
    found = onnxfq.evaluate(model, model, data=data)
    for metric in found.metrics:
        assert metric.value is None
        assert "1 of 2 samples" in (metric.note or "")


@pytest.mark.parametrize("label", ["3", "-1", "maybe", "1.5"])
def test_other_labels_are_refused(folder: Path, tmp_path: Path, label: str) -> None:
    data = write_lines(tmp_path / "d.jsonl", {"text": "w1", "label": label})
    with pytest.raises(
        DataError, match=rf"no label of the model \(in line 1 of d.jsonl; got '{label}'; wanted 0 to 2, or"
    ):
        onnxfq.evaluate(classifier(folder / "m.onnx", table(columns=3)), data=data)


def test_other_models_are_refused(folder: Path, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "d.jsonl", {"text": "w1", "label": 0})
    with pytest.raises(ModelError, match="scores no classes"):
        onnxfq.evaluate(classifier(folder / "m.onnx", table(columns=1)), data=data)
    with pytest.raises(UsageError, match="task classification needs samples with labels"):
        onnxfq.evaluate(folder / "m.onnx")
    (tmp_path / "d.jsonl").write_text("")
    with pytest.raises(DataError, match="no samples"):
        onnxfq.evaluate(classifier(folder / "m.onnx", table(columns=3)), data=data)
