"""Claims as data, and their verdicts compared with scipy's tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bench.model  # noqa: F401  registers experts
from bench.cli import main
from report.claims import Claim, own_claims, published, read_claims
from report.conditions import System
from report.study import load_study
from report.topics import claims as tables
from report.verdicts import Judged, Untested, judged
from report.write import check
from results import StoreError
from results.conditions import Condition
from results.statistics.comparisons import holm
from routers import list_routers
from suites import SUITES

FIELDS = {
    "id": "mine",
    "claim": "Soft is better than random.",
    "source": "me",
    "metric": "top1",
    "test": "higher",
    "left": {"routers": ["soft_moe"]},
    "right": {"routers": ["random"]},
    "supported_if": "it is",
    "contradicted_if": "it is not",
}
TEXT = """
- id: mine
  claim: Soft is better than random.
  source: me
  metric: top1
  test: higher
  left: {routers: [soft_moe]}
  right: {routers: [random]}
  supported_if: it is
  contradicted_if: it is not
"""
A = [0.80, 0.82, 0.81, 0.84, 0.83]
B = [0.70, 0.71, 0.73, 0.74, 0.72]


def claim(**fields):
    return Claim.model_validate(FIELDS | fields)


@pytest.fixture
def study(lab, store):
    """Make a study of accuracies by router and seed, with these claims of the user."""

    def make(top1, *claims, conditions=({},), **options):
        lab(suites=("accuracy",), evaluations=2, **options).study_of(top1, conditions)
        return load_study(store, options.get("name", "tiny"), claims)

    return make


def own(study, number=0):
    """Return the verdict on one of the user's claims."""
    return judged(study)[len(published()) + number]


def test_the_published_claims_name_existing_routers_and_metrics():
    known = {metric.name for suite in SUITES.entries() for metric in suite.target.metrics}
    assert len({claim.id for claim in published()}) == len(published()) >= 10
    for each in published():
        sides = (each.left, each.right, each.other_left, each.other_right)
        named = {router for side in sides if side for router in side.routers}
        assert named <= set(list_routers()), each.id
        assert each.metric in known, each.id


def test_a_difference_is_tested_as_a_paired_t_test(study):
    verdict = own(study({"soft_moe": A, "random": B}, claim()))
    expected = stats.ttest_rel(A, B)
    assert verdict.verdict == "supported"
    assert verdict.difference.mean == pytest.approx(np.mean(A) - np.mean(B))
    interval = expected.confidence_interval()
    assert [verdict.difference.low, verdict.difference.high] == pytest.approx(list(interval))
    assert verdict.p == verdict.adjusted == pytest.approx(expected.pvalue)
    assert len(verdict.evidence.trials) == 10


@pytest.mark.parametrize(
    ("test", "left", "verdict"),
    [
        ("higher", "soft_moe", "supported"),
        ("higher", "random", "contradicted"),
        ("lower", "soft_moe", "contradicted"),
        ("lower", "random", "supported"),
    ],
)
def test_the_direction_decides_between_support_and_contradiction(study, test, left, verdict):
    right = {"soft_moe": "random", "random": "soft_moe"}[left]
    asked = claim(test=test, left={"routers": [left]}, right={"routers": [right]})
    assert own(study({"soft_moe": A, "random": B}, asked)).verdict == verdict


def test_an_expectation_is_not_supported_by_an_unresolved_difference(study):
    verdict = own(study({"soft_moe": A, "random": [*A[1:], A[0]]}, claim()))
    assert verdict.verdict == "undecided"
    one = own(study({"soft_moe": [0.9], "random": [0.1]}, claim(), name="one"))
    assert (one.verdict, one.p, one.adjusted) == ("undecided", None, None)


def test_a_verdict_that_depends_on_settings_says_whether_they_were_tuned(study, store):
    top1 = {"soft_moe": A, "random": B}
    plain = study(top1, claim(), claim(id="settings", by_settings=True))
    for routers, verdict in (
        ([], "supported, with untuned settings"),
        (["soft_moe"], "supported, with untuned settings"),
        (["soft_moe", "random"], "supported, with tuned settings"),
    ):
        tuned = {router: {} for router in routers}
        store.study("tiny", plain.record.request | {"tuned": tuned})
        made = load_study(store, "tiny", plain.claims)
        table = tables.table(made)
        verdicts = {row.cells[0].words: row.cells[2].words for row in table.rows}
        assert verdicts == {"mine": "supported", "settings": verdict}
        (sentence,) = tables.sentences(made)
        warned = "With untuned settings, which may decide it: settings." in sentence
        assert warned == ("untuned" in verdict)
    assert [each.id for each in published() if each.by_settings] == ["soft-over-sparse"]


