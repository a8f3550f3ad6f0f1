"""What is left to do of a plan, one job a trial and one a bare layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.execute.events import Task
from bench.plan import Plan, Planned, PlannedSuite
from bench.reuse import Decision


@dataclass(frozen=True)
class TrialJob:
    """Train a trial, or reuse it, then measure what is due."""

    planned: Planned
    decision: Decision
    task: Task

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.decision.train and not self.decision.due


@dataclass(frozen=True)
class LayerJob:
    """Measure a bare layer."""

    planned: Planned
    due: tuple[PlannedSuite, ...]
    task: Task

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.due


Job = TrialJob | LayerJob


def jobs_of(
    plan: Plan, decisions: Sequence[Decision], due: Sequence[tuple[PlannedSuite, ...]]
) -> Iterator[Job]:
    """In the order of the plan: trials first, then layers.

    Args:
        decisions: of each trial.
        due: the suites that are to measure each layer.
    """
    for number, (planned, decision) in enumerate(zip(plan.trials, decisions, strict=True), 1):
        task = Task(planned.label, planned.spec.seed, number, len(plan.trials))
        yield TrialJob(planned, decision, task)
    for number, (planned, suites) in enumerate(zip(plan.layers, due, strict=True), 1):
        task = Task(planned.label, None, number, len(plan.layers))
        yield LayerJob(planned, suites, task)
