"""What goes from process to process through files comes out as it went in, and nothing else can come out."""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from onnxfq.calibration.shards import Outcome
from onnxfq.calibration.statistics_session import Chunk
from onnxfq.errors import OutputError
from onnxfq.executors.serialization import dump, dumped, load, remove, serializable, sweep
from onnxfq.held_tokens import HeldTokens
from onnxfq.statistics import Statistics

VALUES: list[Any] = [
    None,
    True,
    -3,
    0.1 + 0.2,
    float("inf"),
    "a\n\u2028\udcff",
    b"\x00\xff",
    Path("/a/b"),
    [],
    (1, (2.5, "x"), [None]),
    pytest.param(frozenset({"a", "b"}), id="frozenset"),
    {"": {"array": ["array", "0"]}, "x.y": ()},
]


@serializable
@dataclass(frozen=True)
class Pair:
    left: Any
    right: Any = None


@dataclass(frozen=True)
class Unknown:
    left: int = 0


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_plain_values_come_back(value: object, tmp_path: Path) -> None:
    for wrapped in (value, [value], {"a": value}, Pair(value, (value,))):
        found = load(dump(tmp_path, wrapped))
        assert (found, type(found)) == (wrapped, type(wrapped))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool", "<U3", ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_arrays_come_back(dtype: npt.DTypeLike, shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.ones(shape, dtype)
    found = load(dump(tmp_path, Pair([array, array], {"a": array})))
    for one in (*found.left, found.right["a"]):
        assert (one.dtype, one.shape) == (array.dtype, shape)
        assert np.array_equal(one, array)


def test_texts_of_onnx_runtime_come_back(tmp_path: Path) -> None:
    found = load(dump(tmp_path, np.array(["a", "longer"], object)))
    assert found.tolist() == ["a", "longer"]


def test_what_is_exchanged_comes_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    held = HeldTokens(rng.random((2, 3)).astype(np.float32), rng.random((2, 3)).astype(np.float32))
    statistics = Statistics(tokens=5, gram=rng.random((3, 3)), mean=rng.random(3), min=-1.5, held=held)
    chunk = Chunk(4, None, rng.random((2, 2)), None, {"sum": rng.random(2)})
    outcome = Outcome("", {"y": rng.random((1, 2))}, {"y": [(0.1, 1.5)]}, held)
    found = load(dump(tmp_path, (statistics, [outcome], [chunk])))
    assert (found[0].tokens, found[0].cross, found[0].min) == (5, None, -1.5)
    assert np.array_equal(found[0].gram, statistics.gram)  # type: ignore[arg-type]
    assert found[1][0].errors == outcome.errors
    for one in (found[0].held, found[1][0].held):
        assert np.array_equal(one.inputs, held.inputs)
        assert one.drift is None
    assert np.array_equal(found[2][0].vectors["sum"], chunk.vectors["sum"])


def test_no_file_holds_a_pickle(tmp_path: Path) -> None:
    file = dump(tmp_path, Pair(np.ones(3), b"bytes"))
    with zipfile.ZipFile(file) as archive:
        assert all(archive.read(name)[:6] == b"\x93NUMPY" for name in archive.namelist())
    file.write_bytes(pickle.dumps([1]))
    with pytest.raises(OutputError, match="cannot be read as arrays"):
        load(file)


def test_other_objects_are_refused(tmp_path: Path) -> None:
    for value in (Unknown(), [Unknown()], {1, 2}, object(), np.array([{}], object)[:0].dtype):
        with pytest.raises(TypeError, match="is not serializable"):
            dump(tmp_path, value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "told", ['["Unknown", {}]', '["array", "7"]', '["Pair", {"evil": 1}]', "[]", '["x"]', '["path", 1]']
)
def test_garbled_descriptions_are_told(told: str, tmp_path: Path) -> None:
    file = dump(tmp_path, "before")
    about = np.frombuffer(f'{{"types": {{}}, "facts": {told}}}'.encode(), np.uint8)
    with file.open("wb") as stream:
        np.savez(stream, about=about)
    with pytest.raises(OutputError, match=r"Cannot read .*`work_dir`"):
        load(file)


def test_files_go_with_their_answers(tmp_path: Path) -> None:
    with dumped(tmp_path, [1]) as file:
        dump(tmp_path, [2], answers=file)
        kept = dump(tmp_path, [3])
        sweep(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([file, kept])
        dump(tmp_path, [2], answers=file)
    assert list(tmp_path.iterdir()) == [kept]
    remove(kept)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"Cannot write to .*`work_dir`"):
        dump(tmp_path / "nowhere", 1)