@pytest.mark.parametrize(
    ("shift", "verdict"), [(0.0, "supported"), (0.019, "undecided"), (0.05, "contradicted")]
)
def test_equality_is_tested_against_both_ends_of_its_margin(study, shift, verdict):
    rng, margin = np.random.default_rng(0), 0.02
    noise = 0.003 * rng.normal(size=6)
    left = list(0.8 + shift + noise - noise.mean())
    asked = claim(test="equal", margin=margin)
    judged_claim = own(study({"soft_moe": left, "random": [0.8] * 6}, asked))
    above = stats.ttest_1samp(np.subtract(left, 0.8), -margin).pvalue
    below = stats.ttest_1samp(np.subtract(left, 0.8), margin).pvalue
    assert judged_claim.p == pytest.approx(max(above, below))
    assert judged_claim.verdict == verdict
    inside = -margin < judged_claim.difference.low and judged_claim.difference.high < margin
    assert inside is (verdict == "supported"), "the 95 % interval says the same"


@pytest.mark.parametrize(
    ("who", "what", "verdict", "size"),
    [
        (0.06, 0.02, "supported", 0.04),
        (-0.06, 0.02, "supported", 0.04),
        (0.02, -0.06, "contradicted", -0.04),
        (0.02, 0.021, "undecided", -0.001),
    ],
)
def test_one_effect_outweighs_another_if_its_absolute_value_is_larger(
    study, who, what, verdict, size
):
    rng = np.random.default_rng(1)
    top1 = {
        f"{scores}_{chooser}_choice": list(
            0.8 + who * (chooser == "expert") + what * (scores == "sinkhorn")
            + 0.001 * rng.normal(size=6)
        )
        for chooser in ("expert", "token")
        for scores in ("softmax", "sinkhorn")
    }  # fmt: skip
    made = study(top1)
    judged_claim = next(e for e in judged(made) if e.claim.id == "who-chooses-outweighs-by-what")
    assert judged_claim.verdict == verdict
    assert judged_claim.difference.mean == pytest.approx(size, abs=0.002)


def test_a_slope_is_the_change_per_doubling(study, store):
    asked = claim(
        test="rises", left={"routers": ["soft_moe"]}, right=None, over="experts.num_experts"
    )
    for experts, top1 in ((4, [0.70, 0.72]), (8, [0.75, 0.76]), (32, [0.78, 0.83])):
        study({"soft_moe": top1}, experts={"num_experts": experts}, protocol=str(experts))
    verdict = own(load_study(store, "tiny", (asked,)))
    doublings = [2, 3, 5]
    slopes = [
        stats.linregress(doublings, accuracies).slope
        for accuracies in ([0.70, 0.75, 0.78], [0.72, 0.76, 0.83])
    ]
    assert verdict.evidence.by_seed.tolist() == pytest.approx(slopes)
    assert verdict.difference.mean == pytest.approx(np.mean(slopes))
    assert len(verdict.evidence.trials) == 6
    falls = asked.model_copy(update={"test": "falls"})
    assert own(load_study(store, "tiny", (falls,))).fits is False


def test_the_sides_of_a_claim_may_differ_in_a_setting(study):
    conditions = ({}, {"noise_std": 1.0})  # the second is one point better, see `Lab`
    asked = claim(
        left={"routers": ["soft_moe"], "settings": {"router.noise_std": 1.0}},
        right={"routers": ["soft_moe"], "settings": {"router.noise_std": None}},
    )
    verdict = own(study({"soft_moe": A, "random": B}, asked, conditions=conditions))
    assert verdict.difference.mean == pytest.approx(0.01)
    assert list(verdict.evidence.by_condition) == [Condition()]


