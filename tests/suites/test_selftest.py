from __future__ import annotations

from itertools import product

import pytest
import torch

import suites.balance
import suites.entropy
import suites.specialization
from routers import BenchError, TokenChoiceRouting
from suites.support.known_answers import EXPERTS, ROUTINGS, KnownSubject, self_test


def test_the_suites_reproduce_the_known_answers():
    answers = [values for case in ROUTINGS for values in case.answers.values()]
    assert self_test() == sum(map(len, answers)) > 60


def test_every_suite_about_routing_is_tested_on_each_kind_of_routing():
    asked = {(case.name, place.split()[0]) for case in ROUTINGS for place in case.answers}
    about = ("balance", "entropy", "specialization")
    assert set(product(("uniform", "collapsed", "oracle"), about)) <= asked


def test_a_wrong_statistic_is_noticed(monkeypatch):
    monkeypatch.setattr(suites.balance, "gini", lambda counts: 0.5)
    with pytest.raises(BenchError, match=r"'balance' measures demand_gini = 0\.5 .*expected 0$"):
        self_test()


def test_entropies_in_the_wrong_unit_are_noticed(monkeypatch):
    right = suites.entropy.entropy_bits
    monkeypatch.setattr(suites.entropy, "entropy_bits", lambda masses: 0.6931 * right(masses))
    with pytest.raises(BenchError, match=r"H_[su] = 1\.3862 \(layer 0, of gates.*expected 2$"):
        self_test()


def test_a_missing_metric_is_noticed(monkeypatch):
    def silent(self, *arguments):
        return (metric for metric in right(self, *arguments) if metric.name != "H_s")

    right = suites.entropy.Entropy.of_layer
    monkeypatch.setattr(suites.entropy.Entropy, "of_layer", silent)
    with pytest.raises(BenchError, match="does not measure H_s"):
        self_test()


def test_tokens_assigned_to_the_wrong_images_are_noticed(monkeypatch):
    def transposed(self, weights, images, mask):
        right(self, weights.reshape(-1, images, EXPERTS).transpose(0, 1), images, mask)

    right = suites.entropy.ImageMasses.add
    monkeypatch.setattr(suites.entropy.ImageMasses, "add", transposed)
    with pytest.raises(BenchError, match="MI_label = 2"):
        self_test()


def test_an_uncorrected_bias_is_noticed(monkeypatch):
    monkeypatch.setattr(torch, "randperm", lambda n, generator: torch.zeros(n, dtype=torch.long))
    with pytest.raises(BenchError, match="MI_label_corrected"):
        self_test()


def test_a_load_counted_before_dropping_is_noticed(monkeypatch):
    monkeypatch.setattr(TokenChoiceRouting, "expert_load", TokenChoiceRouting.demand)
    with pytest.raises(BenchError, match=r"collapsed routing.*dropped = 0"):
        self_test()


def test_an_expert_that_is_not_switched_off_is_noticed(monkeypatch):
    def unmoved(self, model, images, factors):
        return right(self, model, images, {})

    right = KnownSubject.answers
    monkeypatch.setattr(KnownSubject, "answers", unmoved)
    with pytest.raises(BenchError, match="'specialization' does not measure polysemanticity"):
        self_test()


def test_splitting_a_batch_whose_groups_span_images_is_noticed(monkeypatch):
    monkeypatch.setattr(suites.specialization, "runs_apart", lambda subject, batch: True)
    with pytest.raises(BenchError, match="'specialization' measures"):
        self_test()
