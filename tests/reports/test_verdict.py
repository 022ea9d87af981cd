"""The verdict: how much was lost, in a word, on which data; gates that fail and broken outputs before all else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onnxfq.metrics.gates import Gate
from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.reports.bands import COSINE, KL, LEVELS, RELATIVE_MSE, TOP1, loss_of
from onnxfq.reports.verdict import in_sample_text, verdict
from support.reports import run


def logits(kl: float, top1: float, name: str = "logits") -> OutputAccuracy:
    return OutputAccuracy(name, "float32", 8, relative_mse=9.0, cosine=0.0, kl=kl, top1=top1, samples=16)


def vectors(error: float, cosine: float | None, name: str = "hidden") -> OutputAccuracy:
    return OutputAccuracy(name, "float32", 8, relative_mse=error, cosine=cosine, samples=16)


@pytest.mark.parametrize("index", range(4))
def test_the_worse_of_two_criteria_counts(index: int) -> None:
    """A figure at the limit is still in the band; one just beyond is in the next."""
    good = loss_of([logits(0.0, 1.0)]), loss_of([vectors(0.0, 1.0)])
    assert [loss.level for loss in good] == ["negligible"] * 2
    if index < 3:
        kl, top1, error, cosine = KL[index], TOP1[index], RELATIVE_MSE[index], COSINE[index]
        for output in (logits(kl, 1.0), logits(0.0, top1), vectors(error, 1.0), vectors(0.0, cosine)):
            assert loss_of([output]).level == LEVELS[index]
        for output in (
            logits(kl * 1.01, 1.0), logits(0.0, top1 - 0.001), vectors(error * 1.01, 1.0), vectors(0.0, cosine - 1e-4)
        ):  # fmt: skip
            assert loss_of([output]).level == LEVELS[index + 1]
    else:
        assert loss_of([logits(99.0, 1.0)]).level == loss_of([vectors(0.0, -1.0)]).level == "damaged"


def test_bands_grow() -> None:
    assert list(KL) == sorted(KL)
    assert list(RELATIVE_MSE) == sorted(RELATIVE_MSE)
    assert list(TOP1) == sorted(TOP1, reverse=True)
    assert list(COSINE) == sorted(COSINE, reverse=True)


def test_logits_alone_count_where_there_are_some_and_caches_only_where_there_is_nothing_else() -> None:
    cache = vectors(99.0, 0.0, "present.0.key")
    assert loss_of([logits(0.0, 1.0), vectors(99.0, 0.0), cache]).level == "negligible"
    assert loss_of([vectors(0.0, 1.0), cache]).level == "negligible"
    assert loss_of([cache]).level == "damaged"
    assert loss_of([vectors(0.0, 1.0, "a"), vectors(99.0, 0.5, "b")]).level == "damaged"
    assert loss_of([replace(vectors(0.0, None), cosine=None)]).level == "negligible"
    assert loss_of([OutputAccuracy("ids", "int64", 8, equal=0.5)]).text == "ids 50.0 % equal"
    assert loss_of([OutputAccuracy("ids", "int64", 8, equal=0.5)]).level == "damaged"


def test_an_output_without_figures_is_broken_whatever_the_others_are() -> None:
    bad = OutputAccuracy("present.0.key", "float32", 8, nonfinite=2, note="2 elements are NaN or infinite")
    assert loss_of([logits(0.0, 1.0), bad]).level == "broken"
    assert str(verdict(run(outputs=(logits(0.0, 1.0), bad)))).startswith("BROKEN: present.0.key: 2 elements are NaN")
    missing = OutputAccuracy("ids", "int64", 8, note="the candidate has no such output")
    assert loss_of([missing]).level == "broken"


def test_nothing_compared_is_never_called_good() -> None:
    text = OutputAccuracy("label", "sequence", 3, note="not compared: it is no array")
    assert loss_of([]).level == loss_of([text, OutputAccuracy("y", "float32")]).level == ""
    assert str(verdict(run(outputs=(text,)))) == (
        "NOT COMPARED: no output could be compared: label (not compared: it is no array)."
    )
    assert verdict(run(outputs=(), latency=())).word == "NOT VALIDATED"


def test_a_gate_that_fails_stands_before_the_scale() -> None:
    failed = Gate("min-speedup", 3.0, 2.7, passed=False)
    found = verdict(run(gates=(failed,), outputs=(logits(0.001, 0.99),)))
    assert (found.kind, found.word, found.level) == ("failed", "FAILED", "negligible")
    assert found.text.startswith("the gate does not hold: min-speedup 2.7, limit 3. Negligible loss: mean KL 0.001,")
    passed = verdict(run(gates=(replace(failed, passed=True),), outputs=(logits(3.0, 0.1),)))
    assert (passed.kind, passed.word) == ("passed", "DAMAGED")
    assert passed.text.endswith("; the gate holds.")


@pytest.mark.parametrize(
    ("inputs", "samples", "said"),
    [
        ("generated", 8, ", on 8 generated samples."),
        ("generated", 1, ", on 1 generated sample."),
        ("given: x.npz", 300, ", on 300 samples (given: x.npz)."),
        ("given: x.npz", 0, ", on samples (given: x.npz)."),
        ("", 300, "agreement 97.6 %."),
        ("held-out: x.npz", 16, ", on 16 held-out samples (given: x.npz)."),
        ("in-sample: x.npz", 4, ", on the 4 samples that calibrated it."),
    ],
)
def test_the_verdict_says_what_it_was_measured_on(inputs: str, samples: int, said: str) -> None:
    output = replace(logits(0.00123, 0.97612), samples=samples)
    measured_on, colon, name = inputs.partition(": ") if "-" in inputs else ("", "", "")
    found = verdict(run(outputs=(output,), inputs=f"given: {name}" if colon else inputs, measured_on=measured_on))
    assert found.word == "NEGLIGIBLE LOSS" + (", IN-SAMPLE" if measured_on == "in-sample" else "")
    assert found.text.endswith(said)
    assert ("mean KL 0.0012," if 0 < samples <= 8 else "mean KL 0.00123,") in found.text


def test_the_loss_in_sample_stands_beside_the_other() -> None:
    output = replace(logits(0.00123, 0.97612), samples=16)
    report = run(outputs=(output,), in_sample=(replace(output, kl=0.0001),), measured_on="held-out")
    assert in_sample_text(report) == (
        "In-sample, on 16 of the samples that calibrated it: mean KL 0.0001, top-1 agreement 97.6 %."
    )
    assert in_sample_text(run()) == ""


def test_a_comparison_that_met_no_quantized_weight_is_no_loss_of_nothing() -> None:
    output = OutputAccuracy("y", "float32", 100, relative_mse=0.0, cosine=1.0)
    found = verdict(run(outputs=(output,)))
    assert (found.word, found.level) == ("NOT COMPARED", "")
    assert "no quantized weight was met" in found.text


ALIKE = replace(vectors(9.0, 0.9998), variation=4e-5)


@pytest.mark.parametrize(
    ("outputs", "word"),
    [
        ([ALIKE], "UNCLEAR"),
        ([replace(ALIKE, relative_mse=None, note="constant")], "UNCLEAR"),
        ([replace(logits(0.001, 0.3), variation=4e-5)], "UNCLEAR"),
        ([replace(ALIKE, cosine=0.5)], "DAMAGED"),
        ([replace(logits(0.5, 1.0), variation=4e-5)], "DAMAGED"),
        ([replace(logits(0.03, 1.0), variation=0.4)], "SMALL LOSS"),
        ([ALIKE, replace(vectors(0.01, 0.99, "b"), variation=0.5)], "SMALL LOSS"),
        ([ALIKE, OutputAccuracy("ids", "int64", 8, equal=0.99, variation=0.5)], "NEGLIGIBLE LOSS"),
        ([OutputAccuracy("label", "int64", 8, equal=1.0, variation=0.0)], "NOT COMPARED"),
        ([OutputAccuracy("label", "int64", 8, equal=1.0, variation=0.5)], "NEGLIGIBLE LOSS"),
        ([OutputAccuracy("label", "int64", 8, equal=0.5, variation=0.0)], "DAMAGED"),
        ([OutputAccuracy("boxes", "float32", 8, unmatched=1, note="its length")], "NOT COMPARED"),
        ([OutputAccuracy("boxes", "float32", 8, unmatched=1), vectors(0.01, 0.99)], "SMALL LOSS"),
        ([replace(vectors(0.0, 1.0), reached=False), OutputAccuracy("boxes", "float32", 8, unmatched=1)],
         "NOT COMPARED"),
        ([replace(vectors(0.0, 1.0), reached=False), vectors(0.01, 0.99, "b")], "SMALL LOSS"),
        ([vectors(0.0, 1.0), OutputAccuracy("label", "int64", 8, equal=0.9, variation=0.5)], "SMALL LOSS"),
        ([vectors(0.0, 1.0), OutputAccuracy("label", "int64", 8, equal=1.0, variation=0.5)], "NOT COMPARED"),
        ([OutputAccuracy("y", "float32", 8, shared_nonfinite=8, note="no number")], "NOT COMPARED"),
    ],
)  # fmt: skip
def test_only_what_tells_of_the_weights_is_judged(outputs: list[OutputAccuracy], word: str) -> None:
    report = run(outputs=tuple(outputs))
    found = verdict(report)
    assert found.word == word
    assert (found.level == "") == (word == "NOT COMPARED")
    assert ("hardly anything changes" in found.text) == (word == "UNCLEAR")
