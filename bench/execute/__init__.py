"""Doing a plan: the job loop, its executors, and what each worker writes down."""

from bench.execute.context import RunOptions, prepared_machine, trial_folder
from bench.execute.devices import slots
from bench.execute.events import (
    Begun,
    Ended,
    Event,
    Leaving,
    Measured,
    Measuring,
    OnEvent,
    Progress,
    Reused,
    RunSummary,
    Started,
    Task,
    Waiting,
)
from bench.execute.interrupts import SIGNALS
from bench.execute.jobs import Job, LayerJob, TrialJob, jobs_of
from bench.execute.plugins import OPENED
from bench.execute.runner import Runner, run_plan

__all__ = [
    "OPENED",
    "SIGNALS",
    "Begun",
    "Ended",
    "Event",
    "Job",
    "LayerJob",
    "Leaving",
    "Measured",
    "Measuring",
    "OnEvent",
    "Progress",
    "Reused",
    "RunOptions",
    "RunSummary",
    "Runner",
    "Started",
    "Task",
    "TrialJob",
    "Waiting",
    "jobs_of",
    "prepared_machine",
    "run_plan",
    "slots",
    "trial_folder",
]
