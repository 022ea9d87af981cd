"""Pages in a browser: no complaints, every chart drawn, no sideways scrolling on a phone, everything within reach."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from onnxfq.reports.compare import compare_reports
from support.browser import CHROMIUM, Page, browser
from support.reports import ODD, evil, mixed, run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: chromium)")]

NAMES = [*ODD, "comparison"]
CONTROLS = "a[href], button, summary, [tabindex]"
PHONE = 390

# Luminance contrast (WCAG 2) of every visible text against what is behind it, the lowest of all.
CONTRAST = """(() => {
  const light = (c) => { const v = c.map(x => (x /= 255) <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
  const parse = (s) => s.match(/[\\d.]+/g).map(Number);
  const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c.slice(0, 3); } throw "nothing behind"; };
  let least = 21, where = "";
  for (const e of document.body.querySelectorAll("*")) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || e.closest("svg, script")) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color).slice(0, 3)), light(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < least) { least = ratio; where = e.outerHTML.slice(0, 80); }
  }
  return [least, where];
})()"""

# Words of a usual length that stand on two lines.
BROKEN = """(() => {
  const found = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), range = new Range();
  while (texts.nextNode()) {
    if (texts.currentNode.parentElement.closest("svg, script")) continue;
    for (const word of texts.currentNode.data.matchAll(/[\\w.]{2,24}/g)) {
      range.setStart(texts.currentNode, word.index);
      range.setEnd(texts.currentNode, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map(r => r.top)).size > 1) found.push(word[0]);
    }
  }
  return found;
})()"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pages")
    for name, make in ODD.items():
        make().save(made / f"{name}.html")
    compare_reports(["a.json", "b.json", "c.json"], [run(), mixed(), evil()]).save(made / "comparison.html")
    compare_reports(["a.json", "b.json"], [run(), mixed()]).save(made / "two runs.html")
    return made


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    profile = tmp_path_factory.mktemp("browser") / "profile"
    profile.mkdir()
    with browser(profile) as opened:
        yield opened


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_are_complete_on_a_phone_and_complain_about_nothing(
    page: Page,
    folder: Path,
    name: str,
    dark: bool,
) -> None:
    path = folder / f"{name}.html"
    page.complaints.clear()
    page.requests.clear()
    page.open(path, width=PHONE, height=844, dark=dark)
    page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.run("document.documentElement.scrollWidth") <= PHONE
    assert page.run("document.body.scrollHeight") > 500
    assert page.complaints == []
    assert page.requests == [path.resolve().as_uri()]
    least, where = page.run(CONTRAST)
    assert least >= 4.5, where


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [PHONE, 1280])
def test_every_chart_is_drawn(page: Page, folder: Path, name: str, width: int) -> None:
    page.open(folder / f"{name}.html", width=width)
    sizes = page.run(
        "[...document.querySelectorAll('figure.chart')].map(f => { const s = f.querySelector('svg[role=img]'),"
        " b = s.getBoundingClientRect(), m = s.querySelectorAll('.dot, .line, rect');"
        " return [b.width, b.height, m.length, [...m].every(p => { const r = p.getBBox({stroke: true});"
        " return r.x >= -1 && r.y >= -1 && r.x + r.width <= 1001 && r.y + r.height <= 1001; })]; })"
    )
    few = ("no target", "one target", "unknown", "inspected", "comparison")
    assert len(sizes) == (1 if name in few else 5 if name == "mixed" else 4)
    for wide, high, marks, inside in sizes:
        assert wide > 0.75 * min(width, 640)
        assert high > 30
        assert marks > 0
        assert inside


@pytest.mark.parametrize("name", ["usual", "mixed", "folder", "many outputs", "inspected", "two runs"])
def test_no_word_is_broken_on_a_phone(page: Page, folder: Path, name: str) -> None:
    page.open(folder / f"{name}.html", width=PHONE)
    page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.run(BROKEN) == []


@pytest.mark.parametrize("name", ["usual", "evil", "comparison"])
def test_the_keyboard_reaches_everything_in_order_and_shows_where_it_is(page: Page, folder: Path, name: str) -> None:
    page.open(folder / f"{name}.html", width=PHONE)
    page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.run(f"document.querySelectorAll('{CONTROLS}').forEach((e, i) => e.dataset.at = i)")
    count = page.run(f"document.querySelectorAll('{CONTROLS}').length")
    reached = []
    for _ in range(count):
        page.press("Tab", 9)
        at, outline = page.run("(e => [e.dataset.at, getComputedStyle(e).outlineStyle])(document.activeElement)")
        assert outline == "solid"
        reached.append(int(at))
    assert count > 5
    assert reached == list(range(count))
    scrolling = "[...document.querySelectorAll('body *')].filter(e => e.scrollWidth > e.clientWidth + 1"
    assert (
        page.run(f"{scrolling} && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.tabIndex < 0).length")
        == 0
    )


def test_columns_sort_by_keyboard_and_say_so(page: Page, folder: Path) -> None:
    page.open(folder / "mixed.html")
    table = "document.querySelectorAll('table.sortable')[1]"
    page.run(f"{table}.closest('details').open = true; {table}.tHead.rows[0].cells[2].querySelector('button').focus()")
    errors = f"[...{table}.tBodies[0].rows].map(r => r.cells[2].textContent)"
    before = page.run(errors)
    page.press(" ", 32)
    upwards = page.run(errors)
    assert upwards != before
    assert upwards[-1] == "–"
    assert [float(text) for text in upwards[:-1]] == sorted(float(text) for text in upwards[:-1])
    assert page.run(f"{table}.tHead.rows[0].cells[2].getAttribute('aria-sort')") == "ascending"
    page.press(" ", 32)
    assert page.run(errors) == upwards[::-1]


def test_2000_layers_open_quickly_and_print(page: Page, folder: Path, tmp_path: Path) -> None:
    page.open(folder / "2000 targets.html")
    assert page.run("performance.getEntriesByType('navigation')[0].loadEventEnd") < 20_000
    assert 3 <= printed(page, tmp_path) < 15, "2000 rows are not printed"


def test_what_is_folded_is_printed(page: Page, folder: Path, tmp_path: Path) -> None:
    page.open(folder / "many outputs.html")
    folded = printed(page, tmp_path)
    page.run("document.querySelectorAll('details').forEach(d => d.remove())")
    assert printed(page, tmp_path) < folded


def printed(page: Page, folder: Path) -> int:
    """How many sheets of paper a page takes."""
    page.print(folder / "p.pdf")
    return max(int(count) for count in re.findall(rb"/Count (\d+)", (folder / "p.pdf").read_bytes()))


def test_the_checks_can_fail(page: Page, tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text(
        "<!DOCTYPE html><meta name=viewport content='width=device-width'><body style='background:#fff'>"
        "<p style='width:900px;color:#999'>wide and pale</p>"
        "<p style='width:2em;overflow-wrap:anywhere'>unbreakable</p><img src=nowhere.png><script>nonsense()</script>"
    )
    page.complaints.clear()
    page.requests.clear()
    page.open(tmp_path / "bad.html", width=PHONE)
    assert page.run("document.documentElement.scrollWidth") > PHONE
    assert len(page.requests) == 2
    assert page.complaints
    assert page.run(CONTRAST)[0] < 4.5
    assert "unbreakable" in page.run(BROKEN)
