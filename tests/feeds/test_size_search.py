"""Sizes found by asking a model: of each kind of model, those on which it runs, in few trials."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from onnxfq.errors import DataError, ModelError, OperatorError
from onnxfq.feeds import Feed, RefusedError, fit_sizes, generate
from onnxfq.feeds.names import is_integer
from onnxfq.feeds.size_search import MOST_TRIALS
from onnxfq.session import Session
from onnxfq.signature import Signature, TensorSpec
from support.models import model, normal, whole


def vit(patch: int, patches: int, x: str = "float[b, num_channels, height, width] x") -> onnx.ModelProto:
    """Patches in grey, a class token, and a table of positions."""
    return model(
        f"p = Conv<strides = [{patch}, {patch}]>(x, k) f = Reshape(p, s) t = Transpose<perm = [0, 2, 1]>(f) "
        "c = Concat<axis = 1>(first, t) y = Add(c, positions)",
        x=x,
        y="float[b, n, 16] y",
        k=normal(16, 1, patch, patch),
        s=whole(0, 16, -1),
        first=normal(1, 1, 16),
        positions=normal(1, patches + 1, 16),
    )


def nameless(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same with dimensions that have no names."""
    for dimension in proto.graph.input[0].type.tensor_type.shape.dim:
        dimension.Clear()
    return proto


def flattened() -> onnx.ModelProto:
    """Convolutions without padding and a layer over all pixels: images of 28 x 28 in grey."""
    return model(
        "a = Conv(x, k) p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a) b = Conv(p, l) f = Flatten(b) "
        "y = Gemm(f, w)",
        x="float[N, C, H, W] x",
        y="float[N, 10] y",
        k=normal(4, 1, 5, 5),
        l=normal(8, 4, 5, 5),
        w=normal(8 * 8 * 8, 10),
    )


def reshaped() -> onnx.ModelProto:
    """Without padding too, and a Reshape to the number of all elements."""
    return model(
        "a = Conv(x, k) p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a) b = Conv(p, l) "
        "q = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(b) y = Reshape(q, s)",
        x="float[N, 3, H, W] x",
        y="float[N, 400] y",
        k=normal(6, 3, 5, 5),
        l=normal(16, 6, 5, 5),
        s=whole(-1, 400),
    )


def spectrum() -> onnx.ModelProto:
    """80 features a frame, half the frames, and a table of positions."""
    return model(
        "a = Conv<pads = [1, 1]>(input_features, k) b = Conv<strides = [2], pads = [1, 1]>(a, l) "
        "t = Transpose<perm = [0, 2, 1]>(b) y = Add(t, positions)",
        x="float[b, feature_size, encoder_sequence_length] input_features",
        y="float[b, n, 8] y",
        k=normal(8, 80, 3),
        l=normal(8, 8, 3),
        positions=normal(1500, 8),
    )


def wave() -> onnx.ModelProto:
    """Convolutions with strides, for which few samples are none."""
    return model(
        "u = Unsqueeze(x, one) a = Conv<strides = [5]>(u, k) b = Conv<strides = [4]>(a, l) "
        "y = Conv<strides = [4]>(b, l)",
        x="float[b, sequence_length] x",
        y="float[b, 4, m] y",
        one=whole(1),
        k=normal(4, 1, 10),
        l=normal(4, 4, 8),
    )


def line() -> onnx.ModelProto:
    """A height that ends as one, of lines of text."""
    return model(
        "a = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x) "
        "b = MaxPool<kernel_shape = [16, 2], strides = [16, 2]>(a) y = Squeeze(b, two)",
        x="float[N, 3, H, W] x",
        y="float[N, 3, m] y",
        two=whole(2),
    )


def scales() -> onnx.ModelProto:
    """Two scales that meet again: sides are multiples of 64."""
    halve = "MaxPool<kernel_shape = [2, 2], strides = [2, 2]>"
    halved = " ".join(f"d{i + 1} = {halve}(d{i})" for i in range(6))
    doubled = " ".join(f"u{i + 1} = Resize(u{i}, none, twice)" for i in range(6))
    return model(
        f"d0 = Identity(x) {halved} u0 = Identity(d6) {doubled} y = Concat<axis = 1>(x, u6)",
        x="float[N, 3, H, W] x",
        y="float[N, 6, h, w] y",
        none=np.array([], np.float32),
        twice=np.array([1, 1, 2, 2], np.float32),
    )


def two_inputs() -> onnx.ModelProto:
    """Images beside texts, whose positions end."""
    image = vit(8, 16, "int64[texts, sequence] input_ids, float[images, C, H, W] pixel_values")
    image.graph.node[0].input[0] = "pixel_values"
    more = model(
        "e = Gather(words, input_ids) z = Add(e, places)",
        x="int64[texts, sequence] input_ids",
        y="float[texts, sequence, 4] z",
        words=normal(50, 4),
        places=normal(20, 4),
    )
    for name in ("node", "initializer", "output"):
        getattr(image.graph, name).extend(getattr(more.graph, name))
    return image


def cache(size: str = "kv_cache_dim") -> onnx.ModelProto:
    """Keys of 96 whose size has a name that nobody knows."""
    return model(
        "e = Gather(words, input_ids) u = Unsqueeze(e, one) k = Concat<axis = 2>(past_key, u) y = ReduceMean(k)",
        x=f"int64[b, s] input_ids, float[b, 1, past, {size}] past_key",
        y="float[b, 1, s, d] y",
        words=normal(50, 96),
        one=whole(1),
    )


def features() -> onnx.ModelProto:
    """What is told about frames: 40 numbers each."""
    return model("y = Conv(f, k)", x="float[b, c, time] f", y="float[b, 4, m] y", k=normal(4, 40, 3))