def test_conditions_are_averaged_and_runs_without_the_setting_count_once(study):
    conditions = ({"capacity_factor": 1.0}, {"capacity_factor": 2.0})
    against = claim(right={"routers": ["dense"]})
    alone = claim(id="alone", left={"routers": ["dense"]}, right={"routers": ["dense"]})
    made = study({"soft_moe": A, "dense": B}, against, alone, conditions=conditions)
    verdict = own(made)
    gap = np.mean(A) - np.mean(B)
    assert list(verdict.evidence.by_condition.values()) == pytest.approx([gap, gap + 0.01])
    assert verdict.difference.mean == pytest.approx(gap + 0.005)
    assert verdict.difference.n == 5
    assert verdict.agreeing == 2
    assert len(own(made, 1).evidence.by_condition) == 1


def test_systems_are_identified_by_router_and_experts(lab, store):
    """`mumoe` with factorised experts is as good as `dense`; with MLPs it is another system."""
    noise = [0.001, -0.001, 0.002, 0.0, -0.002]
    usual = lab(suites=("accuracy",), evaluations=2)
    factorised = lab(
        suites=("accuracy",), evaluations=2, experts={"name": "cp"}, protocol="factorised"
    )
    for seed, shift in enumerate(noise):
        usual.trial("dense", seed, 0.8, {})
        usual.trial("soft_moe", seed, 0.7, {})
        usual.trial("mumoe", seed, 0.5, {})
        factorised.trial("mumoe", seed, 0.8 + shift, {})
    study = load_study(store)
    verdicts = {each.claim.id: each for each in judged(study)}
    match = verdicts["factorised-experts-match-dense"]
    assert match.verdict == "supported"
    assert match.evidence.systems == (System("mumoe", "cp"), System("dense"))
    assert match.difference.mean == pytest.approx(0)
    assert verdicts["more-experts-more-specialized"].why == "no polysemanticity was measured"


def test_derived_runs_do_not_count_as_runs_of_their_router(study):
    made = study({"soft_moe": A, "random": B}, claim(), conditions=({}, {"noise_std": 1.0}))

    def derived(frame):
        noisy = [each.label == "router.noise_std=1.0" for each in frame["condition"]]
        distilled = Condition((("transform", "distill"),))
        entries = [replace(entry, condition=distilled) for entry in frame["entry"]]
        changed = pd.Series(entries, frame.index, object)
        return frame.assign(entry=frame["entry"].mask(noisy, changed))

    made = replace(made, trials=derived(made.trials), metrics=derived(made.metrics))
    assert list(own(made).evidence.by_condition) == [Condition()]


def test_seeds_missing_on_one_side_are_left_out(study):
    verdict = own(study({"soft_moe": A, "random": [*B[:3], None, None]}, claim()))
    assert verdict.evidence.by_seed.index.tolist() == [0, 1, 2]
    assert verdict.difference.n == 3


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"left": {"routers": ["sotf_moe"]}}, "no runs of sotf_moe; did you mean 'soft_moe'"),
        ({"left": {"routers": ["mumoe"], "experts": ["cp"]}}, "no runs of mumoe with cp experts"),
        ({"metric": "top11"}, "no top11 was measured; did you mean 'top1'"),
        ({"matched": ["params"]}, "compute was matched by total_flops"),
        (
            {"test": "rises", "right": None, "over": "experts.num_experts"},
            "experts.num_experts has the one value 8",
        ),
        ({"where": {"edit": "after"}}, "no runs of both sides under one condition, finished"),
    ],
)
def test_a_claim_that_does_not_fit_the_study_is_not_tested(study, fields, why):
    verdict = own(study({"soft_moe": A, "random": B}, claim(**fields)))
    assert isinstance(verdict, Untested)
    assert verdict.why.startswith(why)


def test_p_values_are_corrected_by_holm_over_the_tested_claims(written):
    verdicts = [each for each in judged(written.study) if isinstance(each, Judged)]
    assert len(verdicts) == 4
    assert [each.adjusted for each in verdicts] == pytest.approx(
        holm([each.p for each in verdicts])
    )
    table = written.tables["claims"]
    assert [cell.value for cell in (table.cell(row, "p_holm") for row in range(4))] == [
        each.adjusted for each in verdicts
    ]
    every = written.tables["claim_tests"]
    assert len(every.rows) == len(published())
    assert every.cell(4, "not tested, since").words == "no runs of attentive"


def test_a_claim_without_a_test_still_counts_in_the_family(study):
    """Identical differences have no p-value, but the claim was put to the test."""
    alike = claim(id="alike", right={"routers": ["my_gate"]})
    together = study({"soft_moe": A, "random": B, "my_gate": [a - 0.1 for a in A]}, claim(), alike)
    tested, untested = own(together), own(together, 1)
    assert (untested.p, untested.adjusted, untested.verdict) == (None, None, "undecided")
    assert tested.adjusted == pytest.approx(2 * tested.p)


