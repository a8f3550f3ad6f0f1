"""A database with known values, filled through the store as the engine fills one."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from report.study import StudyData, load_study
from report.style import Drawing
from report.table import Table
from report.topics import make_tables
from report.write import ReportPaths, write_report
from results import Array, CodeVersion, Component, Machine, Metric, Run, Store, Subject, open_store
from results.models import AttemptRow
from results.store.leases import this_process

EXPERTS, CLASSES, LAYERS = 8, 10, 2
CLASS_NAMES = [f"class {index}" for index in range(CLASSES - 1)] + ["a class of a long name"]
BUDGET = 4e12
FAMILIES = {
    "dense": "baseline",
    "random": "null",
    "softmax_token_choice": "token_choice",
    "sinkhorn_token_choice": "token_choice",
    "softmax_expert_choice": "expert_choice",
    "sinkhorn_expert_choice": "expert_choice",
    "sparsity_constrained_expert_choice": "expert_choice",
    "soft_moe": "soft",
    "my_gate": "token_choice",
    "dense_params": "baseline",
    "frozen": "null",
}
CONSTANT = {"expert_choice", "soft"}
SUITE_METRICS = {
    "accuracy": ("top1", "top5", "nll", "ece"),
    "balance": ("load_cv", "dropped"),
    "editing": ("subgroup_accuracy_min", "edited_experts"),
    "entropy": ("H_s", "H_u"),
    "specialization": ("polysemanticity", "experts_with_effect"),
    "throughput": ("forward_ms", "forward_overhead"),
}


@dataclass
class Lab:
    """Write a study: accuracies by router and seed; None is a diverged training.

    With `aa_replicate` those of the routers' replicates, into the same study. `begin` is the share
    of a training after which it is evaluated first.
    """

    store: Store
    name: str = "tiny"
    machines: Sequence[str] = ("node-1",)
    suites: Sequence[str] = tuple(SUITE_METRICS)
    flops_error: dict[str, float] = field(default_factory=dict)
    dependent: frozenset[str] = frozenset()
    seconds: dict[str, float] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    steps: int = 400
    steps_of: dict[str, int] = field(default_factory=dict)
    evaluations: int = 11
    begin: float = 0.0
    experts: dict[str, Any] = field(default_factory=dict)
    protocol: str = "first"
    aa_replicate: int = 0
    displays: dict[str, str] = field(default_factory=dict)
    cards: dict[str, list[int]] = field(default_factory=dict)
    entropies: Callable[[str, np.random.Generator], tuple[list[Metric], list[Array]]] | None = None

    def __post_init__(self) -> None:
        made = [machine(name, threads) for threads, name in enumerate(self.machines, 1)]
        self.machine_ids = [self.store.machine(each) for each in made]
        self.code = self.store.code_version(
            CodeVersion("0123456789abcdef", False, "3.11", {"torch": "2.6"})
        )
        preset = {"name": self.name, "compute": {"match": "total_flops", "tolerance": 0.01}}
        request = {"preset": preset, "suites": {suite: {} for suite in self.suites}}
        self.study = self.store.study(self.name, request)
        for suite, metrics in SUITE_METRICS.items():
            self.store.components([suite_card(suite, metrics)])[0]

    def study_of(
        self,
        top1: dict[str, list[float | None]],
        conditions: Sequence[dict[str, Any]] = ({},),
    ) -> None:
        for router, values in top1.items():
            cards = [router_card(router, self.displays.get(router))]
            if FAMILIES[router] != "baseline":
                cards.append(Component("experts", "mlp", "", "mlp"))
            self.cards[router] = self.store.components(cards)
            own = conditions if router != "dense" else conditions[:1]
            for number, settings in enumerate(own):
                swept = {} if router == "dense" else settings
                for seed, value in enumerate(values):
                    self.trial(router, seed, None if value is None else value + number / 100, swept)
                if "throughput" in self.suites:
                    self.layer(router, swept, number)

    def described(self, router: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Return a description with the experts of the lab."""
        fields = description(router, settings)
        own = {"twin": self.aa_replicate} if self.aa_replicate else {}
        return fields | {"experts": fields["experts"] | self.experts} | own

    def waiting(self, router: str, seed: int, settings: dict[str, Any] | None = None) -> int:
        """Add a trial that nobody has tried yet."""
        fields = self.described(router, settings or {}) | {"seed": seed}
        fingerprint = f"{self.name}-{router}-{seed}-{settings or {}}"
        if self.protocol != "first":
            fingerprint += self.protocol
        if self.aa_replicate:
            fingerprint += " twin"
        made_of = [self.made_with(), *self.cards.get(router, ())]
        trial = self.store.trials([Subject(fingerprint, fields, made_of)])[0]
        self.store.add_trial_to_study(self.study, trial)
        return trial

    def made_with(self) -> int:
        """Return the row of the protocol that trials and layers now belong to."""
        return self.store.components([Component("protocol", "training", "", self.protocol)])[0]

    def running(self, router: str, seed: int, **fields: Any) -> int:
        """Add a trial that this process is working on."""
        trial = self.waiting(router, seed)
        run = self.store.start_run(self.study, Run(*this_process(), "run", 1))
        assert self.store.lease(run, trial_id=trial) is not None
        return self.store.begin_attempt(trial, self.machine_ids[0], self.code, **fields)

    def ended(
        self, router: str, seed: int, status: Any, note: str | None = None, **fields: Any
    ) -> None:
        """Add a trial that ended with a status other than done."""
        log = f"logs/{router}-{seed}.log"
        attempt = self.store.begin_attempt(
            self.waiting(router, seed), self.machine_ids[0], self.code, log
        )
        self.note(attempt, note)
        self.store.finish_attempt(attempt, status, **fields)

    def note(self, attempt: int, note: str | None) -> None:
        """Record a note of an attempt, as older code did."""
        with self.store.writing() as session:
            session.get_one(AttemptRow, attempt).note = note

    def trial(
        self,
        router: str,
        seed: int,
        top1: float | None,
        settings: dict[str, Any],
        note: str | None = None,
    ) -> None:
        trial = self.waiting(router, seed, settings)
        attempt = self.store.begin_attempt(trial, self.machine_ids[0], self.code, "logs/a.log")
        self.note(attempt, note)
        if top1 is None:
            error = "loss is not finite at step 17\n  (the rest of it)"
            self.store.finish_attempt(attempt, "diverged", error=error, steps=17)
            return
        flops = BUDGET * (1 + self.flops_error.get(router, 0.0))
        steps = self.steps_of.get(router, self.steps)
        self.store.finish_attempt(attempt, "done", flops=flops, steps=steps, seconds=60.0 + seed)
        for suite in {"accuracy", "editing", *ABOUT_ROUTING} & set(self.suites):
            self.measure(suite, router, seed, top1, attempt, flops)

    def measure(
        self, suite: str, router: str, seed: int, top1: float, attempt: int, flops: float
    ) -> None:
        if suite == "accuracy":
            made: dict[str, Any] = {"metrics": self.accuracy(router, top1, flops)}
        elif suite == "editing":
            metrics, arrays = editing(router, seed)
            made = {"metrics": metrics, "arrays": arrays}
        elif router == "dense":
            made = {"status": "skipped", "error": "the model has no MoE layer"}
        else:
            number = list(FAMILIES).index(router)
            rng = np.random.default_rng([number, seed])
            measured = ABOUT_ROUTING[suite]
            if suite == "entropy" and self.entropies is not None:
                measured = self.entropies
            metrics, arrays = measured(router, rng)
            made = {"metrics": metrics, "arrays": arrays}
        self.store.record_measurement(
            suite, {}, suite, self.machine_ids[0], self.code, attempt_id=attempt, **made
        )

    def accuracy(self, router: str, top1: float, flops: float) -> list[Metric]:
        seconds = self.seconds.get(router, 60.0)
        missed = abs(flops - BUDGET)
        accuracies = [
            Metric("top1", top1, split="test"),
            Metric("top5", min(1.0, top1 + 0.15), split="test"),
            Metric("nll", 2 * (1 - top1), split="test"),
            Metric("ece", 0.05, split="test"),
            Metric("depends_on_batch", float(router in self.dependent), split="test"),
            Metric("steps", self.steps),
            Metric("train_flops", flops),
            Metric("step_flops", flops / self.steps),
            Metric("flops_budget", BUDGET),
            Metric("budget", BUDGET),
            Metric("budget_error", flops / BUDGET - 1),
            Metric("within_tolerance", float(missed <= max(0.01 * BUDGET, flops / self.steps))),
            Metric("train_seconds", seconds),
            Metric("params_total", self.parameters.get(router, 1_234_567)),
            Metric("params_active", 345_678),
        ]
        for place in range(self.evaluations):
            done = self.begin + (1 - self.begin) * place / (self.evaluations - 1)
            where = {"flops": flops * done, "seconds": seconds * done}
            value = 0.1 + (top1 - 0.1) * (1 - 2.0 ** (-10 * done / 1.5))
            step = round(self.steps * done)
            accuracies.append(Metric("val_top1", value, step=step, split="val", where=where))
        return accuracies

    def layer(self, router: str, settings: dict[str, Any], number: int) -> None:
        named = f"{self.name}-{router}-{settings}" + " twin" * self.aa_replicate
        layer = self.store.layers([Subject(named, self.described(router, settings))])[0]
        self.store.add_layer_to_study(self.study, layer)
        for place, machine_id in enumerate(self.machine_ids):
            metrics = list(timing(list(FAMILIES).index(router), number + place))
            self.store.record_measurement(
                "throughput",
                {},
                "throughput",
                machine_id,
                self.code,
                layer_id=layer,
                metrics=metrics,
            )


