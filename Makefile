# One way in: `make` lists what there is; each target sets up what it needs.
#
# Variables: PYTHON (which interpreter), VENV (where it is set up), ARGS (passed on), JOBS (make test), KILLS (make crash),
# N (make powercut), EXAMPLES (make model), MINUTES (make soak), NAMES (make bench); WRITE=1 writes the figures of these
# into docs/, WRITE=add adds them to those there.

PYTHON ?= python3
VENV ?= .venv
BENCH_VENV ?= .venv-bench
KILLS ?= 25
N ?= 1000
MINUTES ?= 1
EXAMPLES ?= 5000
JOBS ?= 3
ARGS ?=

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --no-input
CODE = $(wildcard src tests tools bench examples)
UV = .venv-lock/bin/uv
# Where the tools look for whether they are to write their figures.
FIGURES = SCIDAQ_FIGURES=$(WRITE)

.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: run
run: ui-begin $(VENV)/.run $(VENV)/.self ## the demo: simulated instruments, recorded and shown (ARGS="--help")
	@"$(BIN)/python" tools/dashboard.py --optional
	@"$(BIN)/scidaq" demo $(ARGS)

.PHONY: test
test: ui-begin $(VENV)/.dev $(VENV)/.self ## all tests, JOBS at a time (ARGS="-k name"; ARGS="-m tiny": the benchmarks in little)
	@"$(BIN)/python" tools/dashboard.py --dev
	"$(BIN)/python" -m pytest -n $(JOBS) --dist worksteal $(ARGS)

.PHONY: check
check: $(VENV)/.dev $(VENV)/.self ## format, lint, types, imports, docs: seconds
	"$(BIN)/ruff" format --check $(CODE)
	"$(BIN)/ruff" check $(CODE)
	"$(BIN)/mypy" $(CODE)
	"$(BIN)/lint-imports" --no-logo
	@"$(BIN)/python" tools/dashboard.py check
	"$(BIN)/python" -m pytest -q -m "not slow" $(wildcard tests/project tests/docs)

# Beside what pip does, which takes as long; whoever needs the dashboard waits for it.
.PHONY: ui-begin
ui-begin: $(VENV)/.made
	@"$(BIN)/python" tools/dashboard.py >/dev/null 2>&1 </dev/null &

.PHONY: ui
ui: $(VENV)/.made ## build the dashboard, unless it was made of the sources that are there
	"$(BIN)/python" tools/dashboard.py $(ARGS)

.PHONY: pictures
pictures: $(VENV)/.dev $(VENV)/.self ## take the pictures of the dashboard in docs/pictures/ anew, with Chromium
	@"$(BIN)/python" tools/dashboard.py
	"$(BIN)/python" docs/pictures/dashboard.py

.PHONY: format
format: $(VENV)/.dev ## put the code in shape
	"$(BIN)/ruff" check --fix-only $(CODE)
	"$(BIN)/ruff" format $(CODE)

.PHONY: bench
bench: ## us, others and the physical limit (NAMES="ingest scpi", WRITE=1 into docs/performance.md, ARGS=--quick)
	@$(MAKE) --no-print-directory VENV=$(BENCH_VENV) measure

# In an environment of its own, so that that of the tests stays lean.
.PHONY: measure
measure: $(VENV)/.bench $(VENV)/.self
	@"$(BIN)/python" -m bench $(NAMES) $(if $(WRITE),--write-docs) $(ARGS)

.PHONY: crash
crash: $(VENV)/.dev $(VENV)/.self ## kill -9 a recording station KILLS times, and account for every row
	$(FIGURES) "$(BIN)/python" -m pytest tests/crash/test_kill.py --kills=$(KILLS) --timeout=0 $(ARGS)

.PHONY: powercut
powercut: $(VENV)/.dev $(VENV)/.self ## cut the power N times while recording, with any part of the unsynced bytes left
	$(FIGURES) "$(BIN)/python" -m pytest tests/crash/test_power_cut.py --kills=$(N) --timeout=0 $(ARGS)

