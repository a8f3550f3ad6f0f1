"""Each router name has one style."""

from __future__ import annotations

from report.style import KNOWN, router_styles

OKABE_ITO = {"#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"}
STUDY = [
    "softmax_token_choice", "sinkhorn_token_choice", "softmax_expert_choice",
    "sinkhorn_expert_choice", "sparsity_constrained_expert_choice", "soft_moe",
]  # fmt: skip


def test_the_routers_of_the_study_use_six_hues_safe_for_colour_blind_readers():
    colours = {KNOWN[name].colour for name in STUDY}
    assert len(colours) == 6
    assert colours <= OKABE_ITO


def test_a_style_does_not_depend_on_what_else_is_compared():
    alone = router_styles(["my_gate"])["my_gate"]
    assert router_styles(["dense", "soft_moe", "my_gate"])["my_gate"] == alone
    assert router_styles(["soft_moe"])["soft_moe"] == KNOWN["soft_moe"]


def test_no_two_routers_of_a_report_share_a_style():
    names = [*KNOWN, *(f"router_{number}" for number in range(15))]
    chosen = router_styles(names)
    assert len({(look.colour, look.marker, look.dashes) for look in chosen.values()}) == len(names)
    assert len({(look.colour, look.hatch) for look in chosen.values()}) == len(names)


def test_every_router_has_a_style_even_if_there_are_more_routers_than_styles():
    names = [f"router_{number}" for number in range(40)]
    assert set(router_styles(names)) == set(names)