def machine(name: str, threads: int) -> Machine:
    return Machine(name, "Linux 6.1", f"Processor of {name}", 2, threads, 8 * 2**30)


def router_card(name: str, display: str | None = None) -> Component:
    return Component(
        kind="router",
        name=name,
        source_text=f"class {name}: ...",
        source_hash=name,
        family=FAMILIES[name],
        display=display,
        summary=f"What {name} does & is.",
        text="A longer text with <angle> brackets.",
        source="arXiv 2401.15969",
        bibtex=f"@article{{{name}, title={{Routers}}, url={{https://arxiv.org/abs/2401.15969}}}}",
        hyper=[{"name": "top_k", "type": "int", "default": 1, "meaning": "Experts a token."}],
    )


def suite_card(name: str, metrics: Sequence[str]) -> Component:
    defined = [{"name": m, "unit": "", "better": None, "meaning": f"What {m} is."} for m in metrics]
    return Component("suite", name, f"class {name}: ...", name, metrics=defined)


def description(router: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "router": {"name": router, "options": {"top_k": 1, **settings}},
        "experts": {"name": "mlp", "num_experts": EXPERTS, "options": {}},
        "model": {"name": "vit_tiny_patch16_224", "options": {}},
        "data": {"name": "fashion_mnist_mini"},
    }


