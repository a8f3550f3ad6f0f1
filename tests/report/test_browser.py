"""The page in a real browser, if one is installed: first screen, leaderboard, linked charts."""

from __future__ import annotations

import pytest

from report.write import write_report

HOSTILE = "<script>alert(1)</script>"
WIDTHS = pytest.mark.parametrize("width", [1280, 420])


@pytest.fixture
def opened(browse):
    """Open a page and wait until its charts and its table are drawn, so that nothing moves."""

    def wait(page, width):
        tab = browse(page, width)
        tab.wait_for_selector("body[data-drawn]", state="attached")
        return tab

    return wait


def order(tab):
    return tab.locator("#leaderboard .tabulator-row .router").all_inner_texts()


def drawn(tab, chart):
    """Return the opacity of each router's mark in a chart, by name."""
    marks = tab.locator(f"#chart-{chart} .mark-symbol.role-mark path").all()
    return {
        each.get_attribute("aria-label").partition("router: ")[2].partition(";")[0]: float(
            each.get_attribute("opacity") or 1
        )
        for each in marks
        if "router: " in (each.get_attribute("aria-label") or "")
    }


@WIDTHS
def test_the_first_screen_ranks_the_routers_and_fits_the_window(written, opened, width):
    tab = opened(written.paths.index_html, width)
    names = tab.locator("#chart-ranking .role-axis-label text").all_text_contents()
    assert names.index("soft_moe") < names.index("dense") < names.index("random")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.locator("#chart-ranking").bounding_box()["y"] < 900


@WIDTHS
def test_the_leaderboard_sorts_by_value_and_missing_values_stay_at_the_bottom(
    written, opened, width
):
    tab = opened(written.paths.index_html, width)
    head = tab.locator(".tabulator-col", has_text="top-1")
    assert order(tab)[0] == "soft_moe"
    head.click()
    up = order(tab)
    assert up[0] == "random"
    assert up[-1] == "my_gate"
    head.click()
    assert order(tab)[0] == "soft_moe"
    assert order(tab)[-1] == "my_gate"


@WIDTHS
def test_clicking_a_number_shows_its_trials_their_curves_and_the_command(written, opened, width):
    tab = opened(written.paths.index_html, width)
    tab.locator("#leaderboard .tabulator-row button").first.click()
    behind = tab.locator("#behind")
    assert behind.locator("h3").inner_text() == "87.3 ± 3.8 % · soft_moe · top-1 ↑"
    rows = [
        row.all_inner_texts()[:3]
        for row in (r.locator("td") for r in behind.locator("tbody tr").all())
    ]
    assert rows == [["0", "86.0", "done"], ["1", "87.0", "done"], ["2", "89.0", "done"]]
    assert "--preset preset.yaml --routers soft_moe" in behind.inner_text()
    assert behind.locator("svg .mark-line path").count() == 3, "one curve per seed"
    assert behind.locator("details pre").all_text_contents()[0] == "class soft_moe: ..."


def test_failures_are_mentioned_beside_the_numbers_that_lack_them(written, opened):
    tab = opened(written.paths.index_html, 1280)
    row = tab.locator(".tabulator-row", has_text="sparsity_constrained_expert_choice")
    row.locator("button").first.click()
    assert tab.locator("#behind .failed").all_inner_texts() == [
        "Seed 1: diverged. loss is not finite at step 17"
    ]


def test_a_router_selected_in_one_place_is_selected_everywhere(written, opened):
    tab = opened(written.paths.index_html, 1280)
    tab.locator(".chip", has_text="soft_moe").click()
    tab.wait_for_function("document.querySelector('#leaderboard .picked')")
    for chart in ("ranking", "cost"):
        opacity = drawn(tab, chart)
        assert opacity["soft_moe"] > 5 * opacity["dense"], chart
    tab.wait_for_function(
        "document.querySelectorAll('#chart-loads .mark-rect.role-mark path').length == 16"
    )
    heads = tab.locator("#chart-loads .role-title text")
    assert "soft_moe" in heads.all_text_contents()
    tab.locator("#chart-ranking .mark-symbol path[aria-label*='router: soft_moe']").click()
    tab.wait_for_function("!document.querySelector('#leaderboard .picked')")
    assert tab.locator(".chip[aria-pressed=true]").count() == 0, "a second click deselects it"
    assert tab.locator("#all-routers").is_hidden()


