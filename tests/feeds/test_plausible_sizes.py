"""What a refusal tells about sizes, and what is tried after it, without a session."""

from __future__ import annotations

import pytest

from onnxfq.feeds.axis_kinds import AxisKind
from onnxfq.feeds.plausible_sizes import GUESSED, TOLD, Axis, Choice, Trial, next_choices
from onnxfq.feeds.refusals import Refusal, read_refusal

RUNNING = "Non-zero status code returned while running {} node. Name:'/a/b' Status Message: "
BROADCAST = "element_wise_ops.h:583 axis == 1 was false. Attempting to broadcast an axis by a dimension other than 1. "

# what ONNX Runtime says, and what was got and wanted
MESSAGES: dict[str, tuple[str, set[tuple[int, int]]]] = {
    "channels": (
        "Input channels C is not equal to kernel channels * group. C: 3 kernel channels: 1 group: 1",
        {(3, 1)},
    ),
    "groups": ("... kernel channels * group. C: 3 kernel channels: 2 group: 4", {(3, 8)}),
    "transposed": ("filter number not equal to input channel number. filter_number: 8 num_input_channels: 3", {(3, 8)}),
    "broadcast": (BROADCAST + "196 by 36", {(196, 36), (36, 196)}),
    "concat": ("Axis 2 has mismatched dimensions of 8 and 7", {(8, 7), (7, 8)}),
    "squeeze": ("Dimension of input 2 must be 1 instead of 7. shape={1,3,7,7}", {(7, 1)}),
    "gemm": ("GEMM: Dimension mismatch, W: {512,10} K: 89888 N:10. Give", {(89888, 512)}),
    "gemm, transposed": ("GEMM: Dimension mismatch, W: {10,512} K: 89888 N:10", {(89888, 512)}),
    "reshape": ("Input shape:{1,196,64}, requested shape:{1,36,64}", {(12544, 2304), (196, 36)}),
    "reshape, open": ("Input shape:{1,16,53,53}, requested shape:{-1,400}", {(44944, 400)}),
    "input": ("Got invalid dimensions for input: x for the following indices index: 1 Got: 3 Expected: 1", {(3, 1)}),
    "cache": ("Input 'past_key' dimension 3 should match, got 224 expected 8", {(224, 8)}),
    "recurrent": ("Input W must have shape {1,16,7}. Actual:{1,16,8}", {(8, 7), (7, 8)}),
    "positions": ("indices element out of data bounds, idx=99 must be within the inclusive range [-32,31]", {(33, 32)}),
    "nothing": ("matmul_helper.h:59 Compute MatMul dimension mismatch", set()),
    "gigantic": (BROADCAST + "9999999999999999999999 by 3", set()),
    "empty": (BROADCAST + "0 by 3", set()),
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_what_was_got_and_wanted(kind: str) -> None:
    text, wanted = MESSAGES[kind]
    found = read_refusal(RUNNING.format("Conv") + text)
    assert (found.place, set(found.sizes)) == ("Conv /a/b", wanted)


def test_refusals_at_one_place_are_told_apart_from_others() -> None:
    first, same, other = (read_refusal(text) for text in ("no node: 3 by 4", "no node: 5 by 6", "no memory"))
    assert first.place == same.place != other.place


IMAGE: dict[Axis, AxisKind] = {"b": "batch", "c": "channels", ("x", 2): "side", ("x", 3): "side"}
SIZES: dict[Axis, int] = {"b": 1, "c": 3, ("x", 2): 224, ("x", 3): 224}


def choices(*sizes: tuple[int, int], kinds: dict[Axis, AxisKind] = IMAGE, now: dict[Axis, int] = SIZES) -> list[Choice]:
    return next_choices(kinds, [Trial(now, Refusal("Add a", sizes))])


def told(found: list[Choice]) -> list[dict[Axis, int]]:
    return [dict(choice.sizes) for choice in found if choice.rank == TOLD]


@pytest.mark.parametrize(
    ("got", "wanted", "side"),
    [(196, 36, 96), (197, 37, 96), (198, 38, 96), (196 * 64, 36 * 64, 96), (7, 1, None), (50176, 784, 28)],
)
def test_sides_of_which_patches_or_pixels_were_counted(got: int, wanted: int, side: int | None) -> None:
    found = told(choices((got, wanted)))
    assert (SIZES | {("x", 2): side, ("x", 3): side} in found) == (side is not None)


def test_a_size_that_is_the_one_got_becomes_the_one_wanted() -> None:
    assert told(choices((3, 1)))[0] == SIZES | {"c": 1}
    assert SIZES | {("x", 2): 160, ("x", 3): 160} in told(choices((224, 160)))
    assert SIZES | {("x", 2): 160} in told(choices((224, 160)))


def test_two_refusals_at_one_place_show_how_a_size_counts() -> None:
    kinds: dict[Axis, AxisKind] = {"n": "samples"}
    trials = [Trial({"n": n}, Refusal("Add a", ((got, 49), (49, got)))) for n, got in ((16_000, 49), (8_000, 24))]
    trials[0] = Trial({"n": 32_000}, Refusal("Add a", ((99, 49), (49, 99))))
    sizes = [dict(choice.sizes)["n"] for choice in next_choices(kinds, trials) if choice.rank == TOLD]
    assert 8_000 + 25 * 320 in sizes


def test_without_a_hint_usual_sizes_are_tried_and_none_twice() -> None:
    found = choices()
    assert {choice.rank for choice in found} == {GUESSED}
    keys = [tuple(choice.sizes.items()) for choice in found]
    assert len(set(keys)) == len(keys)
    assert tuple(SIZES.items()) not in keys
    sides = [choice.sizes["x", 2] for choice in found if choice.sizes["x", 2] == choice.sizes["x", 3]]
    assert {32, 48, 64, 96, 128, 256, 384, 448, 512, 640} <= set(sides)
    assert {1, 4} <= {choice.sizes["c"] for choice in found}
    assert found[-1].sizes["b"] != 1  # rows come last


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("samples", {400, 16_000, 480_000}),
        ("features", {40, 80, 128}),
        ("frames", {64, 100, 3_000}),
        ("tokens", {1, 8, 16, 64, 128}),
        ("head size", {32, 64, 96, 128}),
        ("heads", {1, 2, 8, 12}),
        ("other", {1, 8, 768}),
    ],
)
def test_usual_sizes_of_each_kind(kind: AxisKind, wanted: set[int]) -> None:
    found = {choice.sizes["n"] for choice in choices(kinds={"n": kind}, now={"n": 33})}
    assert wanted <= found
    assert 33 not in found


def test_no_size_is_without_bounds() -> None:
    found = choices((3, 10**12 - 1), (10**12 - 1, 3), (224, 100_000), (1, 5))
    assert max(size for choice in found for size in choice.sizes.values()) <= 1024
    assert min(size for choice in found for size in choice.sizes.values()) >= 1