def balance(router: str, rng: np.random.Generator) -> tuple[list[Metric], list[Array]]:
    constant = FAMILIES[router] in CONSTANT
    where = {"constant": True} if constant else {}
    covered = {"constant": True} if FAMILIES[router] == "soft" else {}
    metrics, arrays = [], []
    for layer in [*range(LAYERS), None]:
        load_cv = 0.0 if constant else 0.3 + 0.1 * (layer if layer is not None else 0.5)
        metrics += [
            Metric("load_cv", load_cv, layer, split="test", where=where),
            Metric("demand_cv", load_cv, layer, split="test", where=where),
            Metric("load_dead", 0.0, layer, split="test", where=where),
            Metric("dropped", 0.0 if constant else 0.125, layer, split="test", where=where),
            Metric("uncovered", 0.0 if covered else 0.25, layer, split="test", where=covered),
            Metric("experts_per_token_mean", 1.0, layer, split="test"),
        ]
        if layer is not None:
            spread = 0.0 if constant else 1.0
            load = np.round(1000 * np.exp(spread * rng.normal(size=EXPERTS))).astype(np.int64)
            arrays.append(Array("load", load, layer, split="test", where=where))
    metrics.append(Metric("load_cv", 9.0, step=0, split="val", where=where))
    return metrics, arrays


