"""The web page: complete, self-contained, and honest about what it shows."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

import report
from report.topics import provenance
from report.write import write_report

LOADS = {"src", "srcset", "data", "poster", "action", "background", "xlink:href"}


class Page(HTMLParser):
    """A parser that collects all elements with attributes, and text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.texts))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.texts.append(data)


@pytest.fixture(scope="module")
def page(written):
    return Page(written.html)


def test_the_page_makes_no_network_requests(written, page):
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        for name in LOADS & set(attributes):
            assert attributes[name].startswith(("data:", "#")), (tag, attributes)
        if tag != "a" and "href" in attributes:
            assert attributes["href"].startswith("#"), (tag, attributes)
        style = attributes.get("style") or ""
        assert all(url.startswith("#") for url in re.findall(r"url\((.*?)\)", style))
    styles = "".join(re.findall(r"<style.*?</style>", written.html, re.DOTALL))
    assert "@import" not in styles
    assert not re.search(r"url\((?!#)", styles)


def test_ids_used_by_links_and_scripts_exist_and_are_unique(written):
    """Among the ids are those that the scripts look up, without the libraries."""
    ids = Counter(re.findall(r'\bid="([\w-]+)"', written.html))
    own = "".join(
        (Path(report.__file__).parent / "templates" / name).read_text(encoding="utf-8")
        for name in ("board.js", "charts.js", "leaderboard.js", "page.js")
    )
    looked_up = set(re.findall(r'\$\("#([\w-]+)"', own))
    assert len(looked_up) > 5
    assert {name: ids[name] for name in looked_up if ids[name] > 1} == {}


def test_external_links_lead_only_to_papers(page):
    links = {attributes["href"] for tag, attributes in page.elements if tag == "a"}
    outside = {link for link in links if not link.startswith("#")}
    papers = ("2401.15969", "2302.14703", "2402.12550")
    assert outside == {f"https://arxiv.org/abs/{paper}" for paper in papers}


def test_internal_links_resolve_and_no_id_is_used_twice(page):
    ids = Counter(a["id"] for _, a in page.elements if "id" in a)
    assert [name for name, times in ids.items() if times > 1] == []
    for tag, attributes in page.elements:
        for name in ("href", "xlink:href"):
            target = attributes.get(name) or ""
            assert not target.startswith("#") or target[1:] in ids, (tag, attributes)
    used = {name for _, a in page.elements for v in a.values() for name in
            re.findall(r"url\(#(.*?)\)", v or "")}  # fmt: skip
    assert used <= set(ids)


def test_every_table_and_figure_is_on_the_page(written, page):
    ids = {attributes.get("id") for _, attributes in page.elements}
    folded = {"throughput", "balance_by_layer", "trials"}
    assert {f"table-{name}" for name in written.tables} <= ids
    assert {f"figure-{path.stem}" for path in written.paths.figures} <= ids
    assert folded <= set(written.tables)


def test_the_summary_names_the_best_and_says_whether_it_is_resolved(page):
    assert "7 routers and 2 baselines (dense, random)" in page.text
    assert "3 seeds each, 27 trials: 23 done, 4 diverged" in page.text
    assert "87.3 ± 3.8 % (n = 3)" in page.text
    assert "Lead over dense: 6.33 points" in page.text
    assert "lead not resolved over all other routers" in page.text


def test_numbers_are_shown_with_their_n(written, page):
    titles = [a.get("title") or "" for tag, a in page.elements if tag == "td"]
    numbers = [a for _, a in page.elements if a.get("class") == "number" and "data-value" in a]
    assert sum(title.startswith("n = ") for title in titles) > 100
    values = [a for a in numbers if re.fullmatch(r"-?[\d.e+-]+", a["data-value"])]
    assert all((a.get("title") or "").startswith("n = ") for a in values)


def test_the_page_shows_failures_machines_code_and_cards(page):
    assert "loss is not finite at step 17" in page.text
    assert "Processor of node-1" in page.text
    assert "0123456789ab" in page.text
    assert "What soft_ moe does & is." in page.text or "What soft_moe does & is." in page.text
    assert "A longer text with <angle> brackets." in page.text
    assert "@article{soft_moe" in page.text


def test_captions_explain_the_error_bars(written, page):
    captions = [part for part in page.texts if "Student t interval" in part]
    assert len(captions) >= 3
    assert "95 % bootstrap interval" in page.text


def test_figures_follow_the_theme(written):
    assert "var(--ink)" in written.html
    svg = "".join(re.findall(r"<svg.*?</svg>", written.html, re.DOTALL))
    assert "#1b1f24" not in svg
    assert "#0072b2" in svg


def test_each_reference_is_written_once(written):
    text = (written.paths.folder / "references.bib").read_text(encoding="utf-8")
    assert text.count("@article{soft_moe,") == 1
    cards = [{"bibtex": "@misc{a}\n\n@misc{b}\n"}, {"bibtex": ""}, {"bibtex": "@misc{b}"}]
    assert provenance.bibtex(cards) == "@misc{a}\n\n@misc{b}"


def test_a_router_that_only_has_unusual_experts_has_a_card(lab, store, tmp_path):
    made = lab(suites=("accuracy",))
    made.study_of({"soft_moe": [0.7, 0.8]})
    made.experts = {"name": "cp", "num_experts": 32}
    made.study_of({"my_gate": [0.6, 0.7]})
    folder = write_report(store, "tiny", tmp_path / "report").folder
    page = Page((folder / "index.html").read_text(encoding="utf-8"))
    assert "my_gate + 32 cp" in page.text
    assert "What my_gate does & is." in page.text
