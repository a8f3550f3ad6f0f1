"""Write a small database of the current schema beside this file, as SQL for upgrade tests.

Run once for each new schema revision: `python tests/results/databases/make.py`.
"""

from __future__ import annotations

import math
import sqlite3
import tempfile
from pathlib import Path

import numpy as np

from results import Array, CodeVersion, Component, Machine, Metric, Run, Subject, open_store
from results.migrate import head
from results.models import AttemptRow

DESCRIPTION = {
    "router": {"name": "soft_moe", "options": {"slots": 1}},
    "experts": {"name": "mlp", "num_experts": 8, "options": {}},
    "model": {"name": "vit_tiny_patch16_224", "options": {"depth": 4}},
    "data": {"name": "digits"},
    "train": {"epochs": 2},
    "seed": 0,
}


def fill(file: Path) -> None:
    """Add at least one row to every table."""
    with open_store(file) as store:
        machine = store.machine(Machine("node1", "Linux", "EPYC", 2, 1, 2**33))
        code = store.code_version(CodeVersion("0123abcd", False, "3.11.7", {"torch": "2.6.0"}))
        definitions = [{"name": "top1", "unit": "%", "better": "higher", "meaning": "accuracy"}]
        router = store.components(
            [Component("router", "soft_moe", "class A: ...", "h1", definitions={"SoftMoE": "d1"})]
        )[0]
        store.components([Component("suite", "accuracy", "…", "h1", metrics=definitions)])[0]
        study = store.study("tiny", {"preset": "tiny"})
        trial = store.trials([Subject("f1", DESCRIPTION, components=[router])])[0]
        layer = store.layers([Subject("l1", DESCRIPTION, components=[router])])[0]
        store.add_trial_to_study(study, trial)
        store.add_layer_to_study(study, layer)
        # Not this machine, so that the file reveals nothing about it.
        run = store.start_run(study, Run("node1", 77, 1.5e9, "run --preset tiny", jobs=2))
        store.lease(run, layer_id=layer)
        attempt = store.begin_attempt(trial, machine, code, "logs/1.txt")
        store.finish_attempt(attempt, "done", flops=1e12, steps=100, seconds=1.5)
        metrics = [Metric("top1", 81.25, split="test"), Metric("nll", math.nan, layer=1, step=100)]
        load = Array("load", np.arange(8, dtype=np.int32), where={"of": "gates"})
        store.record_measurement(
            "accuracy", {}, "h1", machine, code, attempt_id=attempt, metrics=metrics, arrays=[load]
        )
        with store.writing() as session:  # older code wrote such notes
            session.get_one(AttemptRow, attempt).note = "halved batches"
        store.record_measurement(
            "throughput", {}, "h1", machine, code, layer_id=layer, metrics=[Metric("ms", 2.5)]
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder) / "bench.db")
        connection = sqlite3.connect(Path(folder) / "bench.db")
        dump = "\n".join(connection.iterdump())
        connection.close()
    Path(__file__).with_name(f"{head()}.sql").write_text(dump + "\n")
