# Two commands on a fresh machine do all the set-up: `make demo` and `make test`.
# They need Python 3.11 or later and make; everything else is installed into .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
PYTEST ?= $(BIN)/pytest

.DEFAULT_GOAL := help
.PHONY: help demo test test-kafka fuzz lint format docs bench-smoke bench-speed bench-stages bench-clv \
	bench-evidence bench-alerts wheel lock clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

$(VENV)/pip: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@touch $@

# One environment, two fillings: what the demo needs, and with what development needs on top.
$(VENV)/demo: $(VENV)/pip
	@echo "installing into $(VENV) ..."
	@$(PIP) install --constraint requirements.lock --editable '.[demo]'
	@touch $@

$(VENV)/dev: $(VENV)/pip
	@echo "installing into $(VENV) ..."
	@$(PIP) install --constraint requirements.lock --editable '.[dev]'
	@touch $@ $(VENV)/demo

demo: $(VENV)/demo  ## Real orders through Kafka, a worker and Redis, checked against a batch program
	@$(BIN)/valuetide demo

test: $(VENV)/dev  ## Unit, property, contract and integration tests, on the embedded services
	$(PYTEST) tests

test-kafka: $(VENV)/dev  ## The contract and integration tests on Apache Kafka and redis-server
	VALUETIDE_TEST_SERVERS=apache $(PYTEST) tests/contract tests/integration

CASES ?= 1000000
fuzz: $(VENV)/dev  ## Hostile input: a million cases (CASES=, SEED=), half of them guided by coverage
	$(BIN)/python -m tests.fuzz.run --cases $(CASES) $(if $(SEED),--seed $(SEED))

# make chaos                      at least 12 faults, some of every kind, in about three minutes
# make chaos SECONDS=400          all kinds in turn, for so long
# make chaos KIND=apache SEED=7   on Apache Kafka and redis-server; the same faults as before
chaos: $(VENV)/dev  ## Faults under load, then every customer is compared with a batch recomputation
	$(BIN)/python -m tests.chaos --servers $(or $(KIND),embedded) --at-least 12 \
		$(if $(SECONDS),--seconds $(SECONDS),--short) $(if $(SEED),--seed $(SEED))

lint: $(VENV)/dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev  ## Let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/dev  ## Generate JSON Schema and AsyncAPI into docs/
	$(BIN)/python -m valuetide.schemas.documents docs

bench-smoke: $(VENV)/dev  ## A small run of the benchmarks: that they run, and that the result is right
	$(BIN)/python -m bench.speed --quick --json build/smoke/bench-speed.json
	$(BIN)/python -m bench.clv --quick --json build/smoke/bench-clv.json

# make bench-speed                              everything, about an hour
# make bench-speed ONLY=worker,latency ROUNDS=1
bench-speed: $(VENV)/dev  ## Speed of worker and peers, latency, growth; fails where a bound is missed
	VALUETIDE_TEST_SERVERS=apache $(BIN)/python -m bench.speed \
		$(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(PEERS),--peers $(PEERS))

bench-stages: $(VENV)/dev  ## Where the worker's CPU time goes, by stage
	VALUETIDE_TEST_SERVERS=apache $(BIN)/python -m bench.stages

bench-clv: $(VENV)/dev  ## Lifetime value through the pipeline against batch fits of the same data
	$(BIN)/python -m bench.clv

bench-evidence: $(VENV)/dev  ## What interactions and feedback add, where they tell something and where not
	$(BIN)/python -m bench.clv_evidence

bench-alerts: $(VENV)/dev  ## Trend alerts: false alarms, delays, causes, cost, and River's detectors
	$(BIN)/python -m bench.alerts

wheel: $(VENV)/dev  ## Build the wheel into dist/
	$(BIN)/python -m build --wheel

lock:  ## Resolve the newest versions of everything into requirements.lock (needs uv)
	uv pip compile --quiet --universal --all-extras --python-version 3.11 --no-emit-index-url \
		--no-annotate --no-header --upgrade pyproject.toml --output-file requirements.lock

clean:  ## Remove what was made here
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
