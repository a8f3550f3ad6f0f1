from __future__ import annotations

import pytest
from torch.nn.functional import cross_entropy

from suites import build_suite

STATS = {"flops_per_image": 7.0, "train_seconds": 3.0, "steps": 10.0, "train_flops": 1e6}


def measured(subject):
    return {m.name: m.value for m in build_suite("scaling").measure(subject)}


def test_a_point_records_the_compute_that_really_ran(trial):
    subject = trial("softmax_token_choice", stats=STATS)
    got = measured(subject)
    (batch,) = subject.run(subject.model, "test", batch_size=40)
    right = float((batch.logits.argmax(-1) == batch.labels).double().mean())
    assert got["error"] == pytest.approx(1 - right)
    assert got["loss"] == pytest.approx(float(cross_entropy(batch.logits, batch.labels)), rel=1e-5)
    slots = [routing.slot_count / 40 for routing in batch.routings]
    assert got["slots"] == pytest.approx(sum(slots) / 2)
    assert (got["experts"], got["image_flops"], got["training_flops"]) == (4, 7, 1e6)
    assert got["step_ms"] == 300
    assert got["parameter_bytes"] == 4 * sum(w.numel() for w in subject.model.parameters())


def test_a_dense_model_has_no_experts_or_slots(trial):
    assert not {"experts", "slots"} & measured(trial("dense", stats=STATS)).keys()
