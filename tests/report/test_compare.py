"""Comparisons of two studies, and of one study before and after a code change."""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta
from math import sqrt

import pytest

from report.compare import Change, Value, compare
from report.compare.changes import what_changed
from report.compare.sides import load_side
from report.compare.tables import plain_table, show, write
from report.render import to_markdown
from results import CodeVersion, Metric, StoreError, open_store
from results.models import MetricRow
from results.statistics.means import paired_difference

NEW = CodeVersion("fedcba9876543210", True, "3.11", {"torch": "2.7"}, "a diff")
BEFORE, LONGEST = "tiny@0123456789ab", "sparsity_constrained_expert_choice"


def change_code(made, version=NEW, protocol="second"):
    """Switch to other code with a different training protocol from now on."""
    made.code, made.protocol = made.store.code_version(version), protocol


@pytest.fixture
def changed(lab):
    """A study with two routers retrained by other code, one not retrained, and one new."""
    made = lab(suites=("accuracy", "balance", "throughput"))
    made.study_of({"dense": [0.7, 0.72], "soft_moe": [0.80, 0.82, 0.81], LONGEST: [0.8] * 4})
    change_code(made)
    made.study_of({"soft_moe": [0.83, 0.85, 0.85], LONGEST: [0.79, 0.81, 0.80], "random": [0.5]})
    return made


def by_router(made):
    return {change.entry.label: change for change in made.changes()}


def test_a_paired_difference_matches_one_computed_by_hand(changed, store):
    made = compare(store, "tiny@0123", "tiny@fedc")
    soft = by_router(made)["soft_moe"]
    assert soft.seeds == (0, 1, 2)
    assert soft.mean(soft.a) == pytest.approx(0.81)
    assert soft.mean(soft.b) == pytest.approx(2.53 / 3)
    # Differences of 3, 3 and 4 points: mean 10/3, standard error 1/3, so t = 10 at 2 degrees of
    # freedom, for which the distribution is 1/2 + t / (2 √(2 + t²)).
    assert soft.difference.mean == pytest.approx(0.1 / 3)
    p = 1 - 10 / sqrt(102)
    assert soft.difference.p_value == pytest.approx(p)
    assert soft.tests == 2
    assert soft.adjusted == pytest.approx(2 * p)
    assert soft.resolved
    # The simultaneous interval for two: 97.5 % of the same distribution.
    half = 0.975 * sqrt(2 / (1 - 0.975**2)) / 300
    assert soft.difference.low == pytest.approx(0.1 / 3 - half)
    assert soft.difference.high == pytest.approx(0.1 / 3 + half)


def test_one_study_is_compared_before_and_after_a_code_change(changed, store):
    made = compare(store, "tiny@0123", "tiny@fedc")
    assert (made.a.label, made.b.label) == (BEFORE, "tiny@fedcba987654+" + made.b.label[-6:])
    verdicts = {name: change.verdict for name, change in by_router(made).items()}
    assert verdicts == {"dense": "the same trials", "soft_moe": "resolved", LONGEST: "not resolved"}
    assert by_router(made)[LONGEST].seeds == (0, 1, 2), "the trial of seed 3 was not retrained"
    assert [entry.label for entry in made.only(made.b)] == ["random"]
    assert made.only(made.a) == []
    notes = " ".join(show(store, made).notes)
    assert "Only B has random." in notes
    assert f"Left out, since both sides share the trial: seed 3: {LONGEST}." in notes
    turned = by_router(compare(store, "tiny@fedc", "tiny@0123"))["soft_moe"]
    assert turned.difference.mean == pytest.approx(-0.1 / 3)


def test_only_changed_components_are_named(changed, store):
    made = compare(store, "tiny@0123", "tiny@fedc")
    lines = dict(what_changed(store, made))
    assert lines["Settings"] == ["the same"]
    assert lines["Machines"] == ["the same"]
    assert lines["Source"] == [f"protocol 'training' (soft_moe, {LONGEST})"]
    commit, torch = lines["Code"]
    assert commit.startswith("commit: 0123456789ab → fedcba987654+")
    assert commit.endswith("(changed since the commit)")
    assert torch == "torch: 2.6 → 2.7"


