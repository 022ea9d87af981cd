"""Error figures against the same formulas written out in numpy over all samples at once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxfq.errors import DataError, ModelError
from onnxfq.feeds import Feed, Feeds, generate
from onnxfq.metrics import running_sums as sums
from onnxfq.metrics.gates import Gates
from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.metrics.output_error import compare, compare_outputs
from onnxfq.metrics.running_sums import FloatSums, Spread
from onnxfq.metrics.worst_outputs import told_metrics
from onnxfq.session import Session
from onnxfq.signature import TensorSpec

BuildModel = Callable[..., bytes]
Pair = tuple[np.ndarray, np.ndarray]

ECHO = """
<ir_version: 8, opset_import: ["" : 17]>
g ({dtype} a, {dtype} b) => ({dtype} {output}) {{ {output} = Identity({source}) }}
"""


@pytest.fixture
def echoes(build_model: BuildModel) -> Callable[..., list[OutputAccuracy]]:
    """Compare a model that returns its first input with one that returns its second."""

    def run(*pairs: Pair, output: str = "y", dtype: str = "float") -> list[OutputAccuracy]:
        models = [build_model(ECHO.format(dtype=dtype, output=output, source=source)) for source in "ab"]
        feeds: list[Feed] = [{"a": a, "b": b} for a, b in pairs]
        results = compare(Session(models[0]), Session(models[1]), feeds)
        for result in results:
            json.dumps(dataclasses.asdict(result), allow_nan=False)
        return results

    return run


def noisy(rng: np.random.Generator, *shape: int, noise: float = 0.1) -> Pair:
    a = 3 + rng.standard_normal(shape)
    return np.asarray(a, np.float32), np.asarray(a + noise * rng.standard_normal(shape), np.float32)


def stacked(pairs: list[Pair]) -> tuple[np.ndarray, np.ndarray]:
    old, new = (np.concatenate([pair[i].reshape(-1, pair[i].shape[-1]) for pair in pairs]) for i in (0, 1))
    return old.astype(np.float64), new.astype(np.float64)


def softmax(rows: np.ndarray) -> np.ndarray:
    exponentials = np.exp(rows - rows.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def test_figures_of_several_feeds_equal_the_formulas(echoes: Callable[..., list[OutputAccuracy]]) -> None:
    rng = np.random.default_rng(0)
    pairs = [noisy(rng, 1, rows, 8) for rows in (1, 5, 3)]
    (result,) = echoes(*pairs)
    old, new = stacked(pairs)
    assert result.relative_mse == pytest.approx(((new - old) ** 2).sum() / ((old - old.mean(axis=0)) ** 2).sum())
    cosines = (old * new).sum(axis=1) / np.linalg.norm(old, axis=1) / np.linalg.norm(new, axis=1)
    assert result.cosine == pytest.approx(cosines.mean())
    assert result.max_abs == pytest.approx(np.abs(new - old).max())
    assert (result.name, result.dtype, result.elements) == ("y", "float32", 72)
    assert (result.kl, result.top1, result.equal, result.note) == (None, None, None, None)
    assert (result.nonfinite, result.shared_nonfinite) == (0, 0)


@pytest.mark.parametrize("output", ["logits", "Start_Scores"])
def test_logits_are_compared_as_distributions(output: str, echoes: Callable[..., list[OutputAccuracy]]) -> None:
    rng = np.random.default_rng(1)
    pairs = [noisy(rng, 2, rows, 6, noise=0.7) for rows in (4, 2)]
    (result,) = echoes(*pairs, output=output)
    old, new = stacked(pairs)
    p, q = softmax(old), softmax(new)
    assert result.kl == pytest.approx((p * np.log(p / q)).sum(axis=1).mean())
    assert result.top1 == pytest.approx((old.argmax(axis=1) == new.argmax(axis=1)).mean())
    assert result.top1 not in (0.0, 1.0)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, echoes: Callable[..., list[OutputAccuracy]]) -> None:
    pair = noisy(np.random.default_rng(2), 1, 9, 8)
    (whole,) = echoes(pair, output="logits")
    monkeypatch.setattr(sums, "BLOCK", 17)
    (blocks,) = echoes(pair, output="logits")
    for name in ("relative_mse", "cosine", "max_abs", "kl", "top1"):
        assert getattr(blocks, name) == pytest.approx(getattr(whole, name))


def test_equal_models_have_no_error(echoes: Callable[..., list[OutputAccuracy]]) -> None:
    a, _ = noisy(np.random.default_rng(3), 1, 4, 8)
    (result,) = echoes((a, a), output="logits")
    assert (result.relative_mse, result.max_abs, result.kl, result.top1) == (0.0, 0.0, 0.0, 1.0)
    assert result.cosine == pytest.approx(1.0)


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.sampled_from([0.0, 1e4, -1e8]),
    st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_spread_equals_the_variance_however_it_is_cut(rows: list[int], offset: float, scale: float) -> None:
    rng = np.random.default_rng(sum(rows))
    blocks = [offset + scale * rng.standard_normal((n, 3)) for n in rows]
    spread = Spread()
    for block in blocks:
        spread.add(block, np.ones(block.shape, np.bool_))
    values = np.concatenate(blocks)
    about = values.mean(axis=0) if len(values) > 1 else values.mean()
    assert spread.total() == pytest.approx(((values - about) ** 2).sum(), rel=1e-6)


def test_nothing_has_no_spread() -> None:
    assert Spread().total() == 0.0


def test_spread_leaves_out_what_is_not_valid() -> None:
    values = np.random.default_rng(0).standard_normal((6, 4))
    valid = np.random.default_rng(1).random((6, 4)) < 0.6
    spread = Spread()
    for start in range(0, 6, 2):
        spread.add(np.where(valid, values, np.nan)[start : start + 2], valid[start : start + 2])
    masked = np.ma.masked_array(values, ~valid)
    assert spread.total() == pytest.approx(((masked - masked.mean(axis=0)) ** 2).sum())


def test_a_single_row_is_measured_about_the_mean_of_its_elements(echoes: Callable[..., list[OutputAccuracy]]) -> None:
    a, b = noisy(np.random.default_rng(4), 1, 8)
    (result,) = echoes((a, b))
    old, new = a.astype(np.float64), b.astype(np.float64)
    assert result.relative_mse == pytest.approx(((new - old) ** 2).sum() / ((old - old.mean()) ** 2).sum())


def test_rows_of_different_lengths_are_measured_about_one_mean(echoes: Callable[..., list[OutputAccuracy]]) -> None:
    rng = np.random.default_rng(5)
    pairs = [noisy(rng, 1, width) for width in (3, 3, 5, 2)]
    (result,) = echoes(*pairs)
    old, new = (np.concatenate([pair[i].ravel() for pair in pairs]).astype(np.float64) for i in (0, 1))
    assert result.relative_mse == pytest.approx(((new - old) ** 2).sum() / ((old - old.mean()) ** 2).sum())
    assert (
        result.note
        == "the last axis varies in length: the error is relative to the variance about the mean of all elements"
    )


@pytest.mark.parametrize("shape", [(), (4,), (2, 1)])
def test_outputs_of_single_numbers_have_no_cosine(
    shape: tuple[int, ...], echoes: Callable[..., list[OutputAccuracy]]
) -> None:
    (result,) = echoes(noisy(np.random.default_rng(6), *shape), noisy(np.random.default_rng(7), *shape))
    assert result.cosine is None
    assert result.relative_mse is not None
    assert result.relative_mse > 0


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_a_constant_reference_has_no_finite_error_unless_equal(
    value: float, echoes: Callable[..., list[OutputAccuracy]]
) -> None:
    constant = np.full((3, 4), value, np.float32)
    (equal,) = echoes((constant, constant))
    assert equal.cosine == pytest.approx(1.0)
    assert (equal.relative_mse, equal.note) == (0.0, None)
    (different,) = echoes((constant, constant + 1))
    assert different.relative_mse is None
    assert different.max_abs == pytest.approx(1.0)
    assert different.note == "the reference is constant and the candidate differs: the relative error is infinite"


def test_a_row_of_zeros_points_nowhere(echoes: Callable[..., list[OutputAccuracy]]) -> None:
    a = np.array([[0, 0], [0, 0], [1, 2]], np.float32)
    b = np.array([[0, 0], [1, 0], [1, 2]], np.float32)
    (result,) = echoes((a, b))
    assert result.cosine == pytest.approx(2 / 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_in_one_model_are_never_hidden(
    bad: float, echoes: Callable[..., list[OutputAccuracy]]
) -> None:
    a, b = noisy(np.random.default_rng(8), 1, 4, 8)
    b[0, 2, 3] = bad
    for pair in ((a, b), (b, a)):
        (result,) = echoes(pair, output="logits")
        assert (result.relative_mse, result.cosine, result.max_abs, result.kl, result.top1) == (None,) * 5
        assert (result.nonfinite, result.shared_nonfinite) == (1, 0)
        assert result.note == "1 elements are NaN or infinite in only one of the models"


def test_infinities_of_different_signs_differ(echoes: Callable[..., list[OutputAccuracy]]) -> None:
    a, b = noisy(np.random.default_rng(8), 1, 4, 8)
    a[0, 0, 0], b[0, 0, 0] = np.inf, -np.inf
    assert echoes((a, b))[0].nonfinite == 1


def test_what_is_not_finite_alike_is_counted_and_left_out(echoes: Callable[..., list[OutputAccuracy]]) -> None:
    a, b = noisy(np.random.default_rng(9), 3, 4)
    a[0, 0] = b[0, 0] = np.nan
    a[1, 1] = b[1, 1] = -np.inf
    (result,) = echoes((a, b), output="logits")
    old, new = np.ma.masked_invalid(a.astype(np.float64)), np.ma.masked_invalid(b.astype(np.float64))
    assert result.relative_mse == pytest.approx(((new - old) ** 2).sum() / ((old - old.mean(axis=0)) ** 2).sum())
    assert (result.nonfinite, result.shared_nonfinite) == (0, 2)
    assert result.note == "2 elements, NaN or infinite alike in both models, are left out"
    p, q = softmax(a[1:].astype(np.float64)), softmax(b[1:].astype(np.float64))  # the row with NaN is no distribution
    terms = np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / np.where(p > 0, q, 1)), 0)
    assert result.kl == pytest.approx(terms.sum(axis=1).mean())


def test_rows_without_numbers_point_nowhere(echoes: Callable[..., list[OutputAccuracy]]) -> None:
    a, b = noisy(np.random.default_rng(9), 3, 4)
    a[0] = b[0] = np.nan
    (result,) = echoes((a, b))
    old, new = a[1:].astype(np.float64), b[1:].astype(np.float64)
    cosines = (old * new).sum(axis=1) / np.linalg.norm(old, axis=1) / np.linalg.norm(new, axis=1)
    assert result.cosine == pytest.approx(cosines.mean())


def test_nothing_finite_has_no_figures(echoes: Callable[..., list[OutputAccuracy]]) -> None:
    nan = np.full((2, 3), np.nan, np.float32)
    (result,) = echoes((nan, nan), output="logits")
    assert (result.relative_mse, result.kl, result.note) == (None, None, "no element is finite in either model")


def test_huge_values_overflow_to_no_figure(echoes: Callable[..., list[OutputAccuracy]]) -> None:
    a = np.array([[1e200, -1e200], [2e200, 0]])
    (result,) = echoes((a, -a), dtype="double")
    assert (result.relative_mse, result.note) == (None, "the values are too large for sums of their squares")
    assert result.max_abs == pytest.approx(4e200)


def test_a_mean_that_overflows_is_no_figure_either(echoes: Callable[..., list[OutputAccuracy]]) -> None:
    a, b = np.array([[1e200, -1e200]]), np.array([[1e200, -2e200]])
    assert echoes((a, b), dtype="double")[0].relative_mse is None
    assert echoes((a, a), dtype="double")[0].relative_mse == 0.0


@pytest.mark.parametrize(("dtype", "numpy_dtype"), [("int64", np.int64), ("bool", np.bool_), ("string", np.str_)])
def test_other_types_are_compared_for_equality(
    dtype: str, numpy_dtype: type[np.generic], echoes: Callable[..., list[OutputAccuracy]]
) -> None:
    a, b = (np.array([[0, 1, last, 0]], numpy_dtype) for last in (1, 0))
    (result,) = echoes((a, b), (a, a), dtype=dtype)
    assert (result.equal, result.elements, result.relative_mse) == (7 / 8, 8, None)
    assert not result.is_float


def test_half_precision_is_a_float(echoes: Callable[..., list[OutputAccuracy]]) -> None:
    a, b = noisy(np.random.default_rng(1), 3, 4)
    (result,) = echoes((a.astype(np.float16), b.astype(np.float16)), dtype="float16")
    assert result.is_float
    assert result.relative_mse is not None


def test_an_output_without_elements_is_skipped_with_a_note(echoes: Callable[..., list[OutputAccuracy]]) -> None:
    empty = np.zeros((0, 4), np.float32)
    (result,) = echoes((empty, empty))
    assert (result.is_empty, result.relative_mse, result.note) == (True, None, "not compared: it has no elements")


def test_an_empty_run_among_others_adds_nothing(echoes: Callable[..., list[OutputAccuracy]]) -> None:
    pair, empty = noisy(np.random.default_rng(1), 3, 4), np.zeros((0, 4), np.float32)
    assert echoes(pair, (empty, empty)) == echoes(pair)


@pytest.mark.parametrize(
    ("wanted", "first", "second", "unmatched"),
    [
        (("n", 4), (3, 4), (5, 4), 1),
        (("n", 4), (0, 4), (5, 4), 1),
        (("n", 4), (3, 4), (0, 4), 1),
        ((None, None), (3, 4), (3, 6), 1),
        (None, (3, 4), (3, 6), 1),
        (("n", 4), (3, 4), (3, 5), 0),
        ((2, "n"), (2, 4), (3, 5), 0),
        (None, (3, 4), (3, 4, 1), 0),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_different_shapes_are_no_figure(
    dtype: str, wanted: tuple[int | str | None, ...] | None, first: tuple[int, ...], second: tuple[int, ...],
    unmatched: int,
) -> None:  # fmt: skip
    """Where the model fixes an axis that differs, something is broken; else a length follows from what was computed."""
    old, new = np.ones(first, dtype), np.ones(second, dtype)
    same = np.ones((2, 4), dtype)
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = [({"y": same}, {"y": same}), ({"y": old}, {"y": new})]
    (result,) = compare_outputs([TensorSpec("y", dtype, wanted)], pairs)
    assert (result.relative_mse, result.equal, result.is_empty, result.unmatched) == (None, None, False, unmatched)
    differ = f"{list(first)} in the reference, {list(second)} in the candidate"
    if unmatched:
        assert result.note == f"not compared: its length follows from the values ({differ}, in 1 of the samples)"
    else:
        assert result.note == f"shapes differ: {differ}"
    assert result.is_compared is not bool(unmatched)
    gate = next(iter(Gates.parse({"max_error": 9}).check(told_metrics([result], changed=True))))
    assert (gate.passed, gate.measured) == (False, None)


def test_a_lost_output_and_one_that_is_no_array_are_noted(build_model: BuildModel) -> None:
    header = '<ir_version: 8, opset_import: ["" : 17]> '
    two = build_model(
        header + "g (float[n] x) => (float[n] y, float[n] z, seq(float[n]) s) "
        "{ y = Neg(x) z = Abs(x) s = SequenceConstruct(x, x) }"
    )
    one = build_model(header + "g (float[n] x) => (float[n] y) { y = Neg(x) }")
    y, z, s = compare(Session(two), Session(one), [{"x": np.arange(3, dtype=np.float32)}])
    assert y.relative_mse == 0.0
    assert (z.relative_mse, z.is_empty, z.note) == (None, False, "the candidate has no such output")
    assert (s.is_empty, s.note) == (True, "not compared: it is a sequence, and no array")


def test_no_samples_are_refused(build_model: BuildModel) -> None:
    session = Session(build_model(ECHO.format(dtype="float", output="y", source="a")))
    with pytest.raises(DataError, match=r"nothing to compare the models on \(got 0 samples\)"):
        compare(session, session, [])


RESHAPE = '<ir_version: 8, opset_import: ["" : 17]> g (float[n] x, int64[m] s) => (float[a, b] y) { y = Reshape(x, s) }'


def test_a_reference_that_fails_on_made_up_inputs_asks_for_real_ones(build_model: BuildModel) -> None:
    session = Session(build_model(RESHAPE))
    feeds = generate(session.signature(), samples=1, seq_len=4, seed=0)
    feeds = Feeds(({**feeds[0], "s": np.array([5, 7])},), feeds.origin, is_generated=True)
    with pytest.raises(
        DataError, match=r"does not run on made-up inputs, .*Reshape.*`calib=FILE`, or .*`validate=False`"
    ):
        compare(session, session, feeds)


def test_a_reference_that_fails_on_given_inputs_says_why(build_model: BuildModel) -> None:
    session = Session(build_model(RESHAPE))
    feed: Feed = {"x": np.ones(3, np.float32), "s": np.array([5, 7])}
    with pytest.raises(ModelError, match=r"cannot run on cpu: .*Reshape"):
        compare(session, session, Feeds((feed,), "given: a.npz"))


def test_sums_never_turn_rounding_into_a_negative_divergence() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 7))
    totals = FloatSums(logits=True)
    totals.add(rows, rows + 1e-12)
    assert totals.divergence >= 0.0


# How much changes from sample to sample


def varying(rng: np.random.Generator, change: float, samples: int = 5) -> list[Pair]:
    base = 3 + rng.standard_normal((1, 6, 8))
    made = [(base + change * rng.standard_normal(base.shape)).astype(np.float32) for _ in range(samples)]
    return [(a, (a + 1e-2).astype(np.float32)) for a in made]


@pytest.mark.parametrize("change", [1.0, 0.1, 0.0])
def test_what_changes_is_told_as_a_part_of_all(change: float, echoes: Callable[..., list[OutputAccuracy]]) -> None:
    pairs = varying(np.random.default_rng(2), change)
    (result,) = echoes(*pairs)
    y = np.stack([pair[0] for pair in pairs]).astype(np.float64)
    wanted = ((y - y.mean(axis=0)) ** 2).sum() / (y**2).sum()
    assert result.variation == pytest.approx(wanted, abs=1e-12)
    assert result.is_alike == (wanted < 0.01)
    notes = {1.0: None, 0.1: "alike: from sample to sample it changes by 0.0", 0.0: "alike: it is the same for all"}
    assert (result.note or "").startswith(notes[change] or "")
    assert (result.note is None) == (change == 1.0)


def test_samples_of_different_lengths_and_single_ones_say_nothing_of_that(
    echoes: Callable[..., list[OutputAccuracy]],
) -> None:
    one, two = varying(np.random.default_rng(2), 0.0, 2)
    for pairs in ([one], [one, (two[0][:, :3], two[1][:, :3])]):
        (result,) = echoes(*pairs)
        assert (result.variation, result.is_alike) == (None, False)


@pytest.mark.parametrize("dtype", ["int64", "bool", "string"])
def test_labels_that_are_the_same_everywhere_say_nothing(
    dtype: str, echoes: Callable[..., list[OutputAccuracy]]
) -> None:
    kind = {"string": np.str_}.get(dtype, dtype)
    same, other = np.array([[1]]).astype(kind), np.array([[0]]).astype(kind)
    for pairs, variation, alike in (
        ([(same, same)] * 3, 0.0, True),
        ([(same, same)], 0.0, True),
        ([(same, same), (other, other), (same, same)], 0.5, False),
        ([(same, other), (same, same)], 0.0, False),
    ):
        (result,) = echoes(*pairs, dtype=dtype)
        assert (result.variation, result.is_alike) == (variation, alike)
