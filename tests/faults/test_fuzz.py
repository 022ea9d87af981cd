"""A short campaign of `tools/fuzz.py`, graphs by hypothesis, and whether the fuzzer notices what it is there for."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxfq.errors import ModelError
from onnxfq.scheme import Scheme
from support.models import quantized_by_rtn
from tools.fuzz import Worker, fuzz, worker
from tools.fuzzing.case import MODEL, Case
from tools.fuzzing.graphs import generated_case
from tools.fuzzing.oracle import differs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the watched process needs Linux's limits")


def test_hostile_inputs_end_in_an_error_or_a_result() -> None:
    campaign = fuzz(0, "--cold", cases=120)
    assert campaign.findings == {}
    outcomes = {outcome for counts in campaign.counts.values() for outcome in counts}
    assert outcomes >= {"quantized", "ModelError", "exit code 0", "exit code 3"}


@given(chance=st.randoms(use_true_random=False))
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_generated_graphs_compute_what_they_did(
    chance: random.Random, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("generated")
    generated_case(chance).write(folder / "model")
    source, output = folder / "model" / MODEL, folder / "out.onnx"
    try:
        report = quantized_by_rtn(source, output, scheme=Scheme(bits=8, activations="float"), allow_slow=True)
    except ModelError:  # a graph without a target
        return
    assert differs(source, output, bool(report.targets), tolerance=0.05) == ""


@pytest.fixture(scope="module")
def watched() -> Iterator[Worker]:
    with worker("--cold") as made:
        yield made


@pytest.mark.parametrize(
    ("settings", "finding"),
    [
        (0, "KeyError"),
        (3, "MemoryError"),
        (4, "opened secret.bin"),
        (5, "opened /etc/passwd"),
        (1, "crash: SIGABRT"),
        (2, "hang"),
    ],
)
def test_trouble_is_noticed(settings: int, finding: str, watched: Worker) -> None:
    found = watched.try_case(Case({}, job="trouble", settings=settings), seconds=1.0)
    assert found["finding"].startswith(finding)
