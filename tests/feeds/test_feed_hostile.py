"""Data, tokenizers and configurations made to crash a reader, keep it busy or fill its memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from onnxfq.errors import DataError
from onnxfq.feeds import Feeds, generate, load_feeds, longest
from onnxfq.feeds.shapes import MOST_ELEMENTS
from onnxfq.signature import Dimension, Signature, TensorSpec

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "models" / "opt-4m" / "tokenizer.json"
IDS = TensorSpec("input_ids", "int64", ("batch", "sequence"))
TEXT = Signature((IDS,), ())


def load(path: Path, signature: Signature = TEXT, tokenizer: Path | None = None) -> Feeds:
    return load_feeds(path, signature, tokenizer=tokenizer, samples=4, seq_len=8)


def lines(folder: Path, *given: str) -> Path:
    path = folder / "data.jsonl"
    path.write_text("\n".join(given))
    return path


@pytest.mark.parametrize(
    "line",
    ["[" * 100_000, '{"x":' * 100_000, '{"x": ' + "1" * 5000 + "}", '{"x": ' + "[" * 900 + "]" * 900 + "}"],
    ids=["lists", "objects", "digits", "deep"],
)
def test_json_that_is_too_much(line: str, tmp_path: Path) -> None:
    signature = Signature((TensorSpec("x", "float32", ("n",)),), ())
    with pytest.raises(DataError, match=r"in line 1 of data\.jsonl"):
        load(lines(tmp_path, line), signature)


@pytest.mark.parametrize("value", [[1, "a"], ["a", None], [2**70], [[1], [1, 2]], [{}], None, [1.5, [2]]])
def test_values_that_are_no_array(value: object, tmp_path: Path) -> None:
    signature = Signature((TensorSpec("x", "float32", ("n",)),), ())
    with pytest.raises(DataError, match=r"x is not an array \(in line 1"):
        load(lines(tmp_path, json.dumps({"x": value})), signature)


def test_one_long_text_among_many(tmp_path: Path) -> None:
    """An array of numpy has room for the longest text everywhere: 20 kB would have become 400 MB."""
    signature = Signature((TensorSpec("x", "string", ("n",)),), ())
    path = lines(tmp_path, json.dumps({"x": ["a" * 10_000, *["b"] * 10_000]}))
    tracemalloc.start()
    with pytest.raises(DataError, match="x is not an array"):
        load(path, signature)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000
    assert load(lines(tmp_path, '{"x": ["a", "bc"]}'), signature)[0]["x"].tolist() == ["a", "bc"]


@pytest.mark.parametrize("name", ["data.jsonl", "data.txt"])
def test_text_that_is_no_unicode(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="pip install tokenizers")
    (tmp_path / name).write_bytes(b'{"text": "a \\ud800 b"}' if name == "data.jsonl" else b"a \xed\xa0\x80 b")
    with pytest.raises(DataError, match=r"cannot encode a text.*UTF-8|cannot be read as UTF-8"):
        load(tmp_path / name, tokenizer=TOKENIZER)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("value", "limit"),
    [("NaN", None), ("Infinity", None), ("-1", None), ("true", None), ("1e400", None), ("0.5", None), ("7", 7)],
)
def test_limits_that_are_no_numbers_of_tokens(name: str, value: str, limit: int | None, tmp_path: Path) -> None:
    key = "max_position_embeddings" if name == "config.json" else "model_max_length"
    (tmp_path / name).write_text(f'{{"{key}": {value}}}')
    assert longest(tmp_path) == limit


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, "{", "\x00"])
def test_configurations_that_are_too_much(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(DataError, match=r"config\.json cannot be read as JSON"):
        longest(tmp_path)


@pytest.mark.parametrize("target", ["/dev/zero", "config.json", "."])
def test_configurations_that_are_no_files(target: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to(target)
    assert longest(tmp_path) is None


def floats(*shape: Dimension) -> Signature:
    return Signature((TensorSpec("x", "float32", shape),), ())


@pytest.mark.parametrize(
    "shape",
    [
        (1 << 40,),
        (-3, 4),
        ("99999*99999*99999",),
        ("1-9",),
        (MOST_ELEMENTS, 2),
        (*("n",) * 33,),
        ("9**9**9*9", 1 << 62),
    ],
)
def test_nothing_gigantic_is_made_up(shape: tuple[Dimension, ...]) -> None:
    with pytest.raises(DataError, match="Input x would have an impossible shape"):
        generate(floats(*shape), samples=1, seq_len=4, seed=0)


def test_sizes_that_suit_a_model_are_not_taken_where_its_inputs_would_fill_the_memory() -> None:
    spec = TensorSpec("x", "float32", ("b", 3, "h", "w"), fitting=(None, None, 7919, 7919))
    assert generate(Signature((spec,), ()), samples=1, seq_len=4, seed=0)[0]["x"].shape == (1, 3, 224, 224)


@pytest.mark.parametrize(
    "name", ["+".join("a" * 3000), "(" * 190, "-" * 190 + "1", "'\\d'", "1 is 1", "1if 1else 2", "\0"]
)
def test_names_of_dimensions_that_are_no_expressions(name: str) -> None:
    assert generate(floats("batch", 2, name, 2, 2), samples=1, seq_len=4, seed=0)[0]["x"].shape == (1, 2, 4, 2, 2)


def test_a_large_file_of_samples_is_read_only_as_far_as_wanted(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "data.npz", x=np.zeros((20_000, 1000), np.float32))
    tracemalloc.start()
    assert len(load(tmp_path / "data.npz", floats("n", 1000))) == 4
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000