def test_a_study_without_a_version_is_its_newest_state(changed, store):
    now, newest = (load_side(store, name) for name in ("tiny", "tiny@fedc"))
    assert set(now.trials["trial"]) == set(newest.trials["trial"])
    assert set(now.metrics["measurement"]) == set(newest.metrics["measurement"])
    assert len(load_side(store, "tiny@0123").trials) == 9


def test_comparing_two_studies_lists_everything_that_differs(lab, store):
    lab(suites=("accuracy",)).study_of({"dense": [0.7, 0.71], "soft_moe": [0.8, 0.82, 0.81]})
    other = lab(name="other", machines=("node-2",), suites=("accuracy",),
                experts={"num_experts": 16})  # fmt: skip
    other.study_of({"dense": [0.7, 0.71], "soft_moe": [0.81, 0.84], "frozen": [0.1]})
    shown = show(store, compare(store, "tiny", "other"))
    lines = dict(shown.changed)
    assert lines["Settings"] == ["experts.num_experts: 8 → 16"]
    assert lines["Code"] == ["the same"]
    assert lines["Machines"][0].startswith("node-1 (Processor of node-1, 1 thread) → node-2 (")
    assert "Only B has frozen." in shown.notes
    assert "Only A has a result of seed 2: soft_moe." in shown.notes
    assert "Times are compared only if both were taken on one machine." in shown.notes
    assert not shown.plain, "times of another machine are not compared"


def test_swept_settings_match_by_value_even_if_one_study_has_a_single_value(lab, store):
    capacities = [{"capacity_factor": 1.0}, {"capacity_factor": 2.0}]
    lab(suites=("accuracy",)).study_of({"soft_moe": [0.8, 0.82]}, capacities)
    lab(name="one", suites=("accuracy",)).study_of({"soft_moe": [0.9, 0.93]}, capacities[1:])
    made = compare(store, "tiny", "one")
    (change,) = made.changes()
    assert change.entry.full_label == "soft_moe router.capacity_factor=2.0"
    assert change.difference.mean == pytest.approx(0.105 - 0.01)
    (only,) = made.only(made.a)
    assert only.condition.label == "router.capacity_factor=1.0"


def test_experts_belong_to_the_system_and_are_named_if_they_differ(lab, store):
    lab(suites=("accuracy",)).study_of({"dense": [0.7], "soft_moe": [0.8, 0.82]})
    other = lab(name="other", suites=("accuracy",))
    other.study_of({"dense": [0.7], "soft_moe": [0.9, 0.93]})
    other.experts = {"name": "cp"}
    other.study_of({"random": [0.1]})
    made = compare(store, "tiny", "other")
    assert [change.entry.full_label for change in made.changes()] == ["dense", "soft_moe"]
    assert [entry.label for entry in made.only(made.b)] == ["random + cp"]


def test_other_metrics_are_compared_by_plain_differences_over_pairs(lab, store):
    lab(seconds={"soft_moe": 60.0}).study_of({"dense": [0.7], "soft_moe": [0.8, 0.8]})
    other = lab(name="other", seconds={"soft_moe": 75.5})
    other.study_of({"random": [0.7], "soft_moe": [0.8, 0.8]})
    for name, value in (("tiny", 0.4), ("other", 0.47)):
        attempt = store.done_attempt(f"{name}-soft_moe-0-{{}}").id
        store.record_measurement(
            "fewshot", {}, "fewshot", other.machine_ids[0], other.code, attempt_id=attempt,
            metrics=[Metric("transfer_top1", value, split="test")],
        )  # fmt: skip
    shown = show(store, compare(store, "tiny", "other"))
    plain = {
        name.words: (a.value, b.value, row.n)
        for row in shown.plain
        for _, _, name, _, a, b, _ in [row.cells]
    }
    assert plain["training (s)"] == (60.0, 75.5, 2)
    assert plain["few-shot (points)"] == (pytest.approx(40), pytest.approx(47), 1)
    assert plain["forward (ms)"][2] is None
    assert plain["forward (ms)"][0] == plain["forward (ms)"][1] > 0


