"""Reports as pages: everything is there, nothing is loaded, and nothing from a model is obeyed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from onnxfq.metrics.gates import Gate
from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.reports.compare import compare_reports
from onnxfq.reports.figures import figure_text
from onnxfq.reports.page import LONGEST_NAME, comparison_page, report_page
from onnxfq.reports.report import Report
from support.reports import EVIL, LONG, ODD, evil, folder, inspected, layer, mixed, run, unknown
from support.tiny import QUICK, entries, pair, quantize

VOID = {"meta", "link", "br", "wbr"}
LOADING = {"src", "href", "srcset", "action", "data", "poster", "formaction", "background", "xlink:href"}
ORDER = ["verdict", "before-after", "contents", "layers", "ranges", "left-alone", "again"]


class Parsed(HTMLParser):
    """Tags, attributes and text of a page; complains about tags that do not close."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self._goes_on = False  # a word, behind a place where it may break
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"{tag} repeats an attribute"
        self.tags.append((tag, dict(attrs)))
        self._goes_on = tag == "wbr"
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] in (["style"], ["script"]):
            return
        if self._goes_on:
            data = self.texts.pop() + data
        self._goes_on = False
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def names(self) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get("id"))]


def parsed(report: Report) -> Parsed:
    return Parsed(report_page(report))


pages = pytest.mark.parametrize("make", ODD.values(), ids=ODD)


@pages
def test_every_kind_of_report_has_every_section_in_order(make: Callable[[], Report]) -> None:
    report = make()
    page = parsed(report)
    assert [name for name in page.names if name in ORDER] == ORDER
    assert len(page.names) == len(set(page.names))
    links = [str(a["href"]) for tag, a in page.tags if tag == "a"]
    assert links
    assert all(link.startswith("#") and link[1:] in page.names for link in links)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