def test_columns_can_be_chosen_and_the_cost_axis_switched(written, opened):
    tab = opened(written.paths.index_html, 1280)
    assert not tab.locator(".tabulator-col", has_text="NLL").is_visible()
    tab.locator("#leaderboard summary").click()
    tab.locator("#columns label", has_text="NLL").click()
    assert tab.locator(".tabulator-col", has_text="NLL").is_visible()
    tab.locator("#by-cost").select_option(label="parameters")
    tab.wait_for_function(
        "document.querySelector('#chart-cost').textContent.includes('parameters')"
    )


def test_the_leaderboard_shows_the_columns_of_one_suite(written, opened):
    tab = opened(written.paths.index_html, 1280)
    heads = tab.locator("#leaderboard .tabulator-col-title >> visible=true")
    names = ("router", "condition", "data", "experts")
    before = heads.all_inner_texts()
    suites = tab.locator("#by-suite option").all_text_contents()
    assert suites == ["all suites, in brief", "accuracy", "throughput", "balance", "entropy"]
    tab.locator("#by-suite").select_option("balance")
    own = [text for text in heads.all_inner_texts() if text not in names]
    shown = {text.split("\n")[0] for text in own}
    assert shown >= {"demand CV ↓", "load CV ↓", "dropped ↓", "uncovered ↓"}
    assert "top-1 ↑" not in shown
    tab.locator("#by-suite").select_option("")
    assert heads.all_inner_texts() == before


def test_the_main_table_sorts_and_a_number_links_to_its_rows(written, opened):
    tab = opened(written.paths.index_html, 1280)
    tab.locator("summary", has_text="Routers at equal budgets").click()
    head = tab.locator("#table-main th", has_text="top-1").locator("button")
    head.click()
    first = tab.locator("#table-main tbody tr").first.locator("td").first
    assert first.inner_text().split()[0] == "random"
    head.click()
    assert first.inner_text().split()[0] == "soft_moe"
    best = tab.locator("#table-main tbody tr", has_text="soft_moe").locator("a[data-behind]").nth(1)
    best.click()
    rows = tab.locator("#table-trials tbody tr >> visible=true")
    assert [each.split()[0] for each in rows.all_inner_texts()] == ["soft_moe"] * 3
    tab.locator("#table-trials .chosen button").click()
    assert rows.count() == len(written.tables["trials"].rows)


@WIDTHS
@pytest.mark.slow
def test_names_are_inserted_as_text_everywhere(lab, store, opened, tmp_path, width):
    made = lab(
        name=f"study {HOSTILE}", displays={"soft_moe": HOSTILE, "random": "=1+1"},
        suites=("accuracy", "balance", "entropy"),
    )  # fmt: skip
    values = {"random": [0.79, 0.80], "soft_moe": [0.86, 0.87]}
    made.study_of(values, [{"note": HOSTILE}, {"note": "plain"}])
    tab = opened(write_report(store, made.name, tmp_path / "report").index_html, width)
    assert tab.locator("h1").inner_text() == f"study {HOSTILE}"
    assert HOSTILE in order(tab)
    drawn_names = tab.locator("#chart-ranking .role-axis-label text").all_text_contents()
    assert any(name.startswith("<script>") for name in drawn_names), "truncated if it is long"
    assert tab.locator("#by-condition option").all_text_contents() == [
        f"router.note={HOSTILE}",
        "router.note=plain",
    ]
    tab.locator("#leaderboard .tabulator-row button").first.click()
    assert HOSTILE in tab.locator("#behind h3").inner_text()
    tab.locator("#by-condition").select_option("router.note=plain")
    assert HOSTILE in tab.locator(".chip").all_inner_texts()