KINDS: dict[str, tuple[onnx.ModelProto, dict[str, tuple[int, ...]], int]] = {
    "patches of 4": (vit(4, 64), {"x": (1, 1, 32, 32)}, 6),
    "patches of 14": (vit(14, 36), {"x": (1, 1, 84, 84)}, 6),
    "patches, nameless": (nameless(vit(16, 9)), {"x": (1, 1, 48, 48)}, 6),
    "all pixels": (flattened(), {"x": (1, 1, 28, 28)}, 12),
    "all pixels reshaped": (reshaped(), {"x": (1, 3, 32, 32)}, 12),
    "spectrum": (spectrum(), {"input_features": (1, 80, 3000)}, 8),
    "wave": (wave(), {"x": (1, 3000)}, 3),
    "line of text": (line(), {"x": (1, 3, 32, 224)}, 6),
    "scales": (scales(), {"x": (1, 3, 192, 192)}, 5),
    "two inputs": (two_inputs(), {"input_ids": (1, 20), "pixel_values": (1, 1, 32, 32)}, 9),
    "features": (features(), {"f": (1, 40, 32)}, 2),
}


class Asked:
    """A session that counts what it is asked."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._session, self.count = Session(proto.SerializeToString()), 0
        inputs = tuple(replace(s, vocabulary=50 if is_integer(s) else None) for s in self._session.signature().inputs)
        self.signature = Signature(inputs, ())

    def run(self, feed: Feed) -> object:
        self.count += 1
        return self._session.run(feed)


def make(signature: Signature) -> Feed:
    return generate(signature, samples=1, seq_len=32, seed=0)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_on_which_a_model_runs_are_found(kind: str) -> None:
    proto, shapes, most = KINDS[kind]
    asked = Asked(proto)
    feed = make(fit_sizes(asked.signature, make, asked.run))
    assert {name: feed[name].shape for name in shapes} == shapes
    assert asked.count <= most
    assert asked.run(feed)


def test_the_size_of_keys_shows_in_a_step_behind_cached_tokens() -> None:
    asked = Asked(cache())

    def step(signature: Signature) -> Feed:
        return generate(signature, samples=1, seq_len=1, seed=0, past=4)[0]

    found = fit_sizes(asked.signature, step, asked.run)
    assert make(found)["past_key"].shape == (1, 1, 0, 96)
    assert step(found)["past_key"].shape == (1, 1, 4, 96)
    assert make(found)["input_ids"].shape == (1, 32)  # lengths stay open


def test_a_model_that_runs_at_once_is_asked_once_and_keeps_its_sizes_open() -> None:
    asked, told = Asked(model("y = Relu(x)", x="float[b, 3, H, W] x", y="float[b, 3, H, W] y")), []
    found = fit_sizes(asked.signature, make, asked.run, lambda *step: told.append(step))
    assert (found, asked.count, told) == (asked.signature, 1, [])


def test_what_suits_no_size_ends_after_so_many_trials_with_the_first_reason() -> None:
    proto = model("y = Reshape(x, s)", x="float[b, 3, H, W] x", y="float[a, c] y", s=whole(-1, 7919))
    asked, told = Asked(proto), []
    with pytest.raises(RefusedError, match="Reshape") as refused:
        fit_sizes(asked.signature, make, asked.run, lambda *step: told.append(step))
    assert refused.value.trials == asked.count - 1 == len(told) == MOST_TRIALS
    assert not refused.value.timed_out
    assert str(refused.value) == str(refused.value.error)
    assert isinstance(refused.value.error, DataError | ModelError)
    assert {total for _, _, total in told} == {MOST_TRIALS}


def test_a_search_that_took_too_long_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxfq.feeds.size_search.MOST_SECONDS", -1.0)
    asked = Asked(reshaped())
    with pytest.raises(RefusedError) as refused:
        fit_sizes(asked.signature, make, asked.run)
    assert (refused.value.timed_out, refused.value.trials) == (True, 0)


def test_sizes_that_are_found_do_not_depend_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is over as soon as some sizes suit; nearer ones are looked for all the same."""
    wanted = Asked(two_inputs())
    found = fit_sizes(wanted.signature, make, wanted.run)
    late, now = Asked(two_inputs()), 0.0

    def run(feed: Feed) -> object:
        nonlocal now
        given = late.run(feed)
        now = 1e9
        return given

    monkeypatch.setattr("onnxfq.feeds.size_search.monotonic", lambda: now)
    assert fit_sizes(late.signature, make, run) == found
    assert late.count == wanted.count


def test_the_same_sizes_are_found_again() -> None:
    first, second = (fit_sizes(a.signature, make, a.run) for a in (Asked(reshaped()), Asked(reshaped())))
    assert first == second


def test_a_model_that_cannot_run_at_all_is_not_asked_again() -> None:
    def run(_feed: Feed) -> object:
        raise OperatorError("no such operator")

    with pytest.raises(OperatorError):
        fit_sizes(Signature((TensorSpec("x", "float32", ("b", "n")),), ()), make, run)


def test_nothing_gigantic_is_tried() -> None:
    """A message may name any number."""
    largest = 0

    def run(feed: Feed) -> object:
        nonlocal largest
        largest = max(largest, *(array.size for array in feed.values()))
        raise DataError("while running Add node. Name:'a' Got: 224 Expected: 99999999999, got 3, expected 700000")

    inputs = (TensorSpec("x", "float32", ("b", "c", "h", "w")), TensorSpec("y", "float32", ("h", "w")))
    with pytest.raises(RefusedError):
        fit_sizes(Signature(inputs, ()), make, run)
    assert largest <= 1 << 25