def entropy(router: str, rng: np.random.Generator) -> tuple[list[Metric], list[Array]]:
    metrics, arrays = [], []
    decided = 2.6 - 0.25 * list(FAMILIES).index(router)
    for of in ("gates", "combine"):
        even = 2.9 - 0.02 * list(FAMILIES).index(router)
        for name, value in (("H_s", decided), ("H_u", even), ("MI_label_corrected", 0.4)):
            noisy = value + 0.05 * float(rng.normal())
            where = {"of": of, "kind": "soft"}
            metrics.append(Metric(name, min(max(noisy, 0.0), 3.0), split="test", where=where))
        for layer in range(LAYERS):
            table = rng.dirichlet(np.full(EXPERTS, 0.4), CLASSES) * 1000
            where = {"of": of, "kind": "soft"}
            arrays.append(Array("class_expert", table, layer, split="test", where=where))
    return metrics, [*arrays, Array("class_names", np.array(CLASS_NAMES))]


def specialization(router: str, rng: np.random.Generator) -> tuple[list[Metric], list[Array]]:
    number = list(FAMILIES).index(router)
    values = {
        "polysemanticity": 0.9 - 0.05 * number + 0.01 * float(rng.normal()),
        "experts_with_effect": 0.75,
        "largest_drop": 0.1,
        "accuracy_drop": -0.02,
        "experts_left_out": 1.0,
        "passes": 0.5,
    }
    metrics = [Metric(name, value, split="test") for name, value in values.items()]
    arrays = [Array("class_names", np.array(CLASS_NAMES))]
    for layer in range(LAYERS):
        changes = rng.normal(0, 0.05, (EXPERTS, CLASSES))
        changes[-1] = np.nan
        images = rng.integers(0, 256, (3, 4, 1, 12, 12)).astype(np.uint8)
        labels = rng.integers(0, CLASSES, (3, 4))
        labels[2, 3] = -1
        for name, table in (
            ("accuracy_change", changes),
            ("top_images", images),
            ("top_image_labels", labels),
            ("top_image_experts", np.array([5, 0, 2])),
        ):
            arrays.append(Array(name, table, layer, split="test"))
    return metrics, arrays


def editing(router: str, seed: int) -> tuple[list[Metric], list[Array]]:
    """Accuracies of (class, attribute): 95, 10 + seed, 20 and 90 % before; even at 70 % after."""
    before = np.array([[0.95, 0.1 + 0.01 * seed], [0.2, 0.9]])
    tables = {"before": before}
    metrics = []
    if router != "dense":
        tables["after"] = np.full((2, 2), 0.7)
        metrics = [Metric("edited_experts", 3.0 + seed)]
    for edit, table in tables.items():
        for name, value in (
            ("subgroup_accuracy_min", table.min()),
            ("subgroup_accuracy_mean", table.mean()),
            ("bias_std", table.std()),
            ("opportunity_gap", abs(table[1, 0] - table[1, 1])),
            ("editing_top1", 0.8 if edit == "before" else 0.7),
        ):
            metrics.append(Metric(name, float(value), split="test", where={"edit": edit}))
    arrays = [
        Array("subgroup_accuracy", table, split="test", where={"edit": edit})
        for edit, table in tables.items()
    ]
    names = [
        ["T-shirt or pullover, unmarked", "T-shirt or pullover, marked"],
        ["other, unmarked", "other, marked"],
    ]
    return metrics, [*arrays, Array("subgroup_names", np.array(names))]


ABOUT_ROUTING = {"balance": balance, "entropy": entropy, "specialization": specialization}


