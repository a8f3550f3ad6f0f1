"""The leaderboard in a real browser: its width and columns; lists that link to their tables."""

from __future__ import annotations

import pytest

from report.write import write_report

from .conftest import FAMILIES

SEVERAL = [{"note": "a setting of many words"}, {"note": "another one of many words"}]
TOP1 = {"random": [0.79, 0.80], "softmax_token_choice": [0.83, 0.84], "soft_moe": [0.86, 0.89]}
SLOW = {"soft_moe": 600.0}


@pytest.fixture
def opened(browse, store, tmp_path):
    """Open the page of the study in the store and wait until nothing moves."""

    def wait(width):
        tab = browse(write_report(store, None, tmp_path / "report").index_html, width)
        tab.wait_for_selector("body[data-drawn]", state="attached")
        return tab

    return wait


def overflow(tab):
    """Return by how many pixels the leaderboard is wider than its container."""
    return tab.evaluate(
        "(({ scrollWidth, clientWidth }) => scrollWidth - clientWidth)"
        "(document.querySelector('#leaderboard .tabulator-tableholder'))"
    )


def cut(tab):
    """Return the texts that are wider or higher than their cell."""
    return tab.evaluate(
        "[...document.querySelectorAll('#leaderboard .tabulator-row .tabulator-cell')]"
        ".filter((cell) => cell.offsetParent && (cell.scrollWidth > cell.clientWidth"
        " || cell.scrollHeight > cell.clientHeight)).map((cell) => cell.innerText)"
    )


def columns(tab):
    """Return the titles of the visible columns of numbers, without units."""
    heads = tab.locator("#leaderboard .tabulator-col[tabulator-field^='cells.'] >> visible=true")
    return [text.split("\n")[0].strip() for text in heads.all_inner_texts()]


def checked(tab):
    """Return the titles of the columns whose boxes are ticked, without units."""
    labels = tab.locator("#columns label:has(:checked)").all_text_contents()
    return [text.split(" (")[0].strip() for text in labels]


def test_intervals_move_below_their_numbers_if_the_columns_are_too_wide(lab, opened):
    wide = {"soft_moe": "A router of a rather long name"}
    lab(displays=wide, seconds=SLOW).study_of(TOP1, SEVERAL)
    tab = opened(1280)
    assert overflow(tab) <= 0
    assert cut(tab) == []
    assert columns(tab)[0] == "top-1 ↑"
    assert sorted(columns(tab)) == sorted(checked(tab))
    tab.set_viewport_size({"width": 900, "height": 900})
    tab.wait_for_function("document.querySelector('#leaderboard .stacked')")
    assert cut(tab) == []


def test_a_narrow_screen_shows_all_columns(lab, opened):
    lab().study_of(TOP1, SEVERAL)
    tab = opened(420)
    assert len(columns(tab)) == len(checked(tab)) == 6
    assert tab.evaluate("document.documentElement.scrollWidth") <= 420


def test_a_chosen_column_is_shown(lab, opened):
    lab().study_of(TOP1)
    tab = opened(1280)
    assert tab.locator("#columns legend").all_text_contents() == [
        *("Accuracy", "Cost", "Balance", "Entropy")
    ]
    tab.locator("#leaderboard summary").click()
    tab.locator("#columns fieldset", has_text="Entropy").locator("label", has_text="I(E;Y)").click()
    assert "I(E;Y)" in columns(tab)
    assert columns(tab) == checked(tab)


def test_the_rest_of_a_long_list_is_one_click_away(lab, opened):
    values = {name: [0.8 + number / 100] for number, name in enumerate(FAMILIES)}
    lab(suites=("accuracy",), seconds=SLOW).study_of(values | {"soft_moe": [0.95]})
    tab = opened(1280)
    assert not tab.locator("#table-order_changes").is_visible()
    rankings = tab.locator("#table-rankings")
    rankings.locator("summary").click()
    rest = rankings.locator("a", has_text="6 more")
    assert "tables/" not in rankings.locator("details").inner_text()
    rest.click()
    assert tab.locator("#table-order_changes tbody tr >> visible=true").count() == 10
