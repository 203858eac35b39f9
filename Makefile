# Every target makes what it needs: a plain `python3`, `make` and a C compiler are enough to begin with.

PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The files name everything, so nothing is left to resolve; an older pip that tries fails over an extra (`coverage[toml]`) as soon as there
# is a newer release of it.
LOCKED = $(PIP) install --require-hashes --no-deps
PYTEST := $(BIN)/python -m pytest

# Where no process may keep what it has compiled, each of the hundreds that the tests start compiles all of it anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check lint types contracts architecture fix cover soak fuzz simulate bench bench-peers bench-scale counts plots compiled test-compiled install-wheel test-wheel docs lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

# ── Using it ───────────────────────────────────────────────────────────────────

demo: .venv/.runtime ## broker, workers and a client do real work on real files (INPUT=dir for your own)
	@$(BIN)/reasonchip-broker demo $(if $(INPUT),"$(INPUT)")

docs: .venv/.docs ## build the documentation into site/
	$(BIN)/zensical build --clean --strict

# ── Checking it ────────────────────────────────────────────────────────────────

# With NATS, or the benchmark's tests would skip what they measure beside it.
test: .venv/.dev .venv/.bench ## the whole test suite (ARGS="-k roster" for a part of it)
	$(PYTEST) -n $(JOBS) --dist worksteal $(ARGS)

check: .venv/.dev ## lint, types, import contracts, architecture: quick enough for every commit
	@$(MAKE) --no-print-directory --keep-going --jobs=$(JOBS) \
		$(if $(filter output-sync,$(.FEATURES)),--output-sync) types lint contracts architecture

lint: .venv/.dev
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet

types: .venv/.dev
	$(BIN)/mypy

contracts: .venv/.dev
	@$(BIN)/lint-imports --no-logo

architecture: .venv/.dev
	$(PYTEST) -q tests/test_architecture.py

fix: .venv/.dev ## mend what ruff can mend by itself
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

cover: .venv/.dev .venv/.bench ## the test suite, and which lines and branches it misses
	$(PYTEST) -n $(JOBS) --dist worksteal --cov --cov-report=term $(ARGS)

soak: .venv/.dev ## the tests that take minutes
	$(PYTEST) -m soak --timeout=3600 $(ARGS)

fuzz: .venv/.dev .venv/.fuzz ## feed the decoders random bytes
	$(BIN)/python -m fuzz $(ARGS)

SEEDS ?= 1000
simulate: .venv/.dev ## many brokers' lives in memory, every promise checked after every step (SEEDS=100000)
	$(BIN)/python -m reasonchip_broker.testing.simulation --seeds $(SEEDS) --jobs $(JOBS) $(ARGS)

bench: .venv/.bench ## processor time, latency and memory, side by side with NATS
	$(BIN)/python -m benchmarks $(ARGS)

# The servers are installed by apt-get, if they are not there and this is root; what can't be had is named and left out.
bench-peers: .venv/.bench .venv-peers/.peers ## the same beside gearmand, Redis, RabbitMQ, Celery, Dask and a relay in C (half an hour)
	$(BIN)/python -m benchmarks.peers $(ARGS)

bench-scale: .venv/.bench ## thousands of connections, a million jobs that wait: what they cost, and who waits (a minute)
	$(BIN)/python -m benchmarks.scale $(ARGS)

counts: .venv/.bench ## instructions a job costs the core, compared with those written (ARGS=--update to write them)
	$(BIN)/python -m benchmarks.counts $(ARGS)

FIGURES := docs/explanation/figures
plots: .venv/.bench ## fairness and growth, measured anew and drawn for the documentation
	$(BIN)/python -m benchmarks.fairness --json $(FIGURES)/fairness.json
	$(BIN)/python -m benchmarks.growth --json $(FIGURES)/growth.json
	$(BIN)/python -m benchmarks.plots

# ── Building it ────────────────────────────────────────────────────────────────

# From a source distribution, since mypyc leaves what it builds beside the sources, where it would be run instead of them.
compiled: .venv/.dev ## a wheel for this machine with the core compiled by mypyc, into dist/
	rm -rf dist
	$(BIN)/hatchling build -t sdist
	HATCH_BUILD_HOOKS_ENABLE=1 $(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist dist/*.tar.gz

test-compiled: compiled install-wheel test-wheel ## the whole test suite on the compiled wheel, but for what breaks the core on purpose

# The wheel that is there.
install-wheel: .venv-compiled/.dev
	.venv-compiled/bin/python -m pip install --quiet --no-deps --force-reinstall dist/*.whl

test-wheel:
	.venv-compiled/bin/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

LOCK = $(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header $(UPGRADE)

lock: .venv/bin/python ## pin what requirements/*.in and pyproject.toml ask for (UPGRADE=--upgrade for the newest)
	$(PIP) install uv==0.13.9
	$(LOCK) pyproject.toml requirements/build.in requirements/dev.in -o requirements/dev.txt
	$(LOCK) pyproject.toml -c requirements/dev.txt -o requirements/runtime.txt
	for name in build docs bench fuzz peers; do \
		$(LOCK) requirements/$$name.in -c requirements/dev.txt -o requirements/$$name.txt || exit 1; \
	done

clean: ## remove everything that is made, .venv too
	rm -rf .venv .venv-compiled .venv-peers .cache .coverage* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ── .venv: a file in it for each requirements file that is installed ───────────

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("ReasonChip broker needs Python 3.11 or newer; \
	$(PYTHON) is %d.%d. Name a newer one, as in: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv

.venv/.runtime: requirements/runtime.txt requirements/build.txt pyproject.toml | .venv/bin/python
	$(LOCKED) -r requirements/runtime.txt -r requirements/build.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# Apart from ours, which needs other versions of some of it.
.venv-peers/.peers: requirements/peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes --no-deps -r requirements/peers.txt
	@touch $@

# All that the tests need beside the compiled wheel.
.venv-compiled/.dev: requirements/dev.txt requirements/bench.txt
	rm -rf .venv-compiled
	$(PYTHON) -m venv .venv-compiled
	.venv-compiled/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes --no-deps \
		$(patsubst %,-r %,$^)
	@touch $@

.venv/.%: requirements/%.txt .venv/.runtime
	$(LOCKED) -r requirements/$*.txt
	@touch $@
