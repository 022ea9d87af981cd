"""Values in memory and on disk."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfq.calibration.values import Values
from onnxfq.errors import OutputError
from support.models import Array

TYPES = [np.float32, np.float16, np.float64, np.int64, np.int32, np.uint8, np.bool_, ml_dtypes.bfloat16]
SHAPES: list[tuple[int, ...]] = [(), (0,), (3, 0, 2), (1,), (5, 7), (2, 1, 3)]


def array(dtype: object, shape: tuple[int, ...] = (5, 7), seed: int = 0) -> Array:
    values: Array = np.asarray(np.random.default_rng(seed).integers(0, 100, shape)).astype(np.dtype(dtype))  # type: ignore[call-overload]
    return values


def same(got: Array, wanted: Array) -> None:
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    assert got.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("memory", [0, 1 << 20], ids=["spilled", "in memory"])
@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_kept_comes_back(tmp_path: Path, dtype: object, memory: int) -> None:
    kept = Values(memory, tmp_path)
    arrays = [array(dtype, shape, seed) for seed, shape in enumerate(SHAPES)]
    for sample, value in enumerate(arrays):
        kept.put("v", sample, value)
    for sample, value in enumerate(arrays):
        same(kept.get("v", sample), value)
    assert kept.spilled == (0 if memory else sum(value.nbytes for value in arrays))


@pytest.mark.parametrize(
    "odd",
    [np.arange(24.0).reshape(4, 6)[:, ::2], np.arange(24.0).reshape(4, 6).T, np.arange(6.0)[::-1]],
    ids=["sliced", "transposed", "reversed"],
)
def test_arrays_that_are_not_contiguous(tmp_path: Path, odd: Array) -> None:
    kept = Values(0, tmp_path)
    kept.put("v", 0, odd)
    same(kept.get("v", 0), odd)


def test_special_numbers_keep_their_bits(tmp_path: Path) -> None:
    special = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32)
    special.view(np.uint32)[0] = 0x7FC12345
    kept = Values(0, tmp_path)
    kept.put("v", 0, special)
    same(kept.get("v", 0), special)


def test_what_comes_beyond_the_limit_goes_to_disk(tmp_path: Path) -> None:
    value = array(np.float32, (10, 10))  # 400 bytes
    kept = Values(1000, tmp_path)
    for sample in range(4):
        kept.put("v", sample, value + sample)
    assert kept.spilled == 800
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [800]
    for sample in range(4):
        same(kept.get("v", sample), value + sample)


def test_freed_memory_is_used_again(tmp_path: Path) -> None:
    value = array(np.float32, (10, 10))
    kept = Values(400, tmp_path)
    for name in "abcdef":
        kept.put(name, 0, value)
        kept.free(name)
    kept.put("g", 0, value)
    assert kept.spilled == 0


def test_what_takes_the_place_of_another_value_uses_its_memory(tmp_path: Path) -> None:
    kept = Values(400, tmp_path)
    for round_ in range(5):
        kept.put("v", 0, array(np.float32, (10, 10), round_))
    assert kept.spilled == 0
    kept.put("v", 0, array(np.float32, (10, 11), 8))  # too large: now on disk
    assert kept.spilled == 440
    same(kept.get("v", 0), array(np.float32, (10, 11), 8))
    kept.put("v", 0, array(np.float32, (10, 10), 9))  # back in memory
    same(kept.get("v", 0), array(np.float32, (10, 10), 9))
    kept.put("w", 0, array(np.float32, (1,)))
    assert kept.spilled == 444


def test_a_value_on_disk_is_replaced_too(tmp_path: Path) -> None:
    kept = Values(0, tmp_path)
    for seed in range(3):
        for sample in range(3):
            kept.put("v", sample, array(np.int64, (sample + 1,), seed * 10 + sample))
    for sample in range(3):
        same(kept.get("v", sample), array(np.int64, (sample + 1,), 20 + sample))


def test_no_file_is_left_after_free_and_clear(tmp_path: Path) -> None:
    kept = Values(0, tmp_path)
    for name in "abc":
        kept.put(name, 0, array(np.float32))
    assert len(list(tmp_path.iterdir())) == 3
    kept.free("b")
    kept.free("never kept")
    assert len(list(tmp_path.iterdir())) == 2
    assert "b" not in kept
    assert "a" in kept
    kept.put("d", 0, array(np.float32, seed=4))
    same(kept.get("d", 0), array(np.float32, seed=4))
    kept.clear()
    assert list(tmp_path.iterdir()) == []
    kept.clear()


def test_names_may_be_anything(tmp_path: Path) -> None:
    kept = Values(0, tmp_path)
    for seed, name in enumerate(["/layer/out", "../up", "é", "", "a\nb", "x" * 300]):
        kept.put(name, 0, array(np.float32, seed=seed))
    for seed, name in enumerate(["/layer/out", "../up", "é", "", "a\nb", "x" * 300]):
        same(kept.get(name, 0), array(np.float32, seed=seed))


def test_what_is_not_kept_is_an_error(tmp_path: Path) -> None:
    kept = Values(0, tmp_path)
    kept.put("v", 0, array(np.float32))
    with pytest.raises(KeyError):
        kept.get("w", 0)
    with pytest.raises(KeyError):
        kept.get("v", 1)


def test_a_disk_that_refuses(tmp_path: Path) -> None:
    kept = Values(0, tmp_path / "gone")
    with pytest.raises(OutputError, match=r"Cannot keep intermediate values .*No such file.*`work_dir`.*`memory`"):
        kept.put("v", 0, array(np.float32))


def test_a_file_that_somebody_cut_short(tmp_path: Path) -> None:
    kept = Values(0, tmp_path)
    kept.put("v", 0, array(np.float32))
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"")
    with pytest.raises(OutputError, match="cut short"):
        kept.get("v", 0)
    file.unlink()
    with pytest.raises(OutputError, match="No such file"):
        kept.get("v", 0)
    kept.clear()


Action = tuple[str, str, int, int]  # what, name, sample, size
actions = st.tuples(
    st.sampled_from(["put", "put", "put", "free"]), st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 9)
)


@settings(max_examples=60)
@given(st.lists(actions, max_size=20), st.integers(0, 100))
def test_it_behaves_like_a_dict_within_its_memory(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Action], memory: int
) -> None:
    folder = tmp_path_factory.mktemp("values")
    kept, wanted = Values(memory, folder), dict[tuple[str, int], Array]()
    for number, (what, name, sample, size) in enumerate(steps):
        if what == "put":
            wanted[name, sample] = array(np.float32, (size,), number)
            kept.put(name, sample, wanted[name, sample])
        else:
            wanted = {key: value for key, value in wanted.items() if key[0] != name}
            kept.free(name)
        for key, value in wanted.items():
            same(kept.get(*key), value)
        held = [v for k in kept._kept.values() for v in k.samples.values() if isinstance(v, np.ndarray)]
        assert sum(value.nbytes for value in held) == kept.held <= memory
    kept.clear()
    assert kept.held == 0
    assert list(folder.iterdir()) == []
