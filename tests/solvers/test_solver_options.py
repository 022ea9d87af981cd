"""Options of algorithms as text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from onnxfq.arrays import Float32Array
from onnxfq.errors import UsageError
from onnxfq.quantized import QuantizedWeight
from onnxfq.scheme import ScaleType, Scheme
from onnxfq.solvers import SOLVERS, algorithm_text, make_solver, solver_options
from onnxfq.solvers.awq import Awq
from onnxfq.solvers.base import Solver
from onnxfq.solvers.gptq import Gptq
from onnxfq.solvers.hqq import Hqq
from onnxfq.solvers.rtn import Rtn
from onnxfq.statistics import Statistics


@dataclass(frozen=True, slots=True)
class Dummy(Solver):
    """An algorithm with an option of every type."""

    strength: float = 0.05
    alpha: float | None = None
    order: bool = True
    rounds: int = 2
    form: str = "plain"

    name: ClassVar[str] = "gptq"
    calibrated: ClassVar[bool] = True
    weights_per_second: ClassVar[float] = 1e6

    def _solve(
        self, weight: Float32Array, scheme: Scheme, statistics: Statistics, scale_type: ScaleType
    ) -> QuantizedWeight:
        return Rtn().solve(weight, scheme, statistics, scale_type=scale_type)


@pytest.fixture(autouse=True)
def dummy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOLVERS, "gptq", Dummy)


def test_options_become_fields_of_their_types() -> None:
    solver = make_solver("gptq:strength=2e-2,alpha=1,order=No, rounds = 3 ,form=wide", calibrated=True)
    assert solver == Dummy(0.02, 1.0, False, 3, "wide")
    assert type(solver_options(solver)["alpha"]) is float
    assert solver_options(solver) == {"strength": 0.02, "alpha": 1.0, "order": False, "rounds": 3, "form": "wide"}


@pytest.mark.parametrize(
    ("word", "value"), [("true", True), ("1", True), ("yes", True), ("FALSE", False), ("0", False), ("no", False)]
)
def test_words_for_yes_and_no(word: str, value: bool) -> None:
    assert make_solver(f"gptq:order={word}", calibrated=True) == Dummy(order=value)


@pytest.mark.parametrize(
    "algorithm",
    ["rtn", "hqq", "gptq", "gptq:strength=0.02", "gptq:strength=1e-05,alpha=0.5,order=false,rounds=0", "gptq:form=x"],
)
def test_a_description_makes_the_same_solver(algorithm: str) -> None:
    assert algorithm_text(make_solver(algorithm, calibrated=True)) == algorithm


def test_a_description_leaves_defaults_out() -> None:
    assert algorithm_text(make_solver("gptq:strength=0.05,alpha=none,rounds=2", calibrated=True)) == "gptq"


def test_auto_is_the_best_for_what_is_at_hand() -> None:
    assert isinstance(make_solver("auto"), Hqq)
    assert make_solver("auto", calibrated=True) == Dummy()
    assert make_solver("auto:rounds=0", calibrated=True) == Dummy(rounds=0)


ALL = r"strength=0\.05, alpha=none, order=true, rounds=2, form=plain\.$"


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        ("magic", r"got algorithm='magic'.* Use auto, .*gptq, hqq, rtn"),
        ("", r"got algorithm=''"),
        ("gptq:damp=1", rf"there is no option 'damp'.*defaults: {ALL}"),
        ("gptq:", rf"Options are missing after the colon \(got algorithm='gptq:', wanted gptq:OPTION=.*{ALL}"),
        ("gptq: ", "Options are missing after the colon"),
        ("gptq:rounds=1,", "an option is missing beside a comma"),
        ("gptq:=1", "a name is missing before =1"),
        ("gptq:strength", "strength is '', wanted a number"),
        ("gptq:strength=much", "strength is 'much', wanted a number"),
        ("gptq:strength=nan", "strength is 'nan', wanted a number"),
        ("gptq:strength=none", "strength is 'none', wanted a number"),
        ("gptq:alpha=x", "alpha is 'x', wanted a number or none"),
        ("gptq:rounds=1.5", "rounds is '1.5', wanted a whole number"),
        ("gptq:order=maybe", "order is 'maybe', wanted true or false"),
        ("gptq:rounds=1,rounds=2", "rounds is given twice"),
        ("gptq:rounds=x,damp=1", "rounds is 'x', wanted a whole number; there is no option 'damp'"),
        ("rtn:rounds=1", r"The algorithm rtn has no options \(got 'rounds=1'\)\. Use `algorithm=rtn`\."),
    ],
)
def test_what_does_not_fit_is_refused_with_what_there_is(algorithm: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_solver(algorithm, calibrated=True)


def test_an_algorithm_that_needs_data_asks_for_them() -> None:
    with pytest.raises(UsageError, match=r'gptq needs calibration data .*`calib=FILE`, .*`calib="self"`, .*hqq'):
        make_solver("gptq")


def test_a_class_without_fields_has_no_options(monkeypatch: pytest.MonkeyPatch) -> None:
    class Narrow(Rtn):
        name = "narrow"

    monkeypatch.setitem(SOLVERS, "narrow", Narrow)
    solver = make_solver("narrow")
    assert (algorithm_text(solver), solver_options(solver)) == ("narrow", {})
    assert solver.solve(np.ones((1, 32), np.float32), Scheme(), None, scale_type="float32").codes.shape == (1, 32)


def test_the_guide_lists_all_of_them() -> None:
    guide = Path(__file__).resolve().parents[2] / "onnxfq" / "calibration" / "README.md"
    rows = re.findall(r"^\| (\w+) \| `(\w+)` \| (\S+) \|", guide.read_text(encoding="utf-8"), re.MULTILINE)
    options = {
        (solver.name, option): value for solver in (Gptq(), Awq()) for option, value in solver_options(solver).items()
    }
    assert {(name, option): default for name, option, default in rows} == {
        key: str(value).lower() for key, value in options.items()
    }
