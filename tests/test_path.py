"""From the command `run` to an optimiser step: few modules, each with one job."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench.cli import main
from bench.execute.processes import ProcessExecutor

PLUGIN = '''
"""A router that writes down which modules of the bench have called it after a step."""
import json
import sys
from pathlib import Path

from routers import Router, TokenChoiceRouting, register_router


@register_router("witness_{jobs}", family="token_choice")
class Witness(Router):
    def allocate(self, logits):
        return TokenChoiceRouting.top_k(logits.softmax(-1), k=1, capacity=self.capacity(logits))

    def after_step(self, stats):
        frame, names = sys._getframe(), []
        while frame is not None:
            names.append(frame.f_globals["__name__"])
            frame = frame.f_back
        Path({file!r}).write_text(json.dumps(names[::-1]))
'''
EXECUTORS = {"0": "bench.execute.executor", "1": "bench.execute.processes"}


def modules(names: list[str]) -> list[str]:
    """Return the modules of the bench among these, each once, from `bench.cli.run` on."""
    own = list(dict.fromkeys(name for name in names if name.startswith("bench.")))
    return own[own.index("bench.cli.run") :] if "bench.cli.run" in own else own


@pytest.mark.parametrize("jobs", EXECUTORS)
@pytest.mark.slow
def test_eight_modules_lie_between_the_command_and_an_optimiser_step(
    jobs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, plugin, here = tmp_path / "stack.json", tmp_path / "witness.py", list[str]()
    plugin.write_text(PLUGIN.format(jobs=jobs, file=str(file)))
    start = ProcessExecutor.start

    def starting(*arguments: object) -> None:
        frame = sys._getframe()
        while frame := frame.f_back:
            here.insert(0, frame.f_globals["__name__"])
        here.append(EXECUTORS[jobs])
        start(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ProcessExecutor, "start", starting)
    options = ["--preset", "smoke", "--routers", f"witness_{jobs}", "--seeds", "1", "--jobs", jobs]
    options += ["--set", "train.epochs=0.2", "--no-report"]
    with pytest.raises(SystemExit) as exited:
        main(
            ["run", "accuracy", *options, "--home", str(tmp_path / "runs"), "--plugin", str(plugin)]
        )
    assert exited.value.code == 0
    path = modules([*here, *json.loads(file.read_text())])
    assert path == [
        "bench.cli.run",
        "bench.execute.runner",
        "bench.execute.loop",
        EXECUTORS[jobs],
        "bench.execute.worker",
        "bench.execute.training",
        "bench.train.loop",
        "bench.train.step",
    ]