.PHONY: soak
soak: $(VENV)/.dev $(VENV)/.self ## record MINUTES at the rated load with faults; memory, descriptors and threads have to stay
	$(FIGURES) "$(BIN)/python" -m tests.soak --minutes $(MINUTES) $(ARGS)

.PHONY: model
model: $(VENV)/.dev $(VENV)/.self ## play EXAMPLES stories to the store, and compare it with a model after each step
	$(FIGURES) MODEL_EXAMPLES=$(EXAMPLES) "$(BIN)/python" -m pytest tests/model --timeout=0 $(ARGS)

.PHONY: faults
faults: $(VENV)/.dev $(VENV)/.self ## let the disk fail at every operation of a life, in every way (about half an hour)
	$(FIGURES) "$(BIN)/python" -m pytest tests/faults --lives=0 --timeout=0 $(ARGS)

.PHONY: fuzz
fuzz: $(VENV)/.dev $(VENV)/.self ## ask the HTTP interface what nobody would, with every scope (ARGS="--requests 10000")
	"$(BIN)/python" -W ignore -m tests.web.fuzzing $(ARGS)

.PHONY: lock
lock: .venv-lock/.made ## regenerate the lock files (ARGS=--upgrade for newer versions)
	$(LOCK) pyproject.toml -o requirements.lock
	$(LOCK) pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock
	$(LOCK) --group build -c requirements-dev.lock -o tools/build.lock
	$(LOCK) --group node -o tools/node.lock
	$(LOCK) pyproject.toml --group bench -c requirements-dev.lock -c tools/build.lock -o requirements-bench.lock

.PHONY: clean
clean: ## remove what make and the tools left
	rm -rf "$(VENV)" .venv-* build dist ui/node_modules src/scidaq/web/dashboard .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- setting up -------------------------------------------------------------------------------------------------------
# A stamp is written after its step has succeeded, so that an interrupted step is done again. A virtual environment that
# was copied or moved with the checkout, or whose interpreter is gone, is made anew.

ifneq ($(shell test -x $(BIN)/python && cat $(VENV)/.made 2>/dev/null),$(shell pwd -P))
.PHONY: $(VENV)/.made
endif

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "scidaq needs Python 3.11 or newer, and '$(PYTHON)' is not: install one and name it, as in" >&2; \
	  echo "    make $(or $(firstword $(MAKECMDGOALS)),run) PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' comes without venv and ensurepip: install them (Debian, Ubuntu: apt install python3-venv)," >&2; \
	  echo "or name another interpreter, as in: make $(or $(firstword $(MAKECMDGOALS)),run) PYTHON=/path/to/python3" >&2; exit 1; }
	rm -rf "$(VENV)"
	$(PYTHON) -m venv "$(VENV)"
	@pwd -P > "$@"

# pip compiles one file after another, which takes longer than the rest; compileall uses all cores.
# It fails on files that are not meant to be compiled: bytecode is a gain of time and no more.
define install
	$(PIP) install --quiet --no-compile --require-hashes -r $<
	@"$(BIN)/python" -m compileall -q -j 0 -x '/tests?/' "$(VENV)/lib" >/dev/null 2>&1 || :
	@touch "$@"
endef

$(VENV)/.run: requirements.lock $(VENV)/.made
	$(install)

$(VENV)/.dev: requirements-dev.lock $(VENV)/.made
	$(install)

$(VENV)/.bench: requirements-bench.lock $(VENV)/.made
	$(install)

$(VENV)/.build: tools/build.lock $(VENV)/.made
	$(install)

# The package itself, as it lies here: again when its version or its entry points may have changed.
$(VENV)/.self: pyproject.toml src/scidaq/__init__.py $(VENV)/.build
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch "$@"

.venv-lock/.made:
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip --disable-pip-version-check install --quiet 'uv>=0.5'
	@touch "$@"

# All systems and all Pythons from 3.11, with hashes, without addresses.
LOCK = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --custom-compile-command 'make lock' $(ARGS)
