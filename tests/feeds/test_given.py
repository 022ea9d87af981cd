"""Data as people have them in Python and in folders: what is taken, and the one message for what is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxfq.errors import DataError, UsageError
from onnxfq.feeds import Feeds, given_feeds, load_feeds
from onnxfq.signature import Signature, TensorSpec

TOKENIZER = Path(__file__).resolve().parents[2] / "models" / "opt-4m"
IDS = TensorSpec("input_ids", "int64", ("batch", "sequence"), vocabulary=16)
MASK = TensorSpec("attention_mask", "int64", ("batch", "sequence"))
PIXELS = TensorSpec("pixels", "float32", ("batch", 3, None))
ENCODER, VISION, PAIR = Signature((IDS, MASK), ()), Signature((PIXELS,), ()), Signature((IDS, PIXELS), ())
GRAPH = Signature(
    (TensorSpec("nodes", "float32", ("num_nodes", 2)), TensorSpec("edges", "int64", (2, "num_edges"))), ()
)
CLOUD = Signature((TensorSpec("points", "float32", ("num_points", 3)),), ())
SOUND = Signature((TensorSpec("audio", "float32", ("batch", "samples")),), ())


def take(given: object, signature: Signature = ENCODER, **settings: Any) -> Feeds:
    return given_feeds(given, signature, samples=9, **settings)


def shapes(feeds: Feeds, name: str) -> list[tuple[int, ...]]:
    return [feed[name].shape for feed in feeds]


class Tensor:
    """What torch gives: neither gradients, nor what is on a device, nor bfloat16 becomes numpy's without a step."""

    def __init__(
        self, values: object, *, grad: bool = False, device: bool = False, dtype: str = "torch.float32"
    ) -> None:
        self.values, self.grad, self.device, self.dtype = np.asarray(values), grad, device, dtype

    def detach(self) -> Tensor:
        return Tensor(self.values, device=self.device, dtype=self.dtype)

    def cpu(self) -> Tensor:
        return Tensor(self.values, grad=self.grad, dtype=self.dtype)

    def float(self) -> Tensor:
        return Tensor(self.values, grad=self.grad, device=self.device)

    def __len__(self) -> int:
        return len(self.values)

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        if self.grad or self.device:
            raise RuntimeError("Can't call numpy() on it")
        if self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.values


class Packed:
    """An array that only DLPack hands over."""

    def __init__(self, values: object) -> None:
        self.values = np.asarray(values)

    def __dlpack__(self, **settings: Any) -> object:
        return self.values.__dlpack__(**settings)

    def __dlpack_device__(self) -> object:
        return self.values.__dlpack_device__()


class Table:
    """What pandas gives."""

    columns = ("input_ids", "label")

    def to_dict(self, how: str) -> list[dict[str, Any]]:
        assert how == "records"
        return [{"input_ids": [1, 2], "label": 0}, {"input_ids": [3], "label": 1}]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


