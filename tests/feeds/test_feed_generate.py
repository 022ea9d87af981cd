"""Made-up inputs: what they hold, and that models which need every length right run on them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxfq.errors import DataError
from onnxfq.feeds import Feed, Feeds, fill, generate, has_cache
from onnxfq.session import Session
from onnxfq.signature import Dimension, Signature, TensorSpec


def signature(*inputs: TensorSpec) -> Signature:
    return Signature(inputs, ())


def ids(
    name: str = "input_ids", shape: tuple[Dimension, ...] = ("batch", "sequence"), vocabulary: int = 50
) -> TensorSpec:
    return TensorSpec(name, "int64", shape, vocabulary)


def floats(name: str, *shape: Dimension) -> TensorSpec:
    return TensorSpec(name, "float32", shape)


def one(*inputs: TensorSpec, seq_len: int = 7, past: int = 0) -> Feed:
    return generate(signature(*inputs), samples=1, seq_len=seq_len, seed=0, past=past)[0]


ENCODER = signature(
    ids(),
    TensorSpec("attention_mask", "int64", ("batch", "sequence")),
    TensorSpec("token_type_ids", "int64", (None, None)),
)


def test_an_encoder_gets_ids_ones_and_zeros() -> None:
    feeds = generate(ENCODER, samples=3, seq_len=9, seed=0)
    assert (len(feeds), feeds.origin, feeds.is_generated) == (3, "generated", True)
    for feed in feeds:
        assert [array.shape for array in feed.values()] == [(1, 9)] * 3
        assert 0 <= feed["input_ids"].min() <= feed["input_ids"].max() < 50
        assert feed["attention_mask"].all()
        assert not feed["token_type_ids"].any()


def test_ids_cover_the_vocabulary_and_differ_between_samples() -> None:
    first, second = generate(ENCODER, samples=2, seq_len=1000, seed=0)
    assert set(first["input_ids"].flat) == set(range(50))
    assert (first["input_ids"] != second["input_ids"]).any()


def test_a_sample_depends_on_seed_and_index_only() -> None:
    few, many = (generate(ENCODER, samples=n, seq_len=9, seed=1) for n in (1, 3))
    np.testing.assert_array_equal(few[0]["input_ids"], many[0]["input_ids"])
    other = generate(ENCODER, samples=1, seq_len=9, seed=2)
    assert (few[0]["input_ids"] != other[0]["input_ids"]).any()


def test_lengths_may_vary() -> None:
    feeds = generate(ENCODER, samples=50, seq_len=9, seed=0, shortest=6)
    lengths = [feed["input_ids"].shape[1] for feed in feeds]
    assert set(lengths) == {6, 7, 8, 9}
    assert [feed["attention_mask"].shape[1] for feed in feeds] == lengths
    assert generate(ENCODER, samples=1, seq_len=4, seed=0, shortest=6)[0]["input_ids"].shape == (1, 4)


def test_slices_keep_the_origin() -> None:
    feeds = Feeds(({}, {}, {}), "given: a.npz")
    assert isinstance(feeds[1:], Feeds)
    assert (len(feeds[1:]), feeds[1:].origin) == (2, "given: a.npz")


@pytest.mark.parametrize(("tokens", "past"), [(5, 0), (1, 6)])
def test_a_decoder_with_a_cache_runs(tiny_decoder: bytes, tokens: int, past: int) -> None:
    session = Session(tiny_decoder)
    tokens_up_to_16 = replace(session.signature().inputs[0], vocabulary=16)
    decoder = signature(tokens_up_to_16, *session.signature().inputs[1:])
    assert has_cache(decoder)
    feed = generate(decoder, samples=1, seq_len=5, seed=0, past=past)[0]
    outputs = session.run(feed)
    assert outputs["logits"].shape == (1, tokens, 16)
    assert outputs["present_0_key"].shape == (1, 1, past + tokens, 4)
    assert feed["attention_mask"].shape == (1, past + tokens)
    np.testing.assert_array_equal(feed["position_ids"], [np.arange(past, past + tokens)])
    assert feed["past_key_values_0_key"].any() == (past > 0)


def test_decoding_with_a_cache_equals_the_whole_prompt(tiny_decoder: bytes) -> None:
    session = Session(tiny_decoder)
    prompt = fill({"input_ids": np.array([[3, 1, 4]])}, session.signature())
    first = session.run(prompt)
    cache = {"past_key_values_0_" + part: first["present_0_" + part] for part in ("key", "value")}
    step = fill({"input_ids": np.array([[1]]), **cache}, session.signature())
    assert step["attention_mask"].shape == (1, 4)
    np.testing.assert_array_equal(step["position_ids"], [[3]])
    whole = session.run(fill({"input_ids": np.array([[3, 1, 4, 1]])}, session.signature()))
    np.testing.assert_allclose(session.run(step)["logits"][0, -1], whole["logits"][0, -1], rtol=1e-5, atol=1e-6)


MERGED = (
    ids(),
    # As exporters write it: true of one new token, wrong of a prompt.
    TensorSpec("attention_mask", "int64", ("batch", "past_sequence_length + 1")),
    TensorSpec("past_key_values.0.key", "float16", ("batch", 2, "past_sequence_length", 8)),
    TensorSpec("use_cache_branch", "bool", (1,)),
    TensorSpec("cache_position", "int64", ("sequence",)),
    TensorSpec("num_logits_to_keep", "int64", ()),
)


def test_a_merged_decoder_takes_the_branch_that_fits() -> None:
    prompt, step = one(*MERGED), one(*MERGED, past=4)
    assert prompt["use_cache_branch"].tolist() == [False]
    assert step["use_cache_branch"].tolist() == [True]
    assert (prompt["attention_mask"].shape, step["attention_mask"].shape) == ((1, 7), (1, 5))
    assert prompt["past_key_values.0.key"].shape == (1, 2, 0, 8)
    assert step["past_key_values.0.key"].dtype == np.float16
    assert prompt["cache_position"].tolist() == list(range(7))
    assert step["cache_position"].tolist() == [4]
    assert prompt["num_logits_to_keep"] == 0


def test_an_encoder_decoder_step_keeps_the_encoder_s_length() -> None:
    feed = one(
        ids(shape=("batch", "decoder_sequence_length")),
        TensorSpec("encoder_attention_mask", "int64", ("batch", "encoder_sequence_length")),
        floats("encoder_hidden_states", "batch", "encoder_sequence_length", 16),
        floats("past_key_values.0.decoder.key", "batch", 2, "past_decoder_sequence_length", 8),
        floats("past_key_values.0.encoder.key", "batch", 2, "encoder_sequence_length_out", 8),
        past=3,
    )
    assert [array.shape for array in feed.values()] == [(1, 1), (1, 7), (1, 7, 16), (1, 2, 3, 8), (1, 2, 7, 8)]


def test_a_cache_of_fixed_size_counts_as_full() -> None:
    feed = one(ids(shape=(1, 1)), TensorSpec("attention_mask", "int64", (1, "total")), floats("past.0", 1, 2, 31, 8))
    assert feed["attention_mask"].shape == (1, 32)


def test_states_that_hold_no_tokens_lengthen_no_mask() -> None:
    feed = one(
        ids(),
        TensorSpec("attention_mask", "int64", ("batch", "total_length")),
        floats("past_conv.0", "batch", 16, 3),
        floats("past_key_values.1.key", "batch", 2, "past", 8),
    )
    assert feed["attention_mask"].shape == (1, 7)
    assert feed["past_conv.0"].shape == (1, 16, 3)


def test_a_cache_stacked_as_gpt2_has_it() -> None:
    feed = one(ids(), floats("past_0", 2, "batch", 12, "past_seq_len", 64), past=9)
    assert feed["past_0"].shape == (2, 1, 12, 9, 64)


def test_a_mask_added_to_scores_spans_cached_and_new_tokens() -> None:
    total = "past_sequence_length + sequence_length"
    mask = floats("attention_mask", "batch", 1, "sequence_length", total)
    feed = one(ids(), mask, floats("past_key_values.0.key", "batch", 2, "past_sequence_length", 8), past=5)
    np.testing.assert_array_equal(feed["attention_mask"], np.zeros((1, 1, 1, 6), np.float32), strict=True)


def test_an_integer_cache_is_empty_of_values() -> None:
    feed = one(ids(), TensorSpec("past_key_values.0.key", "uint8", ("batch", 2, "past", 8)), past=9)
    assert not feed["past_key_values.0.key"].any()


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (floats("pixel_values", "batch", "num_channels", "height", "width"), (1, 3, 224, 224)),
        (floats("x", None, None, None, None), (1, 3, 224, 224)),
        (floats("x", "N", "H", "W", 3), (1, 224, 224, 3)),
        (floats("x", "unk__1", 16), (1, 16)),
        (floats("x", "a", "b", "in_channels"), (1, 7, 3)),
        (floats("input_values", "batch", "s0"), (1, 16_000)),
        (floats("past_key_values.0.key", "batch", 2, "past", "kv_cache_dim"), (1, 2, 0, 64)),
        (floats("latent_sample", "batch", "num_channels", "height_latent", "w"), (1, 3, 32, 32)),
        (floats("input_features", "batch", 80, "time_frames"), (1, 80, 7)),
        (floats("x", 2, "batch", "groups", "a", "b"), (2, 1, 4, 4, 4)),
        (floats("x", "batch * 2", "sequence_length // 2", "(height - 4) / 2"), (2, 3, 110)),
        (floats("x", "batch", "sequence % 2", "groups + 1", "n // 0", "not a name"), (1, 4, 4, 4, 4)),
        (floats("x"), ()),
    ],
)
def test_unknown_sizes(spec: TensorSpec, shape: tuple[int, ...]) -> None:
    assert one(spec)[spec.name].shape == shape


def fitted(spec: TensorSpec, *fitting: int | None) -> TensorSpec:
    return replace(spec, fitting=fitting)


@pytest.mark.parametrize("past", [0, 9])
def test_a_ring_of_cached_tokens_is_whole_and_counts_none(past: int) -> None:
    """Its tokens are those that the mask has; another cache, which grows, has as many."""
    ring = fitted(floats("past_key_values.0.key", "batch", 2, "past_sliding", 8), None, None, 24, None)
    grows = floats("past_key_values.1.key", "batch", 2, "past_sequence_length", 8)
    mask = TensorSpec("attention_mask", "int64", ("batch", "total"))
    new = 1 if past else 7
    for caches in ((ring,), (ring, grows)):
        feed = one(ids(), mask, *caches, past=past)
        assert feed["input_ids"].shape == (1, new)
        assert feed["attention_mask"].shape == (1, past + new)
        assert feed["past_key_values.0.key"].shape == (1, 2, 24, 8)
        assert feed.get("past_key_values.1.key", np.empty((1, 2, past, 8))).shape == (1, 2, past, 8)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (fitted(floats("pixel_values", "batch", "channels", "height", None), None, 1, 32, 48), (1, 1, 32, 48)),
        (fitted(floats("x", "batch", 3, "height", "height // 2"), None, None, 32, None), (1, 3, 32, 16)),
        (fitted(floats("past_key_values.0.key", "batch", "heads", "past", "dim"), None, 2, None, 16), (1, 2, 0, 16)),
        (fitted(floats("x", "batch", "length"), 4, None), (4, 7)),
    ],
)
def test_what_the_graph_suggests_goes_before_what_names_say(spec: TensorSpec, shape: tuple[int, ...]) -> None:
    assert one(spec)[spec.name].shape == shape


def test_what_the_graph_suggests_goes_for_all_inputs() -> None:
    mask = TensorSpec("attention_mask", "int64", ("batch", "mask_length"))
    feed = one(floats("half", "length // 2"), fitted(ids(shape=("batch", "length")), None, 10), mask)
    assert [array.shape for array in feed.values()] == [(5,), (1, 10), (1, 10)]


def test_what_is_given_goes_before_what_the_graph_suggests() -> None:
    suggested = fitted(floats("x", "batch", "length"), None, 10)
    feed = fill({"y": np.zeros((1, 3), np.float32)}, signature(suggested, floats("y", "batch", "length")),
                np.random.default_rng(0))  # fmt: skip
    assert feed["x"].shape == (1, 3)


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (TensorSpec("model/Segment_IDs:0", "int32", ("batch", "sequence")), np.zeros((1, 7), np.int32)),
        (TensorSpec("input_mask", "bool", ("batch", "sequence")), np.ones((1, 7), np.bool_)),
        (TensorSpec("attention_mask", "float32", ("batch", 1, "s", "s")), np.zeros((1, 1, 224, 224), np.float32)),
        (TensorSpec("bool_masked_pos", "bool", ("batch", "sequence")), np.zeros((1, 7), np.bool_)),
        (TensorSpec("position_ids", "int64", (3, "batch", "sequence")), np.tile(np.arange(7), (3, 1, 1))),
        (TensorSpec("past_sequence_length", "int32", (1,)), np.array([0], np.int32)),
        (TensorSpec("total_sequence_length", "int32", (1,)), np.array([7], np.int32)),
        (TensorSpec("input_lengths", "int64", ("batch",)), np.array([7])),
        (TensorSpec("serving_default_token_type_ids:0", "int32", (1, 3)), np.zeros((1, 3), np.int32)),
        (TensorSpec("input_type_ids", "int32", (1, 3)), np.zeros((1, 3), np.int32)),
        (TensorSpec("beam_idx", "int32", ("batch",)), np.zeros(1, np.int32)),
        (TensorSpec("pos_ids", "int64", (1, 3)), np.arange(3)[np.newaxis]),
        (TensorSpec("sequence_lens", "int32", ("batch",)), np.array([7], np.int32)),
        (TensorSpec("key_padding_mask", "bool", (1, 3)), np.zeros((1, 3), np.bool_)),
        (TensorSpec("padding_mask", "int64", (1, 3)), np.ones((1, 3), np.int64)),
        (TensorSpec("pixel_mask", "int64", (1, 4, 4)), np.ones((1, 4, 4), np.int64)),
        (TensorSpec("mask_time_indices", "bool", (1, 3)), np.zeros((1, 3), np.bool_)),
        (TensorSpec("has_mask_input", "float32", (1,)), np.zeros(1, np.float32)),
        (TensorSpec("mask_input", "float32", (1, 1, 4, 4)), np.zeros((1, 1, 4, 4), np.float32)),
    ],
)
def test_what_follows_from_others(spec: TensorSpec, value: np.ndarray) -> None:
    made = fill({}, signature(spec), seq_len=7)[spec.name]
    np.testing.assert_array_equal(made, value, strict=True)


@pytest.mark.parametrize(
    ("spec", "low", "high"),
    [
        (ids(vocabulary=3), 0, 2),
        (TensorSpec("input_ids", "int64", ("batch", "sequence")), 0, 99),
        (TensorSpec("labels", "int32", ("batch", "sequence")), 0, 1),
        (TensorSpec("flags", "bool", ("batch", "sequence")), False, True),
    ],
)
def test_ranges_of_integers(spec: TensorSpec, low: int, high: int) -> None:
    values = one(spec, seq_len=5000)[spec.name]
    assert (values.min(), values.max(), values.dtype.name) == (low, high, spec.dtype)


def test_floats_are_standard_normal() -> None:
    values = one(TensorSpec("x", "bfloat16", (4, 5000)))["x"]
    assert values.dtype.name == "bfloat16"
    assert abs(float(values.astype(np.float32).mean())) < 0.02
    assert abs(float(values.astype(np.float32).std()) - 1) < 0.02


@given(st.lists(st.lists(st.sampled_from(["batch", "seq", "n", "m", "height"]), min_size=1, max_size=4), max_size=4))
def test_one_name_is_one_size(shapes: list[list[str]]) -> None:
    inputs = [floats(f"x{index}", *shape) for index, shape in enumerate(shapes)]
    feed = one(*inputs)
    sizes = [
        (name, size) for spec in inputs for name, size in zip(spec.shape or (), feed[spec.name].shape, strict=True)
    ]
    assert all(a[1] == b[1] for a, b in itertools.combinations(sizes, 2) if a[0] == b[0])


def test_what_is_given_stays_and_decides_the_rest() -> None:
    given_ids = np.array([[5, 6, 7], [8, 9, 1]])
    feed = fill({"input_ids": given_ids}, ENCODER)
    assert list(feed) == ["input_ids", "attention_mask", "token_type_ids"]
    assert feed["input_ids"] is given_ids
    assert feed["token_type_ids"].shape == feed["attention_mask"].shape == (2, 3)


def test_inputs_that_follow_from_nothing_are_not_made_up_beside_given_ones() -> None:
    pixels = floats("pixel_values", "batch", 3, 8, 8)
    with pytest.raises(
        DataError, match=r"do not follow from the others: pixel_values \(got input_ids\)\. Give all of them"
    ):
        fill({"input_ids": np.array([[1]])}, signature(ids(), pixels))
    made = fill({"input_ids": np.array([[1]])}, signature(ids(), pixels), np.random.default_rng(0))
    assert made["pixel_values"].shape == (1, 3, 8, 8)


@pytest.mark.parametrize("dtype", ["string", "sequence", "optional", "complex64"])
def test_what_is_no_array_of_numbers_cannot_be_made_up(dtype: str) -> None:
    """Nor be given in a file, where they are no arrays at all."""
    file = (
        r"Give inputs with `calib=FILE\.npz`, or skip" if dtype in ("string", "complex64") else "No file of data holds"
    )
    message = rf"No data can be made up .*: words \({dtype}\)\. {file} .*`validate=False`"
    with pytest.raises(DataError, match=message):
        one(TensorSpec("words", dtype, ("batch",)))


def test_what_follows_must_be_numbers_too() -> None:
    with pytest.raises(DataError, match=r"not arrays of numbers: attention_mask \(string\)"):
        fill({}, signature(TensorSpec("attention_mask", "string", ("batch", "sequence"))))


def test_an_unknown_rank_cannot_be_made_up() -> None:
    with pytest.raises(
        DataError, match=r"Nothing is known about the shape of input x \(got no rank\).*`validate=False`"
    ):
        one(TensorSpec("x", "float32", None))


def test_past_tokens_need_a_cache() -> None:
    assert not has_cache(ENCODER)
    with pytest.raises(DataError, match=r"takes no cached keys and values \(got past=2\)\. Use past=0\."):
        generate(ENCODER, samples=1, seq_len=3, seed=0, past=2)
