# One environment in .venv, made once; `make demo` and `make test` need nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: setup demo test test-slow campaign lint
.DEFAULT_GOAL := setup

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	touch $@

demo: setup
	$(BIN)/python bench.py run --preset tiny

# In the order of tests/conftest.py: long files first.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# 6 minutes on two cores.
test: setup
	$(PYTEST) -m "not slow and not campaign"

# The rest that guards a change: whole runs, kills, every component. 24 minutes on two cores.
test-slow: setup
	$(PYTEST) -m "slow and not campaign"

# Longer work, by hand; docs/campaigns.md has its results.
campaign: setup
	$(PYTEST) -m campaign

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
