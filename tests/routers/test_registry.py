"""One registry for every kind of component."""

import re

import pytest
import torch

from routers import AFFINITIES, LOSSES, ROUTERS, Registry, RequestError, Router


@pytest.fixture
def registry():
    registry = Registry("thing")

    @registry.register("first", family="a", source="arXiv 0000.00000")
    def first(*, size: int = 1):
        """A thing.

        With more to say.
        """
        return size

    return registry


def test_a_component_is_found_by_name_with_its_card(registry):
    card = registry.get("first")
    assert (card.name, card.kind, card.family) == ("first", "thing", "a")
    assert card.summary == "A thing."
    assert card.text == "With more to say."
    assert card.source == "arXiv 0000.00000"
    assert [info.name for info in card.hyper] == ["size"]
    assert "def registry" in card.source_text


def test_the_papers_of_every_built_in_component_are_cited():
    for entry in (*ROUTERS.entries(), *AFFINITIES.entries(), *LOSSES.entries()):
        for paper in re.findall(r"\d{4}\.\d{5}", entry.source or ""):
            assert f"eprint = {{{paper}}}" in entry.bibtex, (entry.name, paper)


def test_a_component_may_bring_its_own_reference(registry):
    assert registry.get("first").bibtex is None, "the paper is not known"
    registry.register("own", source="arXiv 2401.15969", bibtex="@misc{own}")(lambda: None)
    assert registry.get("own").bibtex == "@misc{own}"


def test_an_unknown_name_is_refused_with_the_nearest_one(registry):
    with pytest.raises(RequestError, match="no thing is named 'frist'; did you mean 'first'"):
        registry.get("frist")


def test_messages_use_the_grammar_of_the_kind():
    kinds = {kind: Registry(kind) for kind in ("router", "loss", "experts")}
    messages = {}
    for kind, registry in kinds.items():
        with pytest.raises(RequestError) as raised:
            registry.get("mpl")
        messages[kind] = str(raised.value).partition(";")[0]
    assert messages == {
        "router": "no router is named 'mpl'",
        "loss": "no loss is named 'mpl'",
        "experts": "no experts are named 'mpl'",
    }


def test_a_name_can_be_registered_only_once(registry):
    with pytest.raises(RequestError, match="'first' is registered already"):
        registry.register("first")(lambda: None)


def test_a_discarded_component_may_be_registered_again(registry):
    registry.discard("first")
    registry.discard("never there")
    assert registry.names() == []
    registry.register("first")(lambda: None)
    assert registry.names() == ["first"]


def test_every_router_says_what_it_is_and_where_it_comes_from():
    ours = [e for e in ROUTERS.entries() if e.target.__module__.startswith("routers.")]
    assert len(ours) >= 11
    for entry in ours:
        card = entry
        assert card.summary.endswith(".")
        assert card.source
        assert all(info.meaning for info in card.hyper), entry.name


def test_a_router_with_a_misspelt_allocate_is_refused_with_a_hint():
    class Mine(Router):
        def alocate(self, logits):
            return logits

    message = r"'Mine' defines no allocate.*; it defines `alocate`: did you mean `allocate`\?"
    with pytest.raises(TypeError, match=message):
        Mine(4, 2)(torch.zeros(1, 3, 4))


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("softmoe", "; did you mean 'soft_moe'? If it"),
        ("zzzz", "; available: attentive, base, dense"),
    ],
)
def test_only_similar_names_are_suggested(name: str, end: str):
    with pytest.raises(RequestError) as raised:
        ROUTERS.get(name)
    assert end in str(raised.value)