def test_a_setting_of_zero_is_left_out_of_a_slope(study):
    asked = claim(test="rises", right=None, over="router.noise")
    noises = [{"noise": 0.0}, {"noise": 1.0}, {"noise": 2.0}]
    verdict = own(study({"soft_moe": A}, asked, conditions=noises))
    assert verdict.difference.mean == pytest.approx(0.01), "from 1 to 2; 0 is left out"
    few = own(study({"soft_moe": A}, asked, conditions=noises[:2], name="few"))
    assert few.why == "router.noise has the one value 1 above 0"


def test_a_stopping_rule_raises_p_values_and_widens_intervals(study):
    fixed = study({"soft_moe": A, "random": B}, claim())
    asked = fixed.record.request | {"sequential": {"looks": 3, "resolve": 0.5}}
    grown = replace(fixed, record=replace(fixed.record, request=asked))
    assert own(grown).p == pytest.approx(3 * own(fixed).p)
    assert own(grown).difference.low < own(fixed).difference.low


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- id: [", "is not valid YAML"),
        ("id: mine", "claims are a list of mappings"),
        ("- mine", "claim 'mine': "),
        (TEXT.replace("  source: me\n", ""), "claim mine: source: Field required"),
        (TEXT.replace("metric:", "metrc:"), "claim mine: metric: Field required"),
        (TEXT + "  colour: red\n", "claim mine: colour: Extra inputs are not permitted"),
        (TEXT.replace("test: higher", "test: best"), "claim mine: test: Input should be 'higher'"),
        (TEXT.replace("higher", "equal"), "claim mine: the test 'equal' needs margin"),
        (TEXT + "  margin: 1\n", "claim mine: the test 'higher' takes no margin"),
        (TEXT.replace("[soft_moe]", "[]"), "claim mine: left.routers: Tuple should have at least"),
        (TEXT + TEXT, "two claims have the id 'mine'"),
        (TEXT.replace("mine", "soft-over-sparse"), "is the id of a published claim"),
    ],
)
def test_a_mistake_in_a_claims_file_is_one_message(tmp_path, text, message):
    file = tmp_path / "claims.yaml"
    file.write_text(text)
    with pytest.raises(StoreError) as error:
        own_claims(file)
    assert str(error.value).startswith(str(file))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_claims_file_is_reported(tmp_path):
    with pytest.raises(StoreError, match="No such file"):
        read_claims(tmp_path / "none.yaml")


@pytest.mark.slow
def test_a_users_own_claims_appear_in_the_report(lab, store, tmp_path, capsys):
    def command(*arguments):
        place = ["--home", str(tmp_path), "--db", str(tmp_path / "results.db")]
        with pytest.raises(SystemExit) as ended:
            main(["report", *arguments, *place])
        return ended.value.code, capsys.readouterr()

    lab(suites=("accuracy",), evaluations=2).study_of({"soft_moe": A, "random": B})
    file, out = tmp_path / "mine.yaml", tmp_path / "out"
    file.write_text(TEXT)
    assert command("--claims", str(file), "--out", str(out))[0] == 0
    assert "Soft is better than random. | supported" in (out / "tables/claims.md").read_text()
    assert check(store, out).wrong == (), "the claims are stored with the numbers"
    status, printed = command("--claims", str(file), "--trace", "claims", "mine", "difference")
    assert status == 0
    assert "from 10 trials" in printed.out
    file.write_text(TEXT.replace("soft_moe", "soft"))
    command("--claims", str(file), "--out", str(out))
    assert "no runs of soft" in (out / "tables/claim_tests.md").read_text()
    file.write_text("- id: 7")
    status, printed = command("--claims", str(file))
    assert status == 2
    assert "claim 7: id: Input should be a valid string (given 7)" in printed.err


def test_differences_of_shares_are_given_in_points(study):
    made = study({"soft_moe": A, "random": B}, claim())
    assert tables.table(made).cell(0, "difference").value == pytest.approx(0.1)
    shares = made.metrics.assign(unit="share")
    table = tables.table(replace(made, metrics=shares))
    assert table.cell(0, "difference").value == pytest.approx(10.0)
    assert table.cell(0, "unit").words == "points"
