"""Text against a tokenizer of eight words, whose own padding and truncation must not count."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from onnxfq.errors import DataError, UsageError
from onnxfq.feeds import Feeds, given_feeds, load_feeds, load_tokenizer, longest
from onnxfq.signature import Dimension, Signature, TensorSpec

WORDS = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d"])}
CLS, SEP, A, B, C, D = 2, 3, 4, 5, 6, 7


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with a tokenizer that pads every text to 128 tokens and cuts it to 3."""
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $0 [SEP]", None, [("[CLS]", CLS), ("[SEP]", SEP)])
    tokenizer.enable_padding(length=128)
    tokenizer.enable_truncation(3)
    path = tmp_path / "model"
    path.mkdir()
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def ids(
    name: str = "input_ids", shape: tuple[Dimension, ...] = ("batch", "sequence"), dtype: str = "int64"
) -> TensorSpec:
    return TensorSpec(name, dtype, shape, vocabulary=8)


ENCODER = Signature((ids(), TensorSpec("attention_mask", "int64", ("batch", "sequence"))), ())


def load(
    folder: Path,
    content: str,
    *,
    suffix: str = "txt",
    signature: Signature = ENCODER,
    samples: int = 9,
    seq_len: int = 9,
) -> Feeds:
    path = folder.parent / f"data.{suffix}"
    path.write_text(content, encoding="utf-8")
    return load_feeds(path, signature, tokenizer=folder, samples=samples, seq_len=seq_len)


def rows(feeds: Feeds, name: str = "input_ids") -> list[list[int]]:
    return [feed[name][0].tolist() for feed in feeds]


def lines(*texts: str) -> str:
    return "\n".join(json.dumps({"text": text, "label": 0}) for text in texts)


def test_text_beside_other_inputs_and_an_input_of_that_name(folder: Path) -> None:
    clip = Signature((ids("text"), TensorSpec("pixels", "float32", ("batch", 2))), ())
    sample = json.dumps({"text": "a b", "pixels": [0.5, 1], "label": "cat"})
    (feed,) = load(folder, sample, suffix="jsonl", signature=clip)
    assert feed["text"].tolist() == [[CLS, A, B, SEP]]
    assert feed["pixels"].tolist() == [[0.5, 1]]


def test_lines_are_encoded_with_special_tokens_and_neither_padded_nor_cut(folder: Path) -> None:
    feeds = load(folder, lines("a b", "", " \n", "c a b d a"), suffix="jsonl")
    assert rows(feeds) == [[CLS, A, B, SEP], [CLS, C, A, B, D, A, SEP]]
    assert rows(feeds, "attention_mask") == [[1] * 4, [1] * 7]


def test_a_list_of_texts_is_as_many_samples(folder: Path) -> None:
    content = '{"text": ["a b", " ", "c"], "score": 1}\n["d", "a"]\n{"text": "b"}'
    assert rows(load(folder, content, suffix="jsonl")) == [[CLS, *ids, SEP] for ids in ([A, B], [C], [D], [A], [B])]
    assert rows(load(folder, content, suffix="jsonl", samples=3)) == [[CLS, *ids, SEP] for ids in ([A, B], [C], [D])]


def test_where_each_of_several_texts_stands_is_told(folder: Path) -> None:
    small = Signature((TensorSpec("input_ids", "int64", ("batch", "sequence"), vocabulary=6),), ())
    with pytest.raises(DataError, match=r"in text 2 in line 1 of data\.jsonl"):
        load(folder, '{"text": ["a", "d"]}', suffix="jsonl", signature=small)


