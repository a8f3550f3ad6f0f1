"""Plans: the trials that a request calls for, their identity, and the reuse of earlier results."""

from bench.plan.expand import condition_of, conditions, selected_routers, solved_specs, trial_specs
from bench.plan.fingerprint import Fingerprints, differences
from bench.plan.plan import (
    Plan,
    Planned,
    PlannedSuite,
    Request,
    checked_name,
    labels,
    make_plan,
    make_request,
)
from bench.plan.registration import (
    REGISTRIES,
    add_to_study,
    find_component,
    find_registry,
    record_plan,
)
from bench.plan.reuse import ENDED, Decision, Retry, Reuse, explain
from bench.plan.router_options import (
    PREFIX,
    affinity_of,
    affinity_options_in,
    refuse_unknown,
    refuse_unknown_options,
)
from bench.plan.sequential import Sequential, add_seeds, plan_analyses, refuse_other_analyses
from bench.plan.user_code import combined, is_own, user_sources
