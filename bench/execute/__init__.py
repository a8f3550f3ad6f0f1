"""Carrying out a plan: the job loop, its executors, and the rows that each worker writes."""

from bench.execute.array import (
    ArrayRecord,
    ExecutorName,
    read_array,
    refuse_missing,
    submit_array,
    worker_gpus,
)
from bench.execute.array_worker import IN_ARRAY, RESUMABLE, SOME_FAILED, array_began, in_array
from bench.execute.context import SIGNALS, RunOptions, prepared_machine, trial_folder
from bench.execute.devices import gpus, refuse_few_gpus, slots
from bench.execute.events import (
    Begun,
    Ended,
    Event,
    Leaving,
    Measured,
    OnEvent,
    Progress,
    Reused,
    RunSummary,
    Started,
    Task,
    Waiting,
)
from bench.execute.jobs import Job, jobs_of
from bench.execute.plugins import opened_uncovered, watch_opened
from bench.execute.runner import Runner, most_ranks, prepare_plan, run_plan
from bench.execute.stored_weights import verify_weights