def test_a_pair_of_texts_is_one_sample(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = [("[CLS]", CLS), ("[SEP]", SEP)]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $0 [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special)
    tokenizer.save(str(folder / "tokenizer.json"))
    segments = TensorSpec("token_type_ids", "int64", ("batch", "sequence"))
    signature = Signature((*ENCODER.inputs, segments), ())
    content = (
        '{"text": "a b", "text_pair": "c", "label": 1}\n{"text": "d", "text_pair": " "}\n{"text": "", "text_pair": "a"}'
    )
    feeds = load(folder, content, suffix="jsonl", signature=signature)
    assert rows(feeds) == [[CLS, A, B, SEP, C, SEP], [CLS, D, SEP]]
    assert rows(feeds, "token_type_ids") == [[0, 0, 0, 0, 1, 1], [0, 0, 0]]


def test_long_lines_are_cut_before_the_last_special_token(folder: Path) -> None:
    assert rows(load(folder, lines("a b c d"), suffix="jsonl", seq_len=4)) == [[CLS, A, B, SEP]]


def settings(folder: Path, most: int) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": most}))


@pytest.mark.parametrize(
    ("texts", "seq_len", "most", "told"),
    [
        (("a b c d", "a", "a b c d a b"), 4, None, "2 of 3 texts in data.jsonl are longer than 4 tokens and were cut "
         "there; `seq_len=8` would keep all."),
        (("a b c d", "a"), 4, 7, "1 of 2 texts in data.jsonl is longer than 4 tokens and was cut there; `seq_len=7` "
         "would keep all."),
        (("a b c d",), 5, 5, "1 of 1 text in data.jsonl is longer than 5 tokens and was cut there; the model takes no "
         "more."),
        (("a b c d a b c",), 5, 6, "1 of 1 text in data.jsonl is longer than 5 tokens and was cut there; `seq_len=6`, "
         "the most that the model takes, would keep more."),
        (("a b", "a b"), 4, None, None),
    ],
)  # fmt: skip
def test_texts_that_were_cut_are_noted(
    folder: Path, texts: tuple[str, ...], seq_len: int, most: int | None, told: str | None
) -> None:
    if most is not None:
        settings(folder, most)
    assert load(folder, lines(*texts), suffix="jsonl", seq_len=seq_len).notes == (() if told is None else (told,))


def test_pairs_ids_and_texts_from_python_that_were_cut_are_noted(folder: Path) -> None:
    pair = '{"text": "a b", "text_pair": "c d"}\n{"input_ids": [4, 5, 6, 7, 4, 5, 6, 7, 4]}'
    (note,) = load(folder, pair, suffix="jsonl", seq_len=3).notes
    assert (
        note == "2 of 2 texts in data.jsonl are longer than 3 tokens and were cut there; `seq_len=16` would keep all."
    )
    feeds = given_feeds(["a b c", "", "a"], ENCODER, samples=9, tokenizer=folder, seq_len=4)
    assert feeds.notes == (
        "1 empty text in `calib` was passed over.",
        "1 of 2 texts in `calib` is longer than 4 tokens and was cut there; `seq_len=8` would keep all.",
    )


def test_only_texts_that_were_read_count(folder: Path) -> None:
    content = lines("a", "a b c d", "", "a b c d")
    assert load(folder, content, suffix="jsonl", seq_len=4, samples=1).notes == ()
    (note,) = load(folder, content, suffix="jsonl", seq_len=4, samples=2).notes
    assert note.startswith("1 of 2 texts ")


@pytest.mark.parametrize(
    ("words", "samples", "told"),
    [
        (20, 9, None),  # windows of four: nothing is left
        (41, 99, None),  # one token of so many
        (7, 9, "The last 3 of 7 tokens of data.txt do not fill a window of 4 and were left out; a smaller `seq_len` "
         "leaves out fewer."),
        (7, 1, "The last 3 of 7 tokens of data.txt do not fill"),
        (11, 1, None),  # no more was asked for
        (3, 9, None),  # a window of its own
    ],
)  # fmt: skip
def test_of_running_text_a_large_rest_is_noted(folder: Path, words: int, samples: int, told: str | None) -> None:
    text = " ".join(["a"] * (words - 2))  # and two special tokens
    notes = load(folder, text, seq_len=4, samples=samples).notes
    assert len(notes) == (told is not None)
    assert all(note.startswith(str(told)) for note in notes)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"text": ""}\n{"text": []}\n{"text": ["a", " "]}', "3 empty texts in data.jsonl were passed over."),
        ('[]\n{"text": "a"}', "1 empty text in data.jsonl was passed over."),
        ('\n{"text": "a"}\n \n', None),  # blank lines are no texts
    ],
)
def test_empty_texts_are_passed_over_and_noted(folder: Path, content: str, told: str | None) -> None:
    feeds = load(folder, content, suffix="jsonl")
    assert (rows(feeds), feeds.notes) == ([[CLS, A, SEP]], () if told is None else (told,))