def timing(number: int, slower: int) -> Iterator[Metric]:
    for scope, shape, batch, tokens, dim in (
        ("layer", "B", 64, 49, 96),
        ("layer", "A", 8, 196, 384),
        ("model", "model", 32, 49, 96),
    ):
        where = {
            "scope": scope,
            "shape": shape,
            "batch": batch,
            "tokens": tokens,
            "dim": dim,
            "hidden": 2 * dim,
            "num_experts": EXPERTS,
            "threads": 1,
        }
        counted = {key: value for key, value in where.items() if key != "threads"}
        yield Metric("forward_dense_rows", 3136, where=counted)
        for name, base in (("forward", 1.0), ("train", 1.2)):
            overhead = base + 0.1 * number + slower
            yield Metric(f"{name}_ms", 10 * overhead, where={**where, "quantile": 0.5})
            yield Metric(f"{name}_ms", 12 * overhead, where={**where, "quantile": 0.9})
            yield Metric(f"{name}_overhead", overhead, where=where)
            yield Metric(f"{name}_overhead_low", overhead - 0.02, where=where)
            yield Metric(f"{name}_overhead_high", overhead + 0.05, where=where)
            yield Metric(f"{name}_repeats", 50, where=where)
        yield Metric("images_per_s", 6400.0, where=where)
        yield Metric("other_load", 0.07, where=where)


LOOKED_AT = {"test_browser", "test_figures", "test_glyphs", "test_odd_names", "test_ranks"}
"""Modules that look at images. Saving a report's images takes as long as the rest of it."""
SAVED = Drawing.saved


def blank(kind: str) -> bytes:
    """Return an empty image file."""
    out = io.BytesIO()
    Figure(figsize=(0.1, 0.1)).savefig(out, format=kind)
    return out.getvalue()


@pytest.fixture(scope="module", autouse=True)
def _images(request: pytest.FixtureRequest) -> Iterator[None]:
    """Save blank images if no test looks at them; figures are still drawn and laid out."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__.rpartition(".")[2] not in LOOKED_AT:
            files = {kind: blank(kind) for kind in ("png", "pdf", "svg")}
            patch.setattr(Drawing, "saved", lambda _drawing, kind: files[kind])
        yield


@dataclass(frozen=True)
class Written:
    """A report of nine routers, one of which diverged at every seed, and its ingredients."""

    study: StudyData
    tables: dict[str, Table]
    paths: ReportPaths
    html: str


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "results.db") as opened:
        yield opened


@pytest.fixture(scope="session")
def make_lab() -> type[Lab]:
    """Start a study in a store that outlives a test: `make_lab(store, name=…, suites=…)`."""
    return Lab


@pytest.fixture
def lab(store: Store) -> Callable[..., Lab]:
    """Start a study in the store: `lab(name=…, suites=…)`."""
    return lambda **fields: Lab(store, **fields)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("nine")
    with open_store(folder / "results.db") as opened:
        Lab(opened, flops_error={"soft_moe": 0.03}).study_of(NINE)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Drawing, "saved", SAVED)  # whoever asks first, many tests will look
            paths = write_report(opened, "tiny", folder / "report")
        study = load_study(opened, "tiny")
    tables = {table.name: table for table in make_tables(study) if isinstance(table, Table)}
    return Written(study, tables, paths, paths.index_html.read_text(encoding="utf-8"))


NINE: dict[str, list[float | None]] = {
    "dense": [0.80, 0.81, 0.82],
    "random": [0.79, 0.80, 0.80],
    "softmax_token_choice": [0.83, 0.84, 0.84],
    "sinkhorn_token_choice": [0.83, 0.85, 0.84],
    "softmax_expert_choice": [0.84, 0.85, 0.86],
    "sinkhorn_expert_choice": [0.84, 0.84, 0.86],
    "sparsity_constrained_expert_choice": [0.85, None, 0.86],
    "soft_moe": [0.86, 0.87, 0.89],
    "my_gate": [None, None, None],
}


@pytest.fixture(scope="session")
def chromium() -> str:
    """The executable of a browser."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    return program


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield started
        started.close()


@pytest.fixture
def browse(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a page from disk in a real browser at a width; at the end nothing may have gone wrong:
    no error or warning on the console, no dialog, no request but for the page."""
    wrong: list[str] = []
    tabs = []

    def opened(page: Path, width: int) -> Any:
        size = {"width": width, "height": 900}
        tab = browser.new_page(viewport=size, reduced_motion="reduce")
        tabs.append(tab)
        tab.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
        tab.on("request", lambda asked: asked.url == page.as_uri() or wrong.append(asked.url))
        tab.goto(page.as_uri())
        return tab

    yield opened
    for tab in tabs:
        tab.close()
    assert wrong == []
