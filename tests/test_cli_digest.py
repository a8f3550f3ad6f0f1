"""The digest of a study, from a database filled as a run fills it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.cli.digest import digest
from results import CodeVersion, Component, Machine, Metric, Run, Store, Subject, open_store
from results.store.leases import this_process

MACHINE = Machine("node1", "Linux 6.1", "EPYC 7B13", cores=2, threads=1, memory_bytes=8 * 2**30)
CODE = CodeVersion("0123456789abcdef", dirty=False, python="3.11.7", libraries={"torch": "2.6.0"})
UGLY = "RuntimeError: \x1b[31mbad\x1b[0m thing\nsecond line"


class Night:
    """A study whose runs a test makes up trial by trial."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.store: Store = open_store(home / "bench.db")
        self.machine, self.code = self.store.machine(MACHINE), self.store.code_version(CODE)
        self.study = self.store.study("tiny", {})
        for suite, metric, better in (
            ("accuracy", "top1", "higher"),
            ("balance", "load_cv", "lower"),
        ):
            metric_definition = {"name": metric, "unit": "share", "better": better, "meaning": ""}
            self.store.components(
                [Component("suite", suite, suite, source_hash="h", metrics=[metric_definition])]
            )[0]

    def run(self) -> int:
        command = "python bench.py run --preset tiny"
        return self.store.start_run(self.study, Run(*this_process(), command=command, jobs=2))

    def plan(self, router: str, seed: int = 0, **options: float) -> int:
        described = {
            "router": {"name": router, "options": options},
            "experts": {"name": "mlp", "num_experts": 8},
            "model": {"name": "vit"},
            "data": {"name": "digits"},
            "seed": seed,
        }
        name = "-".join(map(str, (router, seed, *options.values())))
        trial = self.store.trials([Subject(name.ljust(64, "x"), described)])[0]
        self.store.add_trial_to_study(self.study, trial)
        return trial

    def trial(
        self,
        router: str,
        seed: int,
        top1: float,
        load_cv: float = 0.5,
        constant: bool = False,
        code: str = "h",
        **options: float,
    ) -> None:
        log = f"logs/{router}-{seed}.log"
        trial = self.plan(router, seed, **options)
        attempt = self.store.begin_attempt(trial, self.machine, self.code, log)
        self.store.finish_attempt(attempt, "done", seconds=100, checkpoint="c")
        self.measured(attempt, "accuracy", Metric("top1", top1, split="test"), code)
        where = {"constant": True} if constant else {}
        self.measured(
            attempt, "balance", Metric("load_cv", load_cv, split="test", where=where), code
        )

    def measured(self, attempt: int, suite: str, metric: Metric, code: str) -> None:
        self.store.record_measurement(
            *(suite, {}, code, self.machine, self.code),
            attempt_id=attempt,
            seconds=1,
            metrics=[metric],
        )

    def failed(self, router: str, seed: int = 0, error: str = UGLY) -> None:
        trial = self.plan(router, seed)
        log = f"logs/{router}-{seed}.log"
        attempt = self.store.begin_attempt(trial, self.machine, self.code, log)
        self.store.finish_attempt(attempt, "failed", error=error, seconds=1)

    def digest(self) -> str:
        return digest(self.store, "tiny", self.home)


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


def part(text: str, first: str) -> list[str]:
    """Return the lines of the paragraph that starts with this text."""
    (paragraph,) = (each for each in text.split("\n\n") if each.startswith(first))
    return paragraph.splitlines()


def test_a_trial_measured_on_two_machines_counts_as_one_value(night: Night) -> None:
    night.trial("a", 0, 0.90)
    night.machine = night.store.machine(replace(MACHINE, name="node2"))
    night.trial("a", 0, 0.80)
    night.run()
    night.trial("b", 0, 0.95)
    assert "before the latest run: a: 80.0 (n = 1)" in night.digest()


def test_the_best_is_shown_with_its_interval_and_the_runner_up(night: Night) -> None:
    run = night.run()
    for seed, (a, b) in enumerate([(0.80, 0.70), (0.82, 0.71)]):
        night.trial("a", seed, a, load_cv=0.4)
        night.trial("b", seed, b, load_cv=0.3)
        night.trial("even", seed, 0.10, load_cv=0.0, constant=True)
    night.store.finish_run(run)
    lines = part(night.digest(), "Best by each suite's main metric")
    # Two values 2 and 1 points apart: 12.706 standard errors of 1 and 0.5 points.
    assert lines[1:4] == [
        "  accuracy: top1 in % ↑",
        "    a: 81.0 (68.3 to 93.7, n = 2)",
        # Paired by seed, 10 and 11 points: t = 21 with one degree of freedom.
        "    then b: 70.5 (64.1 to 76.9, n = 2)",
    ]
    # A value that is constant by construction is no achievement.
    assert lines[4:] == [
        "  balance: load_cv in % ↓",
        "    b: 30.0 (30.0 to 30.0, n = 2)",
        "    then a: 40.0 (40.0 to 40.0, n = 2); lead not resolved: no test, as all",
        "      differences are alike",
    ]