def test_a_timing_disturbed_by_other_load_is_marked(lab, store):
    lab(suites=("throughput",)).study_of({"dense": [0.7], "soft_moe": [0.8]})
    other = lab(name="other", suites=("throughput",))
    other.study_of({"dense": [0.7], "soft_moe": [0.8]})
    where = {"scope": "layer", "shape": "B", "batch": 64, "threads": 1}
    layers = {record.router: record for record in load_side(store, "other").metrics.itertuples()}
    with store.writing() as session:
        made = int(layers["soft_moe"].measurement)
        session.add(MetricRow(measurement_id=made, name="disturbed", value=1.0, where=where))
    shown = show(store, compare(store, "tiny", "other"))
    marks = {row.entry.label: row.cells[-1].marks for row in shown.plain}
    assert marks == {"dense": (), "soft_moe": ("¶",)}
    assert any(note.startswith("¶: other processes kept") for note in shown.notes)
    assert "0.000¶ |" in to_markdown(plain_table(shown))


def test_a_difference_at_one_seed_or_equal_at_all_seeds_is_not_tested(lab, store):
    lab(suites=("accuracy",)).study_of({"dense": [0.7, 0.8], "random": [0.6], "soft_moe": [None]})
    lab(name="other", suites=("accuracy",)).study_of(
        {"dense": [0.75, 0.85], "random": [0.7], "soft_moe": [0.8]}
    )
    made = compare(store, "tiny", "other")
    verdicts = {name: change.verdict for name, change in by_router(made).items()}
    assert verdicts == {
        "dense": "no test: all differences are alike",
        "random": "n = 1 is too small for a test",
        "soft_moe": "no seed in common",
    }
    assert by_router(made)["soft_moe"].mean(by_router(made)["soft_moe"].a) is None
    assert "Only B has a result of seed 0: soft_moe." in show(store, made).notes


def test_an_interval_excludes_zero_exactly_if_the_difference_is_resolved():
    def change(differences, tests):
        a = {seed: Value(0.0, seed, "m", "t") for seed in range(len(differences))}
        b = {seed: Value(d, 100 + seed, "m", "t") for seed, d in enumerate(differences)}
        difference = paired_difference(differences, [0.0] * len(differences), 1 - 0.05 / tests)
        return Change(None, a, b, tuple(a), difference, tests)

    for tests in (1, 2, 5, 20):
        for scale in range(1, 60):
            made = change([0.1 * scale + 1, 0.1 * scale - 1, 0.1 * scale + 0.5], tests)
            assert made.resolved == (made.difference.low > 0)


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        (
            ("tiny", "tiny"),
            r"are the same; .* was made by 0123456789ab \(from 20.*fedcba987654\+",
        ),
        (("tiny", "tinny"), "no study 'tinny' .*did you mean 'tiny'"),
        (
            ("tiny@0", "tiny@77"),
            "no version of the code of study 'tiny' begins with '77'; available: ",
        ),
        (("tiny@", "tiny@0"), "no version of the code of study 'tiny' begins with ''"),
        (("tiny", "apart"), r"tiny and apart have no system in common\. tiny has dense, .*frozen"),
    ],
)
def test_an_invalid_side_of_a_comparison_is_named(changed, store, lab, sides, message):
    lab(name="apart", suites=("accuracy",)).study_of({"frozen": [0.1]})
    with pytest.raises(StoreError, match=message):
        compare(store, *sides)


def test_a_version_is_given_by_its_commit_and_ambiguous_ones_are_listed(changed, store):
    full = "0123456789abcdef0123456789abcdef01234567"
    assert load_side(store, f"tiny@{full}").label == BEFORE
    change_code(changed, CodeVersion("fedcba9876543210", False, "3.11", {}), "third")
    changed.study_of({"soft_moe": [0.9]})
    assert load_side(store, "tiny@fedcba987654").label == "tiny@fedcba987654"
    with pytest.raises(
        StoreError, match=r"more than one .* 'fed': fedcba987654\+\w+, fedcba987654"
    ):
        load_side(store, "tiny@fed")


