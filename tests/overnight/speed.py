"""How fast the harness itself is: `python tests/overnight/speed.py [help|reused|trial|workers]`.

Each figure describes this machine in its current state; close other programs first. `trial` and
`workers` train for minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.execute.events import Event
    from bench.plan.plan import Request

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

REPEATS = 5
TRIALS = 1000


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "bench.py"), *arguments]


def seconds_of(arguments: list[str]) -> float:
    """Return the median wall time of a process, after one run that warms the disk cache."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        subprocess.run(arguments, stdout=subprocess.DEVNULL, check=True, cwd=ROOT)
        times.append(time.perf_counter() - start)
    return median(times[1:])


def of_help() -> None:
    print(f"bench.py --help: {seconds_of(command('--help')):.2f} s")


def of_reused() -> None:
    """Time a run of 1,000 trials that are all done, as a user types it, report included."""
    with tempfile.TemporaryDirectory() as folder:
        asked = ["run", "--preset", "tiny", "--routers", "soft_moe,dense", "--home", folder]
        asked += ["--seeds", str(TRIALS // 2)]
        pretend_done(Path(folder))
        subprocess.run(command(*asked), stdout=subprocess.DEVNULL, check=True, cwd=ROOT)
        whole = seconds_of(command(*asked))
    torch = seconds_of([sys.executable, "-c", "import torch"])
    print(f"a fully reused run of {TRIALS:,} trials: {whole:.1f} s, importing torch {torch:.1f} s")


def of_trial() -> None:
    """Print the time of a trial besides training and measuring, one worker after the other."""
    from bench.config.presets import load_preset
    from bench.execute.events import Begun, Ended, Measured, Measuring, Started
    from bench.plan.plan import make_request

    request = make_request(
        load_preset("tiny"), routers=["soft_moe", "dense"], seeds=4, suites=["accuracy", "balance"]
    )
    events = events_of(request, jobs=1)
    begin = [at for at, event in events if isinstance(event, (Started, Measuring))]
    end = [at for at, event in events if isinstance(event, (Ended, Measured))]
    start = next(at for at, event in events if isinstance(event, Begun))
    trials = sum(isinstance(event, Ended) for _, event in events)
    overhead = end[-1] - start - (sum(end) - sum(begin))
    print(f"beside training and measuring: {overhead / trials:.2f} s a trial")


def of_workers() -> None:
    """Time the training part of the preset tiny with one worker and with two."""
    from bench.config.presets import load_preset
    from bench.execute.events import Begun, Ended
    from bench.plan.plan import Request

    request = Request("tiny", load_preset("tiny"), {})
    took = {}
    for jobs in (1, 2):
        events = events_of(request, jobs)
        start = next(at for at, event in events if isinstance(event, Begun))
        took[jobs] = max(at for at, event in events if isinstance(event, Ended)) - start
        print(f"training of tiny with {jobs} worker(s): {took[jobs]:.0f} s")
    print(f"two workers take {took[2] / took[1]:.2f} of the time of one")


def events_of(request: Request, jobs: int) -> list[tuple[float, Event]]:
    """Return the events of a run in a new home, with their times."""
    from bench.data.registry import Datasets
    from bench.execute import RunOptions, run_plan
    from bench.plan.plan import make_plan
    from results import open_store

    events: list[tuple[float, Event]] = []
    datasets = Datasets()
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder) / "bench.db") as store:
        plan = make_plan(request, datasets)
        run_plan(
            *(plan, store, Path(folder), datasets),
            lambda event: events.append((time.perf_counter(), event)),
            RunOptions(jobs=jobs),
        )
    return events


def pretend_done(home: Path) -> None:
    """Write the rows and files that the trials would leave, with made-up numbers."""
    from bench.config.presets import load_preset
    from bench.data.registry import Datasets
    from bench.environment import code_version
    from bench.execute.context import prepared_machine
    from bench.plan.plan import make_plan, make_request
    from bench.plan.registration import record_plan
    from bench.train.outcome import Outcome, SavedSnapshot, write_outcome
    from results import Metric, open_store
    from suites import SUITES

    request = make_request(load_preset("tiny"), routers=["soft_moe", "dense"], seeds=TRIALS // 2)
    plan = make_plan(request, Datasets())
    with open_store(home / "bench.db") as store:
        machine, code = store.machine(prepared_machine()), store.code_version(code_version())
        rows = record_plan(plan, store)
        for planned in plan.trials:
            fingerprint = planned.fingerprint.value
            folder = home / "trials" / fingerprint[:16]
            folder.mkdir(parents=True)
            (folder / "end.safetensors").touch()
            end = SavedSnapshot(step=1, flops=1.0, seconds=1.0, file="end.safetensors", sha256="")
            done = {"status": "done", "error": None, "steps": 1, "planned_steps": 1, "flops": 1.0}
            rest = {"flops_budget": 1.0, "budget": 1.0, "budget_error": 0.0}
            rest |= {"within_tolerance": True, "uncounted": [], "seconds": 1.0}
            outcome = Outcome(**done, **rest, history=[], snapshots=[end], folder=folder)  # type: ignore[arg-type]
            write_outcome(outcome)
            attempt = store.begin_attempt(rows[fingerprint], machine, code)
            store.finish_attempt(
                attempt,
                "done",
                **{"flops": 1.0, "steps": 1, "seconds": 1.0, "checkpoint_sha256": ""},  # type: ignore[arg-type]
                checkpoint=str(folder.relative_to(home) / end.file),
            )
            for suite in planned.suites:
                target = SUITES.get(suite.name).target
                value = (int(fingerprint[:6], 16) % 1000) / 1000
                metrics = [
                    Metric(each.name, value, split="test", where=target.main_where)
                    for each in target.metrics
                ]
                store.record_measurement(
                    *(suite.name, suite.options, suite.source_hash, machine, code),
                    attempt_id=attempt,
                    metrics=metrics,
                )
        for planned in plan.layers:
            for suite in planned.suites:
                store.record_measurement(
                    *(suite.name, suite.options, suite.source_hash, machine, code),
                    layer_id=rows[planned.fingerprint.value],
                )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import bench.model  # noqa: F401
    import suites  # noqa: F401

    figures: dict[str, Callable[[], None]] = {
        "help": of_help,
        "reused": of_reused,
        "trial": of_trial,
        "workers": of_workers,
    }
    for name in sys.argv[1:] or figures:
        figures[name]()