def test_a_lead_within_the_noise_is_not_resolved(night: Night) -> None:
    run = night.run()
    for seed, (a, b, c) in enumerate([(0.80, 0.70, 0.75), (0.82, 0.81, 0.83), (0.81, 0.80, 0.78)]):
        night.trial("a", seed, a)
        night.trial("b", seed, b)
        night.trial("c", seed, c)
    night.store.finish_run(run)
    lines = part(night.digest(), "Best by each suite's main metric")
    assert lines[3].startswith("    then c: 78.7 (")
    assert "lead not resolved (p = 0." in " ".join(lines[3:5])


def test_leads_are_not_resolved_for_one_seed_or_equal_values(night: Night) -> None:
    run = night.run()
    night.trial("a", 0, 0.8)
    night.trial("b", 0, 0.7)
    night.store.finish_run(run)
    lines = part(night.digest(), "Best by each suite's main metric")
    assert lines[3] == "    then b: 70.0 (n = 1); lead not resolved: no test of one seed"
    assert lines[6] == "    1 more with the same value: b"


def test_the_lead_compares_routers_trained_under_the_same_conditions(night: Night) -> None:
    run = night.run()
    for router, factor, top1 in (("a", 1.0, 0.8), ("a", 2.0, 0.7), ("b", 2.0, 0.6)):
        night.trial(router, 0, top1, capacity_factor=factor)
    night.store.finish_run(run)
    lines = part(night.digest(), "Best by each suite's main metric")
    assert lines[1:4] == [
        "  accuracy: top1 in % ↑",
        "    a router.capacity_factor=1.0: 80.0 (n = 1)",
        "  balance: load_cv in % ↓",
    ]
    night.trial("dense", 0, 0.1)
    lines = part(night.digest(), "Best by each suite's main metric")
    assert lines[3] == "    then dense: 10.0 (n = 1); lead not resolved: no test of one seed"


def test_results_of_the_latest_run_are_set_apart_from_earlier_ones(night: Night) -> None:
    run = night.run()
    night.trial("old", 0, 0.7)
    night.failed("broken")
    night.store.finish_run(run)
    assert "before" not in night.digest()
    run = night.run()
    night.trial("new", 0, 0.9)
    night.failed("worse")
    text = night.digest()
    assert "2 of 4 trials done, 2 failed" in text
    assert "The latest run: 1 trained, 1 reused, 2 measured, 1 failed" in text
    assert part(text, "2 failed:") == [
        "2 failed:",
        "  worse, seed 0: training failed: RuntimeError: bad thing",
        f"    log: {night.home}/logs/worse-0.log",
        "  broken, seed 0: training failed: RuntimeError: bad thing (before the latest",
        "    run)",
        f"    log: {night.home}/logs/broken-0.log",
    ]
    assert "    before the latest run: old: 70.0 (n = 1)" in text.splitlines()
    assert "running since" in text
    night.store.finish_run(run)
    assert "finished" in night.digest()


def test_results_of_older_code_than_the_rest_are_marked(night: Night) -> None:
    run = night.run()
    night.trial("a", 0, 0.8)
    assert "older" not in night.digest()
    night.trial("b", 0, 0.7, code="g")
    night.store.finish_run(run)
    paragraph = " ".join(part(night.digest(), "Best by each suite's main metric"))
    assert (
        "From older code than the newest results here: a; since then suite 'accuracy'" in paragraph
    )


def test_a_failed_measurement_counts_as_a_failure(night: Night) -> None:
    run = night.run()
    night.trial("a", 0, 0.8)
    attempt = night.store.last_attempt("a-0".ljust(64, "x"))
    assert attempt is not None
    origin = ("entropy", {}, "h", night.machine, night.code)
    night.store.record_measurement(
        *origin, attempt_id=attempt.id, status="failed", error="ValueError: no"
    )
    night.store.finish_run(run)
    assert "  a, seed 0: entropy failed: ValueError: no" in night.digest().splitlines()


def test_a_long_list_of_failures_is_truncated(night: Night) -> None:
    for seed in range(25):
        night.failed("broken", seed)
    text = night.digest()
    assert text.count("training failed") == 20
    assert "  and 5 more: see `status`" in text


def test_the_digest_is_plain_text_in_80_columns_and_names_the_report(night: Night) -> None:
    run = night.run()
    long = "sparsity_constrained_expert_choice"
    night.trial(long, 0, 0.8)
    night.failed("broken", error=f"RuntimeError: {'many words ' * 40}")
    night.store.finish_run(run)
    page = night.home / "reports" / "tiny" / "index.html"
    assert "report:" not in night.digest()
    page.parent.mkdir(parents=True)
    page.write_text("a page")
    text = night.digest()
    assert text.endswith(f"report: {page}")
    assert max(len(line) for line in text.splitlines() if str(night.home) not in line) <= 80
    assert "\x1b" not in text


def test_a_study_without_a_trial_has_a_digest(night: Night) -> None:
    assert night.digest() == "Study tiny"