def test_a_study_can_be_compared_as_it_was_at_a_given_time(lab, store, monkeypatch):
    """A changed plugin has no commit of its own: the code is the same on both sides."""
    clock = [datetime(2026, 5, 4, 12, tzinfo=UTC)]
    for module in ("leases", "write"):
        monkeypatch.setattr(f"results.store.{module}.now", lambda *_: clock[0])
    made = lab(suites=("accuracy",))
    made.study_of({"dense": [0.7, 0.72], "soft_moe": [0.80, 0.82, 0.81]})
    clock[0] += timedelta(hours=6)
    made.protocol = "second"
    made.study_of({"soft_moe": [0.83, 0.85, 0.85]})
    between = (clock[0] - timedelta(hours=1)).astimezone()
    compared = compare(store, f"tiny@{between:%Y-%m-%dT%H:%M}", "tiny")
    assert by_router(compared)["soft_moe"].difference.mean == pytest.approx(0.1 / 3)
    assert by_router(compared)["dense"].verdict == "the same trials"
    assert compared.a.label == f"tiny@{between:%Y-%m-%dT%H:%M}:00"
    with pytest.raises(StoreError, match=r"there is no tiny@2020-01-01T00:00:00: study 'tiny' was"):
        compare(store, "tiny@2020-01-01", "tiny")


def test_superseded_versions_can_still_be_compared(changed, store):
    change_code(changed, CodeVersion("aaaa", False, "3.11", {}), "third")
    changed.study_of({"soft_moe": [0.1, 0.2, 0.3]})
    made = compare(store, "tiny@0123", "tiny@fedc")
    assert by_router(made)["soft_moe"].difference.mean == pytest.approx(0.1 / 3)


def test_the_written_files_contain_what_is_shown(changed, store, tmp_path):
    shown = show(store, compare(store, "tiny@0123", "tiny@fedc"))
    markdown, table = write(shown, tmp_path / "out")
    text = markdown.read_text(encoding="utf-8")
    assert "| soft_moe | 3 | 81.00 | 84.33 | 3.33 ± 2.07 | 0.010 | 0.020 | resolved |" in text
    assert "- torch: 2.6 → 2.7" in text
    with table.open(encoding="utf-8", newline="") as file:
        rows = {(row["router"], row["metric"]): row for row in csv.DictReader(file)}
    soft = rows["soft_moe", "top1"]
    assert float(soft["difference"]) == pytest.approx(0.1 / 3)
    assert float(soft["p_family"]) == pytest.approx(2 - 20 / sqrt(102))
    assert soft["verdict"] == "resolved"
    assert rows["dense", "top1"]["verdict"] == "the same trials"
    assert float(rows["soft_moe", "training (s)"]["difference"]) == 0


@pytest.mark.slow
def test_the_command_prints_80_columns_and_writes_both_files(make_lab, in_process, tmp_path):
    (tmp_path / "runs").mkdir()
    with open_store(tmp_path / "runs" / "bench.db") as store:
        made = make_lab(store, suites=("accuracy",))
        capacities = [{"capacity_factor": 1.0}, {"capacity_factor": 2.0}]
        made.study_of({"soft_moe": [0.80, 0.82, 0.81], LONGEST: [0.8, 0.81, 0.8]}, capacities)
        change_code(made)
        made.study_of({"soft_moe": [0.83, 0.85, 0.85], LONGEST: [0.8, 0.8, 0.81]}, capacities)
    done = in_process(tmp_path, "report", "--compare", "tiny@0123", "tiny@fedc")
    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines if "/" not in line) <= 80
    assert lines[0] == f"A  {BEFORE}"
    assert "router.capacity_factor=2.0" in lines
    soft = next(line.split() for line in lines if line.startswith("soft_moe "))
    assert soft[1:6] == ["3", "81.00", "84.33", "3.33", "±"]
    assert soft[-1] == "yes"
    assert "  torch: 2.6 → 2.7" in lines
    folder = tmp_path / "runs" / "reports" / "tiny"
    assert {file.name for file in folder.iterdir()} == {"compare.md", "compare.csv"}
    wrong = in_process(tmp_path, "report", "--compare", "tiny", "tiny@9", status=2)
    assert wrong.stderr.startswith("error: no version of the code of study 'tiny' begins with '9'")
    mixed = in_process(tmp_path, "report", "--compare", "tiny", "b", "--study", "tiny", status=2)
    assert "--compare and --study do not go together" in mixed.stderr