@pages
def test_nothing_is_loaded_and_nothing_runs_but_the_one_script(make: Callable[[], Report]) -> None:
    page = report_page(make())
    tags = Parsed(page).tags
    assert [tag for tag, _ in tags].count("script") == 1
    allowed = {"html", "head", "meta", "title", "link", "style", "script", "body", "header", "main", "section", "nav"}
    allowed |= {
        "h1",
        "h2",
        "h3",
        "p",
        "a",
        "ul",
        "ol",
        "li",
        "dl",
        "dt",
        "dd",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
    }
    allowed |= {
        "div",
        "span",
        "strong",
        "b",
        "i",
        "small",
        "br",
        "wbr",
        "bdi",
        "code",
        "pre",
        "details",
        "summary",
        "figure",
    }
    allowed |= {"figcaption", "svg", "path", "rect"}
    assert {tag for tag, _ in tags} <= allowed
    for tag, attributes in tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in LOADING & set(attributes):
            value = str(attributes[name])
            assert value.startswith("#") or (tag, value) == ("link", "data:,")
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(str(a["content"]) for _, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


@pages
def test_no_character_is_left_that_hides_or_reorders_text(make: Callable[[], Report]) -> None:
    page = report_page(make())
    assert [c for c in set(page) if not c.isprintable() and c != "\n"] == []
    page.encode("utf-8")


def test_names_are_shown_as_they_are_and_not_obeyed() -> None:
    page = report_page(evil())
    assert "<script>alert" not in page
    assert "onload='x'" not in page
    text = Parsed(page).text
    assert text.count("<script>alert(1)</script>\" onload='x' [bold]\\x1b[31mred") > 15
    assert "{{ 7*7 }}" in text
    assert "\\u202egpj.exe" in text
    assert "שלום עולם" in text


def test_a_very_long_name_is_cut_and_says_so() -> None:
    text = parsed(evil()).text
    assert f"({len(LONG) - LONGEST_NAME} characters left out)" in text
    assert LONG not in text


def test_figures_of_a_run_are_there() -> None:
    page = parsed(run())
    for part in (
        "4.1 MB",
        "36.6%",
        "0.0123",
        "95.0 %",
        "2.00× as fast",
        "50.0 %",
        "30.0 ms",
        "given: texts.jsonl",
        "5.13",
    ):
        assert part in page.text
    assert "onnxfq quantize models/m.onnx -o out/m.int4.onnx --bits 4 --block-size 32 --asymmetric" in page.text
    assert "1× excluded by the user (--exclude lm_head) (400 kB)" in page.text
    assert "Slower than the original" in page.text


@pytest.mark.parametrize(
    ("report", "kind", "says"),
    [
        (
            run(),
            "compared negligible",
            "NEGLIGIBLE LOSS: mean KL 0.01, top-1 agreement 95.0 %, on samples (given: texts.jsonl).",
        ),
        (run(outputs=(), latency=()), "unproven ", "NOT VALIDATED:"),
        (inspected(), "inspected ", "INSPECTED: 3 nodes would be quantized"),
        (run(gates=(Gate("max-error", 1.0, 0.1, passed=True),)), "passed negligible", "jsonl); the gate holds."),
        (unknown(), "failed broken", "FAILED: the gate does not hold: max-error without a figure, limit 0.1. Broken: "),
    ],
)
def test_the_verdict_comes_first(report: Report, kind: str, says: str) -> None:
    page = parsed(report)
    assert says in page.text
    assert page.text.index(says) < page.text.index("Before and after")
    (banner,) = [a for _, a in page.tags if a.get("id") == "verdict"]
    assert banner["class"] == f"verdict {kind}"


def charts(report: Report) -> list[str]:
    return [name.removeprefix("chart-") for name in parsed(report).names if name.startswith("chart-")]


def test_charts_are_those_for_which_there_are_figures() -> None:
    assert charts(run()) == ["contents", "errors", "weights", "activations"]
    assert charts(mixed()) == ["contents", "errors", "bits", "weights", "activations"]
    assert charts(unknown()) == charts(inspected()) == charts(run(0)) == ["contents"]
    plain = run(targets=tuple(layer(i, output_error=None, activations=None, tokens=0) for i in range(2)))
    assert charts(plain) == ["contents", "errors", "weights"]
    assert "Of the weights alone" in parsed(plain).text


def test_every_chart_has_a_text_and_a_mark_for_every_layer() -> None:
    page = parsed(run(targets=tuple(layer(i, bytes=84_000 + 10_000 * (i % 2)) for i in range(30))))
    drawn = [a for tag, a in page.tags if tag == "svg" and a.get("role") == "img"]
    assert len(drawn) == 5
    assert all(a["aria-label"] for a in drawn)
    dots = [a for tag, a in page.tags if tag == "path" and "dot" in str(a.get("class"))]
    assert len(dots) == 2 * 30
    lines = [a for tag, a in page.tags if tag == "path" and str(a.get("class")).startswith("line")]
    assert len(lines) == 2 * 30


def test_the_worst_layers_are_named_worst_first() -> None:
    page = report_page(run(30))
    listed = re.findall(r"<li><b>(\S+)</b> <bdi>(.*?)</bdi>", page.replace("<wbr>", ""))
    expected = sorted(run(30).targets, key=lambda t: -(t.output_error or 0.0))[:5]
    assert listed == [(figure_text(t.output_error or 0.0), t.name) for t in expected]


def test_columns_are_shown_only_where_layers_differ() -> None:
    alike, differing = report_page(run()), report_page(mixed())
    assert "All alike: 4 bits, block 32, gptq, errors weighted by calibration." in alike
    for column in ("algorithm", "bits/block", "remarks"):
        assert f">{column}</th>" not in alike.replace(">largest", "")
    assert ">algorithm</th>" in differing
    assert "damping raised to 0.5" in differing
    assert "shares the weight of" in differing


def test_operators_formats_and_schemes_are_shown_where_there_are_several() -> None:
    alike, differing = parsed(run()), parsed(mixed())
    for text in ("→ MatMulNBits", "scheme scheme"):
        assert text not in alike.text
    for text in ("MatMul → MatMulNBits", "Gather → GatherBlockQuantized", "1x GatherBlockQuantized 8-bit/128 524 kB"):
        assert text in differing.text
    assert differing.text.count("int8, block 128, symmetric") == 1
    assert f"{mixed().scheme}; gptq; on cpu" in differing.text
    assert differing.text.count("8/128") == 1
    one = parsed(run(targets=(layer(0), layer(1, bits=8, granularity="channel"))))
    assert "1x MatMulNBits 4-bit/32 524 kB 84 kB" in one.text
    assert "1x MatMulNBits 8-bit/channel 524 kB 84 kB" in one.text


def test_what_the_file_consists_of_is_shown_with_its_part() -> None:
    text = parsed(run()).text
    for part in (
        "4x MatMulNBits 4-bit/32 2.1 MB 336 kB 22.4%",
        "MatMul weights 400 kB 400 kB 26.7%",
        "norms, biases, constants 10 kB 10 kB 0.7%",
        "graph, and the rest 1.59 MB 754 kB 50.3%",
    ):
        assert part in text
    assert "What the file would consist of" in parsed(inspected()).text
    assert "Not known: the report is of an earlier version." in parsed(run(0, contents=())).text


def test_caches_are_one_row_and_all_outputs_are_folded() -> None:
    errors = {"present.0.key": 0.1, "present.0.value": 0.3, "present.1.key": 0.2}
    caches = tuple(OutputAccuracy(name, "float32", 4, relative_mse=error) for name, error in errors.items())
    text = parsed(run(outputs=(*run().outputs, *caches))).text
    assert text.count("worst of 3 cache outputs: present.0.value 0.3") == 1
    assert "All 5 outputs" in text
    assert text.count("present.1.key") == 1
    assert "cache outputs" not in parsed(run()).text


def test_nodes_are_counted_by_the_kinds_that_there_are() -> None:
    assert "4 of 6 nodes were quantized (MatMul)." in parsed(run()).text
    assert "7 of 9 nodes were quantized (Gather, MatMul)." in parsed(mixed()).text
    assert "None: every node that can be quantized was." in parsed(run(skipped=())).text
    assert "The model has no node that can be quantized." in parsed(run(0, skipped=())).text


def test_a_speed_up_is_shown_with_its_interval_where_that_is_known() -> None:
    text = parsed(run()).text
    assert "0.67× as fast 0.65 to 0.69" in text
    assert "in 50 and 90 rounds" in text
    assert "its 99 % interval" in text
    assert "its 99 % interval" not in parsed(run(latency=run().latency[1:])).text


def test_models_of_a_folder_are_told_apart() -> None:
    text = parsed(folder()).text
    assert "model_0.onnx: /decoder/layers.0/part_0/MatMul" in text
    assert "model_1.onnx: /decoder/layers.0/part_1/MatMul" in text


def test_pages_are_small_however_large_the_model() -> None:
    assert len(report_page(run()).encode()) < 60_000
    assert len(report_page(ODD["2000 targets"]()).encode()) < 3_000_000
    dots = report_page(run(2000)).count('class="dot')
    assert dots < 700


def test_the_report_option_writes_a_page(tmp_path: Path) -> None:
    model = pair(tmp_path / "m.onnx", EVIL.replace("\ud800", ""), "second")
    assert quantize(model, *QUICK, "--report", tmp_path / "r.html") == 0
    assert entries(tmp_path) == ["m.int4.onnx", "m.onnx", "r.html"]
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "NOT VALIDATED" in Parsed(page).text
    assert "<script>alert" not in page


def test_a_page_is_the_same_each_time() -> None:
    assert report_page(mixed()) == report_page(mixed())


# Comparisons


def test_comparisons_show_the_format_of_every_layer_in_every_run() -> None:
    other = run(targets=(layer(0, bits=8, block_size=128, granularity=128), *run().targets[1:]))
    text = Parsed(comparison_page(compare_reports(["a.json", "b.json"], [run(), other]))).text
    assert text.count("5.13 (4/32)") == 7
    assert text.count("5.13 (8/128)") == 1


@pytest.mark.parametrize("make", [evil, unknown, folder, mixed, inspected, lambda: run(0), lambda: run(2000)])
def test_comparisons_load_nothing_and_obey_nothing(make: Callable[[], Report]) -> None:
    runs = [run(), make(), replace(make(), seconds=1.0)]
    page = comparison_page(compare_reports(["a.json", EVIL, "c.json"], runs))
    tags = Parsed(page).tags
    assert [tag for tag, _ in tags].count("script") == 1
    assert not [a for _, a in tags if any(name.startswith("on") or name == "src" for name in a)]
    assert [c for c in set(page) if not c.isprintable() and c != "\n"] == []
    assert len(page.encode()) < 3_000_000
