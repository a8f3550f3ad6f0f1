"""Names in every script: drawn in a suitable font, or legibly without one, with one warning."""

from __future__ import annotations

from unittest.mock import Mock

import matplotlib
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager
from matplotlib.text import Text

import report.style
from report import topics
from report.study import load_study
from report.style import FAMILY, Drawing, blank, style
from report.topics import accuracy, routing, specialization
from report.topics.make import FigureMaker, Section
from results import Array

DOG, CAT = "犬", "猫"


@pytest.fixture
def fresh():
    """Search for fonts again, before and after a test."""
    report.style._fonts.cache_clear()
    yield
    report.style._fonts.cache_clear()


@pytest.fixture
def font(tmp_path, fresh):
    """Install a font that has only the glyphs of `DOG`."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for place in ((100, 700), (600, 700), (600, 0)):
        pen.lineTo(place)
    pen.closePath()
    made = FontBuilder(1000, isTTF=True)
    names = [".notdef", "dog"]
    made.setupGlyphOrder(names)
    made.setupCharacterMap({ord(DOG): "dog"})
    made.setupGlyf(dict.fromkeys(names, pen.glyph()))
    made.setupHorizontalMetrics(dict.fromkeys(names, (700, 100)))
    made.setupHorizontalHeader(ascent=800, descent=-200)
    made.setupNameTable({"familyName": "Dogs", "styleName": "Regular"})
    made.setupOS2(usWeightClass=400)
    made.setupPost()
    made.save(tmp_path / "dogs.ttf")
    before = list(fontManager.ttflist)
    fontManager.addfont(tmp_path / "dogs.ttf")
    yield "Dogs"
    fontManager.ttflist[:] = before
    fontManager._findfont_cached.cache_clear()


def drawn(text):
    with style():
        figure = blank(2, 2)
        axes = figure.subplots()
        axes.set_title(text)
        axes.set_yticks([0, 1], [text, "plain"])
    return Drawing("demo", "Demo", "A demo.", figure, ())


def shown(drawing):
    drawing.figure.draw_without_rendering()
    return {text.get_text() for text in drawing.figure.findobj(Text)}


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_a_font_that_has_the_glyphs_is_used(font, kind):
    drawing = drawn(f"my {DOG}")
    assert drawing.saved(kind)
    assert f"my {DOG}" in shown(drawing)
    named = [t for t in drawing.figure.findobj(Text) if DOG in t.get_text()]
    assert len(named) >= 2
    assert all(text.get_fontfamily() == [FAMILY, font] for text in named)


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_characters_that_no_font_has_are_written_as_codes(font, kind):
    drawing = drawn(f"{DOG} and {CAT}")
    assert drawing.saved(kind), "matplotlib has nothing to warn of"
    assert f"{DOG} and U+732B" in shown(drawing)
    assert drawing.lacking == {CAT}


def test_a_whole_report_warns_once(lab, store, fresh, monkeypatch):
    texts = (DOG, CAT, f"{DOG}{CAT}")
    figure = Mock(spec=FigureMaker, side_effect=lambda _: map(drawn, texts))
    monkeypatch.setattr(topics, "SECTIONS", [Section("both", "Both", (figure, figure))])
    monkeypatch.setattr(topics, "FAILURES", Section("failures", "Failures", ()))
    lab(suites=("accuracy",)).study_of({"soft_moe": [0.8]})
    with pytest.warns(UserWarning, match="no installed font") as caught:
        list(topics.draw_figures(load_study(store)))
    assert [str(each.message).partition(":")[0] for each in caught] == [
        f"no installed font has {DOG} {CAT}"
    ]


@pytest.mark.parametrize("draw", [specialization.draw_change, specialization.draw_served])
def test_classes_without_glyphs_are_numbered_and_named_in_the_caption(lab, store, fresh, draw):
    made = lab(suites=("accuracy",))
    made.study_of({"soft_moe": [0.8]})
    where = {"of": "combine", "kind": "soft"}
    for suite, array in (
        ("specialization", Array("accuracy_change", np.ones((3, 3)), 0, split="test")),
        ("entropy", Array("class_expert", np.ones((3, 3)), 0, split="test", where=where)),
    ):
        store.record_measurement(
            suite, {}, suite, made.machine_ids[0], made.code,
            attempt_id=store.done_attempt("tiny-soft_moe-0-{}").id,
            arrays=[Array("class_names", np.array(["кошка", DOG, "pay $5 or $x^{6"])), array],
        )  # fmt: skip
    drawing = next(draw(load_study(store)))
    assert drawing.saved("png")
    assert {"кошка", "class 1", "pay $5 or $…"} <= shown(drawing)
    assert drawing.caption.endswith(f"No installed font has the names of some classes: 1 is {DOG}.")


@pytest.mark.parametrize("draw", [accuracy.draw, routing.draw_entropy])
def test_a_report_uses_its_own_matplotlib_style(lab, store, draw):
    lab(suites=("accuracy", "entropy")).study_of({"soft_moe": [0.8, 0.82]})
    study = load_study(store)
    usual = next(draw(study)).saved("png")
    own = {
        "text.usetex": True,
        "font.size": 30,
        "savefig.bbox": "tight",
        "axes.prop_cycle": matplotlib.cycler(color="r"),
        "lines.marker": "x",
        "axes.xmargin": 0.4,
        "figure.dpi": 31,
    }
    with matplotlib.rc_context(own):
        assert next(draw(study)).saved("png") == usual
        assert matplotlib.rcParams["text.usetex"], "a user's own figures stay as they are"
