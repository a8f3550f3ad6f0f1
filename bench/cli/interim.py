"""Interim analyses: a plan with `--seeds auto`, done with more seeds until all is decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.execute import RunSummary
from bench.plan import Plan, Request, Sequential, add_seeds, refuse_other_analyses
from results import Store

if TYPE_CHECKING:
    from report.comparisons import Comparison


def adding_seeds(plan: Plan, store: Store, do: Callable[[Plan], RunSummary]) -> RunSummary:
    """Do a plan with `--seeds auto`, look by look, until all is decided or its limit is reached.

    Args:
        do: does one part of the plan.

    Returns:
        The summary of the last look.

    Raises: see `bench.plan.sequential.refuse_other_analyses`, and what `do` raises.
    """
    asked, name = plan.request.sequential, plan.request.study
    assert asked is not None
    before = next((study.request for study in store.studies() if study.name == name), {})
    refuse_other_analyses(name, asked, before)
    summaries: list[RunSummary] = []

    def look(state: Sequential, seeds: int) -> Sequence[Comparison] | None:
        part = _of_seeds(plan, state, seeds)
        summaries.append(do(part))
        return None if summaries[-1].left else _declared(part, store)

    left = add_seeds(asked, look, _say)
    store.study(name, _at(plan.request, left, left.taken).record())
    return summaries[-1]


def _say(text: str) -> None:
    """Print a line; where that fails, as into a closed pipe, the run goes on."""
    with suppress(OSError):
        print(text)


def _of_seeds(plan: Plan, state: Sequential, seeds: int) -> Plan:
    """Return the part of a plan that one look covers: its trials with the first seeds."""
    trials = tuple(planned for planned in plan.trials if planned.spec.seed < seeds)
    return replace(plan, request=_at(plan.request, state, seeds), trials=trials)


def _at(request: Request, sequential: Sequential, seeds: int) -> Request:
    preset = request.preset.model_copy(update={"seeds": seeds})
    return replace(request, preset=preset, sequential=sequential)


def _declared(plan: Plan, store: Store) -> Sequence[Comparison]:
    """Return the comparisons of a plan's trials, just as the report tests them."""
    from report.comparisons import comparisons
    from report.load import load_study

    study = load_study(store, plan.request.study)
    asked = {planned.fingerprint.value for planned in plan.trials}
    own = {
        name: frame[frame["trial"].isin(asked)]
        for name, frame in (("trials", study.trials), ("metrics", study.metrics))
    }
    return comparisons(replace(study, **own))
