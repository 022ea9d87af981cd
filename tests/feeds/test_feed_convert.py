"""Arrays as people have them: what is converted to the model's type and shape, and what is refused for which reason."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from onnxfq.errors import DataError
from onnxfq.feeds import Feeds, given_feeds, load_feeds
from onnxfq.signature import Signature, TensorSpec

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
IMAGE = Signature((TensorSpec("pixels", "float32", ("batch", 3, 4, 5)),), ())
IDS = TensorSpec("input_ids", "int64", ("batch", "sequence"))
MASK = TensorSpec("attention_mask", "int64", ("batch", "sequence"))


def load(path: Path, signature: Signature) -> Feeds:
    return load_feeds(path, signature, tokenizer=None, samples=100, seq_len=8)


def one(dtype: str, shape: tuple[int | str | None, ...] = ("n", 2)) -> Signature:
    return Signature((TensorSpec("x", dtype, shape),), ())


# What is given, for what type of input.
CONVERTED: list[tuple[npt.DTypeLike, str, list[list[float]]]] = [
    (np.float64, "float32", [[1.5, -2.25]]),
    (np.float64, "float16", [[1.5, -2.25]]),
    (np.float32, "float16", [[1.5, -2.25]]),
    (np.float16, "float32", [[1.5, -2.25]]),
    (np.float32, "bfloat16", [[1.5, -2.25]]),
    (BFLOAT16, "float32", [[1.5, -2.25]]),
    (np.float32, "float64", [[1.5, -2.25]]),
    (np.int64, "float32", [[1, -2]]),
    (np.int32, "int64", [[1, -2]]),
    (np.int64, "int32", [[1, -2]]),
    (np.int64, "uint8", [[1, 255]]),
    (np.float64, "int64", [[1.0, -2.0]]),
    (np.int64, "bool", [[0, 1]]),
    (np.float32, "bool", [[0, 1]]),
    (np.bool_, "int64", [[False, True]]),
    (np.bool_, "float32", [[False, True]]),
]
REFUSED: list[tuple[npt.DTypeLike, str, list[list[float]]]] = [
    (np.float64, "float32", [[1e39, 1]]),
    (np.float32, "float16", [[1e6, 1]]),
    (np.float64, "int64", [[1e30, 1]]),
    (np.int64, "int32", [[2**40, 1]]),
    (np.int64, "uint8", [[-1, 1]]),
    (np.int64, "bool", [[2, 1]]),
    (np.int64, "float32", [[2**24 + 1, 1]]),
]


@pytest.mark.parametrize(("given", "wanted", "values"), CONVERTED)
def test_values_that_survive_are_converted(given: npt.DTypeLike, wanted: str, values: list[list[float]]) -> None:
    feed = given_feeds([{"x": np.array(values, given)}], one(wanted), samples=1)[0]
    assert feed["x"].dtype.name == wanted
    assert feed["x"].astype(np.float64).tolist() == np.array(values, np.float64).tolist()


@pytest.mark.parametrize(("given", "wanted", "values"), REFUSED)
def test_values_that_do_not_survive_are_refused(given: npt.DTypeLike, wanted: str, values: list[list[float]]) -> None:
    message = rf"x is {np.dtype(given).name}, wanted {wanted} \(some values do not fit into that type\)"
    with pytest.raises(DataError, match=message):
        given_feeds([{"x": np.array(values, given)}], one(wanted), samples=1)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("x", np.nan, r"x holds NaN at index \[0, 2\], and values must be whole numbers\."),
        ("x", -np.inf, r"x holds -inf at index \[0, 2\], and values must be whole numbers\."),
        ("x", 1.5, r"x holds 1\.5 at index \[0, 2\], and values must"),
        ("input_ids", np.inf, r"input_ids holds inf at index \[0, 2\], and ids must be whole numbers\."),
        ("input_ids", np.nan, r"NaN at index \[0, 2\], and ids must be whole numbers \(was a row shorter\? fill it up"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_what_is_no_whole_number_is_named_with_its_place(
    name: str, value: float, told: str, dtype: npt.DTypeLike
) -> None:
    signature = Signature((TensorSpec(name, "int64", ("batch", "sequence")),), ())
    samples = [{name: np.array([[1, 2, 3]], dtype)}, {name: np.array([[1, 2, value]], dtype)}]
    with pytest.raises(DataError, match=rf"in sample 2 of those given\): .*{told}"):
        given_feeds(samples, signature, samples=2)


def test_nan_is_named_as_such_and_not_as_a_type() -> None:
    with pytest.raises(DataError, match="x holds NaN or infinity"):
        given_feeds([{"x": np.array([[np.nan, 1.0]])}], one("float32"), samples=1)


def test_pixels_are_not_taken_for_scaled_floats() -> None:
    message = r"x is uint8, wanted float32 \(pixels\? give them scaled as the model wants them, with \.astype\)"
    with pytest.raises(DataError, match=message):
        given_feeds([{"x": np.array([[1, 255]], np.uint8)}], one("float32"), samples=1)
    assert given_feeds([{"x": np.array([[1, 255]], np.uint8)}], one("uint8"), samples=1)[0]["x"].dtype == np.uint8


def test_text_for_numbers_and_numbers_for_text_are_refused() -> None:
    with pytest.raises(DataError, match=r"x is string, wanted float32\."):
        given_feeds([{"x": np.array([["a", "b"]])}], one("float32"), samples=1)
    with pytest.raises(DataError, match=r"x is float64, wanted string\."):
        given_feeds([{"x": np.ones((1, 2))}], one("string"), samples=1)


@pytest.mark.parametrize(("shape", "wanted"), [((2,), (1, 2)), ((3, 2), (3, 2))])
def test_a_missing_batch_axis_is_added(shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    assert given_feeds([{"x": np.ones(shape)}], one("float32"), samples=1)[0]["x"].shape == wanted


@pytest.mark.parametrize("shape", [(3,), (4, 3, 2)])
def test_other_shapes_are_not_guessed_at(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="x has shape"):
        given_feeds([{"x": np.ones(shape)}], one("float32"), samples=1)
    with pytest.raises(DataError, match=r"x has shape \[2\], wanted \[4, 2\]"):
        given_feeds([{"x": np.ones(2)}], one("float32", (4, 2)), samples=1)


@pytest.mark.parametrize(
    ("shape", "wanted", "order"),
    [
        ((1, 4, 5, 3), ("batch", 3, 4, 5), "(0, 3, 1, 2)"),
        ((1, 3, 4, 5), ("batch", "h", "w", 3), "(0, 2, 3, 1)"),
        ((1, 40, 80), ("batch", 80, "frames"), "(0, 2, 1)"),
    ],
)
def test_channels_at_the_wrong_end_are_named_with_the_remedy(
    shape: tuple[int, ...], wanted: tuple[int | str, ...], order: str
) -> None:
    signature = one("float32", wanted)
    with pytest.raises(DataError, match=r"channels at the other end: array\.transpose") as caught:
        given_feeds([{"x": np.ones(shape)}], signature, samples=1)
    assert f"array.transpose{order} has" in str(caught.value)
    axes = tuple(int(axis) for axis in order.strip("()").split(","))
    assert given_feeds([{"x": np.ones(shape).transpose(axes)}], signature, samples=1)


# Files


@pytest.mark.parametrize("name", ["data.npy", "data.npz"])
def test_an_array_without_a_name_is_the_only_input(name: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((6, 3, 4, 5))
    (np.save if name.endswith("npy") else np.savez)(tmp_path / name, images)
    feeds = load(tmp_path / name, IMAGE)
    assert len(feeds) == 6
    np.testing.assert_array_equal(feeds[2]["pixels"], images[2:3].astype(np.float32))
    np.savez(tmp_path / "named.npz", arr_0=images)
    assert len(load(tmp_path / "named.npz", one("float32", ("n", 3, 4, 5)))) == 6


def test_an_array_without_a_name_is_refused_where_there_are_several_inputs(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.ones((1, 2)))
    two = Signature((TensorSpec("a", "float32", ("n", 2)), TensorSpec("b", "float32", ("n", 2))), ())
    with pytest.raises(
        DataError, match=r"data\.npy holds one array .* takes several: a, b\. .*savez\(path, a=…, b=…\)"
    ):
        load(tmp_path / "data.npy", two)


def test_ids_alone_may_be_an_array_without_a_name(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.ones((4, 3), np.int32))
    feeds = load(tmp_path / "data.npy", Signature((IDS, MASK), ()))
    assert [feed["input_ids"].shape for feed in feeds] == [(1, 3)] * 4


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04"])
def test_a_broken_npy_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "data.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"data\.npy cannot be read as arrays"):
        load(tmp_path / "data.npy", IMAGE)


def test_one_image_without_its_batch_axis_is_one_sample(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", pixels=np.ones((3, 4, 5)))
    assert [feed["pixels"].shape for feed in load(tmp_path / "data.npz", IMAGE)] == [(1, 3, 4, 5)]


GRAPH = Signature(
    (TensorSpec("nodes", "float32", ("num_nodes", 2)), TensorSpec("edges", "int64", (2, "num_edges"))), ()
)


def write_graph(path: Path, nodes: int, edges: int) -> None:
    np.savez(path, nodes=np.full((nodes, 2), nodes), edges=np.zeros((2, edges), np.int32))


def test_arrays_whose_first_axes_cannot_count_samples_are_one_sample(tmp_path: Path) -> None:
    write_graph(tmp_path / "data.npz", 7, 9)
    assert [feed["nodes"].shape for feed in load(tmp_path / "data.npz", GRAPH)] == [(7, 2)]


def test_a_folder_with_one_sample_a_file_has_no_file_that_is_cut(tmp_path: Path) -> None:
    """The first axis of a graph of one node could count samples, by itself."""
    for index, (nodes, edges) in enumerate([(5, 3), (1, 1), (4, 2)]):
        write_graph(tmp_path / f"{index}.npz", nodes, edges)
    feeds = load(tmp_path, GRAPH)
    assert [(feed["nodes"].shape[0], feed["edges"].shape[1]) for feed in feeds] == [(5, 3), (1, 1), (4, 2)]


def test_a_folder_of_npy_files(tmp_path: Path) -> None:
    for index in range(3):
        np.save(tmp_path / f"{index}.npy", np.full((3, 4, 5), index))
    assert [feed["pixels"][0, 0, 0, 0] for feed in load(tmp_path, IMAGE)] == [0, 1, 2]


@pytest.mark.parametrize("first", ["batch", None])
def test_dimensions_that_must_be_equal_are_not_taken_for_one_sample(first: str | None, tmp_path: Path) -> None:
    pair = Signature(tuple(TensorSpec(n, "float32", (first, None)) for n in "ab"), ())
    np.savez(tmp_path / "data.npz", a=np.ones((2, 3)), b=np.ones((1, 3)))
    with pytest.raises(DataError, match=r"different numbers of samples \(got a: 2, b: 1\)"):
        load(tmp_path / "data.npz", pair)
