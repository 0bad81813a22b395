"""The page: self-contained, whole, and honest about what is missing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from dplit.compare.analysis import summary
from dplit.compare.analysis.quality import Quality
from dplit.compare.analysis.results import Results
from dplit.compare.report import report, table
from dplit.compare.run import run_folder
from dplit.compare.run.plan import Run
from tests.compare.fabricated import comparison, fabricate, language, mentioning, plain, rate


def written(text: str) -> str:
    return re.sub(r"<[^>]+>|data:image[^\"]+", " ", re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL))


def test_the_page_of_a_language_model_says_nothing_of_accuracy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = fabricate(tmp_path, comparison(epsilon=[1]), figures_of=language)
    text = report.write(measured).read_text()
    assert text.count("<figure>") == 6
    assert "accuracy" not in written(text).lower()
    assert "share" not in written(text)
    assert "overall_loss on the validation split" in " ".join(written(text).split())
    table.show(Console(width=160, color_system=None), measured)
    output = capsys.readouterr().out
    assert re.search(r"perplexity +worst group +perplexity gap +loss +loss gap", output)
    assert "grid points were chosen by overall_loss" in output


def test_losses_alone_make_a_page(tmp_path: Path) -> None:
    measured = fabricate(
        tmp_path,
        comparison(epsilon=[1]),
        figures_of=lambda values: [row for row in language(values) if "perplexity" not in row[0]],
    )
    assert measured.quality == Quality("loss")
    assert "lowest loss" in report.write(measured).read_text()


def infinite(values: Mapping[str, float]) -> list[tuple[str, str, float]]:
    return [(metric, group, math.inf if math.isnan(value) else value) for metric, group, value in language(values)]


def test_a_run_that_diverged_is_not_chosen_and_does_not_break_the_page(tmp_path: Path) -> None:
    def torn(run: Run, split: str, group: str) -> float:
        diverged = (run.variant == "Flat" and rate(run) > 0.3) or run.variant == "Group"
        return -math.inf if diverged else plain(run, split, group)

    measured = fabricate(tmp_path, comparison(epsilon=[1], seeds=[0]), torn, figures_of=infinite)
    assert dict(measured.chosen[("Flat", 1.0)])["model.init_args.learning_rate"] == 0.1
    assert measured.mean(("Group", 1.0), "overall_perplexity").text() == "inf"
    assert report.write(measured).is_file()


def test_terms_have_a_table_a_column_and_a_question(tmp_path: Path) -> None:
    measured = fabricate(tmp_path, comparison(epsilon=[1]), figures_of=mentioning)
    assert measured.terms == ("gay", "old")
    text = " ".join(written(report.write(measured).read_text()).split())
    assert "False positives among texts that mention a term" in text
    assert "all texts gay old sum of differences 1 Flat 0.250 ± 0.000 0.500 ± 0.000 0.125 ± 0.000 0.375 ± 0.000" in text
    assert "term FPR diff." in text
    assert "smallest false positive equality difference" in dict(summary.answers(measured))
    assert measured.groups == ("Female", "Male")


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
    measured = fabricate(out, made)
    lost = measured.of(("Group", 3.0))[-1]
    run_folder.prepare(out, lost)
    run_folder.fail(out, lost, "RuntimeError: <script>alert(1)</script> & so on", "Traceback ...")
    return Results(made, out, measured.chosen)


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
    assert "overall only" in text
