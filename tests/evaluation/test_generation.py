"""Encoder–decoders in each layout of files against greedy decoding in numpy; BLEU and chrF against sacrebleu."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import onnxfq
from onnxfq import DataError, ModelError, UsageError
from onnxfq.evaluation.encoder_decoder import EncoderDecoder, GenerationConfig
from onnxfq.evaluation.tasks.generation import score
from support.evaluated import VOCABULARY, Seq2Seq, encode, words, write_lines, write_tokenizer

LAYOUTS = ["whole", "two", "merged"]
SOURCES = [words(3 + i % 5, i) for i in range(8)]


def translator(folder: Path) -> EncoderDecoder:
    return EncoderDecoder(folder, folder, seq_len=64, provider="cpu")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_layout_decodes_greedily(tmp_path: Path, layout: str, seed: int) -> None:
    model = Seq2Seq.random(seed)
    found = translator(model.write(tmp_path / "m", layout))
    wanted = [model.tokens(encode(source)) for source in SOURCES]
    assert [found.tokens(source, "a test") for source in SOURCES] == wanted
    assert len({tuple(tokens) for tokens in wanted}) > 3


def test_some_texts_end_and_some_are_cut() -> None:
    lengths = {len(Seq2Seq.random(seed).tokens(encode(source))) for seed in (0, 1) for source in SOURCES}
    assert 8 in lengths
    assert min(lengths) < 8


@pytest.mark.parametrize("layout", LAYOUTS)
def test_figures_are_those_of_sacrebleu(tmp_path: Path, layout: str) -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="pip install 'onnxfq[evaluate]'")
    new, old = Seq2Seq.random(0, noise=0.1), Seq2Seq.random(0)
    folders = [new.write(tmp_path / "new", layout), old.write(tmp_path / "old", "whole")]
    texts = [[_text(model.tokens(encode(source))) for source in SOURCES] for model in (new, old)]
    references = [" ".join([*old.split()[:-1], "w1", "w2"]) for old in texts[1]]
    data = write_lines(
        tmp_path / "d.jsonl", *({"source": a, "target": b} for a, b in zip(SOURCES, references, strict=True))
    )
    found = onnxfq.evaluate(*folders, data=data)
    assert found.task == "generation"
    for name, corpus in (("bleu", sacrebleu.corpus_bleu), ("chrf", sacrebleu.corpus_chrf)):
        assert found[name].value == corpus(texts[0], [references]).score
        assert found[name].baseline == corpus(texts[1], [references]).score
        assert "sacrebleu" in (found[name].note or "")
    assert found["bleu"].baseline > 10  # type: ignore[operator]
    same = np.mean([a == b for a, b in zip(*texts, strict=True)])
    assert found["same_text"].value == same
    assert 0 < same < 1


def _text(tokens: list[int]) -> str:
    names = {index: word for word, index in VOCABULARY.items()}
    return " ".join(names[token] for token in tokens if token != 0)


def test_several_references_count() -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="pip install 'onnxfq[evaluate]'")
    texts = ["the cat sat on the mat", "it was raining all day long"]
    references = [["a cat sat on a mat", "the cat sat there on the mat"], ["it was raining all day"]]
    streams = [["a cat sat on a mat", "it was raining all day"], ["the cat sat there on the mat", None]]
    bleu, chrf = score(texts, references)
    assert bleu.value == sacrebleu.corpus_bleu(texts, streams).score
    assert chrf.value == sacrebleu.corpus_chrf(texts, streams).score
    alone, _ = score(texts, [several[:1] for several in references])
    assert bleu.value > alone.value  # type: ignore[operator]


def test_the_configuration_rules(tmp_path: Path) -> None:
    model = Seq2Seq.random(1)
    folder = model.write(tmp_path / "m", "two")
    plain = translator(folder).tokens(SOURCES[0], "a test")
    banned = plain[0]
    settings = {"decoder_start_token_id": 0, "eos_token_id": [3, 4], "max_length": 5, "bad_words_ids": [[banned]]}
    (folder / "generation_config.json").write_text(json.dumps({**settings, "forced_bos_token_id": 7}))
    rules = GenerationConfig.read(folder)
    assert rules == GenerationConfig(start=0, ends=frozenset({3, 4}), first=7, banned=(banned,), longest=4)
    changed = translator(folder).tokens(SOURCES[0], "a test")
    assert changed[0] == 7
    assert banned not in changed
    assert len(changed) <= 4


def test_a_configuration_that_does_not_say_how_to_begin_is_refused(tmp_path: Path) -> None:
    folder = Seq2Seq.random().write(tmp_path / "m", "two")
    write_tokenizer(folder)
    with pytest.raises(ModelError, match=r"does not say how a text begins and ends.*Copy config\.json"):
        translator(folder)


def test_scores_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    model = Seq2Seq.random()
    model.written[:] = np.nan
    folder = model.write(tmp_path / "m", "merged")
    with pytest.raises(ModelError, match=r"are NaN or infinite \(in line 1 of d.jsonl, token 1\)"):
        onnxfq.evaluate(folder, data=write_lines(tmp_path / "d.jsonl", {"source": "w1", "target": "w2"}))


def test_other_data_and_layouts_are_refused(tmp_path: Path) -> None:
    folder = Seq2Seq.random().write(tmp_path / "m", "two")
    data = write_lines(tmp_path / "d.jsonl", {"source": "w1", "target": "w2"})
    with pytest.raises(UsageError, match="task generation needs texts with their references"):
        onnxfq.evaluate(folder)
    with pytest.raises(ModelError, match=r"is one file\. The task generation needs a folder"):
        onnxfq.evaluate(folder / "decoder_model.onnx", data=data, task="generation")
    with pytest.raises(ModelError, match=r"is one file\. The task generation needs a folder"):
        onnxfq.evaluate(folder, folder / "decoder_model.onnx", data=data)
    with pytest.raises(ModelError, match="holds an encoder and a decoder"):
        onnxfq.evaluate(folder, data=data, task="language")
    with pytest.raises(DataError, match=r'"target" must be text that is not blank \(in line 1 of d.jsonl'):
        onnxfq.evaluate(folder, data=write_lines(data, {"source": "w1", "target": []}))
