# `make` lists the targets. All of them set themselves up: virtual environment, locked dependencies,
# and where one is needed the programs of a Kubernetes control plane.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BASE_PYTHON ?= python3
VENV := .venv
PYTHON := $(VENV)/bin/python
SETUP := $(VENV)/.set-up
KERNELS := $(VENV)/.kernels
KERNEL_SOURCES := $(addprefix workers/sluice_worker/,steplayout.py vectors.py roundkernels.py kernels.py)
# The unit tests first, for they take seconds. The last two share a cluster: those of the bare cluster
# come before what installs Sluice there, which lets only restricted pods into the namespace.
TESTS := $(addprefix tests/,unit contract faults integration e2e)
PACKAGES := operator workers tests benchmarks

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(SETUP) $(KERNELS) ## Make the virtual environment: locked packages, compiled kernels (nothing if up to date)

$(SETUP): requirements/dev.lock pyproject.toml
	@$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Sluice needs Python 3.11 or later, and $(BASE_PYTHON) is $$($(BASE_PYTHON) --version 2>&1)." \
			"Name another one: make BASE_PYTHON=python3.12" >&2; exit 1; }
	@test -x $(PYTHON) || { echo "making $(VENV)"; $(BASE_PYTHON) -m venv $(VENV); }
	@echo "installing the locked dependencies"
	@$(PYTHON) -m pip install --disable-pip-version-check --quiet --require-hashes -r requirements/dev.lock
	@$(PYTHON) -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# The worker's kernels, for this machine's processor; workers only load them.
$(KERNELS): $(SETUP) $(KERNEL_SOURCES)
	@$(PYTHON) -m sluice_worker.kernelbuild
	@touch $@

.PHONY: programs
programs: setup ## Find, download or build the control plane's programs (minutes at most, once)
	@$(VENV)/bin/sluice cluster programs

.PHONY: demo
demo: programs ## Start a cluster, fail a Maia node under load, watch traffic fall back and return
	@$(VENV)/bin/sluice demo $(DEMO_FLAGS)

.PHONY: test
test: lint programs ## Run what CI runs: lint, unit, contract, fault, e2e and integration tests
	$(PYTHON) -m pytest $(TESTS) -m "not full"

.PHONY: test-full
test-full: lint programs ## Run every test there is
	$(PYTHON) -m pytest $(TESTS)

.PHONY: unit
unit: setup ## Run the unit tests alone (seconds)
	$(PYTHON) -m pytest tests/unit

.PHONY: lint
lint: setup check-generated ## Check style, types, layers, and that generated files are fresh
	$(VENV)/bin/ruff check $(wildcard $(PACKAGES))
	$(VENV)/bin/ruff format --check $(wildcard $(PACKAGES))
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

.PHONY: format
format: setup ## Format the code and fix what can be fixed by itself
	$(VENV)/bin/ruff check --fix $(wildcard $(PACKAGES))
	$(VENV)/bin/ruff format $(wildcard $(PACKAGES))

.PHONY: generate
generate: setup ## Make the generated files again: crds/, docs/api.md, docs/accelerators.md
	$(PYTHON) -m sluice.api.generate
	$(PYTHON) -m sluice_accel document docs/accelerators.md

.PHONY: check-generated
check-generated: setup ## Fail if a generated file is not what `make generate` makes
	$(PYTHON) -m sluice.api.generate --check
	$(PYTHON) -m sluice_accel document --check docs/accelerators.md

# uv resolves for all platforms at once, which pip cannot. It does not read pip's configuration, so
# what that says of the package index is handed on.
.PHONY: lock
lock: ## Choose and lock the versions of all dependencies again
	@scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; \
	$(BASE_PYTHON) -m venv "$$scratch"; \
	pip="$$scratch/bin/python -m pip --disable-pip-version-check"; \
	$$pip install --quiet uv; \
	index=$$($$pip config get global.index-url 2>/dev/null || true); \
	extra=$$($$pip config get global.extra-index-url 2>/dev/null || true); \
	cert=$$($$pip config get global.cert 2>/dev/null || true); \
	if [[ -n "$$index" ]]; then export UV_DEFAULT_INDEX="$$index"; fi; \
	if [[ -n "$$extra" ]]; then export UV_INDEX="$$extra"; fi; \
	if [[ -n "$$cert" ]]; then export SSL_CERT_FILE="$$cert"; fi; \
	compile=("$$scratch/bin/uv" pip compile pyproject.toml --quiet --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --custom-compile-command "make lock" $(LOCK_FLAGS)); \
	"$${compile[@]}" --extra dev --extra demo --extra kernels -o requirements/dev.lock; \
	"$${compile[@]}" --extra train -o requirements/train.lock

.PHONY: clean
clean: ## Remove the virtual environment and everything else that can be made again
	rm -rf $(VENV) workers/sluice_worker/compiled_kernels build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find $(wildcard $(PACKAGES)) -name __pycache__ -type d -prune -exec rm -rf {} +
