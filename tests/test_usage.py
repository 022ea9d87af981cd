"""How a model will be used, as people write it; and for which machines."""

from __future__ import annotations

import re

import pytest

from onnxfq.errors import UsageError
from onnxfq.machines import AUTO, MACHINES, find_machine
from onnxfq.option_changes import choose_options
from onnxfq.options import Options
from onnxfq.providers import PROVIDERS
from onnxfq.rules.known_speeds import packaged
from onnxfq.usage import USAGES, Usage, parse_workload


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ("decode", (1,)),
        (" prefill ", (128,)),
        ("mixed", (1, 128)),
        ("1,128", (1, 128)),
        ("512, 8 ,8", (8, 512)),
        (64, (64,)),
        ([128, 1], (1, 128)),
        ((16,), (16,)),
        ("10000000", (10**7,)),
    ],
)
def test_workloads(given: str | int | list[int], rows: tuple[int, ...]) -> None:
    assert parse_workload(given).rows == rows
    chosen = Options(workload=given)
    assert chosen.usage is not None
    assert chosen.usage.rows == rows
    again = Options(workload=chosen.as_json()["workload"])
    assert again.workload == chosen.workload


@pytest.mark.parametrize(
    "given", ["", "fast", "1,", "0", "-1", "1.5", "1;2", "٣", "10000001", 0, True, [], [True], ["decode"], [1.5]]
)
def test_what_is_no_workload_is_refused_with_what_is(given: object) -> None:
    with pytest.raises(UsageError, match=re.escape("Write decode, prefill, encoder, mixed, or counts of rows")):
        parse_workload(given)  # type: ignore[arg-type]


def test_workloads_in_words() -> None:
    assert str(Usage((1,), "")) == "1 row"
    assert str(Usage((128,), "")) == "128 rows"
    assert str(Usage((1, 16, 128), "")) == "1, 16 and 128 rows"
    assert all(parse_workload(name).rows == rows for name, rows in USAGES.items())


def test_every_machine_is_of_a_provider_and_its_table_is_there() -> None:
    for name, machine in MACHINES.items():
        assert machine.name == name
        assert machine.provider in PROVIDERS
        assert machine.formats
        assert not machine.instructions or machine.instructions in packaged()
        assert machine.why or len(machine.formats) == 4


def test_without_a_target_it_is_this_machine() -> None:
    here = find_machine(AUTO, "cpu")
    assert here.instructions == "AVX512-VNNI"
    assert here.title == "this machine"
    assert find_machine(AUTO, "cuda") is MACHINES["cuda"]
    assert find_machine("avx2", "cuda") is MACHINES["avx2"]


def test_no_such_target() -> None:
    with pytest.raises(UsageError, match=r"no such target \(got target='tpu'\)\. Use auto, avx2, vnni, arm, cuda"):
        Options(target="tpu")


@pytest.mark.parametrize(("target", "symmetric"), [("auto", False), ("avx2", False), ("webgpu", True), ("cuda", True)])
def test_the_target_decides_about_zero_points_where_nothing_else_does(target: str, symmetric: bool) -> None:
    assert choose_options(None, {"target": target, "provider": "cpu"}).scheme.symmetric is symmetric
    assert choose_options(None, {"target": target, "symmetric": not symmetric}).scheme.symmetric is not symmetric