def test_where_all_texts_are_empty_that_is_why_there_are_no_samples(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no samples in .*data\.jsonl: all of its 3 texts are empty\. Give texts that"):
        load(folder, '{"text": ""}\n{"text": []}\n[" "]', suffix="jsonl")
    with pytest.raises(DataError, match=r"There are no samples in `eval_data`: its only text is empty\."):
        given_feeds([{"text": []}], ENCODER, samples=9, tokenizer=folder, what="eval_data")


def test_a_length_below_the_special_tokens_still_holds(folder: Path) -> None:
    assert rows(load(folder, lines("a b c d"), suffix="jsonl", seq_len=1)) == [[CLS]]


def test_running_text_is_cut_into_consecutive_full_windows(folder: Path) -> None:
    feeds = load(folder, "a b\nc d a", seq_len=3)
    assert rows(feeds) == [[CLS, A, B], [C, D, A]]
    assert rows(load(folder, "a b c d a", seq_len=3, samples=1)) == [[CLS, A, B]]
    assert feeds.origin == "given: data.txt"


def test_text_shorter_than_a_window_is_one_sample(folder: Path) -> None:
    assert rows(load(folder, "a")) == [[CLS, A, SEP]]


def test_a_byte_order_mark_is_no_text(folder: Path) -> None:
    assert rows(load(folder, "\ufeffa")) == [[CLS, A, SEP]]


def test_blank_text_has_no_samples(folder: Path) -> None:
    with pytest.raises(DataError, match=r"There are no samples in .*data\.txt"):
        load(folder, " \n")


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"tokenizer_config.json": {"model_max_length": 3}}, 3),
        ({"config.json": {"max_position_embeddings": 4}}, 4),
        ({"tokenizer_config.json": {"model_max_length": 5}, "config.json": {"max_position_embeddings": 4}}, 4),
        (
            {"tokenizer_config.json": {"model_max_length": int(1e30)}, "config.json": {"max_position_embeddings": -1}},
            None,
        ),
        ({"tokenizer_config.json": {"model_max_length": 1e30}, "config.json": {"max_position_embeddings": "x"}}, None),
        ({"config.json": []}, None),
    ],
)
def test_the_model_s_own_limit_holds_where_it_makes_sense(
    settings: dict[str, object], wanted: int | None, folder: Path
) -> None:
    for name, content in settings.items():
        (folder / name).write_text(json.dumps(content))
    assert longest(folder) == longest(folder / "tokenizer.json") == wanted
    assert rows(load(folder, "a b c d a b c"))[0] == [CLS, A, B, C, D, A, B, C, SEP][: wanted or 9]


def test_no_folder_knows_no_limit() -> None:
    assert longest(None) is None


def test_a_fixed_length_is_filled_up_and_masked(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"pad_token": {"content": "[UNK]"}}')
    fixed = Signature((ids(shape=(1, 6)), TensorSpec("attention_mask", "int64", (1, 6))), ())
    feeds = load(folder, lines("a b", "a b c d a"), suffix="jsonl", signature=fixed)
    assert rows(feeds) == [[CLS, A, B, SEP, 1, 1], [CLS, A, B, C, D, SEP]]
    assert rows(feeds, "attention_mask") == [[1, 1, 1, 1, 0, 0], [1] * 6]


def test_padding_without_a_token_is_zero(folder: Path) -> None:
    feeds = load(folder, "a", signature=Signature((ids(shape=(1, 5), dtype="int32"),), ()))
    np.testing.assert_array_equal(feeds[0]["input_ids"], np.array([[CLS, A, SEP, 0, 0]], np.int32), strict=True)


def test_a_decoder_beside_an_encoder_reads_the_same_text(folder: Path) -> None:
    both = Signature((ids(), ids("decoder_input_ids", ("batch", "decoder_sequence"))), ())
    feed = load(folder, "a", signature=both)[0]
    assert feed["decoder_input_ids"].tolist() == feed["input_ids"].tolist() == [[CLS, A, SEP]]


@pytest.mark.parametrize("shape", [("sequence",), ("batch", "sequence"), None])
def test_the_only_input_of_ids_takes_the_text(shape: tuple[Dimension, ...] | None, folder: Path) -> None:
    spec = TensorSpec("words", "int64", shape, vocabulary=8)
    feed = load(folder, "a", signature=Signature((spec,), ()))[0]
    assert feed["words"].shape == ((3,) if shape == ("sequence",) else (1, 3))


def test_a_model_without_ids_takes_no_text(folder: Path) -> None:
    pixels = Signature((TensorSpec("pixels", "float32", ("n", 3)),), ())
    with pytest.raises(DataError, match=r"no input for text \(got inputs pixels; wanted input_ids, or .*\.npz file\."):
        load(folder, "a", signature=pixels)


def test_ids_beyond_the_vocabulary_blame_the_tokenizer(folder: Path) -> None:
    small = Signature((TensorSpec("input_ids", "int64", ("batch", "sequence"), vocabulary=5),), ())
    with pytest.raises(
        DataError, match=r"in window 1 of data\.txt\): .*wanted 0 to 4 \(is the tokenizer that of this model\?\)"
    ):
        load(folder, "a b", signature=small)


def test_text_without_a_tokenizer_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("a")
    with pytest.raises(UsageError, match=r"Text needs the model's tokenizer\. Name its folder with `tokenizer=DIR`\."):
        load_feeds(tmp_path / "data.txt", ENCODER, tokenizer=None, samples=1, seq_len=8)


def test_a_missing_package_is_named_with_its_remedy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UsageError, match=r"Install it with `pip install tokenizers`\."):
        load_tokenizer(folder)


def test_a_folder_without_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no .*tokenizer\.json\. Name the folder"):
        load_tokenizer(tmp_path)


def test_a_broken_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(
        DataError, match=r"tokenizer\.json cannot be read as a tokenizer: .*model's own tokenizer\.json"
    ):
        load_tokenizer(folder)


def test_a_broken_configuration_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config\.json cannot be read as JSON: .*Repair or remove it\."):
        longest(folder)
