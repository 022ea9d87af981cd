"""Inputs from .npz and .jsonl files: what is read, what is filled in, and every refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from onnxfq.errors import DataError, UsageError
from onnxfq.feeds import Feeds, given_feeds, load_feeds
from onnxfq.feeds.readers import READERS
from onnxfq.input_files import FEED_FILES, RUNNING_TEXT, listed
from onnxfq.session import Session
from onnxfq.signature import Signature, TensorSpec

IDS = TensorSpec("input_ids", "int64", ("batch", "sequence"), vocabulary=16)
MASK = TensorSpec("attention_mask", "int64", ("batch", "sequence"))
PIXELS = TensorSpec("pixels", "float32", ("batch", 3, None))
ENCODER = Signature((IDS, MASK), ())
VISION = Signature((PIXELS,), ())


def load(path: Path, signature: Signature, *, samples: int = 100, seq_len: int = 8) -> Feeds:
    return load_feeds(path, signature, tokenizer=None, samples=samples, seq_len=seq_len)


def write_npz(folder: Path, **arrays: np.ndarray) -> Path:
    path = folder / "data.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def write_lines(folder: Path, *lines: object) -> Path:
    path = folder / "data.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_npz_samples_become_batches_of_one(tmp_path: Path) -> None:
    ids = np.arange(12).reshape(4, 3)
    feeds = load(write_npz(tmp_path, input_ids=ids), ENCODER, samples=3)
    assert (len(feeds), feeds.origin, feeds.is_generated) == (3, "given: data.npz", False)
    for row, feed in zip(ids, feeds, strict=False):
        np.testing.assert_array_equal(feed["input_ids"], [row])
        np.testing.assert_array_equal(feed["attention_mask"], [[1, 1, 1]])


def test_npz_feeds_run_on_a_decoder(tiny_decoder: bytes, tmp_path: Path) -> None:
    session = Session(tiny_decoder)
    for feed in load(write_npz(tmp_path, input_ids=np.arange(10).reshape(2, 5)), session.signature()):
        assert session.run(feed)["logits"].shape == (1, 5, 16)


def test_a_fixed_batch_takes_as_many_rows(tmp_path: Path) -> None:
    spec = TensorSpec("x", "float32", (2, 3))
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)
    feeds = load(write_npz(tmp_path, x=rows), Signature((spec,), ()))
    np.testing.assert_array_equal([feed["x"] for feed in feeds], [rows[:2], rows[2:4]])


def test_one_axis_more_counts_whole_inputs(tmp_path: Path) -> None:
    signature = Signature((TensorSpec("scale", "float32", ()), TensorSpec("x", "float32", ("b", 2)), PIXELS), ())
    arrays = {
        "scale": np.ones(2, np.float32),
        "x": np.ones((2, 1, 2), np.float32),
        "pixels": np.ones((2, 3, 5), np.float32),
    }
    feeds = load(write_npz(tmp_path, **arrays), signature)
    assert [array.shape for array in feeds[1].values()] == [(), (1, 2), (1, 3, 5)]


def test_an_unknown_rank_takes_rows(tmp_path: Path) -> None:
    feeds = load(write_npz(tmp_path, x=np.ones((2, 5), np.float32)), Signature((TensorSpec("x", "float32", None),), ()))
    assert feeds[0]["x"].shape == (1, 5)


def test_float32_stands_for_bfloat16(tmp_path: Path) -> None:
    spec = TensorSpec("x", "bfloat16", ("n", 2))
    feeds = load(write_npz(tmp_path, x=np.ones((1, 2), np.float32)), Signature((spec,), ()))
    assert feeds[0]["x"].dtype == ml_dtypes.bfloat16


def test_a_folder_is_read_in_order_of_names(tmp_path: Path) -> None:
    for name, value in (("b", 2), ("a", 1), ("c", 3)):
        np.savez(tmp_path / f"{name}.npz", input_ids=np.full((2, value), value))
    feeds = load(tmp_path, ENCODER, samples=5)
    assert [feed["input_ids"].tolist() for feed in feeds] == [[[1]], [[1]], [[2, 2]], [[2, 2]], [[3, 3, 3]]]
    assert feeds.origin == f"given: {tmp_path.name}"


def test_jsonl_takes_ids_and_inputs_by_name(tmp_path: Path) -> None:
    lines = ({"input_ids": [1, 2]}, "", {"input_ids": [[3]]}, {"input_ids": [4, 5], "attention_mask": [[1, 0]]})
    feeds = load(write_lines(tmp_path, *lines), ENCODER)
    assert [feed["input_ids"].tolist() for feed in feeds] == [[[1, 2]], [[3]], [[4, 5]]]
    assert [feed["attention_mask"].tolist() for feed in feeds] == [[[1, 1]], [[1]], [[1, 0]]]


def test_jsonl_ids_that_stand_alone_are_cut(tmp_path: Path) -> None:
    line = {"input_ids": list(range(10))}
    assert load(write_lines(tmp_path, line), ENCODER, seq_len=4)[0]["input_ids"].tolist() == [[0, 1, 2, 3]]
    whole = {**line, "attention_mask": [1] * 10}
    assert load(write_lines(tmp_path, whole), ENCODER, seq_len=4)[0]["input_ids"].shape == (1, 10)


def test_jsonl_stops_at_the_samples_asked_for(tmp_path: Path) -> None:
    path = write_lines(tmp_path, {"input_ids": [1]}, "not JSON")
    assert len(load(path, ENCODER, samples=1)) == 1


@pytest.mark.parametrize(
    ("dtype", "value", "wanted"),
    [
        ("float32", [[1, 2.5]], [[1.0, 2.5]]),
        ("float16", [1, 2], [[1.0, 2.0]]),
        ("bool", [True, False], [[True, False]]),
        ("int32", [1, 2], [[1, 2]]),
        ("string", ["a", "bc"], [["a", "bc"]]),
        ("bfloat16", [1.5, 2], [[1.5, 2.0]]),
    ],
)
def test_jsonl_values_take_the_input_s_type(dtype: str, value: list[Any], wanted: list[Any], tmp_path: Path) -> None:
    signature = Signature((TensorSpec("x", dtype, ("n", 2)),), ())
    assert load(write_lines(tmp_path, {"x": value}), signature)[0]["x"].tolist() == wanted


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((2, 4, 5), np.float32), r"pixels has shape \[1, 4, 5\], wanted \[batch, 3, \?\]\."),
        (
            np.full((2, 3, 5), 1e300),
            r"sample 1 of data\.npz\): pixels is float64, wanted float32 \(some values do not fit",
        ),
        (np.ones((2, 3, 0), np.float32), r"pixels is empty"),
        (np.full((2, 3, 1), np.nan, np.float32), r"pixels holds NaN or infinity"),
        (np.full((2, 3, 1), -np.inf, np.float32), r"pixels holds NaN or infinity"),
        (np.ones((4, 5), np.float32), r"in data\.npz\): pixels has shape \[4, 5\], wanted \[batch, 3, \?\]\."),
        (np.array(1, np.float32), r"pixels has shape \[\], wanted \[batch, 3, \?\]\."),
        (
            np.ones((0, 3, 5), np.float32),
            r"There are no samples in .*data\.npz\. Give a file that holds at least one\.",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(array: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load(write_npz(tmp_path, pixels=array), VISION)


def test_all_problems_of_a_sample_come_at_once(tmp_path: Path) -> None:
    path = write_npz(tmp_path, input_ids=np.array([[3, 99]]), attention_mask=np.full((1, 2), 1e30))
    ids = r"input_ids holds ids from 3 to 99, wanted 0 to 15 \(is the tokenizer .*\)"
    message = ids + "; attention_mask is float64, wanted int64"
    with pytest.raises(DataError, match=message):
        load(path, ENCODER)


def test_an_empty_cache_may_be_given(tmp_path: Path) -> None:
    cache = TensorSpec("past_key_values.0.key", "float32", ("batch", 2, "past", 4))
    arrays: dict[str, np.ndarray] = {"input_ids": np.ones((1, 3), np.int64)}
    arrays[cache.name] = np.zeros((1, 2, 0, 4), np.float32)
    assert load(write_npz(tmp_path, **arrays), Signature((IDS, cache), ()))[0][cache.name].shape == (1, 2, 0, 4)


def test_negative_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds ids from -1 to 3, wanted 0 to 15"):
        load(write_npz(tmp_path, input_ids=np.array([[3, -1]])), ENCODER)


def test_unknown_names_are_listed_beside_the_model_s(tmp_path: Path) -> None:
    message = r"no such inputs \(in {}; got tokens, types\)\. Its inputs: input_ids, attention_mask\."
    with pytest.raises(DataError, match=message.format(r"data\.npz")):
        load(write_npz(tmp_path, tokens=np.ones((1, 2)), types=np.ones((1, 2))), ENCODER)
    with pytest.raises(DataError, match=message.format(r"line 1 of data\.jsonl")):
        load(write_lines(tmp_path, {"tokens": [1], "types": [2]}), ENCODER)


def test_different_numbers_of_samples_are_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path, input_ids=np.ones((2, 3), np.int64), attention_mask=np.ones((1, 3), np.int64))
    with pytest.raises(DataError, match=r"different numbers of samples \(got input_ids: 2, attention_mask: 1\)"):
        load(path, ENCODER)


def test_missing_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"do not follow from the others: input_ids \(got attention_mask\)"):
        load(write_npz(tmp_path, attention_mask=np.ones((1, 3), np.int64)), ENCODER)


def test_an_npz_without_arrays_has_no_samples(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There are no samples"):
        load(write_npz(tmp_path), ENCODER)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut off"])
def test_a_broken_npz_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data\.npz cannot be read as arrays: .*Write it with numpy\.savez"):
        load(path, ENCODER)


def test_an_npy_under_another_name_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(2))
    (tmp_path / "a.npy").rename(tmp_path / "data.npz")
    with pytest.raises(DataError, match="cannot be read as arrays"):
        load(tmp_path / "data.npz", ENCODER)


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read as arrays: .*allow_pickle=False"):
        load(write_npz(tmp_path, input_ids=np.array([{"a": 1}], object)), ENCODER)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"Expected JSON \(in line 2 of data\.jsonl\): .*Write one JSON object a line\."),
        ("[1, 2]", r"Expected a JSON object \(in line 2 of data\.jsonl; got list\)"),
        ({"text": 5}, r'"text" must be a string or a list of strings \(in line 2 of data\.jsonl; got int\)\.'),
        ({"text": ["a", 5]}, r"\(in line 2 of data\.jsonl; got a list of int and str\)"),
        (["a", 5], r"Expected a JSON object \(in line 2 of data\.jsonl; got list\)"),
        (
            {"text": ["a", "b"], "text_pair": "c"},
            r'"text_pair" is one string beside one string \(in line 2 .*got "text": a list of str, "text_pair": str\)',
        ),
        (
            {"sentence1": "a", "sentence2": "b", "score": 3},
            r'no such inputs \(in line 2 .*got sentence1, sentence2, score\)\..*"text": \["one", "other"\]} are '
            r'encoded apart, {"text": "one", "text_pair": "other"} together\.',
        ),
        ({"input_ids": "1 2"}, r'"input_ids" must be a list of token ids \(in line 2 of data\.jsonl\)'),
        ({"input_ids": [1, True]}, '"input_ids" must be a list of token ids'),
        ({"input_ids": [[1], [2]]}, '"input_ids" must be a list of token ids'),
        ({"input_ids": [2**31]}, '"input_ids" must be a list of token ids'),
        (
            '{"input_ids": [1, 2, NaN]}',
            r"token ids \(in line 2 of data\.jsonl; got NaN at index 2\), .*must be whole numbers from 0 up\.",
        ),
        ({"input_ids": [1, None]}, r"\(in line 2 of data\.jsonl; got null at index 1\)"),
        (
            '{"input_ids": [1, NaN], "attention_mask": [1, 1]}',
            r"in line 2 of data\.jsonl\): input_ids holds NaN at index \[0, 1\], and ids must be whole numbers",
        ),
        (
            {"input_ids": [[1, None]], "attention_mask": [[1, 1]]},
            r"input_ids is not an array \(in line 2 .*; got null at index \[0, 1\]\)\..*, ids as whole numbers\.",
        ),
        ({"input_ids": None, "attention_mask": [1]}, r"\(in line 2 of data\.jsonl; got null\)\."),
        ({"input_ids": []}, "input_ids is empty"),
        ({"input_ids": [[[1]]], "attention_mask": [1]}, r"input_ids has shape \[1, 1, 1\], wanted \[batch, sequence\]"),
        ({"input_ids": [1.5], "attention_mask": [1]}, r"input_ids holds 1\.5 at index \[0, 0\], and ids must be whole"),
        (
            {"input_ids": [[1], [2, 3]], "attention_mask": [1]},
            r"input_ids is not an array \(in line 2 .*lists of equal",
        ),
        ({"input_ids": [], "attention_mask": [1]}, "input_ids is empty"),
        ({"input_ids": {"a": 1}, "attention_mask": [1]}, r"input_ids is not an array \(in line 2"),
        ({"input_ids": [2**70], "attention_mask": [1]}, "input_ids is not an array"),
    ],
)
def test_lines_that_do_not_fit_are_refused(line: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load(write_lines(tmp_path, {"input_ids": [1]}, line), ENCODER)


def test_json_s_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="x holds NaN or infinity"):
        load(write_lines(tmp_path, '{"x": [NaN, 1]}'), Signature((TensorSpec("x", "float32", ("n", 2)),), ()))


def test_integers_beyond_the_input_s_type_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x is int64, wanted int32 \(some values do not fit"):
        load(write_lines(tmp_path, {"x": [2**40, 1]}), Signature((TensorSpec("x", "int32", ("n", 2)),), ()))


def test_other_kinds_of_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1")
    with pytest.raises(
        DataError, match=r"data\.csv is of no known kind \(got '\.csv'\)\. Use \.npz, \.npy, \.jsonl or \.txt\."
    ):
        load(tmp_path / "data.csv", ENCODER)
    (tmp_path / "data").write_text("1")
    with pytest.raises(DataError, match="got 'no suffix'"):
        load(tmp_path / "data", ENCODER)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no file .*none\.npz\. Give a \.npz, \.npy, \.jsonl or \.txt file"):
        load(tmp_path / "none.npz", ENCODER)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There are no \.npz or \.npy files in the folder"):
        load(tmp_path, ENCODER)


@pytest.mark.parametrize("suffix", ["jsonl", "txt"])
def test_bytes_that_are_no_utf8_are_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"data.{suffix}"
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match=r"cannot be read as UTF-8 text: .*Give a readable text file\."):
        load(path, ENCODER)


def test_an_empty_jsonl_has_no_samples(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There are no samples"):
        load(write_lines(tmp_path, "", " "), ENCODER)


@pytest.mark.parametrize(("samples", "seq_len", "setting"), [(0, 8, "samples"), (1, -1, "seq_len")])
def test_numbers_below_one_are_refused(samples: int, seq_len: int, setting: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"^`{setting}` must be 1 or more \(got {min(samples, seq_len)}\)\."):
        load(tmp_path, ENCODER, samples=samples, seq_len=seq_len)


def test_there_is_a_reader_for_every_kind_of_file_that_help_and_messages_name() -> None:
    assert list(READERS) == list(FEED_FILES)
    assert RUNNING_TEXT in READERS
    assert listed(FEED_FILES) == ".npz, .npy, .jsonl or .txt"


# A model's input called "text"

TEXT = TensorSpec("text", "int64", ("batch", 3), vocabulary=16)
CLIP = Signature((TEXT, PIXELS), ())


@pytest.mark.parametrize("ids", [[1, 2, 3], [[1, 2, 3]]])
def test_ids_under_text_are_the_input_of_that_name(ids: list[Any], tmp_path: Path) -> None:
    path = write_lines(tmp_path, {"text": ids, "pixels": [[1, 2], [3, 4], [5, 6]]})
    (feed,) = load(path, CLIP)
    assert feed["text"].tolist() == [[1, 2, 3]]
    assert feed["text"].dtype == np.int64
    assert feed["pixels"].shape == (1, 3, 2)


def test_a_string_under_text_needs_the_tokenizer_whatever_the_input_is_called(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Text needs the model's tokenizer\. Name its folder with `tokenizer=DIR`"):
        load(write_lines(tmp_path, {"text": "a photo", "pixels": [[1], [2], [3]]}), CLIP)


def test_a_string_under_text_is_the_input_of_that_name_where_it_takes_strings(tmp_path: Path) -> None:
    words = Signature((TensorSpec("text", "string", ("batch",)),), ())
    assert load(write_lines(tmp_path, {"text": ["a photo"]}, {"text": "b"}), words)[0]["text"].tolist() == ["a photo"]


# From Python


def test_samples_from_python_are_completed() -> None:
    given: list[Any] = [{"input_ids": [[1, 2]]}, {"input_ids": np.array([[3]])}, {}]
    feeds = given_feeds(iter(given), ENCODER, samples=2)
    assert (len(feeds), feeds.origin, feeds.is_generated) == (2, "given: from Python", False)
    assert [feed["input_ids"].tolist() for feed in feeds] == [[[1, 2]], [[3]]]
    assert [feed["attention_mask"].tolist() for feed in feeds] == [[[1, 1]], [[1]]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], r"There are no samples in `calib`\. Give at least one, and a list"),
        (
            [{"input_ids": np.array([[1]])}, {"ids": np.array([[1]])}],
            r"no such inputs \(in sample 2 of those given; got",
        ),
        ([{"input_ids": np.array([[16]])}], r"in sample 1 of those given\): input_ids holds ids from 16"),
        (
            [([[1]], 0)],
            r"Expected a dict of arrays \(in sample 1 of those given; got tuple\)\. Give one dict",
        ),
    ],
)
def test_samples_from_python_that_do_not_fit_are_refused(given: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        given_feeds(given, ENCODER, samples=9)
