"""The page: self-contained, whole, and honest about what is missing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from dplit import plotting
from dplit.compare.analysis import summary
from dplit.compare.analysis.intervals import Interval
from dplit.compare.analysis.results import Results
from dplit.compare.report import report, table
from dplit.compare.run import plan, run_folder
from tests.compare.fabricated import comparison, plain
from tests.compare.test_compare_results import fabricate

SECTIONS = ("short", "what", "results", "cost", "budgets", "figures", "search", "failed", "reading")


class Page(HTMLParser):
    """Collects what a page would load, its ids and its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads, self.ids, self.tags = list[str](), list[str](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                self.loads.append(value or "")
            if name == "id":
                self.ids.append(value or "")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    out = tmp_path_factory.mktemp("out")
    made = comparison()
    found = fabricate(out, made)
    lost = found.of(("Group", 3.0))[-1]
    run_folder.prepare(out, lost)
    run_folder.fail(out, lost, "RuntimeError: <script>alert(1)</script> & so on", "Traceback ...")
    return Results(made, out, found.chosen)


@pytest.fixture(scope="module")
def text(results: Results) -> str:
    return report.write(results).read_text()


def test_it_loads_nothing(text: str) -> None:
    page = Page(text)
    assert all(load.startswith(("data:image/svg+xml;base64,", "#")) for load in page.loads)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert not re.search(r"url\(|@import|https?://", text)


def test_every_section_is_there_and_every_link_leads_somewhere(text: str) -> None:
    page = Page(text)
    assert page.ids == list(SECTIONS)
    assert {load[1:] for load in page.loads if load.startswith("#")} <= set(page.ids)


def test_every_figure_and_table_has_a_caption(text: str) -> None:
    tags = Page(text).tags
    assert tags.count("figure") == tags.count("figcaption") == tags.count("img") == 7
    assert tags.count("table") == tags.count("caption") > 5
    for caption in re.findall(r"<figcaption>(.*?)</figcaption>", text, re.S):
        assert caption.startswith("Look for")
        assert len(re.findall(r"\.(?:\s|$)", caption)) == 1


def test_what_people_wrote_is_escaped(text: str) -> None:
    assert "<script" not in text
    assert "RuntimeError: &lt;script&gt;" in text


def test_failed_and_missing_runs_are_named(results: Results, text: str) -> None:
    (failed,) = results.failed
    assert str(failed) in text
    assert "1 runs failed and 0 are still to be made" in text


def test_the_search_is_said_to_be_uncharged(text: str) -> None:
    assert "The search was not charged" in text
    assert "ε of all its runs" in text


def test_a_report_of_nothing_is_a_page_too(tmp_path: Path) -> None:
    made = comparison()
    page = Page(report.write(Results(made, tmp_path, {})).read_text())
    assert page.ids == list(SECTIONS)
    assert "img" not in page.tags


def test_one_seed_without_reference_and_without_groups_epsilon(tmp_path: Path) -> None:
    made = comparison(seeds=[0], nonprivate=False, epsilon=[1])
    text = report.write(fabricate(tmp_path, made)).read_text()
    assert "One run has no interval" in text
    assert "one seed: no interval" in text
    assert "There are no finished runs without privacy" in text
    assert "headline" in text


def test_the_table_tells_all(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    table.show(Console(width=140, color_system=None), results)
    told = capsys.readouterr().out
    assert "failed Group/eps-3/learning_rate-0.5/seed-2: RuntimeError: <script>" in told
    assert re.search(r"3 +Flat +0\.5 +0\.736 ± 0\.002 +0\.726 ± 0\.002 +0\.020 ± 0\.000 .* 3", told)
    assert re.search(r"none +not private", told)


def test_thirteen_variants_look_different() -> None:
    looks = {tuple(sorted(plotting.of_variant(k).items())) for k in range(13)}
    assert len(looks) == 13
    assert len({plotting.of_group(k) for k in range(10)}) == 10


def test_overlap_is_said() -> None:
    assert summary.overlap(Interval(0.5, 0.1, 3), Interval(0.65, 0.1, 3))
    assert not summary.overlap(Interval(0.5, 0.1, 3), Interval(0.75, 0.1, 3))
    assert summary.overlap(Interval(0.5, 0.1, 3), Interval(0.9, float("nan"), 1))


def test_the_best_is_named_with_its_ties(tmp_path: Path) -> None:
    found = fabricate(tmp_path, comparison(), plain)
    told = dict(summary.answers(found))
    assert [each["who"] for each in told["highest accuracy (share)"]] == ["Flat, Group"] * 2
    assert told["highest accuracy (share)"][0]["figure"] == "0.736 ± 0.002"
    assert plan.exact(0.1) == "0.1"