class Dataset:
    """What datasets gives: samples by number, read only once they are asked for."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if index >= 3:
            raise IndexError
        return {"input_ids": list(range(index + 1)), "attention_mask": [1] * (index + 1), "label": index}


@pytest.mark.parametrize(
    ("given", "lengths"),
    [
        ([{"input_ids": [1, 2]}, {"input_ids": [[3]]}], [2, 1]),
        ([{"input_ids": np.array([1, 2], np.int32)}], [2]),
        ([{"input_ids": np.array([1, 2], object)}], [2]),
        ([{"input_ids": [np.array(1), np.array(2)]}], [2]),
        ([{"input_ids": Tensor([[1, 2, 3]])}], [3]),
        ([{"input_ids": [1, 2], "attention_mask": None, "labels": [1], "label": 3}], [2]),
        ([np.array([1, 2]), [1, 2, 3]][:1], [2]),
        ([Tensor([1, 2]), Packed([[1, 2, 3]])], [2, 3]),
        (np.ones((3, 5), np.int64), [5, 5, 5]),
        (Tensor(np.ones((2, 4))), [4, 4]),
        ({"input_ids": np.ones((3, 5)), "attention_mask": np.ones((3, 5)), "labels": np.ones(3)}, [5, 5, 5]),
        ({"input_ids": [[1, 2], [3, 4]]}, [2, 2]),
        ({"input_ids": [[1, 2], [3]], "attention_mask": [[1, 1], [1]], "label": [0, 1]}, [2, 1]),
        ({"input_ids": np.array([np.array([1, 2]), np.array([3])], object)}, [2, 1]),
        (Table(), [2, 1]),
        (Dataset(), [1, 2, 3]),
        (({"input_ids": [1] * n} for n in (1, 4)), [1, 4]),
        (iter([{"input_ids": (1, 2)}]), [2]),
    ],
)
def test_what_holds_arrays_is_taken(given: object, lengths: list[int]) -> None:
    feeds = take(given)
    assert shapes(feeds, "input_ids") == [(1, length) for length in lengths]
    assert {feed["input_ids"].dtype.name for feed in feeds} == {"int64"}
    assert all(feed["attention_mask"].all() for feed in feeds)


@pytest.mark.parametrize("settings", [{"grad": True}, {"device": True}, {"dtype": "torch.bfloat16"}])
def test_tensors_of_any_kind_keep_their_values(settings: dict[str, Any]) -> None:
    values = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    (feed,) = take([{"pixels": Tensor(values, **settings)}], VISION)
    np.testing.assert_array_equal(feed["pixels"], values)


def test_arrays_of_different_shapes_for_the_only_input() -> None:
    assert shapes(take([np.ones((3, 5)), np.ones((3, 7))], VISION), "pixels") == [(1, 3, 5), (1, 3, 7)]
    assert shapes(take([np.ones(5), np.ones((1, 7))], SOUND), "audio") == [(1, 5), (1, 7)]


@pytest.mark.parametrize(
    ("given", "lengths"),
    [
        (["w one two", " ", "w one"], 2),
        ([{"text": "w one two", "label": 1, "title": "t"}, {"text": ""}, {"text": "w"}], 2),
        ({"text": ["w one two", "w"], "label": [0, 1]}, 2),
        ([["w one two", "w"], ("w one", " "), "w"], 4),
        ([{"text": ["w one two", "w"], "label": 1}, {"text": "w", "text_pair": "one"}], 3),
        ({"text": [["w one two", "w"], ["one"]], "label": [0, 1]}, 3),
    ],
)
def test_texts_are_encoded(given: object, lengths: int) -> None:
    signature = Signature((TensorSpec("input_ids", "int64", ("b", "s")), MASK), ())
    feeds = take(given, signature, tokenizer=TOKENIZER, seq_len=4)
    assert len(feeds) == lengths
    assert all(1 <= feed["input_ids"].shape[1] <= 4 for feed in feeds)
    with pytest.raises(UsageError, match="Text needs the model's tokenizer"):
        take(given, signature)


REFUSED: list[tuple[object, Signature, str]] = [
    ([{"input_ids": [[1], [2, 3]]}], ENCODER, r"No arrays can be made of these \(in sample 1 .*input_ids \(list: "),
    ([{"input_ids": [1, None]}], ENCODER, r"in sample 1 .*: input_ids \(list: None at index \[1\], wanted a number\)"),
    ([{"input_ids": object(), "pixels": {"a": 1}}], PAIR, r"input_ids \(object: .*; pixels \(dict: "),
    ([{"input_ids": [1]}, ([1], 1)], ENCODER, r"Expected a dict of arrays \(in sample 2 .*got tuple\)\. Give one dict"),
    ([np.ones((1, 3))], PAIR, r"sample 1 of those given is one array without a name, .*several: input_ids, pixels"),
    (np.ones((2, 1, 3)), PAIR, r"The data are one array without a name"),
    ([{0: [1]}], ENCODER, r"no such inputs \(in sample 1 of those given; got 0\)"),
    ({"input_id": [[1]]}, ENCODER, r"no such inputs \(in the columns given; got input_id\)"),
    ({"input_ids": np.ones((3, 2)), "attention_mask": np.ones((2, 2))}, ENCODER, r"different numbers of samples"),
    ({"input_ids": [[1], [2, 3]], "attention_mask": [[1]]}, ENCODER, r"different numbers of samples"),
    ([{"input_ids": "words"}], ENCODER, "input_ids is string, wanted int64"),
    ([["a", 1]], ENCODER, r"Expected a dict of arrays \(in sample 1 .*got list\)"),
    ([{"text": ["a", 1]}], ENCODER, r'"text" must be a string or a list of strings \(in sample 1 .*got a list of int'),
    (5, ENCODER, r"Expected samples \(got int\)"),
]


@pytest.mark.parametrize(("given", "signature", "message"), REFUSED)
def test_what_holds_none_is_refused_in_one_message(given: object, signature: Signature, message: str) -> None:
    with pytest.raises(DataError, match=message):
        take(given, signature)


# Folders

Sample = dict[str, np.ndarray]
Writer = Callable[[Path, list[Sample]], object]


def as_archives(folder: Path, samples: list[Sample]) -> None:
    for index, sample in enumerate(samples):
        np.savez(folder / f"{index}.npz", **sample)  # type: ignore[arg-type]


def as_folders_of_inputs(folder: Path, samples: list[Sample]) -> None:
    for name in samples[0]:
        (folder / name).mkdir()
        for index, sample in enumerate(samples):
            np.save(folder / name / f"{index}.npy", sample[name])


def graphs(*sizes: tuple[int, int]) -> list[Sample]:
    return [{"nodes": np.full((n, 2), n, np.float64), "edges": np.zeros((2, m), np.int32)} for n, m in sizes]


@pytest.mark.parametrize("write", [as_archives, as_folders_of_inputs])
@pytest.mark.parametrize("sizes", [[(5, 3), (1, 1), (4, 2)], [(2, 2), (2, 2)], [(1, 1)]])
def test_one_file_a_sample_whatever_its_first_axes_are(
    write: Writer, sizes: list[tuple[int, int]], tmp_path: Path
) -> None:
    write(tmp_path, graphs(*sizes))
    feeds = load_feeds(tmp_path, GRAPH, tokenizer=None, samples=9, seq_len=8)
    assert [(feed["nodes"].shape[0], feed["edges"].shape[1]) for feed in feeds] == sizes
    assert [feed["nodes"][0, 0] for feed in feeds] == [n for n, _ in sizes]


def test_parts_of_a_sample_are_not_taken_for_samples(tmp_path: Path) -> None:
    """As the axis is named; a batch is cut."""
    for index, count in enumerate((7, 9)):
        np.save(tmp_path / f"{index}.npy", np.ones((count, 3)))
    assert shapes(load_feeds(tmp_path, CLOUD, tokenizer=None, samples=9, seq_len=8), "points") == [(7, 3), (9, 3)]
    batch = Signature((TensorSpec("points", "float32", ("batch", 3)),), ())
    assert shapes(load_feeds(tmp_path, batch, tokenizer=None, samples=99, seq_len=8), "points") == [(1, 3)] * 16
    stacked = tmp_path / "stacked.npz"
    np.savez(stacked, points=np.ones((4, 7, 3)))
    assert shapes(load_feeds(stacked, CLOUD, tokenizer=None, samples=9, seq_len=8), "points") == [(7, 3)] * 4


def test_sounds_of_any_length_with_and_without_their_batch_axis(tmp_path: Path) -> None:
    for index, shape in enumerate([(5,), (1, 8), (3,)]):
        np.save(tmp_path / f"{index}.npy", np.ones(shape))
    assert shapes(load_feeds(tmp_path, SOUND, tokenizer=None, samples=9, seq_len=8), "audio") == [
        (1, 5),
        (1, 8),
        (1, 3),
    ]


def test_a_file_for_each_input(tmp_path: Path) -> None:
    np.save(tmp_path / "input_ids.npy", np.arange(12).reshape(4, 3))
    np.save(tmp_path / "attention_mask.npy", np.ones((4, 3)))
    feeds = load_feeds(tmp_path, ENCODER, tokenizer=None, samples=9, seq_len=8)
    assert [feed["input_ids"].tolist() for feed in feeds][1] == [[3, 4, 5]]
    assert len(feeds) == 4


def test_samples_that_lack_a_file_are_named(tmp_path: Path) -> None:
    as_folders_of_inputs(tmp_path, graphs((5, 3), (4, 2)))
    (tmp_path / "edges" / "1.npy").rename(tmp_path / "edges" / "2.npy")
    with pytest.raises(DataError, match=r"files of different names, .*\(got 1\.npy, 2\.npy in some of edges, nodes"):
        load_feeds(tmp_path, GRAPH, tokenizer=None, samples=9, seq_len=8)


def test_labels_beside_inputs_are_passed_over(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", input_ids=np.ones((3, 2), np.int64), labels=np.arange(3))
    (tmp_path / "data.jsonl").write_text('{"input_ids": [1, 2], "attention_mask": [1, 1], "label": 1}')
    for name, count in (("data.npz", 3), ("data.jsonl", 1)):
        assert len(load_feeds(tmp_path / name, ENCODER, tokenizer=None, samples=9, seq_len=8)) == count
    own = Signature((*ENCODER.inputs, TensorSpec("labels", "int64", ("batch",))), ())
    feeds = load_feeds(tmp_path / "data.npz", own, tokenizer=None, samples=9, seq_len=8)
    assert [feed["labels"].tolist() for feed in feeds] == [[0], [1], [2]]
